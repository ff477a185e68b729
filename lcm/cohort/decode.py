"""Cells of one column become values of one BEI, or are refused and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lcm.cohort.flow import Flow, count_refused, shown_codes
from lcm.cohort.source import STATE, Column, Levels, Source, canonical
from lcm.cohort.vocabulary import Variable, read_vocabulary

if TYPE_CHECKING:
    import pandas as pd

OBSERVED, UNOBSERVED, REFUSED = "observed", "unobserved", "refused"
"""State of a cell: a level was read; the table says nothing; the table says something that is not used."""

_FEWEST_REFUSED = 5
"""Fewer refused cells than this never stop a study, however small the table."""


class Cell(NamedTuple):
    """What a cell means; `problem` is the step of the flow that counts a refused one, `code` what is counted."""

    value: str | float | None
    state: str
    problem: str = ""
    code: str = ""


@dataclass(frozen=True)
class Decoded:
    """Cells of one column: values (level, label or float; missing: None) and states, aligned with the cells."""

    values: pd.Series
    states: pd.Series
    refused: Counter[tuple[str, str]]
    """Refused cells by step of the flow and code."""

    @property
    def num_said(self) -> int:
        """Cells that say anything, usable or not."""
        return int((self.states != UNOBSERVED).sum())


@dataclass(frozen=True)
class Decoder:
    """Cells of one column → values of one BEI."""

    variable: Variable
    column: Column
    levels: Levels
    missing: frozenset[str]
    """Cells that say nothing in any column of the cohort, canonical."""

    def __call__(self, cells: pd.Series) -> Decoded:
        """Decode each distinct cell once, so that the cost follows the number of codes and not of rows."""
        import pandas as pd

        # Arrays of Python objects: cells of pandas' text are slow to take one by one.
        place_N, distinct = pd.factorize(cells.to_numpy("object"))
        counts = np.bincount(place_N, minlength=len(distinct))
        meant = [self.cell(cell) for cell in distinct]
        refused: Counter[tuple[str, str]] = Counter()
        for one, count in zip(meant, counts, strict=True):
            if one.state == REFUSED:
                refused[one.problem, one.code] += int(count)
        values = pd.Series([one.value for one in meant], dtype="object")
        states = pd.Series([one.state for one in meant], dtype="object")
        return Decoded(
            pd.Series(pick(values, place_N, None), index=cells.index, dtype="object"),
            pd.Series(pick(states, place_N, UNOBSERVED), index=cells.index, dtype="object"),
            refused,
        )

    def cell(self, cell: str) -> Cell:
        """What one cell means."""
        match = re.search(self.column.extract, cell) if self.column.extract is not None else None
        if match is None and self.column.silent:
            return Cell(None, UNOBSERVED)
        text = canonical(cell)
        if text in self.missing or text in self.column.missing:
            return Cell(None, UNOBSERVED)
        code = canonical(match[1]) if match is not None else text
        if code in self.column.missing:
            return Cell(None, UNOBSERVED)
        if self.variable.kind == "label":
            return Cell(cell.strip() if match is None else match[1], OBSERVED)
        if self.variable.kind == "continuous":
            return self._number(code)
        if code not in self.levels:
            return Cell(None, REFUSED, "unknown code", code)
        level = self.levels[code]
        return Cell(None, REFUSED, "set aside", code) if level is None else Cell(level, OBSERVED)

    def _number(self, code: str) -> Cell:
        if code in self.column.values:
            return Cell(float(self.column.values[code]), OBSERVED)
        number = number_in(code)
        if number is None:
            return Cell(None, REFUSED, "unknown code", code)
        years = number / 12 if self.column.unit == "months" else number
        low, high = self.column.range or self.variable.range or (float("-inf"), float("inf"))
        return Cell(years, OBSERVED) if low <= years <= high else Cell(None, REFUSED, "implausible value", code)


def pick(cells: pd.Series, place_N: np.ndarray, otherwise: str | None) -> np.ndarray:
    """Cells at the places, `otherwise` where a place is −1."""
    padded = np.empty(len(cells) + 1, dtype="object")
    padded[:-1], padded[-1] = cells.to_numpy("object"), otherwise
    return padded[place_N]


def number_in(text: str) -> float | None:
    """A plain decimal number; None for anything else (`nan`, `inf`, `24,5`, `1_000`)."""
    return float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII) else None


def refused_share_problem(
    refused: Mapping[tuple[str, str], int], num_said: int, max_refused_share: float
) -> str | None:
    """What is wrong with a column of which too many cells are unknown codes or implausible values; else None.

    `refused` counts cells by (step, code), `num_said` the cells that say anything. Only few and repeated codes are quoted.
    """
    num_bad = sum(count for (step, _), count in refused.items() if step in ("unknown code", "implausible value"))
    if num_bad < _FEWEST_REFUSED or num_bad <= max_refused_share * num_said:
        return None
    unknown: Counter[str] = Counter()
    for (step, code), count in refused.items():
        if step == "unknown code":
            unknown[code] += count
    # What stands in one cell only may be the id of a swapped column.
    repeated = {code: count for code, count in shown_codes(unknown).items() if count > 1}
    codes = ", ".join(f"{code} ({count})" for code, count in list(repeated.items())[:5])
    return (
        f"{num_bad} of {num_said} cells that say something are unknown codes or implausible values"
        + (f", such as {codes}" if codes else "")
        + "; the column is swapped, shifted or of another file, or its codes belong in the cohort's file "
        "(harmonize.max_refused_share)"
    )


def misfit_problem(num_misfits: int, num_rows: int, max_refused_share: float) -> str | None:
    """What is wrong with a column of ids of which too many do not fit the cohort's pattern; else None."""
    if num_misfits < _FEWEST_REFUSED or num_misfits <= max_refused_share * num_rows:
        return None
    return (
        f"{num_misfits} of {num_rows} ids do not fit the cohort's pattern; it is another column, or another cohort's file "
        "(harmonize.max_refused_share)"
    )


def lone_labels_problem(labels_R: np.ndarray, keys_R: np.ndarray) -> str | None:
    """What is wrong with a column of labels (sites, scanners) that most people have to themselves; else None.

    A label says which people have something in common; one for each person is an id, of a swapped column.
    """
    import pandas as pd

    said = pd.DataFrame({"label": labels_R, "key": keys_R}).dropna()
    num_sharers = said.groupby("label")["key"].nunique()
    num_alone = said.loc[said["label"].map(num_sharers) == 1, "key"].nunique()
    num_people = said["key"].nunique()
    if num_alone < _FEWEST_REFUSED or 2 * num_alone <= num_people:
        return None
    return f"{num_alone} of {num_people} people share their label with no one; the column is swapped, it names people"


def decode_states(source: Source, tasks: pd.Series, flow: Flow) -> tuple[pd.Series, pd.Series]:
    """Cognitive state of scans from the task in their name: values and states, aligned with `tasks`."""
    column = Column(table="scans", column="task")
    decode = Decoder(read_vocabulary()[STATE], column, source.tasks, frozenset(source.missing) | {""})
    decoded = decode(tasks.fillna("").astype("object"))
    count_refused(decoded.refused, "scans.tsv: task", flow)
    return decoded.values, decoded.states
