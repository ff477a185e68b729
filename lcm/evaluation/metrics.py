"""Scores of a prediction table: the value of every metric, its confidence interval and the people behind it.

Shape suffixes: N people, L levels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from lcm.evaluation.answers import MISSING, Answers

ALL = "all"
"""The cohort name of a row over all people."""
LISTED, UNKNOWN = "listed", "unknown"
"""Whether it is known whom a model's weights had seen before this study."""
NOT_RUN = "not run: "
"""How the metric of the one row begins that a model has in the `scores` table when it could not answer a task."""


def accuracy(answers: Answers) -> float:
    """Share of people whose level was named."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(answers.truth_N, answers.predicted, normalize=True, sample_weight=None))


def balanced_accuracy(answers: Answers) -> float:
    """Mean recall of the levels present; missing when only one is."""
    from sklearn.metrics import recall_score

    if len(answers.present) < 2:
        return MISSING
    return float(
        recall_score(
            answers.truth_N,
            answers.predicted,
            labels=answers.present,
            average="macro",
            sample_weight=None,
            zero_division=0.0,
        )
    )


def f1_macro(answers: Answers) -> float:
    """Mean F1 of the levels present; missing when only one is."""
    return _f1(answers, average="macro") if len(answers.present) > 1 else MISSING


def f1_weighted(answers: Answers) -> float:
    """F1 of every level weighted by its people: the LCM paper's number, which hides imbalance."""
    return _f1(answers, average="weighted")


def _f1(answers: Answers, *, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(
        f1_score(
            answers.truth_N,
            answers.predicted,
            labels=answers.present,
            average=average,
            sample_weight=None,
            zero_division=0.0,
        )
    )


def auroc(answers: Answers) -> float:
    """Probability that a person with the level outscores one without it, both answered by the same fold's model.

    Pairs are taken within folds because folds have their own models: a constant prediction that differs between folds
    (the majority row) then scores exactly 0.5, where pooling would put it below. More than two levels: one against
    the rest, mean over the levels present. Missing when no fold holds both sides.
    """
    from sklearn.metrics import roc_auc_score

    def of_fold(truth: np.ndarray, score: np.ndarray) -> tuple[float, float]:
        num_pairs = float(truth.sum() * (~truth).sum())
        area = roc_auc_score(truth, score, average="macro", sample_weight=None, max_fpr=None)
        return float(area), num_pairs

    return _mean_over_questions(answers, of_fold)


def auprc(answers: Answers) -> float:
    """Average precision within folds, weighted by the people with the level; chance is the level's prevalence."""
    from sklearn.metrics import average_precision_score

    def of_fold(truth: np.ndarray, score: np.ndarray) -> tuple[float, float]:
        area = average_precision_score(truth, score, average="macro", pos_label=1, sample_weight=None)
        return float(area), float(truth.sum())

    return _mean_over_questions(answers, of_fold)


def _mean_over_questions(answers: Answers, of_fold: Callable[[np.ndarray, np.ndarray], tuple[float, float]]) -> float:
    values = []
    for level in answers.questions:
        areas, weights = [], []
        for fold in np.unique(answers.fold_N):
            here = answers.fold_N == fold
            truth = answers.truth_N[here] == level
            if truth.any() and not truth.all():
                area, weight = of_fold(truth, answers.scores_NL[here, level])
                areas.append(area)
                weights.append(weight)
        if areas:
            values.append(float(np.average(areas, weights=weights)))
    return float(np.mean(values)) if values else MISSING


def brier(answers: Answers) -> float:
    """Mean squared error of the probabilities (two levels: of the positive one, 0 to 1; more: summed over levels, 0 to 2).

    Missing when the model's scores are no probabilities.
    """
    from sklearn.metrics import brier_score_loss

    if not answers.are_probabilities:
        return MISSING
    if len(answers.levels) == 2:
        positive_N = np.clip(answers.scores_NL[:, 1], 0.0, 1.0)
        return float(brier_score_loss(answers.truth_N == 1, positive_N, pos_label=1, sample_weight=None))
    onehot_NL = np.eye(len(answers.levels))[answers.truth_N]
    return float(np.mean(np.sum((answers.scores_NL - onehot_NL) ** 2, axis=1)))


def mae(answers: Answers) -> float:
    """Mean absolute error, in the target's unit (years for age)."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(answers.truth_N, answers.scores_NL[:, 0], multioutput="uniform_average"))


def r2(answers: Answers) -> float:
    """Share of the variance of all people explained; below 0 is worse than their mean. Missing without variance."""
    from sklearn.metrics import r2_score

    if len(answers.truth_N) < 2 or np.ptp(answers.truth_N) == 0:
        return MISSING
    return float(r2_score(answers.truth_N, answers.scores_NL[:, 0], multioutput="uniform_average", force_finite=False))


def r(answers: Answers) -> float:
    """Pearson correlation of truth and prediction, both centred within their fold (see `auroc` for why)."""
    truth_N = _centred(answers.truth_N, answers.fold_N)
    value_N = _centred(answers.scores_NL[:, 0], answers.fold_N)
    scale = float(np.sqrt(np.sum(truth_N**2) * np.sum(value_N**2)))
    # A constant prediction leaves rounding noise of its own size after centring, not an exact zero.
    is_constant = np.allclose(value_N, 0.0, atol=1e-9 * max(1.0, float(np.abs(answers.scores_NL).max())))
    return MISSING if scale == 0 or is_constant else float(np.sum(truth_N * value_N)) / scale


def _centred(value_N: np.ndarray, fold_N: np.ndarray) -> np.ndarray:
    centred_N = value_N.astype(float).copy()
    for fold in np.unique(fold_N):
        centred_N[fold_N == fold] -= centred_N[fold_N == fold].mean()
    return centred_N


CLASSIFICATION: dict[str, Callable[[Answers], float]] = {
    "auroc": auroc,
    "balanced_accuracy": balanced_accuracy,
    "accuracy": accuracy,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
    "auprc": auprc,
    "brier": brier,
}
"""Metrics of a target with levels, the primary one first."""

REGRESSION: dict[str, Callable[[Answers], float]] = {"mae": mae, "r2": r2, "r": r}
"""Metrics of a continuous target, the primary one first."""

LOWER_IS_BETTER = frozenset({"brier", "mae"})


def answers_of(predictions: pd.DataFrame) -> Answers:
    """The prediction rows of one model and task as arrays.

    `predictions` has the columns of the `predictions` table; every row must carry the same levels. Raises ValueError
    when levels differ between rows, when a truth is none of them or when the number of scores does not fit.
    """
    name = f"{predictions['model'].iloc[0]}/{predictions['task'].iloc[0]}"
    spellings = {tuple(levels) for levels in predictions["levels"]}
    if len(spellings) != 1:
        raise ValueError(f"predictions of {name}: column levels has {len(spellings)} spellings; evaluate it again")
    levels = spellings.pop()
    scores_NL = np.asarray([list(row) for row in predictions["scores"]], dtype=float)
    if scores_NL.ndim != 2 or scores_NL.shape[1] != max(1, len(levels)):
        raise ValueError(f"predictions of {name}: column scores must hold {max(1, len(levels))} numbers a person")
    if not np.isfinite(scores_NL).all():
        raise ValueError(f"predictions of {name}: column scores holds NaN or infinity; the model diverged, train again")
    if levels:
        unknown = sorted(set(predictions["truth"]) - set(levels))
        if unknown:
            raise ValueError(f"predictions of {name}: truth has {unknown}, not among the levels {list(levels)}")
        truth_N = predictions["truth"].map({level: index for index, level in enumerate(levels)}).to_numpy(dtype=int)
    else:
        truth_N = predictions["truth"].astype(float).to_numpy()
    person_N = pd.factorize(predictions["person_id"])[0]
    return Answers(truth_N, scores_NL, predictions["fold"].to_numpy(dtype=int), person_N, levels)


def score(predictions: pd.DataFrame, *, num_bootstraps: int, seed: int, training_people: str = LISTED) -> pd.DataFrame:
    """Every metric with its 95 % interval, for all people and for each cohort.

    `predictions`: rows of one model and one task. Returns the `scores` table: model, task, cohort, metric, value,
    ci_low, ci_high, num_people, num_per_level, training_people; NaN where a metric is undefined (one level only, no
    probabilities).
    """
    from lcm.evaluation.bootstrap import intervals

    if (
        predictions.duplicated(["person_id", "truth"]).any()
        or predictions.groupby("person_id")["fold"].nunique().max() > 1
    ):
        raise ValueError("predictions hold a person twice; a person is tested in one fold, so check the fold table")
    cohorts = sorted(predictions["cohort"].unique())
    rows = []
    for cohort in [ALL, *cohorts]:
        people = predictions if cohort == ALL else predictions[predictions["cohort"] == cohort]
        answers = answers_of(people)
        functions = CLASSIFICATION if answers.levels else REGRESSION
        bounds = intervals(answers, list(functions), num_bootstraps=num_bootstraps, seed=seed)
        for metric, function in functions.items():
            value = function(answers)
            low, high = bounds[metric] if np.isfinite(value) else (MISSING, MISSING)
            rows.append((cohort, metric, value, low, high, people["person_id"].nunique(), count_levels(answers)))
    columns = ["cohort", "metric", "value", "ci_low", "ci_high", "num_people", "num_per_level"]
    scores = pd.DataFrame(rows, columns=columns)
    scores.insert(0, "task", predictions["task"].iloc[0])
    scores.insert(0, "model", predictions["model"].iloc[0])
    return scores.assign(training_people=training_people)


def not_run(model: str, task: str, reason: str) -> pd.DataFrame:
    """The `scores` table of a model that could not answer a task: one row, the reason in place of a metric."""
    row = {"model": model, "task": task, "cohort": ALL, "metric": NOT_RUN + reason, "value": MISSING}
    nobody = {"ci_low": MISSING, "ci_high": MISSING, "num_people": 0, "num_per_level": None, "training_people": None}
    return pd.DataFrame([row | nobody])


def count_levels(answers: Answers) -> str:
    """People of each level as `control=20;autism=18`; `continuous` for a target without levels."""
    if not answers.levels:
        return "continuous"
    return ";".join(f"{name}={int(np.sum(answers.truth_N == i))}" for i, name in enumerate(answers.levels))
