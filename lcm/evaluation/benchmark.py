"""The scores as a page shows them: models down, tasks across, and which rows may be ranked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from lcm.evaluation.metrics import ALL, CLASSIFICATION, LOWER_IS_BETTER, NOT_RUN, REGRESSION, UNKNOWN

NAMES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "f1_macro": "Macro F1",
    "f1_weighted": "Weighted F1",
    "auprc": "AUPRC",
    "brier": "Brier",
    "mae": "MAE",
    "r2": "R²",
    "r": "r",
}
REFERENCE_MODELS = ("majority",)
"""Rows that know nothing of the brain: always first, never marked as best."""


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
    """One model in one cohort of a task."""

    model: str
    cohort: str
    people: str
    num_people: int
    is_of_all: bool
    ranked: bool
    may_have_seen: bool
    """Whether its weights may have met these people before: whom they learned from is not known."""
    cells: list[Cell]


@dataclass(frozen=True)
class TaskTable:
    """All rows of one task."""

    task: str
    metrics: list[str]
    rows: list[Row]

    @property
    def ranked(self) -> bool:
        """Whether every row over all cohorts has enough people at every level."""
        return all(row.ranked for row in self.overall)

    @property
    def overall(self) -> list[Row]:
        """Rows over all people, one a model."""
        return [row for row in self.rows if row.is_of_all]

    @property
    def by_cohort(self) -> list[Row]:
        """Rows of single cohorts; none for a task of one cohort."""
        return [row for row in self.rows if not row.is_of_all]

    @property
    def headers(self) -> list[str]:
        """Metric names with the direction that is better."""
        return [f"{NAMES[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}" for metric in self.metrics]


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


def task_tables(scores: pd.DataFrame, *, min_people: int) -> list[TaskTable]:
    """One table a task of the `scores` table, rows over all people first, then by cohort and model.

    A model that could not answer a task has no row in it (see `refusals`).
    """
    scores = scores[~scores["metric"].astype(str).str.startswith(NOT_RUN)]
    return [_task_table(str(task), rows, min_people) for task, rows in scores.groupby("task", sort=True)]


def refusals(scores: pd.DataFrame) -> list[str]:
    """What was asked for and could not be answered, a sentence for each task and reason."""
    rows = scores[scores["metric"].astype(str).str.startswith(NOT_RUN)]
    return [
        f"{task} was not run for {', '.join(sorted(own['model'], key=model_order))}: {str(metric).removeprefix(NOT_RUN)}."
        for (task, metric), own in rows.groupby(["task", "metric"], sort=True)
    ]


def _task_table(task: str, scores: pd.DataFrame, min_people: int) -> TaskTable:
    known = [metric for metric in (CLASSIFICATION | REGRESSION) if metric in set(scores["metric"])]
    cohorts = set(scores["cohort"].astype(str)) - {ALL}
    if len(cohorts) == 1:
        scores = scores[scores["cohort"] == ALL]
    blocks = {
        (str(block["model"].iloc[0]), str(block["cohort"].iloc[0])): block.drop_duplicates("metric")
        for _, block in scores.groupby(["model", "cohort"], sort=False)
    }
    people = {
        key: (str(block["num_per_level"].iloc[0]), int(block["num_people"].iloc[0])) for key, block in blocks.items()
    }
    enough = {key: fewest(*counts) >= min_people for key, counts in people.items()}
    is_ranked = all(ranked for (_, cohort), ranked in enough.items() if cohort == ALL)
    best = {metric: _best(scores, metric) for metric in known} if is_ranked else {}
    rows = []
    for model, cohort in sorted(blocks, key=lambda key: (key[1] != ALL, key[1], model_order(key[0]))):
        by_metric = {str(row["metric"]): row for _, row in blocks[model, cohort].iterrows()}
        marked = {metric for metric, winner in best.items() if winner == model and cohort == ALL}
        rows.append(
            Row(
                model=model,
                cohort=next(iter(cohorts)) if len(cohorts) == 1 else cohort,
                people=_people_text(*people[model, cohort]),
                num_people=people[model, cohort][1],
                is_of_all=cohort == ALL,
                ranked=enough[model, cohort],
                may_have_seen=(blocks[model, cohort]["training_people"] == UNKNOWN).any(),
                cells=[cell(metric, by_metric[metric], best=metric in marked) for metric in known],
            )
        )
    return TaskTable(task, known, rows)


def _people_text(num_per_level: str, num_people: int) -> str:
    named = [f"{count} {level}" for level, count in people_of_level(num_per_level).items()]
    return ", ".join(named) or f"{num_people} people"


def _best(scores: pd.DataFrame, metric: str) -> str | None:
    """The model with the best score over all people; None when no model that learns has one.

    Weights that may have seen the test people do not compete.
    """
    of_all = scores[(scores["metric"] == metric) & (scores["cohort"] == ALL) & scores["value"].notna()]
    of_all = of_all[of_all["training_people"] != UNKNOWN]
    learned = of_all[~of_all["model"].isin(REFERENCE_MODELS)]
    if learned.empty:
        return None
    values = learned["value"].to_numpy()
    place = values.argmin() if metric in LOWER_IS_BETTER else values.argmax()
    return str(learned["model"].iloc[int(place)])


def model_order(model: str) -> tuple[int, str]:
    """Sorting key of models: references, then baselines on FC, then the rest by name."""
    if model in REFERENCE_MODELS:
        return (0, model)
    return (1 if model.startswith(("ridge", "logistic")) else 2, model)


def cell(metric: str, score: pd.Series, *, best: bool) -> Cell:
    """A score as shown: value, interval, and the bar of metrics that live between 0 and 1."""
    value, low, high = (float(score[column]) for column in ("value", "ci_low", "ci_high"))
    if math.isnan(value):
        return Cell("n/a", "", None)
    digits = 2 if metric == "mae" else 3
    interval = "" if math.isnan(low) else f"{_signed(low, 2)} to {_signed(high, 2)}"
    if metric in ("mae", "r2", "r") or math.isnan(low):
        return Cell(_signed(value, digits), interval, value, best=best)
    chance = 50.0 if metric == "auroc" else None
    return Cell(_signed(value, digits), interval, value, 100 * low, 100 * high, 100 * value, chance=chance, best=best)


def _signed(value: float, digits: int) -> str:
    """A number with a true minus sign, and none before a rounded zero."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


@dataclass(frozen=True)
class Overview:
    """The headline table: the primary metric of every task, over all its people."""

    tasks: list[TaskTable]
    models: list[str]

    def headline(self, model: str, task: TaskTable) -> Cell | None:
        """The primary metric of a model in a task; None where it was not run."""
        for row in task.rows:
            if row.model == model and row.is_of_all:
                return row.cells[0]
        return None

    def may_have_seen(self, model: str) -> bool:
        """Whether the weights of any of its rows may have met the people whom they were tested on."""
        return any(row.may_have_seen for task in self.tasks for row in task.rows if row.model == model)

    def people(self, task: TaskTable) -> str:
        """People behind a task's headline, by level."""
        return next((row.people for row in task.rows if row.is_of_all), "")


def overview(tables: list[TaskTable]) -> Overview:
    """Models and tasks of the headline table, in reading order."""
    models = {row.model for table in tables for row in table.rows}
    return Overview(tables, sorted(models, key=model_order))
