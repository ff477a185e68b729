"""How a table was saved never changes what it says, and no code goes by unseen, in any of the simulated cohorts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcm.cohort.harmonize import harmonize
from lcm.cohort.simulated_people import PLANS, recruit
from lcm.cohort.simulated_phenotypes import write_phenotypes
from lcm.cohort.source import read_source
from lcm.config import Dataset, Harmonize
from lcm.tables import SCANS

Rows = list[list[str]]
NUM_PEOPLE = 6


def separator(path: Path) -> str:
    return "," if path.suffix == ".csv" else "\t"


def read_rows(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(
            csv.reader(io.StringIO(stream.read().replace("\r\n", "\n").replace("\r", "\n")), delimiter=separator(path))
        )


def scans_of(cohort: str) -> pd.DataFrame:
    text = {name: "x" for name, kind in SCANS.columns.items() if kind == "text"}
    labels = [person.label for person in recruit(cohort, NUM_PEOPLE, seed=3)]
    rows = [text | {"dataset": "D", "participant_id": f"sub-{label}", "scan": f"sub-{label}"} for label in labels]
    return pd.DataFrame(rows).reindex(columns=list(SCANS.columns)).astype("object")


def harmonized(cohort: str, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    dataset = Dataset(path="x", input="series", pattern="*", cohort=cohort.lower(), phenotypes=str(folder))
    return harmonize(scans_of(cohort), {"D": dataset}, Harmonize(max_refused_share=1.0))[:2]


@cache
def tables(cohort: str) -> dict[str, Rows]:
    """The cohort's tables by file name, as rows of cells."""
    with TemporaryDirectory() as folder:
        write_phenotypes(cohort, recruit(cohort, NUM_PEOPLE, seed=3), Path(folder), np.random.default_rng(3))
        return {path.name: read_rows(path) for path in sorted(Path(folder).iterdir())}


@cache
def expected(cohort: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What harmonize makes of the tables saved plainly."""
    with TemporaryDirectory() as folder:
        rewrite(cohort, Path(folder), lambda path, rows: as_text(path, rows).encode("utf-8"))
        return harmonized(cohort, Path(folder))


def rewrite(cohort: str, folder: Path, change: Callable[[Path, Rows], bytes]) -> Path:
    """The cohort's tables as `change` makes them of their rows, in `folder`."""
    for name, rows in tables(cohort).items():
        (folder / name).write_bytes(change(Path(name), rows))
    return folder


def num_describing_rows(cohort: str, path: Path) -> int:
    """Rows below the header of this file that describe columns, and have to stay there."""
    described = read_source(cohort.lower()).tables.values()
    return next((table.description_rows for table in described if path.match(table.file)), 0)


def as_text(path: Path, rows: Rows, *, quoting: int = csv.QUOTE_MINIMAL, line_end: str = "\n") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator(path), quoting=quoting, lineterminator=line_end).writerows(rows)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize("cohort", PLANS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    random=st.randoms(use_true_random=False),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    extra=st.lists(st.text(alphabet="aé, \t'", max_size=5), max_size=3),
    pad=st.sampled_from(["", " "]),
)
def test_the_form_of_the_files_never_changes_the_result(
    tmp_path: Path, cohort: str, random, line_end: str, encoding: str, quoting: int, extra: list[str], pad: str
) -> None:  # fmt: skip
    def change(path: Path, rows: Rows) -> bytes:
        top = 1 + num_describing_rows(cohort, path)
        body = random.sample(rows[top:], len(rows) - top)
        columns = random.sample(range(len(rows[0])), len(rows[0]))
        changed = [[cells[column] + pad for column in columns] + extra for cells in rows[:top] + body]
        changed[0] = [rows[0][column] + pad for column in columns] + [f"unused {place}" for place in range(len(extra))]
        return as_text(path, changed, quoting=quoting, line_end=line_end).encode(encoding)

    bei, flow = harmonized(cohort, rewrite(cohort, tmp_path, change))
    pd.testing.assert_frame_equal(bei, expected(cohort)[0])
    pd.testing.assert_frame_equal(flow, expected(cohort)[1])


def categorical_columns() -> list[tuple[str, str, str, str]]:
    """Cohort, BEI, file and column of every code column of the simulated cohorts that is not also the person's name."""
    found = []
    for cohort in PLANS:
        source = read_source(cohort.lower())
        for bei, columns in source.beis.items():
            for column in columns:
                table = source.tables[column.table]
                if (
                    source.levels(column, None)
                    and not column.silent
                    and column.column != table.person
                    and not table.optional
                ):
                    found.append((cohort, bei, table.file, column.column))
    return found


@pytest.mark.parametrize(("cohort", "bei", "file", "column"), categorical_columns())
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=2, max_size=8),
    number=st.integers(0, 2**16),
)
def test_an_unknown_code_is_reported_wherever_it_stands(
    tmp_path: Path, cohort: str, bei: str, file: str, column: str, code: str, number: int
) -> None:
    planted = f"zz{code}"
    source = read_source(cohort.lower())
    person = next(table.person for table in source.tables.values() if table.file == file)
    scanned = [one.label for one in recruit(cohort, NUM_PEOPLE, seed=3) if one.tasks and one.has_row]
    chosen = source.person.normalise(scanned[number % len(scanned)])

    def change(path: Path, rows: Rows) -> bytes:
        if path.match(file):
            names = [name.strip() for name in rows[0]]
            place, key = names.index(column), names.index(person)
            rows = [
                [
                    planted if at == place and source.person.normalise(row[key]) == chosen else cell
                    for at, cell in enumerate(row)
                ]
                for row in rows
            ]
        return as_text(path, rows).encode("utf-8")

    folder = rewrite(cohort, tmp_path, change)
    _, flow = harmonized(cohort, folder)
    reasons = flow.loc[flow["step"] == "unknown code", "reason"]
    assert reasons.str.contains(f"{column} = {planted}", regex=False).sum() == 1
