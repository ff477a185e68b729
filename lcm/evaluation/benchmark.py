"""The scores as a page shows them: models down, tasks across, one protocol at a time, and which rows may be ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lcm.evaluation.metrics import ALL, CLASSIFICATION, LOWER_IS_BETTER, NOT_RUN, REGRESSION, UNKNOWN

NAMES = {
    "mae": "MAE",
    "r2": "R²",
    "r": "r",
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "f1_macro": "Macro F1",
    "f1_weighted": "Weighted F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auprc": "AUPRC",
    "brier": "Brier",
    "ece": "ECE",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "permutation_p": "Permutation p",
    "permutation_mean": "Permutation mean",
}
"""Metrics in reading order; one that is not here follows them under its own name."""
WITHOUT_DIRECTION = frozenset({"calibration_slope", "calibration_intercept", "permutation_p", "permutation_mean"})
"""Numbers that check a row: nobody is best in them."""
UNBOUNDED = frozenset({"mae", "r2", "r"}) | WITHOUT_DIRECTION
"""Metrics that are not drawn on a bar from 0 to 1."""
GROUPS = ("reference", "confound", "linear", "kernel", "network")
"""Groups of architectures in reading order."""
BRAINLESS = ("reference", "confound")
"""Groups that know nothing of the brain: their rows come first and are never marked as best."""
OPTIMISTIC = "test"
"""What `select` says where the tested people chose the epoch."""


@dataclass(frozen=True)
class Cell:
    """One score: the text, the number to sort by, and where its interval lies on a 0–100 scale (None: not drawn)."""

    text: str
    interval: str
    value: float | None
    start: float | None = None
    stop: float | None = None
    point: float | None = None
    chance: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One model in one cohort, or one subset, of a task."""

    model: str
    group: str
    cohort: str
    subset: str
    people: str
    num_people: int
    ranked: bool
    may_have_seen: bool
    """Whether its weights may have met these people before: whom they learned from is not known."""
    cells: list[Cell | None]
    """One a metric of the table; None where the row does not have it."""

    @property
    def is_of_all(self) -> bool:
        """Whether it is over all test people."""
        return self.cohort == ALL and self.subset == ALL


@dataclass(frozen=True)
class TaskTable:
    """All rows of one task under one protocol."""

    task: str
    metrics: list[str]
    rows: list[Row]
    cohorts: str
    """The cohorts of its people."""
    num_per_level: str
    """Of the people behind the rows over all, as in the `scores` table."""

    @property
    def ranked(self) -> bool:
        """Whether every row over all people has enough of them at every level."""
        return all(row.ranked for row in self.overall)

    @property
    def overall(self) -> list[Row]:
        """Rows over all people, one a model."""
        return [row for row in self.rows if row.is_of_all]

    @property
    def by_cohort(self) -> list[Row]:
        """Rows of single cohorts; none for a task of one cohort."""
        return [row for row in self.rows if row.cohort != ALL and row.subset == ALL]

    @property
    def by_subset(self) -> list[Row]:
        """Rows over the people of a subset, such as those who moved little."""
        return [row for row in self.rows if row.subset != ALL]

    @property
    def headers(self) -> list[str]:
        """Metric names with the direction that is better."""
        return [title(metric) for metric in self.metrics]


@dataclass(frozen=True)
class Overview:
    """The headline table: the primary metric of every task, over all its people."""

    tasks: list[TaskTable]
    models: list[str]

    def headline(self, model: str, task: TaskTable) -> Cell | None:
        """The primary metric of a model in a task; None where it was not run."""
        return next((row.cells[0] for row in task.overall if row.model == model), None)

    def may_have_seen(self, model: str) -> bool:
        """Whether the weights of any of its rows may have met the people whom they were tested on."""
        return any(row.may_have_seen for task in self.tasks for row in task.rows if row.model == model)

    def people(self, task: TaskTable) -> str:
        """People behind a task's headline, by level."""
        return next((row.people for row in task.overall), "")


@dataclass(frozen=True)
class ProtocolTables:
    """What one protocol says: its tasks, the headline over them, and what could not be answered."""

    name: str
    is_optimistic: bool
    tasks: list[TaskTable]
    overview: Overview
    refusals: list[str]


def protocol_tables(scores: pd.DataFrame, protocols: Sequence[str], *, min_people: int) -> list[ProtocolTables]:
    """The tables of every protocol of the `scores` table: the named ones in their order, optimistic ones last.

    Raises ValueError where one protocol holds rows that were chosen in different ways.
    """
    named = [*protocols, *sorted(set(scores["protocol"].astype(str)) - set(protocols))]
    found = []
    for name in named:
        own = scores[scores["protocol"] == name]
        ways = sorted(set(own["select"].astype(str)))
        if len(ways) > 1:
            raise ValueError(f"protocol {name}: its scores were chosen by {' and by '.join(ways)}; run evaluate again")
        if ways:
            is_optimistic = ways == [OPTIMISTIC]
            tables = task_tables(own, min_people=min_people, rank=not is_optimistic)
            found.append(ProtocolTables(name, is_optimistic, tables, overview(tables), refusals(own)))
    return sorted(found, key=lambda protocol: protocol.is_optimistic)


def people_of_level(num_per_level: str) -> dict[str, str]:
    """`control=20;autism=18` as a mapping to text, since a public table hides some; empty for a continuous target."""
    if "=" not in num_per_level:
        return {}
    parts = [part.rpartition("=") for part in num_per_level.split(";")]
    return {level: count for level, _, count in parts}


def fewest(num_per_level: str, num_people: int) -> int:
    """People of the rarest level, none where it is hidden; all people of a continuous target."""
    counts = people_of_level(num_per_level).values()
    return min((int(count) if count.isdigit() else 0 for count in counts), default=num_people)


def task_tables(scores: pd.DataFrame, *, min_people: int, rank: bool = True) -> list[TaskTable]:
    """One table a task of one protocol's `scores`: rows over all people first, then by cohort, subset and model.

    `rank`: mark the best of the models that learn. A model that could not answer a task has no row (see `refusals`).
    """
    scores = scores[~scores["metric"].astype(str).str.startswith(NOT_RUN)]
    return [_task_table(str(task), rows, min_people, rank=rank) for task, rows in scores.groupby("task", sort=True)]


def refusals(scores: pd.DataFrame) -> list[str]:
    """What was asked for and could not be answered, a sentence for each task and reason."""
    rows = scores[scores["metric"].astype(str).str.startswith(NOT_RUN)]
    return [
        f"{task}{'' if subset == ALL else f' ({subset})'} was not run for {', '.join(_in_order(own))}: "
        f"{str(metric).removeprefix(NOT_RUN)}."
        for (task, subset, metric), own in rows.groupby(["task", "subset", "metric"], sort=True)
    ]


def title(metric: str) -> str:
    """A metric's name with the direction that is better, where there is one."""
    name = NAMES.get(metric, metric.replace("_", " ").capitalize())
    return name if metric in WITHOUT_DIRECTION else f"{name} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def group_order(group: str) -> int:
    """Place of a group of architectures in a table; one that is not known comes last."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def _in_order(scores: pd.DataFrame) -> list[str]:
    """Models by the group of their architecture, then by name."""
    groups = scores.drop_duplicates("model").set_index("model")["group"]
    return sorted((str(model) for model in groups.index), key=lambda model: (group_order(str(groups[model])), model))


def _task_table(task: str, scores: pd.DataFrame, min_people: int, *, rank: bool) -> TaskTable:
    present = list(dict.fromkeys(scores["metric"].astype(str)))
    first = [metric for metric in (*CLASSIFICATION, *REGRESSION) if metric in present][:1]
    known = [*first, *(metric for metric in NAMES if metric in present and metric not in first)]
    known += [metric for metric in present if metric not in known]
    cohorts = set(scores["cohort"].astype(str)) - {ALL}
    if len(cohorts) == 1:
        scores = scores[scores["cohort"] == ALL]
    of_all = scores[(scores["cohort"] == ALL) & (scores["subset"] == ALL)]
    best = {metric: _best(of_all, metric) for metric in known} if rank and _enough(of_all, min_people) else {}
    order = {model: place for place, model in enumerate(_in_order(scores))}
    rows = [
        _row(block, known, {metric for metric, winner in best.items() if winner == block["model"].iloc[0]}, min_people)
        for _, block in scores.groupby(["subset", "cohort", "model"], sort=True)
    ]
    rows.sort(key=lambda row: (row.subset != ALL, row.subset, row.cohort != ALL, row.cohort, order[row.model]))
    counts = next((str(value) for value in of_all["num_per_level"]), "")
    return TaskTable(task, known, rows, ", ".join(sorted(cohorts)), counts)


def _enough(scores: pd.DataFrame, min_people: int) -> bool:
    counts = zip(scores["num_per_level"], scores["num_people"], strict=True)
    return all(fewest(str(per_level), int(people)) >= min_people for per_level, people in counts)


def _row(block: pd.DataFrame, metrics: list[str], best: set[str], min_people: int) -> Row:
    """The row of one model, cohort and subset; `best`: the metrics in which the model is best over all people."""
    by_metric = {str(row["metric"]): row for _, row in block.iterrows()}
    said = block.iloc[0]
    counts = str(said["num_per_level"]), int(said["num_people"])
    is_of_all = said["cohort"] == ALL and said["subset"] == ALL
    return Row(
        model=str(said["model"]),
        group=str(said["group"]),
        cohort=str(said["cohort"]),
        subset=str(said["subset"]),
        people=_people_text(*counts),
        num_people=counts[1],
        ranked=fewest(*counts) >= min_people,
        may_have_seen=bool((block["training_people"] == UNKNOWN).any()),
        cells=[
            cell(metric, by_metric[metric], best=is_of_all and metric in best) if metric in by_metric else None
            for metric in metrics
        ],
    )


def _people_text(num_per_level: str, num_people: int) -> str:
    named = [f"{count} {level}" for level, count in people_of_level(num_per_level).items()]
    return ", ".join(named) or f"{num_people} people"


def _best(of_all: pd.DataFrame, metric: str) -> str | None:
    """The model with the best score over all people; None when fewer than two that learn from the brain have one.

    Weights that may have seen the test people do not compete.
    """
    learned = of_all[(of_all["metric"] == metric) & of_all["value"].notna() & ~of_all["group"].isin(BRAINLESS)]
    learned = learned[learned["training_people"] != UNKNOWN]
    if len(learned) < 2 or metric in WITHOUT_DIRECTION:
        return None
    values = learned["value"].to_numpy()
    place = values.argmin() if metric in LOWER_IS_BETTER else values.argmax()
    return str(learned["model"].iloc[int(place)])


def cell(metric: str, score: pd.Series, *, best: bool) -> Cell:
    """A score as shown: value, interval, and the bar of metrics that live between 0 and 1."""
    value, low, high, chance = (float(score[column]) for column in ("value", "ci_low", "ci_high", "chance"))
    if math.isnan(value):
        return Cell("n/a", "", None)
    digits = 2 if metric == "mae" else 3
    interval = "" if math.isnan(low) else f"{signed(low, 2)} to {signed(high, 2)}"
    if metric in UNBOUNDED or math.isnan(low):
        return Cell(signed(value, digits), interval, value, best=best)
    mark = None if math.isnan(chance) else 100 * chance
    return Cell(signed(value, digits), interval, value, 100 * low, 100 * high, 100 * value, chance=mark, best=best)


def signed(value: float, digits: int) -> str:
    """A number with a true minus sign, and none before a rounded zero."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def overview(tables: list[TaskTable]) -> Overview:
    """Models and tasks of the headline table, in reading order."""
    groups = {row.model: row.group for table in tables for row in table.rows}
    return Overview(tables, sorted(groups, key=lambda model: (group_order(groups[model]), model)))
