"""`lcm harmonize --check`: every phenotype table against its cohort's file, in seconds and without an image."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.cohort.decode import Decoder, misfit_problem, refused_share_problem
from lcm.cohort.flow import Flow, shown_codes
from lcm.cohort.linkage import read_linkage
from lcm.cohort.people import read_people
from lcm.cohort.phenotype_table import find_table, read_table, table_name
from lcm.cohort.source import Source, canonical_cells, read_source
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Dataset, Harmonize
from lcm.tables import CHECKED, write_tsv

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

log = logging.getLogger(__name__)

PROBLEMS = (UNKNOWN, IMPLAUSIBLE) = ("unknown code", "implausible value")
MISFIT = "id does not fit the cohort's pattern"


@dataclass
class Findings:
    """What was found so far: rows of CHECKED, the lines that stop a study, and how many rows each file has."""

    rows: list[tuple[str, str, str, str, str | None, int]] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)
    num_rows: dict[tuple[str, str], int] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """The rows as lcm.tables.CHECKED, sorted."""
        import pandas as pd

        frame = pd.DataFrame(self.rows, columns=list(CHECKED.columns)).drop_duplicates(list(CHECKED.key))
        return frame.sort_values(list(CHECKED.key), ignore_index=True)

    def summary(self) -> Iterator[str]:
        """A line a file and a line a problem, without a person's id."""
        found = self.table()
        for (cohort, file), count in self.num_rows.items():
            own = found[(found["cohort"] == cohort) & (found["file"] == file)]
            yield f"{cohort}: {file}: {count} rows, {len(own)} problems"
            for row in own.to_dict("records"):
                value = f" = {row['value']}" if isinstance(row["value"], str) else ""
                yield f"  {row['column']}: {row['problem']}{value}: {row['count']}"


def check_tables(datasets: Mapping[str, Dataset], settings: Harmonize) -> Findings:
    """Every phenotype table that the datasets name, and the linkage table.

    Fatal is what would stop `harmonize`: a file or column that is not there, a column (or the ids) of which more than
    `max_refused_share` cannot be read, a person described twice in different words, a linkage table that cannot hold. All
    other codes and numbers that are not used are findings only.
    """
    findings = Findings()
    read = {(d.cohort_name, d.cohort, d.phenotypes) for d in datasets.values() if d.phenotypes}
    for name, cohort, folder in sorted(read):
        _check_cohort(name, read_source(cohort), Path(folder), settings, findings)
    if settings.linkage is not None:
        sources = {dataset.cohort_name: read_source(dataset.cohort) for dataset in datasets.values()}
        _stopped_by(findings, partial(read_linkage, Path(settings.linkage), sources))
    return findings


def tell(findings: Findings, output: Path | None) -> int:
    """Print the summary, log each fatal line, write the table where asked; 1 where a study would stop, else 0."""
    sys.stdout.writelines(f"{line}\n" for line in findings.summary())
    for line in findings.fatal:
        log.error("%s", line)
    if output is not None:
        write_tsv(findings.table(), output, CHECKED)
    return 1 if findings.fatal else 0


def _stopped_by(findings: Findings, step: Callable[[], Any]) -> Any:
    """The step's answer; None where it stopped, with its line among the fatal ones."""
    try:
        return step()
    except (ValueError, OSError) as error:
        findings.fatal.append(str(error))
        return None


def _check_cohort(name: str, source: Source, folder: Path, settings: Harmonize, findings: Findings) -> None:
    policy = settings.policies.get(name)
    before = len(findings.fatal)
    for table in source.tables:
        checked = CheckedTable(name, source, table, policy, settings.max_refused_share)
        _stopped_by(findings, partial(checked.read, folder, findings))
    if len(findings.fatal) == before:
        # What only the joined rows show: people described twice in different words.
        _stopped_by(
            findings,
            partial(read_people, source, folder, policy, Flow(name), max_refused_share=settings.max_refused_share),
        )


@dataclass(frozen=True)
class CheckedTable:
    """One table of a cohort under a label policy."""

    cohort: str
    source: Source
    name: str
    policy: str | None
    most_refused: float

    def read(self, folder: Path, findings: Findings) -> None:
        """Read the table and put what is wrong with it into `findings`. Raises ValueError for a missing file or column."""
        import pandera.errors

        table = self.source.tables[self.name]
        paths = find_table(folder, table)
        frame = self._of_people(read_table(paths, table, *self.source.columns(self.name)))
        file = table_name(paths, table)
        if paths:
            findings.num_rows[self.cohort, file] = len(frame)
        try:
            self._schema().validate(frame, lazy=True)
        except pandera.errors.SchemaErrors as errors:
            cases = errors.failure_cases.drop_duplicates(["column", "check", "index"])
            for column, failed in cases.groupby("column"):
                self._report(folder, file, frame[str(column)], failed, findings)

    def _of_people(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Without the rows that describe columns and those that the source drops."""
        table = self.source.tables[self.name]
        describes = (frame.index < table.description_rows) & ~self._fits(frame[table.person])
        dropped = describes
        for drop in (drop for drop in self.source.drop if drop.table == self.name):
            dropped |= canonical_cells(frame[drop.column]).isin(drop.values) | (not drop.values)
        return frame[~dropped]

    def _fits(self, ids: pd.Series) -> pd.Series:
        normalise = self.source.person.normalise
        return ids.map({label: normalise(label) is not None for label in ids.unique()}).astype("bool")

    def _schema(self) -> pa.DataFrameSchema:
        """The table as its cohort's file describes it: every id fits, every code is known, every number is plausible."""
        import pandera.pandas as pa

        checks: dict[str, list[pa.Check]] = {self.source.tables[self.name].person: [pa.Check(self._fits, error=MISFIT)]}
        for column, decoder in self._decoders():
            for problem in PROBLEMS:
                check = pa.Check(partial(_is_without, decoder=decoder, problem=problem), error=problem)
                checks.setdefault(column, []).append(check)
        return pa.DataFrameSchema({column: pa.Column("str", own) for column, own in checks.items()})

    def _decoders(self) -> Iterator[tuple[str, Decoder]]:
        """Column of the table and what reads it, a pair for each BEI and session."""
        for bei, columns in self.source.beis.items():
            for column in (column for column in columns if column.table == self.name):
                levels = self.source.levels(column, self.policy)
                if levels is None:
                    continue
                decoder = Decoder(read_vocabulary()[bei], column, levels, frozenset({*self.source.missing, ""}))
                yield from ((name, decoder) for name in (column.column, *column.sessions.values()))

    def _report(self, folder: Path, file: str, cells: pd.Series, failed: pd.DataFrame, findings: Findings) -> None:
        """Rows of one column's findings, a row a problem and code; a fatal line where too many of its cells are refused."""
        codes = canonical_cells(failed["failure_case"])
        refused = Counter(zip(failed["check"], codes, strict=True))
        column = str(cells.name)
        silent = {*self.source.missing, ""}.union(
            *(decoder.column.missing for name, decoder in self._decoders() if name == column)
        )
        num_said = int((~canonical_cells(cells).isin(silent)).sum())
        num_misfits = int((failed["check"] == MISFIT).sum())
        fatal = misfit_problem(num_misfits, len(cells), self.most_refused) or refused_share_problem(
            refused, num_said, self.most_refused
        )
        if fatal:
            findings.fatal.append(f"{folder / file}: column {column!r}: {fatal}")
        for problem in sorted(set(failed["check"])):
            own = Counter({code: count for (other, code), count in refused.items() if other == problem})
            # A number or an id is never printed, nor a cell of a column that is likely another one.
            printable = problem == UNKNOWN and not fatal and column != self.source.tables[self.name].person
            shown = shown_codes(own) if printable else {None: own.total()}
            findings.rows += [(self.cohort, file, column, problem, value, count) for value, count in shown.items()]


def _is_without(cells: pd.Series, decoder: Decoder, problem: str) -> pd.Series:
    """Mask of the cells that do not have the problem; each distinct cell is decoded once."""
    return cells.map({cell: decoder.cell(cell).problem != problem for cell in cells.unique()}).astype("bool")
