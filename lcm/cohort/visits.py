"""Which row of a table speaks for a session: the visit of its name, else the nearest in time, else the earliest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.decode import number_in
from lcm.cohort.source import Code, Sessions, Visit, When, canonical

if TYPE_CHECKING:
    import pandas as pd

DAYS_A_MONTH, DAYS_A_YEAR = 30.4375, 365.25
_DAYS = {"days": 1.0, "months": DAYS_A_MONTH, "years": DAYS_A_YEAR}


@dataclass(frozen=True)
class Times:
    """Rows of a table, or sessions of scans, on the study's clocks; aligned arrays."""

    key_N: np.ndarray
    """Person's key."""
    visit_N: np.ndarray
    """Visit code, canonical; blank where unknown."""
    entry_days_N: np.ndarray
    """Days since the person entered the study; NaN where unknown."""
    date_days_N: np.ndarray
    """Day of the calendar, counted as Python counts ordinals; NaN where unknown."""


@dataclass(frozen=True)
class Chosen:
    """The row of each session, −1 where none speaks for it, and which sessions missed one that the person has."""

    row_N: np.ndarray
    no_such_visit_N: np.ndarray
    too_far_N: np.ndarray


def session_label(session_id: object) -> str:
    """A session as patterns see it: lower case, without `ses-`; blank where the scan has none."""
    return str(session_id).strip().lower().removeprefix("ses-") if isinstance(session_id, str) else ""


def times_of_sessions(sessions: Sessions | None, keys: pd.Series, labels: pd.Series) -> Times:
    """What the session labels say; each distinct label is read once."""
    known = {label: _read_label(sessions, label) for label in labels.unique()}
    visit, entry, date = (labels.map({label: read[place] for label, read in known.items()}) for place in range(3))
    return Times(keys.to_numpy("object"), visit.to_numpy("object"), entry.to_numpy("float64"), date.to_numpy("float64"))


def _read_label(sessions: Sessions | None, label: str) -> tuple[str, float, float]:
    match = re.fullmatch(sessions.pattern, label) if sessions is not None and label else None
    if match is None or sessions is None:
        return "", np.nan, np.nan
    found = {name: text for name, text in match.groupdict().items() if text is not None}
    code = canonical(found.get("visit", ""))
    days = [float(found[unit]) * length for unit, length in _DAYS.items() if unit in found]
    return sessions.visits.get(code, code), days[0] if days else np.nan, _ordinal(found.get("date", ""), ("%Y%m%d",))


def _ordinal(text: str, formats: tuple[str, ...]) -> float:
    for form in formats:
        try:
            return float(datetime.strptime(text, form).toordinal())
        except ValueError:
            continue
    return np.nan


def times_of_rows(
    keys: pd.Series, frame: pd.DataFrame, visit: Visit | None, missing: frozenset[str]
) -> tuple[Times, dict[str, Counter[str]]]:
    """When each row was written, and by column the cells that say something and are no visit code, number or date."""
    unknown: dict[str, Counter[str]] = {}
    nowhere = np.full(len(frame), np.nan)
    times = Times(keys.to_numpy("object"), np.full(len(frame), "", dtype="object"), nowhere, nowhere)
    if visit is None:
        return times, unknown
    if visit.column is not None:
        codes = visit_codes(frame[visit.column])
        times = replace(times, visit_N=codes.to_numpy("object"))
        if visit.order:
            strange = codes[~codes.isin([*visit.order, *missing])]
            unknown[visit.column] = Counter({str(code): int(count) for code, count in strange.value_counts().items()})
    for clock, when in (("entry_days_N", visit.entry), ("date_days_N", visit.date)):
        if when is not None:
            cells = frame[when.column]
            days = {cell: _days(cell, when, missing) for cell in cells.unique()}
            odd = cells[cells.map({cell: day is None for cell, day in days.items()}).astype(bool)]
            unknown[when.column] = Counter({canonical(cell): int(n) for cell, n in odd.value_counts().items()})
            read = cells.map({cell: np.nan if day is None else day for cell, day in days.items()})
            times = replace(times, **{clock: read.to_numpy("float64")})
    return times, unknown


def visit_codes(cells: pd.Series) -> pd.Series:
    """Visit codes in canonical form; BIDS writes `ses-01` where the scan's label is `01`."""
    return cells.map({cell: canonical(canonical(cell).removeprefix("ses-")) for cell in cells.unique()}).astype(
        "object"
    )


def _days(cell: str, when: When, missing: frozenset[str]) -> float | None:
    """Days of a cell; NaN where it says nothing, None where it cannot be read."""
    match = re.search(when.extract, cell) if when.extract is not None else None
    text = match[1] if match is not None else cell.strip()
    code = canonical(text)
    if canonical(cell) in missing:
        return np.nan
    if when.unit == "date":
        ordinal = _ordinal(text, when.formats)
        return None if np.isnan(ordinal) else ordinal
    if code in when.values:
        return when.values[code] * _DAYS[when.unit]
    number = number_in(code)
    return None if number is None else number * _DAYS[when.unit]


def earliest_first(times: Times, order: tuple[Code, ...]) -> np.ndarray:
    """The places of the rows, each person's earliest first: by the order of visit codes, else time since entry, else date.

    Visits that none of them tells apart stand by their code (v2 before v10), so that the order of the file's rows never
    matters.
    """
    import pandas as pd

    rank: Mapping[str, int] = {code: place for place, code in enumerate(order)}
    table = pd.DataFrame(
        {
            "key": times.key_N,
            "rank": [rank.get(code, len(rank)) for code in times.visit_N],
            "entry": times.entry_days_N,
            "date": times.date_days_N,
            "visit": [re.sub(r"\d+", lambda digits: digits[0].zfill(12), code) for code in times.visit_N],
        }
    )
    return table.sort_values(list(table.columns), kind="stable", na_position="last").index.to_numpy()


def on_the_clock(rows: Times, sessions: Times, visit: Visit | None) -> Times:
    """The sessions, those that name a visit code of this table with the times of that visit's row."""
    if visit is None or visit.column is None:
        return sessions
    row_N = _row_of_visit(rows, sessions)
    return replace(
        sessions,
        entry_days_N=np.where(row_N >= 0, _at(rows.entry_days_N, row_N), sessions.entry_days_N),
        date_days_N=np.where(row_N >= 0, _at(rows.date_days_N, row_N), sessions.date_days_N),
    )


def choose_rows(rows: Times, sessions: Times, visit: Visit | None, says_N: np.ndarray, *, fixed: bool) -> Chosen:
    """The row that speaks for each session; `rows` stand earliest first, `says_N` marks those that say something.

    `fixed`: the earliest row that says something, whatever the session.
    """
    nobody = np.zeros(len(sessions.key_N), dtype=bool)
    if fixed:
        return Chosen(_first_row(rows, sessions, says_N), nobody, nobody)
    row_N = _first_row(rows, sessions, np.ones(len(rows.key_N), dtype=bool))
    if visit is None:
        return Chosen(row_N, nobody, nobody)
    has_row_N = row_N >= 0
    coded_N = np.asarray(sessions.visit_N != "") & (visit.column is not None)
    row_N = np.where(coded_N, _row_of_visit(rows, sessions), row_N)
    no_such_visit_N = coded_N & has_row_N & (row_N < 0)
    too_far_N, todo_N = nobody, ~coded_N
    clocks = (
        (visit.entry, rows.entry_days_N, sessions.entry_days_N),
        (visit.date, rows.date_days_N, sessions.date_days_N),
    )
    for when, row_days_N, session_days_N in clocks:
        asked_N = todo_N & ~np.isnan(session_days_N) & (when is not None)
        near_N, distance_N = _nearest(rows, row_days_N, sessions, session_days_N, says_N)
        far_N = asked_N & (near_N >= 0) & (distance_N > (visit.within_days or np.inf))
        row_N = np.where(asked_N, np.where(far_N, -1, near_N), row_N)
        too_far_N, todo_N = too_far_N | far_N, todo_N & ~asked_N
    return Chosen(row_N, no_such_visit_N, too_far_N)


def years_between(rows: Times, row_N: np.ndarray, sessions: Times) -> np.ndarray:
    """Years from the chosen row to the session on a clock that both share, that of entry first; 0 where none is known."""
    by_entry_N = sessions.entry_days_N - _at(rows.entry_days_N, row_N)
    by_date_N = sessions.date_days_N - _at(rows.date_days_N, row_N)
    return np.nan_to_num(np.where(np.isnan(by_entry_N), by_date_N, by_entry_N)) / DAYS_A_YEAR


def years_since_entry(sessions: Times) -> np.ndarray:
    """Years from entry into the study to the session; 0 where unknown."""
    return np.nan_to_num(sessions.entry_days_N) / DAYS_A_YEAR


def _at(days_N: np.ndarray, row_N: np.ndarray) -> np.ndarray:
    return np.append(days_N, np.nan)[row_N]


def _first_row(rows: Times, sessions: Times, may_N: np.ndarray) -> np.ndarray:
    import pandas as pd

    places = np.flatnonzero(may_N)
    keys = pd.Index(rows.key_N[places], dtype="object")
    first = ~keys.duplicated()
    return np.append(places[first], -1)[keys[first].get_indexer(pd.Index(sessions.key_N, dtype="object"))]


def _row_of_visit(rows: Times, sessions: Times) -> np.ndarray:
    import pandas as pd

    places = np.flatnonzero(rows.visit_N != "")
    there = pd.MultiIndex.from_arrays([rows.key_N[places], rows.visit_N[places]])
    asked = pd.MultiIndex.from_arrays([sessions.key_N, sessions.visit_N])
    return np.append(places, -1)[there.get_indexer(asked)]


def _nearest(
    rows: Times, row_days_N: np.ndarray, sessions: Times, session_days_N: np.ndarray, says_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The row nearest in time among those that say something, −1 where there is none, and its distance in days."""
    import pandas as pd

    known = np.flatnonzero(says_N & ~np.isnan(row_days_N))
    asked = np.flatnonzero(~np.isnan(session_days_N))
    row_N, distance_N = np.full(len(session_days_N), -1), np.full(len(session_days_N), np.inf)
    if len(known) == 0 or len(asked) == 0:
        return row_N, distance_N
    right = pd.DataFrame({"key": rows.key_N[known], "days": row_days_N[known], "at": row_days_N[known], "row": known})
    left = pd.DataFrame({"key": sessions.key_N[asked], "days": session_days_N[asked], "session": asked})
    # Of rows on one day the first stands; of rows as far before as after, merge_asof takes the earlier.
    right = right.drop_duplicates(["key", "days"]).sort_values("days", kind="stable")
    found = pd.merge_asof(left.sort_values("days"), right, on="days", by="key", direction="nearest").dropna()
    row_N[found["session"]] = found["row"].astype(int)
    distance_N[found["session"]] = (found["days"] - found["at"]).abs()
    return row_N, distance_N
