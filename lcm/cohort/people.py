"""The people a cohort's tables describe: rows excluded, visits chosen, codes turned into levels, everything counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.decode import (
    OBSERVED,
    REFUSED,
    UNOBSERVED,
    Decoded,
    Decoder,
    lone_labels_problem,
    misfit_problem,
    pick,
    refused_share_problem,
)
from lcm.cohort.flow import Flow, count_refused
from lcm.cohort.phenotype_table import find_table, read_table, table_name
from lcm.cohort.source import Column, Source, Visit, canonical_cells
from lcm.cohort.visits import (
    Chosen,
    Times,
    choose_rows,
    earliest_first,
    on_the_clock,
    times_of_rows,
    times_of_sessions,
    years_between,
    years_since_entry,
)
from lcm.cohort.vocabulary import Variable, read_vocabulary
from lcm.tables import hashed_names

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class People:
    """What the tables say; the index is the person's key and the session label.

    Each described person has a row under the blank label (what a scan without a session reads), and one for each session
    asked for. `values` holds a level name, label or float per BEI (missing: None); `states` one of OBSERVED, UNOBSERVED,
    REFUSED per BEI; `excluded` the keys whose row the source drops.
    """

    values: pd.DataFrame
    states: pd.DataFrame
    excluded: frozenset[str]

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the people described."""
        return frozenset(self.values.index.get_level_values("key"))


@dataclass(frozen=True)
class _Rows:
    """One table, each person's earliest row first."""

    file: str
    there: bool
    cells: pd.DataFrame
    times: Times

    def without(self, excluded: set[str], flow: Flow) -> _Rows:
        """The rows of people that no row of any table excludes; counts those that go and those that stay."""
        keep = ~np.isin(self.times.key_N.astype("str"), list(excluded))
        flow.add("rows excluded", f"{self.file}: of a person whom another row excludes", int((~keep).sum()))
        if self.there:
            flow.add("rows kept", self.file, int(keep.sum()), keep_zero=True)
        return replace(self, cells=self.cells[keep].reset_index(drop=True), times=_take(self.times, keep))


def _take(times: Times, places: np.ndarray) -> Times:
    return Times(*(getattr(times, name)[places] for name in ("key_N", "visit_N", "entry_days_N", "date_days_N")))


def read_people(
    source: Source,
    folder: Path,
    policy: str | None,
    flow: Flow,
    sessions: Iterable[tuple[str, str]] = (),
    *,
    max_refused_share: float = 1.0,
) -> People:
    """Read and join the cohort's tables in `folder`, counting into `flow`.

    `sessions` are the keys and session labels (see `visits.session_label`) of the scans. Raises ValueError for a missing
    file or column, a column with too many refused cells, and a visit of a person described twice in different words
    (named by hash).
    """
    import pandas as pd

    excluded: set[str] = set()
    tables = {name: _read_rows(source, name, folder, excluded, flow, max_refused_share) for name in source.tables}
    if not any(rows.there for rows in tables.values()):
        raise ValueError(
            f"{folder}: no table of the cohort is there ({', '.join(row.file for row in tables.values())})"
        )
    tables = {name: rows.without(excluded, flow) for name, rows in tables.items()}
    keys = set().union(*(rows.times.key_N for rows in tables.values()))
    units = sorted({(key, "") for key in keys} | {(key, label) for key, label in sessions if key in keys})
    index = pd.MultiIndex.from_tuples(units, names=["key", "session"])
    asked = index.to_frame(index=False).astype("object")
    times = times_of_sessions(source.sessions, asked["key"], asked["session"])
    labels_N = canonical_cells(asked["session"]).to_numpy("object")
    reader = _Reader(source, policy, tables, asked, times, labels_N, flow, max_refused_share)
    read = {bei: reader.read(bei, columns) for bei, columns in source.beis.items()}
    values = pd.DataFrame({bei: values for bei, (values, _) in read.items()}, index=index, dtype="object")
    states = pd.DataFrame({bei: states for bei, (_, states) in read.items()}, index=index, dtype="object")
    return People(values, states, frozenset(excluded))


def _read_rows(
    source: Source, name: str, folder: Path, excluded: set[str], flow: Flow, max_refused_share: float
) -> _Rows:
    """One table; every row that goes is counted, dropped keys go to `excluded`."""
    table = source.tables[name]
    paths = find_table(folder, table)
    file = table_name(paths, table)
    frame = read_table(paths, table, *source.columns(name))
    if paths:
        flow.add("rows read", file, len(frame), keep_zero=True)
    else:
        flow.add("table absent", file, 1)
    labels = frame[table.person]
    keys = labels.map({label: source.person.normalise(label) for label in labels.unique()}).astype("object")
    fits = keys.notna().to_numpy()
    describes = ~fits & (np.arange(len(frame)) < table.description_rows)
    num_misfits = int((~fits & ~describes).sum())
    flow.add("rows excluded", f"{file}: row that describes columns", int(describes.sum()))
    flow.add("rows excluded", f"{file}: id does not fit the cohort's pattern", num_misfits)
    problem = misfit_problem(num_misfits, int((~describes).sum()), max_refused_share)
    if problem is not None:
        raise ValueError(f"{file}: column {table.person!r}: {problem}")
    frame, keys = frame[fits], keys[fits]
    for drop in (drop for drop in source.drop if drop.table == name):
        hit = canonical_cells(frame[drop.column]).isin(drop.values) if drop.values else keys.notna()
        flow.add("rows excluded", f"{file}: {drop.reason}", int(hit.sum()))
        excluded.update(keys[hit])
        frame, keys = frame[~hit], keys[~hit]
    frame = frame.assign(**{_KEY: keys})
    times, unknown = times_of_rows(keys, frame, table.visit, frozenset(source.missing))
    for column, codes in unknown.items():
        count_refused(Counter({("unknown code", code): n for code, n in codes.items()}), f"{file}: {column}", flow)
    places = _one_row_a_visit(frame.drop(columns=table.person), times, file, flow)
    places = places[earliest_first(_take(times, places), table.visit.order if table.visit else ())]
    cells = frame.iloc[places].reset_index(drop=True)
    return _Rows(file, bool(paths), cells, _take(times, places))


_KEY = "\0key"
"""Column of the person's key; no table can have one of this name."""


def _one_row_a_visit(frame: pd.DataFrame, times: Times, file: str, flow: Flow) -> np.ndarray:
    """Places of the rows without repetitions; stops where two rows of one visit of a person differ."""
    import pandas as pd

    # Rows of one visit code are one visit, whatever their times; rows without a code are told apart by their times.
    days = {"entry": times.entry_days_N, "date": times.date_days_N}
    days = {clock: np.where(times.visit_N == "", days_N, np.nan) for clock, days_N in days.items()}
    visit = pd.DataFrame({"key": times.key_N, "visit": times.visit_N} | days)
    places = np.arange(len(frame))
    repeated = visit.duplicated(keep=False).to_numpy()
    if not repeated.any():
        return places
    rows = frame[repeated]
    said = rows.apply(canonical_cells)
    distinct = visit[repeated][~said.duplicated().to_numpy()]
    twice = distinct.loc[distinct.duplicated(), "key"].unique()
    if len(twice):
        names = ", ".join(name for name in frame.columns if name != _KEY)
        raise ValueError(
            f"{file}: {len(twice)} people have several rows that differ in {names} at one visit "
            f"(sha256 of their ids begins {hashed_names(twice)}); keep one row a person and visit"
        )
    # The written form with the smallest text stands for all, so that the order of the rows does not matter.
    order = rows.assign(place=places[repeated]).sort_values(list(frame.columns), kind="stable")["place"].to_numpy()
    first = order[~visit.iloc[order].duplicated().to_numpy()]
    flow.add("rows excluded", f"{file}: repeats a row of the same person", len(rows) - len(first))
    return np.sort(np.concatenate([places[~repeated], first]))


@dataclass(frozen=True)
class _Reader:
    """BEIs of people at sessions, read from a cohort's tables."""

    source: Source
    policy: str | None
    tables: Mapping[str, _Rows]
    units: pd.DataFrame
    """key and session of each row of the result."""
    sessions: Times
    labels_N: np.ndarray
    """Session labels of the units as codes."""
    flow: Flow
    max_refused_share: float

    def read(self, bei: str, columns: Iterable[Column]) -> tuple[np.ndarray, np.ndarray]:
        """Values and states of one BEI: the first column that is not silent holds; contradictions are refused.

        Silence about a session of a person of whom the tables speak at another visit is refused too: nothing is assumed of
        who was diagnosed years before.
        """
        values_N = np.full(len(self.units), None, dtype="object")
        states_N = np.full(len(self.units), UNOBSERVED, dtype="object")
        contradicted_N = np.zeros(len(self.units), dtype=bool)
        # Two ages may differ by design, as a band and the exact age do; two levels cannot both be true.
        can_contradict = read_vocabulary()[bei].kind == "categorical"
        spoken_of_N = np.zeros(len(self.units), dtype=bool)
        asked = [column for column in columns if self.source.levels(column, self.policy) is not None]
        for (table, fixed), group in groupby(asked, key=lambda column: (column.table, column.fixed)):
            read, here_N = self._read_table(bei, table, list(group), fixed=fixed)
            spoken_of_N |= here_N
            for more_values_N, more_states_N in read:
                both_N = (states_N == OBSERVED) & (more_states_N == OBSERVED)
                contradicted_N |= both_N & (values_N != more_values_N) & can_contradict
                silent_N = states_N == UNOBSERVED
                values_N = np.where(silent_N, more_values_N, values_N)
                states_N = np.where(silent_N, more_states_N, states_N)
        values_N[contradicted_N], states_N[contradicted_N] = None, REFUSED
        self.flow.warn("contradiction", bei, self.units["key"][contradicted_N].nunique())
        states_N[(states_N == UNOBSERVED) & spoken_of_N] = REFUSED
        return values_N, states_N

    def _read_table(
        self, bei: str, table: str, columns: list[Column], *, fixed: bool
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """Values and states of a BEI's columns in one table, all read from one row: the one that speaks for the session.

        Also of whom the rows of other visits, or this one, say something.
        """
        rows, visit = self.tables[table], self.source.tables[table].visit
        decoders = [self._decoder(bei, column) for column in columns]
        decoded = [decode(rows.cells[column.column]) for column, decode in zip(columns, decoders, strict=True)]
        says_R = np.any([cells.states != UNOBSERVED for cells in decoded], axis=0)
        for column, cells in zip(columns, decoded, strict=True):
            self._check_labels(f"{rows.file}: {column.column}", read_vocabulary()[bei], cells, rows.times.key_N)
        chosen = choose_rows(rows.times, self.sessions, visit, says_R, fixed=fixed)
        self._count_misses(f"{rows.file}: {bei}", chosen, visit)
        # A fixed column repeats itself at every visit, so its cells are counted once a person.
        described_N = (self.units["session"] == "").to_numpy() & (chosen.row_N >= 0)
        counted_R = chosen.row_N[described_N]
        clock = on_the_clock(rows.times, self.sessions, visit)
        read = []
        for column, decode, cells in zip(columns, decoders, decoded, strict=True):
            values_N, states_N = pick(cells.values, chosen.row_N, None), pick(cells.states, chosen.row_N, UNOBSERVED)
            where = f"{rows.file}: {column.column}"
            self._count_cells(where, decode(rows.cells[column.column].iloc[counted_R]) if fixed else cells)
            for label, name in column.sessions.items():
                there = decode(rows.cells[name])
                self._count_cells(f"{rows.file}: {name}", there)
                here_N = self.labels_N == label
                values_N = np.where(here_N, pick(there.values, chosen.row_N, None), values_N)
                states_N = np.where(here_N, pick(there.states, chosen.row_N, UNOBSERVED), states_N)
            if column.ages_from is not None:
                from_row = column.ages_from == "row"
                years_N = years_between(rows.times, chosen.row_N, clock) if from_row else years_since_entry(clock)
                self._grow_older(where, read_vocabulary()[bei], values_N, states_N, years_N)
            if column.optional and rows.there and not (rows.cells[column.column] != "").any():
                self.flow.add("column absent", f"{where} (absent, or blank throughout)", self.units["key"].nunique())
            read.append((values_N, states_N))
        if visit is None:
            return read, np.zeros(len(self.units), dtype=bool)  # the one row has been read
        return read, choose_rows(rows.times, self.sessions, visit, says_R, fixed=True).row_N >= 0

    def _grow_older(
        self, where: str, variable: Variable, values_N: np.ndarray, states_N: np.ndarray, years_N: np.ndarray
    ) -> None:
        """Add the years up to the scan to observed ages, in place; refuse an age that a wrong date makes implausible."""
        aged_N = (states_N == OBSERVED) & (years_N != 0)
        values_N[aged_N] = values_N[aged_N] + years_N[aged_N]
        low, high = variable.range or (float("-inf"), float("inf"))
        wrong_N = aged_N.copy()
        wrong_N[aged_N] = [not low <= age <= high for age in values_N[aged_N]]
        values_N[wrong_N], states_N[wrong_N] = None, REFUSED
        self.flow.warn("implausible value", f"{where}, moved to the day of the scan", int(wrong_N.sum()))

    def _decoder(self, bei: str, column: Column) -> Decoder:
        levels = self.source.levels(column, self.policy) or {}
        return Decoder(read_vocabulary()[bei], column, levels, frozenset(self.source.missing) | {""})

    def _count_cells(self, where: str, cells: Decoded) -> None:
        """Count the refused cells of a column; stop where they are too many."""
        problem = refused_share_problem(cells.refused, cells.num_said, self.max_refused_share)
        if problem is not None:
            raise ValueError(f"{where}: {problem}")
        # Only now: cells of a swapped column, which may be ids, are logged by no one.
        count_refused(cells.refused, where, self.flow)

    def _check_labels(self, where: str, variable: Variable, cells: Decoded, key_R: np.ndarray) -> None:
        """Stop for labels that name people and not sites."""
        if variable.kind == "label":
            problem = lone_labels_problem(cells.values.to_numpy("object"), key_R)
            if problem is not None:
                raise ValueError(f"{where}: {problem}")

    def _count_misses(self, where: str, chosen: Chosen, visit: Visit | None) -> None:
        self.flow.add("no row of this visit", where, int(chosen.no_such_visit_N.sum()))
        if visit is not None and visit.within_days is not None:
            reason = f"{where} within {visit.within_days:g} days"
            self.flow.add("no near visit", reason, int(chosen.too_far_N.sum()))
