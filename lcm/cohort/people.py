"""The people a cohort's tables describe: rows excluded and joined, codes turned into levels, everything counted."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.source import (
    STATE,
    Column,
    Source,
    Table,
    Visit,
    canonical,
    canonical_cells,
    find_table,
    read_table,
)
from lcm.cohort.vocabulary import Variable, read_vocabulary
from lcm.tables import hashed

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

OBSERVED, UNOBSERVED, REFUSED = "observed", "unobserved", "refused"
"""State of a cell: a level was read; the table says nothing; the table says something that is not used."""

STEPS = (
    "rows read",
    "rows excluded",
    "rows kept",
    "people described",
    "people matched",
    "people without a scan",
    "scans indexed",
    "scans matched",
    "scans without a phenotype row",
    "unknown code",
    "implausible value",
    "set aside",
    "column absent",
)
"""Steps of the cohort flow in printing order; see `Flow` for the sums that hold."""

_REMEDIES = {
    "unknown code": "if it means something, add it to the cohort's file in lcm/cohort/sources",
    "implausible value": "check the column and its unit in the cohort's file in lcm/cohort/sources",
}
_MOST_CODES_SHOWN = 20
_LONGEST_CODE = 40


@dataclass
class Flow:
    """Counts of one cohort by step and reason.

    What adds up: rows read = rows excluded + rows kept; people described = people matched + people without a scan;
    scans indexed = scans matched + scans without a phenotype row. The cell counts (unknown code, implausible value,
    set aside) stand beside these sums.
    """

    cohort: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, step: str, reason: str, count: int, *, keep_zero: bool = False) -> None:
        """Add to a count; a zero is written only where its absence would break a sum to read."""
        if count or keep_zero:
            self.counts[step, reason] += count

    def rows(self) -> list[tuple[str, str, str, int]]:
        """cohort, step, reason, count in the order of STEPS, then by reason."""
        ordered = sorted(self.counts.items(), key=lambda item: (STEPS.index(item[0][0]), item[0][1]))
        return [(self.cohort, step, reason, count) for (step, reason), count in ordered]


@dataclass(frozen=True)
class People:
    """What the tables say, one row a person; the index is the person's key.

    `values` holds a level name or a float per BEI (missing: None) and `site`; `states` one of OBSERVED, UNOBSERVED,
    REFUSED per BEI; `excluded` the keys whose row the source drops.
    """

    values: pd.DataFrame
    states: pd.DataFrame
    excluded: frozenset[str]


def read_people(source: Source, folder: Path, policy: str | None, flow: Flow) -> People:
    """Read and join the cohort's tables in `folder`, counting into `flow`.

    Raises ValueError for a missing file or column, and for a person described twice in different words (named by hash).
    """
    import pandas as pd

    excluded: set[str] = set()
    tables: dict[str, pd.DataFrame] = {}
    files: dict[str, str] = {}
    for name, table in source.tables.items():
        path = find_table(folder, table)
        files[name] = path.name
        tables[name] = _read_persons(source, name, path, excluded, flow)
    keys = sorted(set().union(*(frame.index for frame in tables.values())) - excluded)
    # A person with a row in one table only is blank in the others.
    joined = {name: frame.reindex(keys, fill_value="") for name, frame in tables.items()}
    values, states = pd.DataFrame(index=pd.Index(keys)), pd.DataFrame(index=pd.Index(keys))
    for bei, column in source.beis.items():
        cells = joined[column.table][column.column]
        decode = Decoder(read_vocabulary()[bei], column, source.levels(bei, policy), frozenset(source.missing))
        values[bei], states[bei] = decode(cells, f"{files[column.table]}: {column.column}", flow)
        if column.optional and not tables[column.table].attrs[column.column]:
            flow.add(
                "column absent", f"{files[column.table]}: {column.column} (absent, or blank throughout)", len(keys)
            )
    values["site"] = _site(source, joined)
    return People(values, states, frozenset(excluded))


def _site(source: Source, joined: dict[str, pd.DataFrame]) -> pd.Series | None:
    if source.site is None:
        return None
    cells = joined[source.site.table][source.site.column]
    return cells.where(~canonical_cells(cells).isin(source.missing), None)


def _read_persons(source: Source, name: str, path: Path, excluded: set[str], flow: Flow) -> pd.DataFrame:
    """One table, one row a person, indexed by key; every row that goes is counted, dropped keys go to `excluded`."""
    import pandas as pd

    table = source.tables[name]
    required, optional = source.columns(name)
    frame = read_table(path, table, required, optional)
    flow.add("rows read", path.name, len(frame), keep_zero=True)
    labels = frame[table.person]
    frame.index = pd.Index(labels.map({label: source.person.normalise(label) for label in labels.unique()}), name="key")
    fits = np.asarray(frame.index.notna())
    describes = ~fits & (np.arange(len(frame)) < table.description_rows)
    flow.add("rows excluded", f"{path.name}: row that describes columns", int(describes.sum()))
    flow.add("rows excluded", f"{path.name}: id does not fit the cohort's pattern", int((~fits & ~describes).sum()))
    frame = frame[fits]
    for drop in (drop for drop in source.drop if drop.table == name):
        hit = canonical_cells(frame[drop.column]).isin(drop.values)
        flow.add("rows excluded", f"{path.name}: {drop.reason}", int(hit.sum()))
        excluded.update(frame.index[hit])
        frame = frame[~hit]
    if table.visit is not None:
        frame = _earliest_visit(frame, table.visit, path.name, flow)
    frame = _one_row_each(frame, table, path, flow)
    flow.add("rows kept", path.name, len(frame), keep_zero=True)
    frame.attrs = {column: bool((frame[column] != "").any()) for column in optional}
    return frame


def _earliest_visit(frame: pd.DataFrame, visit: Visit, file: str, flow: Flow) -> pd.DataFrame:
    rank = {code: place for place, code in enumerate(visit.order)}
    codes = canonical_cells(frame[visit.column])
    unknown = Counter(("unknown code", code) for code in codes[~codes.isin(list(rank))])
    _count_refused(unknown, f"{file}: {visit.column}", flow)
    place = codes.map(rank).fillna(len(rank))
    earliest = frame[place == place.groupby(level=0).transform("min")]
    flow.add("rows excluded", f"{file}: later visit of the same person", len(frame) - len(earliest))
    return earliest


def _one_row_each(frame: pd.DataFrame, table: Table, path: Path, flow: Flow) -> pd.DataFrame:
    """Merge rows of one person that say the same; stop where they do not."""
    said = frame.drop(columns=table.person).apply(canonical_cells).assign(key=frame.index)
    distinct = said.drop_duplicates()
    twice = distinct["key"][distinct["key"].duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} people have several rows that differ in {', '.join(frame.columns)} "
            f"(sha256 of their ids begins {', '.join(sorted(map(hashed, twice))[:5])}); keep one row a person"
        )
    # The written form with the smallest text stands for all, so that the order of the rows does not matter.
    merged = frame.sort_values(list(frame.columns), kind="stable")
    merged = merged[~merged.index.duplicated(keep="first")].sort_index()
    flow.add("rows excluded", f"{path.name}: repeats a row of the same person", len(frame) - len(merged))
    return merged


@dataclass(frozen=True)
class Decoder:
    """Cells of one column → values of one BEI."""

    variable: Variable
    column: Column
    levels: dict[str, str | None]
    missing: frozenset[str]

    def __call__(self, cells: pd.Series, where: str, flow: Flow) -> tuple[pd.Series, pd.Series]:
        """Values (level names or floats, None where missing) and states, aligned with `cells`; counts what is refused.

        Each distinct cell is decoded once, so the cost follows the number of codes and not of rows.
        """
        counts = cells.value_counts()
        decoded = {cell: self._decode(cell) for cell in counts.index}
        refused: Counter[tuple[str, str]] = Counter()
        for cell, (_, state, problem) in decoded.items():
            if state == REFUSED:
                refused[problem, self._code(cell)] += int(counts[cell])
        _count_refused(refused, where, flow)
        values = cells.map({cell: value for cell, (value, _, _) in decoded.items()}).astype("object")
        return values.where(values.notna(), None), cells.map({cell: state for cell, (_, state, _) in decoded.items()})

    def _code(self, cell: str) -> str:
        if self.column.extract is None:
            return canonical(cell)
        match = re.search(self.column.extract, cell)
        return canonical(match[1]) if match else canonical(cell)

    def _decode(self, cell: str) -> tuple[str | float | None, str, str]:
        if canonical(cell) in self.missing:
            return None, UNOBSERVED, ""
        code = self._code(cell)
        if self.variable.kind == "continuous":
            return self._decode_number(code)
        if code not in self.levels:
            return None, REFUSED, "unknown code"
        level = self.levels[code]
        return (None, REFUSED, "set aside") if level is None else (level, OBSERVED, "")

    def _decode_number(self, code: str) -> tuple[float | None, str, str]:
        if code in self.column.values:
            return float(self.column.values[code]), OBSERVED, ""
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", code) is None:
            return None, REFUSED, "unknown code"
        number = float(code) / 12 if self.column.unit == "months" else float(code)
        low, high = self.variable.range or (float("-inf"), float("inf"))
        return (number, OBSERVED, "") if low <= number <= high else (None, REFUSED, "implausible value")


def _count_refused(refused: Mapping[tuple[str, str], int], where: str, flow: Flow) -> None:
    """Write refused cells to the flow, a row a code, commonest first; warn once for each row.

    A column with very many unknown codes is likely the wrong one (names, dates): then none of its cells is printed. An
    implausible number never is.
    """
    rows: dict[tuple[str, str], int] = {}
    num_codes = Counter(step for step, _ in refused)
    for (step, code), count in sorted(refused.items(), key=lambda item: (item[0][0], -item[1], item[0][1])):
        few = num_codes[step] <= _MOST_CODES_SHOWN
        shown = " ".join(code.split())[:_LONGEST_CODE] if few else f"(more than {_MOST_CODES_SHOWN} different codes)"
        reason = where if step == "implausible value" else f"{where} = {shown}"
        rows[step, reason] = rows.get((step, reason), 0) + count
    for (step, reason), count in rows.items():
        flow.add(step, reason, count)
        if step in _REMEDIES:
            log.warning("%s: %s in %s, %d cells left missing; %s", flow.cohort, step, reason, count, _REMEDIES[step])


def decode_states(source: Source, tasks: pd.Series, flow: Flow) -> tuple[pd.Series, pd.Series]:
    """Cognitive state of scans from the task in their name: values and states, aligned with `tasks`."""
    column = Column(table="scans", column="task")
    decode = Decoder(read_vocabulary()[STATE], column, source.tasks, frozenset(source.missing) | {""})
    return decode(tasks.fillna("").astype("object"), "scans.tsv: task", flow)
