"""Scores of a prediction table: the value of every metric, its confidence interval and the people behind it.

Shape suffixes: N people, L levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lcm.evaluation.answers import MISSING, Answers
from lcm.evaluation.calibration import calibration_intercept, calibration_slope, ece
from lcm.result_tables import SCORES

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


def sensitivity(answers: Answers) -> float:
    """Share of the people with the positive level who are called positive at their fold's threshold; missing without one."""
    return _called(answers, level=1)


def specificity(answers: Answers) -> float:
    """Share of the people without the positive level who are not called positive at their fold's threshold."""
    return _called(answers, level=0)


def _called(answers: Answers, *, level: int) -> float:
    from sklearn.metrics import recall_score

    called_N = answers.called
    if called_N is None or level not in answers.present:
        return MISSING
    recall = recall_score(
        answers.truth_N, called_N, pos_label=level, average="binary", sample_weight=None, zero_division=0.0
    )
    return float(recall)


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
    truth_N = centred(answers.truth_N, answers.fold_N)
    value_N = centred(answers.scores_NL[:, 0], answers.fold_N)
    scale = float(np.sqrt(np.sum(truth_N**2) * np.sum(value_N**2)))
    # A constant prediction leaves rounding noise of its own size after centring, not an exact zero.
    is_constant = np.allclose(value_N, 0.0, atol=1e-9 * max(1.0, float(np.abs(answers.scores_NL).max())))
    return MISSING if scale == 0 or is_constant else float(np.sum(truth_N * value_N)) / scale


def centred(value_N: np.ndarray, fold_N: np.ndarray) -> np.ndarray:
    """Values (N) less the mean of their fold."""
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
    "sensitivity": sensitivity,
    "specificity": specificity,
    "auprc": auprc,
    "brier": brier,
    "ece": ece,
}
"""Metrics of a target with levels, the primary one first."""

CALIBRATION: dict[str, Callable[[Answers], float]] = {
    "calibration_slope": calibration_slope,
    "calibration_intercept": calibration_intercept,
}
"""Of a target with levels; neither high nor low is good: a calibrated model has slope 1 and intercept 0."""

REGRESSION: dict[str, Callable[[Answers], float]] = {"mae": mae, "r2": r2, "r": r}
"""Metrics of a continuous target, the primary one first."""

LOWER_IS_BETTER = frozenset({"brier", "ece", "mae"})

PERMUTATION_P, PERMUTATION_MEAN = "permutation_p", "permutation_mean"
"""Rows of `scores` that hold a `Permutation` of the primary metric's statistic."""


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
    threshold_N = predictions["threshold"].to_numpy(dtype=float) if "threshold" in predictions else None
    return Answers(truth_N, scores_NL, predictions["fold"].to_numpy(dtype=int), person_N, levels, threshold_N)


def chance(answers: Answers) -> dict[str, float]:
    """What each metric is worth to who knows the shares of the levels, or the target's mean or median, and nothing else."""
    if not answers.levels:
        return {"mae": float(np.mean(np.abs(answers.truth_N - np.median(answers.truth_N)))), "r2": 0.0, "r": 0.0}
    share_L = np.bincount(answers.truth_N, minlength=len(answers.levels)) / len(answers.truth_N)
    gini = float(np.sum(share_L * (1 - share_L)))

    def prevalence(truth: np.ndarray, _: np.ndarray) -> tuple[float, float]:
        return float(truth.mean()), float(truth.sum())

    return {
        "auroc": 0.5,
        "balanced_accuracy": 1 / len(answers.present),
        "accuracy": float(share_L.max()),
        "auprc": _mean_over_questions(answers, prevalence),
        "brier": gini / 2 if len(answers.levels) == 2 else gini,
    }


def score(
    predictions: pd.DataFrame,
    *,
    num_bootstraps: int,
    num_permutations: int,
    seed: int,
    training_people: str = LISTED,
    subset: str = ALL,
) -> pd.DataFrame:
    """Every metric with its 95 % interval, for all people and for each cohort.

    `predictions`: rows of one protocol, model and task. Returns the `scores` table; NaN where a metric is undefined (one
    level only, no probabilities, no threshold). `num_permutations` 0: no permutation test. Raises ValueError when a person is
    tested in two folds, or twice with one truth.
    """
    if (
        predictions.duplicated(["person_id", "truth"]).any()
        or predictions.groupby("person_id")["fold"].nunique().max() > 1
    ):
        raise ValueError("predictions hold a person twice; a person is tested in one fold, so check the fold table")
    rows = []
    for cohort in [ALL, *sorted(predictions["cohort"].unique())]:
        people = predictions if cohort == ALL else predictions[predictions["cohort"] == cohort]
        answers = answers_of(people)
        counts = {"num_people": people["person_id"].nunique(), "num_per_level": count_levels(answers)}
        found = _scored(answers, num_bootstraps=num_bootstraps, seed=seed)
        if num_permutations:
            found += _permuted(people, answers, num_permutations=num_permutations, seed=seed)
        rows += [{"cohort": cohort, **row, **counts} for row in found]
    named = _named(predictions.iloc[0])
    return _table([named | {"subset": subset, "training_people": training_people} | row for row in rows])


def _scored(answers: Answers, *, num_bootstraps: int, seed: int) -> list[dict[str, Any]]:
    from sklearn import config_context

    from lcm.evaluation.bootstrap import intervals

    functions = CLASSIFICATION | CALIBRATION if answers.levels else REGRESSION
    bounds = intervals(answers, list(functions), num_bootstraps=num_bootstraps, seed=seed)
    by_chance, rows = chance(answers), []
    # `answers_of` has checked the arrays; scikit-learn's own checks would take most of the time.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        values = {metric: function(answers) for metric, function in functions.items()}
    for metric, value in values.items():
        low, high = bounds[metric] if np.isfinite(value) else (MISSING, MISSING)
        guess = by_chance.get(metric, MISSING) if np.isfinite(value) else MISSING
        rows.append({"metric": metric, "value": value, "ci_low": low, "ci_high": high, "chance": guess})
    return rows


def _permuted(people: pd.DataFrame, answers: Answers, *, num_permutations: int, seed: int) -> list[dict[str, Any]]:
    from lcm.evaluation.permutation import permutation_test, strata_of

    test = permutation_test(answers, strata_of(people), num_permutations=num_permutations, seed=seed)
    guess = (0.5 if answers.levels else 0.0) if np.isfinite(test.mean) else MISSING
    return [
        {"metric": PERMUTATION_P, "value": test.p},
        {"metric": PERMUTATION_MEAN, "value": test.mean, "chance": guess},
    ]


def not_run(
    reason: str, *, protocol: str, select: str, model: str, group: str, task: str, subset: str = ALL
) -> pd.DataFrame:
    """The `scores` table of a model that could not answer a task: one row, the reason in place of a metric."""
    named = {"protocol": protocol, "select": select, "model": model, "group": group, "task": task, "subset": subset}
    return _table([named | {"cohort": ALL, "metric": NOT_RUN + reason, "num_people": 0}])


def _named(row: pd.Series[Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("protocol", "select", "model", "group", "task")}


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A `scores` table; what a row does not say is missing."""
    numbers = [name for name, kind in SCORES.columns.items() if kind == "optional number"]
    return pd.DataFrame(rows).reindex(columns=list(SCORES.columns)).astype(dict.fromkeys(numbers, float))


def count_levels(answers: Answers) -> str:
    """People of each level as `control=20;autism=18`; `continuous` for a target without levels."""
    if not answers.levels:
        return "continuous"
    return ";".join(f"{name}={int(np.sum(answers.truth_N == i))}" for i, name in enumerate(answers.levels))
