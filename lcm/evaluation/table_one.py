"""Table 1 of a paper: the people of each cohort by diagnostic group, from observed cells alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from lcm.evaluation.study_people import observed
from lcm.tables import TABLE_ONE

VOCABULARY = Path(__file__).parents[1] / "cohort" / "vocabulary.yaml"
ALL = "all"
"""The group of everyone in the cohort."""
UNKNOWN = "unknown"
"""Group or level of the people of whom it was not observed."""
ALWAYS = ("sex", "age")
"""Shown even where nobody's is known: a reader looks for them."""
MOTION = "motion"
"""Mean framewise displacement, which the images bring and no phenotype table."""

Row = tuple[str, str | None, str, str | None]
"""variable, level, statistic, value."""


@dataclass(frozen=True)
class Variable:
    """What Table 1 needs to know of a BEI; the vocabulary has the rest."""

    kind: str
    """categorical, continuous or label."""
    group: str
    levels: tuple[str, ...]
    unit: str | None


def read_variables(path: Path = VOCABULARY) -> dict[str, Variable]:
    """BEI → what it is, in the order of the vocabulary."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        name: Variable(entry["kind"], entry["group"], tuple(entry.get("levels", ())), entry.get("unit"))
        for name, entry in entries.items()
    }


def table_one(people: pd.DataFrame, variables: Mapping[str, Variable]) -> pd.DataFrame:
    """The `table_one` table of people as `first_visits` gives them, with `mean_fd_mm`.

    Groups are `all` and, for every diagnosis that the cohort observed, `<diagnosis>: <level>` and `<diagnosis>: unknown`.
    A categorical or label variable has `n` and `percent` (of the group) a level, a continuous one `n` (known), `missing`,
    `mean`, `sd` (n − 1), `median`, `q1`, `q3`, `min` and `max` in its unit.
    """
    rows = [
        (cohort, group, *row)
        for cohort, own in people.groupby("cohort", sort=True)
        for group, members in groups(own, variables)
        for row in _describe(own, members, variables)
    ]
    return pd.DataFrame(rows, columns=list(TABLE_ONE.columns))


def groups(people: pd.DataFrame, variables: Mapping[str, Variable]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The groups of one cohort and their people: everyone, then by each diagnosis that somebody's was observed of."""
    yield ALL, people
    for name, variable in variables.items():
        cells = observed(people, name)
        if variable.group == "diagnosis" and cells.notna().any():
            found = set(cells.dropna())
            for level in (level for level in variable.levels if level in found):
                yield f"{name}: {level}", people[cells == level]
            if cells.isna().any():
                yield f"{name}: {UNKNOWN}", people[cells.isna()]


def _describe(cohort: pd.DataFrame, members: pd.DataFrame, variables: Mapping[str, Variable]) -> Iterator[Row]:
    """Rows of one group; the levels are those that someone of the cohort has, so that every group has the same rows."""
    yield "people", None, "n", str(len(members))
    yield "scans", None, "n", str(int(members["num_scans"].sum()))
    for name, variable in variables.items():
        if variable.group in ("diagnosis", "state"):
            continue
        whole, cells = _cells(cohort, name), _cells(members, name)
        if not (name in ALWAYS or whole.notna().any()):
            continue
        if variable.kind == "continuous":
            yield from _numbers(name, pd.to_numeric(cells, errors="coerce"))
        else:
            found = set(whole.dropna())
            levels = [level for level in variable.levels if level in found] or sorted(found - {UNKNOWN})
            yield from _levels(name, cells.fillna(UNKNOWN), [*levels, UNKNOWN])


def _cells(people: pd.DataFrame, name: str) -> pd.Series:
    return people["mean_fd_mm"] if name == MOTION else observed(people, name)


def _levels(name: str, cells: pd.Series, levels: list[str]) -> Iterator[Row]:
    for level in levels:
        count = int((cells == level).sum())
        yield name, level, "n", str(count)
        yield name, level, "percent", f"{100 * count / len(cells):.1f}"


def _numbers(name: str, cells: pd.Series) -> Iterator[Row]:
    known = cells.dropna().to_numpy(dtype=float)
    yield name, None, "n", str(len(known))
    yield name, None, "missing", str(len(cells) - len(known))
    values: dict[str, float] = {}
    if len(known):
        low, q1, median, q3, high = (float(value) for value in np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
        values = {"mean": float(known.mean()), "median": median, "q1": q1, "q3": q3, "min": low, "max": high}
    if len(known) > 1:
        values["sd"] = float(np.std(known, ddof=1))
    for statistic in ("mean", "sd", "median", "q1", "q3", "min", "max"):
        yield name, None, statistic, f"{values[statistic]:.2f}" if statistic in values else None
