"""What a study answered, beside a paper's numbers: under the paper's own protocol and under the honest one, never mixed.

Reads `predictions` of `evaluate` and, where they lie beside them, its `scores` and `costs`. No other stage's file is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lcm.evaluation.bootstrap import draw, from_confusion, interval
from lcm.evaluation.metrics import ALL, NOT_RUN, answers_of
from lcm.result_tables import COSTS, SCORES, evaluated, read_predictions
from lcm.tables import read_tsv

if TYPE_CHECKING:
    from collections.abc import Callable

PREDICTIONS = "predictions.parquet"
OPTIMISTIC, HONEST = "optimistic", "honest"
"""Of a protocol: whether the tested people chose epoch and penalty, as the authors do, or validation people did."""
NUM_BOOTSTRAPS, SEED = 1000, 0
"""Of an interval where no scores lie beside the predictions; the defaults of `evaluate`."""
NOWHERE = float("nan")
Row = tuple[str, str, str]
"""Protocol, model and task."""


@dataclass(frozen=True)
class Entry:
    """One number beside a printed one, or the reason why there is none."""

    value: float = NOWHERE
    spread: float = NOWHERE
    low: float = NOWHERE
    high: float = NOWHERE
    num_folds: int = 0
    num_people: int = 0
    reason: str | None = None
    note: str | None = None


def not_run(reason: str) -> Entry:
    """An entry without a number."""
    return Entry(reason=f"{NOT_RUN}{reason}")


@dataclass(frozen=True, eq=False)
class StudyAnswers:
    """Predictions of a study by protocol, model and task, read when they are asked for."""

    results: Path
    rows: tuple[Row, ...]
    """Protocol, model and task of every predictions table."""
    protocols: dict[str, str | None]
    """OPTIMISTIC and HONEST → the study's protocol of that kind that tables show; None where it has none."""
    min_cell: int = 0
    """Of a public page: a number of fewer people is not shown; 0 shows all."""
    _frames: dict[Row, pd.DataFrame] = field(default_factory=dict, repr=False)
    _measured: dict[tuple[str, str, str, str], np.ndarray] = field(default_factory=dict, repr=False)
    _scored: dict[Row, pd.DataFrame] = field(default_factory=dict, repr=False)
    _folds: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)
    _drawn: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False)

    def predictions(self, protocol: str, model: str, task: str) -> pd.DataFrame:
        """The `predictions` table of a row that is there."""
        key = (protocol, model, task)
        if key not in self._frames:
            self._frames[key] = read_predictions(self._folder(*key) / PREDICTIONS)
        return self._frames[key]

    def models(self, kind: str, tasks: Iterable[str]) -> list[str]:
        """Models that were asked any of the tasks under the protocol of that kind, by name."""
        asked = set(tasks)
        return sorted({m for protocol, m, task in self.rows if protocol == self.protocols[kind] and task in asked})

    def group(self, model: str) -> str:
        """The group of a model's architecture; empty where nothing of it has run."""
        for key in self.rows:
            if key[1] == model and not self.predictions(*key).empty:
                return str(self.predictions(*key)["group"].iloc[0])
        return ""

    def num_folds(self, protocol: str, task: str) -> int:
        """Most folds that any model answered a task in."""
        if (protocol, task) not in self._folds:
            asked = [key for key in self.rows if (key[0], key[2]) == (protocol, task)]
            counts = [int(self.predictions(*key)["fold"].nunique()) for key in asked]
            self._folds[protocol, task] = max(counts, default=0)
        return self._folds[protocol, task]

    def missing(self, kind: str, model: str, task: str) -> str | None:
        """Why there is no answer; None where there is one."""
        protocol = self.protocols[kind]
        if protocol is None:
            return f"no {kind} protocol in this study"
        key = (protocol, model, task)
        if key in self.rows:
            return self._reason(*key) or self._other_kind(kind, key)
        if not any(own == task for _, _, own in self.rows):
            return f"no task {task} in this study"
        if not any(own == model for _, own, _ in self.rows):
            return f"no row {model} in this study"
        return f"{model} is not asked {task} under {protocol}"

    def over_folds(self, kind: str, model: str, task: str, measure: Callable[[pd.DataFrame], float]) -> Entry:
        """Mean and population deviation over folds of a measure of one fold's predictions."""
        reason = self.missing(kind, model, task)
        protocol = self.protocols[kind]
        if reason is not None or protocol is None:
            return not_run(str(reason))
        predictions = self.predictions(protocol, model, task)
        values = self._fold_values(protocol, model, task, measure)
        folds = self.num_folds(protocol, task)
        note = f"{len(values)} of {folds} folds" if len(values) < folds else None
        return Entry(
            float(values.mean()),
            float(values.std(ddof=0)),
            num_folds=len(values),
            num_people=int(predictions["person_id"].nunique()),
            note=note,
        )

    def scored(self, model: str, task: str, metric: str) -> Entry:
        """Value and 95 % interval of all people under the honest protocol, in percent."""
        reason = self.missing(HONEST, model, task)
        protocol = self.protocols[HONEST]
        if reason is not None or protocol is None:
            return not_run(str(reason))
        scores = self._scores(protocol, model, task)
        found = scores[scores["metric"] == metric]
        if found.empty:
            return not_run(f"{metric} is no metric of {task}")
        value, low, high = (100 * float(found[name].iloc[0]) for name in ("value", "ci_low", "ci_high"))
        people = int(found["num_people"].iloc[0])
        folds = int(self.predictions(protocol, model, task)["fold"].nunique())
        return Entry(value, low=low, high=high, num_folds=folds, num_people=people)

    def cost(self, kind: str, model: str, column: str) -> Entry:
        """A column of the `costs` table, mean over the tasks of a model."""
        protocol = self.protocols[kind]
        if protocol is None:
            return not_run(f"no {kind} protocol in this study")
        paths = [self._folder(*key) / "costs.tsv" for key in self.rows if key[:2] == (protocol, model)]
        if not paths:
            return not_run(f"no row {model} in this study")
        tables = [read_tsv(path, COSTS) for path in paths if path.is_file()]
        costs = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COSTS.columns))
        known = costs[costs[column].notna()]
        if known.empty:
            return not_run("no time was recorded")
        devices = ", ".join(sorted(known["device"].dropna().unique()))
        return Entry(float(known[column].astype(float).mean()), note=devices or None)

    def _fold_values(
        self, protocol: str, model: str, task: str, measure: Callable[[pd.DataFrame], float]
    ) -> np.ndarray:
        key = (protocol, model, task, measure.__name__)
        if key not in self._measured:
            self._measured[key] = fold_values(self.predictions(protocol, model, task), measure)
        return self._measured[key]

    def _folder(self, protocol: str, model: str, task: str) -> Path:
        return self.results / "evaluate" / protocol / model / task

    def _reason(self, protocol: str, model: str, task: str) -> str | None:
        """Why a row that was asked shows no answer; None where it does."""
        if not self.predictions(protocol, model, task).empty:
            people = self.predictions(protocol, model, task)["person_id"].nunique()
            return f"fewer than {self.min_cell} people" if people < self.min_cell else None
        path = self._folder(protocol, model, task) / "scores.tsv"
        if path.is_file():
            said = [str(metric) for metric in read_tsv(path, SCORES)["metric"] if str(metric).startswith(NOT_RUN)]
            if said:
                return said[0].removeprefix(NOT_RUN)
        return "no prediction was made"

    def _other_kind(self, kind: str, key: Row) -> str | None:
        """Of answers from before their protocol was changed: they would stand among others that were chosen otherwise."""
        select = str(self.predictions(*key)["select"].iloc[0])
        if _kind_of(select) == kind:
            return None
        return f"answered with `select: {select}`, and {key[0]} is {kind} now; evaluate it again"

    def _scores(self, protocol: str, model: str, task: str) -> pd.DataFrame:
        """Rows of `scores` over all people, from the file beside the predictions or, where there is none, from these."""
        key = (protocol, model, task)
        if key not in self._scored:
            path = self._folder(*key) / "scores.tsv"
            if path.is_file():
                scores = read_tsv(path, SCORES)
                self._scored[key] = scores[(scores["subset"] == ALL) & (scores["cohort"] == ALL)]
            else:
                self._scored[key] = quick_scores(self.predictions(*key), self._drawn)
        return self._scored[key]


def quick_scores(predictions: pd.DataFrame, drawn: dict[bytes, np.ndarray] | None = None) -> pd.DataFrame:
    """Accuracy and weighted F1 with the intervals of `evaluate`, without the metrics that take longer.

    `drawn`: resamples that were drawn before, by people, truths and folds; rows of the same people share them.
    Returns the columns metric, value, ci_low, ci_high, num_people; no row of a continuous target.
    """
    answers = answers_of(predictions)
    if not answers.levels:
        return pd.DataFrame(columns=["metric", "value", "ci_low", "ci_high", "num_people"])
    drawn = {} if drawn is None else drawn
    people_of = b"".join(array.tobytes() for array in (answers.truth_N, answers.fold_N, answers.person_N))
    if people_of not in drawn:
        drawn[people_of] = draw(answers, num_bootstraps=NUM_BOOTSTRAPS, seed=SEED)
    weights_BN = drawn[people_of]
    values = from_confusion(answers, np.concatenate([np.ones((1, len(answers.truth_N))), weights_BN]))
    people = predictions["person_id"].nunique()
    rows = []
    for metric in ("accuracy", "f1_weighted"):
        low, high = interval(metric, values[metric], answers.reuse)
        rows.append((metric, float(values[metric][0]), low, high, people))
    return pd.DataFrame(rows, columns=["metric", "value", "ci_low", "ci_high", "num_people"])


def read_answers(
    results: Path, protocols: Sequence[str] = (), *, asked: Collection[Row] = (), min_cell: int = 0
) -> StudyAnswers:
    """The answers under `results`; FileNotFoundError where there is none.

    `protocols`: names in the study's order, of which the first honest and the first optimistic one are shown. Empty: all
    that were evaluated, `honest` first and then by name. `asked`: protocol, model and task of the rows that the study asks for
    now; empty: all. `min_cell`: see StudyAnswers.
    """
    found = evaluated(results, PREDICTIONS, protocols=protocols)
    if not found:
        raise FileNotFoundError(
            f"{results / 'evaluate'}: no {PREDICTIONS} there; run evaluate first, or name --results"
        )
    keys = [(path.parts[-4], path.parts[-3], path.parts[-2]) for path in found]
    rows = tuple(key for key in keys if key in asked or not asked)
    names = protocols or sorted({row[0] for row in rows}, key=lambda name: (name != "honest", name))
    all_of_them = StudyAnswers(results, rows, {})
    kinds = {name: _kind(all_of_them, name) for name in names}
    shown = {kind: next((name for name in names if kinds[name] == kind), None) for kind in (OPTIMISTIC, HONEST)}
    return StudyAnswers(results, rows, shown, min_cell, all_of_them._frames)


def _kind(answers: StudyAnswers, protocol: str) -> str | None:
    """Who chose under a protocol, as its first predictions say; None where it made none."""
    for key in answers.rows:
        if key[0] == protocol and not answers.predictions(*key).empty:
            return _kind_of(str(answers.predictions(*key)["select"].iloc[0]))
    return None


def _kind_of(select: str) -> str:
    return OPTIMISTIC if select == "test" else HONEST


def fold_values(predictions: pd.DataFrame, measure: Callable[[pd.DataFrame], float]) -> np.ndarray:
    """A measure of every fold's predictions, in the order of the folds, shape (folds,)."""
    return np.array([measure(own) for _, own in predictions.groupby("fold", sort=True)])


def accuracy(predictions: pd.DataFrame) -> float:
    """Share of answers that name the level, in percent."""
    confusion_LL = _confusion(predictions)
    return 100 * float(confusion_LL.trace() / confusion_LL.sum())


def f1_weighted(predictions: pd.DataFrame) -> float:
    """F1 of every level weighted by its people, in percent: the LCM authors' only F1."""
    confusion_LL = _confusion(predictions)
    truth_L, named_L = confusion_LL.sum(axis=1), confusion_LL.sum(axis=0)
    f1_L = 2 * confusion_LL.diagonal() / (truth_L + named_L)
    return 100 * float(f1_L @ truth_L / truth_L.sum())


def _confusion(predictions: pd.DataFrame) -> np.ndarray:
    """People by true (row) and named level (column), of levels that are either, shape (L, L).

    Counted here because scikit-learn checks its input for longer than it counts, thousands of times in a whole study.
    """
    codes, levels = pd.factorize(np.concatenate([predictions["truth"], predictions["prediction"]]), sort=False)
    cell_N = codes[: len(predictions)] * len(levels) + codes[len(predictions) :]
    return np.bincount(cell_N, minlength=len(levels) ** 2).reshape(len(levels), len(levels))


def mean_squared_error(predictions: pd.DataFrame) -> float:
    """Of a continuous target, in its unit squared."""
    error = predictions["truth"].astype(float) - predictions["scores"].map(lambda values: values[0]).astype(float)
    return float(np.mean(error**2))


MEASURES: dict[str, Callable[[pd.DataFrame], float]] = {"accuracy": accuracy, "f1_weighted": f1_weighted}
"""Metrics of the paper's tables."""


def mean_entry(entries: Sequence[Entry]) -> Entry:
    """Unweighted mean over tasks of values and of deviations, as the paper prints Parkinson's.

    Its interval is that of a sum of independent estimates (Zou & Donner 2008, Statistics in Medicine 27:1693): the tasks
    must not share people. One entry without a number leaves the mean without one.
    """
    if len(entries) == 1:
        return entries[0]
    for entry in entries:
        if entry.reason is not None:
            return entry
    values, spreads, lows, highs = (
        np.array([getattr(entry, name) for entry in entries]) for name in ("value", "spread", "low", "high")
    )
    mean, num = float(values.mean()), len(entries)
    notes = [entry.note for entry in entries if entry.note]
    return Entry(
        mean,
        float(spreads.mean()),
        mean - float(np.sqrt(np.sum((values - lows) ** 2))) / num,
        mean + float(np.sqrt(np.sum((highs - values) ** 2))) / num,
        num_folds=min(entry.num_folds for entry in entries),
        num_people=sum(entry.num_people for entry in entries),
        note="; ".join(notes) or None,
    )
