"""The people sections of the page: Table 1 of every cohort, labels by origin, and what sites and motion give away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from lcm.evaluation.site_effects import METRIC
from lcm.evaluation.suppression import HIDDEN
from lcm.evaluation.table_one import ALL, UNKNOWN, Variable

TITLES = {"people": "People", "scans": "Usable scans", "iq": "IQ", "motion": "Mean FD"}
"""What a variable is called where its name with a capital is not it."""
PSEUDO = "pseudo"
SITE_COLUMNS = ("Cohort", "Predicted", "Metric", "Chance", "Before ComBat", "After ComBat", "People", "Sites")


@dataclass(frozen=True)
class CohortTable:
    """Table 1 of one cohort: columns are groups, each row what it says and one text a group."""

    cohort: str
    groups: list[str]
    rows: list[tuple[str, list[str]]]


def cohort_tables(table: pd.DataFrame, variables: Mapping[str, Variable]) -> list[CohortTable]:
    """The `table_one` table, suppressed or not, as it is printed."""
    found = []
    for cohort, own in table.groupby("cohort", sort=False):
        groups = list(own["group"].unique())
        rows = [
            row for name, of in own.groupby("variable", sort=False) for row in _rows(str(name), of, groups, variables)
        ]
        # Where everybody's is known, the line that says so is left to the file.
        rows = [row for row in rows if not (row[0].endswith(f": {UNKNOWN}") and set(row[1]) <= {"0", "0 (0.0 %)"})]
        found.append(CohortTable(str(cohort), groups, rows))
    return found


def _rows(
    name: str, table: pd.DataFrame, groups: list[str], variables: Mapping[str, Variable]
) -> Iterator[tuple[str, list[str]]]:
    unit = variables[name].unit if name in variables else None
    title = TITLES.get(name, name.capitalize()) + (f" ({unit})" if unit else "")
    values = {
        (str(group), None if pd.isna(level) else str(level), str(statistic)): None if pd.isna(value) else str(value)
        for group, level, statistic, value in table[["group", "level", "statistic", "value"]].itertuples(index=False)
    }
    levels = [None if pd.isna(level) else str(level) for level in table["level"].unique()]
    for level in levels:
        cells = [{key[2]: value for key, value in values.items() if key[:2] == (group, level)} for group in groups]
        if level is not None:
            yield f"{title}: {level}", [_share(cell["n"], cell["percent"]) for cell in cells]
        elif "mean" not in cells[0]:
            yield title, [cell["n"] or "–" for cell in cells]
        else:
            yield f"{title}: mean (SD)", [_pair(cell["mean"], cell["sd"]) for cell in cells]
            yield f"{title}: median [quartiles]", [_quartiles(cell) for cell in cells]
            yield f"{title}: range", [_range(cell["min"], cell["max"]) for cell in cells]
            yield f"{title}: {UNKNOWN}", [cell["missing"] or "–" for cell in cells]


def _is_hidden(text: str | None) -> bool:
    return text is not None and (text == HIDDEN or text.startswith("<"))


def _share(count: str | None, percent: str | None) -> str:
    return str(count) if _is_hidden(count) else f"{count} ({percent} %)"


def _pair(mean: str | None, sd: str | None) -> str:
    if mean is None or _is_hidden(mean):
        return mean or "–"
    return f"{mean} ({sd})" if sd is not None else mean


def _quartiles(cell: Mapping[str, str | None]) -> str:
    median = cell["median"]
    return median or "–" if median is None or _is_hidden(median) else f"{median} [{cell['q1']}–{cell['q3']}]"


def _range(low: str | None, high: str | None) -> str:
    return low or "–" if low is None or _is_hidden(low) else f"{low}–{high}"


@dataclass(frozen=True)
class LabelRow:
    """People and scans of a cohort's BEI by where the label comes from; `levels` says how many people each level has."""

    cohort: str
    bei: str
    observed: tuple[str, str]
    pseudo: tuple[str, str]
    missing: tuple[str, str]
    levels: str
    is_assumed: bool


def label_rows(labels: pd.DataFrame, shown: pd.DataFrame, hidden: str) -> list[LabelRow]:
    """One row a cohort and BEI that the cohort says anything of.

    Args:
        labels: the `labels` table.
        shown: the same with texts in num_people and num_scans, as a public page shows them or in full.
        hidden: what stands where a sum has a hidden part.
    """
    rows = []
    for (cohort, bei), own in labels.groupby(["cohort", "bei"], sort=False):
        if (own["source"] == "missing").all():
            continue
        texts = shown.loc[own.index]
        known, assumed, missing = (_sums(own, texts, source, hidden) for source in ("observed", PSEUDO, "missing"))
        levels = [
            f"{level} {people}{' (assumed)' if source == PSEUDO else ''}"
            for level, source, people in texts[["level", "source", "num_people"]].itertuples(index=False)
            if source != "missing" and level != "any"
        ]
        is_assumed = bool((own["source"] == PSEUDO).any())
        rows.append(LabelRow(str(cohort), str(bei), known, assumed, missing, ", ".join(levels), is_assumed))
    return rows


def _sums(labels: pd.DataFrame, shown: pd.DataFrame, source: str, hidden: str) -> tuple[str, str]:
    """People and scans of one source; people with several levels (cognitive states) count once for each."""
    own = labels["source"] == source
    if shown.loc[own, "num_people"].str.startswith("<").any():
        return hidden, hidden
    return str(int(labels.loc[own, "num_people"].sum())), str(int(labels.loc[own, "num_scans"].sum()))


@dataclass(frozen=True)
class SiteRow:
    """One cohort and question; `cells` follow SITE_COLUMNS after the first two."""

    cohort: str
    predicted: str
    cells: list[str]


def site_rows(table: pd.DataFrame, hidden: str) -> tuple[list[SiteRow], list[str]]:
    """Rows of the `site_effects` table with before and after side by side, and why others are n/a, a sentence each."""
    rows, notes = [], []
    for (cohort, predicted), own in table.groupby(["cohort", "predicted"], sort=False):
        by_combat = own.set_index("combat")
        first = by_combat.loc["off"]
        name = "the whole study" if cohort == ALL else cohort
        said = dict.fromkeys(f"{name}, {predicted}: {note}." for note in own["note"].dropna())
        notes += list(said)
        if own["value"].isna().all():
            continue
        cells = ["balanced accuracy" if METRIC[str(predicted)] != "r" else "r", _number(first["chance"])]
        cells += [_number(by_combat.loc[combat, "value"]) for combat in ("off", "on")]
        cells += [
            hidden if pd.isna(first["num_people"]) else str(int(first["num_people"])),
            str(int(first["num_sites"])),
        ]
        rows.append(SiteRow("all (pooled)" if cohort == ALL else str(cohort), str(predicted), cells))
    return rows, notes


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "n/a"
    text = f"{value:.2f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")
