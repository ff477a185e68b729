"""The performance figures of the page: for each task the best row of every group, its curves, and texts that state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lcm.evaluation import calibration, performance, performance_figures
from lcm.evaluation.answers import Answers
from lcm.evaluation.benchmark import Cell, Row, TaskTable, signed
from lcm.evaluation.metrics import LOWER_IS_BETTER, answers_of
from lcm.evaluation.performance import Confusion, Curve
from lcm.evaluation.quality_page import FigureView
from lcm.result_tables import read_predictions

NUM_BOOTSTRAPS = 200
"""Enough for a band whose edge is read off a figure; the intervals of the tables have as many as evaluate.num_bootstraps."""
SEED = 0
BAND = "Bands: pointwise 95 % bootstrap intervals over people."


@dataclass(frozen=True)
class TaskFigures:
    """The figures of one task, and how the shown rows were chosen."""

    task: str
    note: str
    figures: list[FigureView]


def chosen_rows(table: TaskTable) -> list[Row]:
    """The best row of each group by the task's first metric, in reading order; of references only where there is no other."""
    sign = 1 if table.metrics[0] in LOWER_IS_BETTER else -1
    best: dict[str, tuple[float, Row]] = {}
    for row in table.overall:
        value = row.cells[0].value if row.cells[0] is not None else None
        if value is not None and (row.group not in best or sign * value < best[row.group][0]):
            best[row.group] = (sign * value, row)
    learned = {group: row for group, (_, row) in best.items() if group != "reference"}
    return list(learned.values()) or [row for _, row in best.values()]


def task_figures(results: Path, protocol: str, table: TaskTable, *, min_cell: int = 0) -> TaskFigures | None:
    """The figures of a task under one protocol; None where no row has a score.

    `min_cell`: on a public page no figure shows a count from 1 to below it: such a confusion matrix, and the curves of a task
    with so few people at a level, are left out.
    """
    rows = chosen_rows(table)
    answers = {row.model: answers_of(_predictions(results, protocol, row.model, table.task)) for row in rows}
    if not answers:
        return None
    texts = {row.model: _score_text(table, row) for row in rows}
    few = min_cell > 0 and any(_rarest(found) < min_cell for found in answers.values())
    if few:
        figures = []
    elif next(iter(answers.values())).levels:
        figures = _of_levels(table.task, answers, texts, min_cell=min_cell)
        figures[2:2] = _calibration(table.task, answers, texts, min_cell=min_cell)
    else:
        figures = [_of_values(table.task, answers, texts)]
    note = "The best row of each group of models, by the first metric of the table: " + ", ".join(answers) + "."
    if few:
        note = "No figure: a level has too few people for a page that is shared."
    return TaskFigures(table.task, note, figures)


def _predictions(results: Path, protocol: str, model: str, task: str) -> pd.DataFrame:
    return read_predictions(results / "evaluate" / protocol / model / task / "predictions.parquet")


def _rarest(answers: Answers) -> int:
    if not answers.levels:
        return len(answers.truth_N)
    return min(int(np.sum(answers.truth_N == level)) for level in answers.present)


def _score_text(table: TaskTable, row: Row) -> dict[str, str]:
    """Each metric of a row with its interval."""
    found: Mapping[str, Cell | None] = dict(zip(table.metrics, row.cells, strict=True))
    return {metric: _with_interval(cell) for metric, cell in found.items() if cell is not None}


def _with_interval(cell: Cell) -> str:
    return f"{cell.text} [{cell.interval}]" if cell.interval else cell.text


def _of_levels(
    task: str, answers: Mapping[str, Answers], texts: Mapping[str, dict[str, str]], *, min_cell: int
) -> list[FigureView]:
    views = [_roc(task, answers, texts), _precision_recall(task, answers, texts)]
    matrices = {model: performance.confusion(found) for model, found in answers.items()}
    counts = np.concatenate([found.counts_LL.ravel() for found in matrices.values()])
    if not ((counts > 0) & (counts < min_cell)).any():
        views.append(_confusion(task, matrices))
    return [view for view in views if view is not None]


def _roc(task: str, answers: Mapping[str, Answers], texts: Mapping[str, dict[str, str]]) -> FigureView | None:
    found = {
        f"{model}: AUROC {texts[model].get('auroc', 'n/a')}": curve
        for model, of in answers.items()
        if (curve := performance.roc(of, num_bootstraps=NUM_BOOTSTRAPS, seed=SEED)) is not None
    }
    if not found:
        return None
    uri = performance_figures.curves(
        found, label="1 − specificity", value_label="sensitivity", chance=None, diagonal=True
    )
    return FigureView(
        "ROC",
        uri,
        f"ROC curves of task {task}. {_listed(found)} Chance is the diagonal, 0.5.",
        f"Mean of the folds' curves{_over_levels(answers)}. {BAND}",
    )


def _precision_recall(
    task: str, answers: Mapping[str, Answers], texts: Mapping[str, dict[str, str]]
) -> FigureView | None:
    found = {
        f"{model}: AUPRC {texts[model].get('auprc', 'n/a')}": curve
        for model, of in answers.items()
        if (curve := performance.precision_recall(of, num_bootstraps=NUM_BOOTSTRAPS, seed=SEED)) is not None
    }
    if not found:
        return None
    chance = _prevalence(next(iter(answers.values())))
    uri = performance_figures.curves(found, label="recall", value_label="precision", chance=chance)
    return FigureView(
        "Precision–recall",
        uri,
        f"Precision–recall curves of task {task}. {_listed(found)} Chance is the prevalence, {chance:.2f}.",
        f"Mean of the folds' curves{_over_levels(answers)}; the dashed line is the prevalence, {chance:.2f}. {BAND}",
    )


def _calibration(
    task: str, answers: Mapping[str, Answers], texts: Mapping[str, dict[str, str]], *, min_cell: int
) -> list[FigureView]:
    found = {}
    for model, own in answers.items():
        bins = calibration.curve(own)
        bins = bins[bins["num_people"] >= max(min_cell, 1)]
        if len(bins):
            columns = (bins[name].to_numpy(dtype=float) for name in ("mean_score", "share", "ci_low", "ci_high"))
            said = (
                f"{model}: ECE {texts[model].get('ece', 'n/a')}, slope {texts[model].get('calibration_slope', 'n/a')}"
            )
            found[said] = Curve(*columns)
    if not found:
        return []
    levels = next(iter(answers.values())).levels
    what = f"of {levels[1]}" if len(levels) == 2 else "of the named level"
    uri = performance_figures.points(
        found, label=f"probability {what} (mean of a bin)", value_label="share for whom it was so", unit_square=True
    )
    return [
        FigureView(
            "Calibration",
            uri,
            f"Calibration of task {task}. {_listed(found)} On the diagonal, probabilities come true.",
            "People in ten bins of the probability that the model gave; bars are 95 % intervals. On the dashed line "
            "probabilities come true; a slope below 1 says that they are too extreme.",
        )
    ]


def _prevalence(answers: Answers) -> float:
    return float(np.mean([np.mean(answers.truth_N == level) for level in answers.questions]))


def _over_levels(answers: Mapping[str, Answers]) -> str:
    levels = next(iter(answers.values())).levels
    return f", {levels[1]} positive" if len(levels) == 2 else ", one level against the rest, mean over levels"


def _listed(found: Mapping[str, object]) -> str:
    return "; ".join(found) + "."


def _confusion(task: str, matrices: Mapping[str, Confusion]) -> FigureView:
    said = [
        f"{model}: "
        + ", ".join(
            f"{level} named right {100 * right:.0f} % [{100 * low:.0f} to {100 * high:.0f}]"
            for level, right, low, high in zip(found.levels, found.recall_L, found.low_L, found.high_L, strict=True)
            if np.isfinite(right)
        )
        for model, found in matrices.items()
    ]
    return FigureView(
        "Confusion",
        performance_figures.confusions(matrices),
        f"Confusion matrices of task {task}. {'; '.join(said)}.",
        f"People, and share of the true level, by the level with the highest score. {'; '.join(said)} "
        "(Wilson 95 % intervals).",
        is_wide=True,
    )


def _of_values(task: str, answers: Mapping[str, Answers], texts: Mapping[str, dict[str, str]]) -> FigureView:
    found: dict[str, Curve] = {
        f"{model}: MAE {texts[model].get('mae', 'n/a')}, r {texts[model].get('r', 'n/a')}": (
            performance.true_over_predicted(of)
        )
        for model, of in answers.items()
    }
    uri = performance_figures.points(found, label="predicted (mean of a bin)", value_label="true", unit_square=False)
    ends = [f"from {signed(c.y_P[0], 1)} to {signed(c.y_P[-1], 1)}" for c in found.values()]
    said = "; ".join(f"{name}, true means {end}" for name, end in zip(found, ends, strict=True))
    return FigureView(
        "True over predicted",
        uri,
        f"Mean true value of people in bins of the predicted one, task {task}. {said}.",
        "Bins hold equally many people; bars are 95 % intervals of the mean. On the dashed line a prediction is right on "
        "average.",
    )
