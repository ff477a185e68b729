"""Person-level stratified bootstrap of every metric at once: resamples are weights, so that 1000 of them are one product.

Drawing a person twice is giving them twice the weight. Each metric is written here for a B×N matrix of weights; tests hold it
against scikit-learn's `sample_weight`. Shape suffixes: B resamples, N people, L levels, C bins of a calibration curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lcm.evaluation.answers import COVERAGE, MISSING, Answers
from lcm.evaluation.calibration import NUM_BINS, bin_of, confidence, recalibration, resampled_recalibration, wilson


def intervals(
    answers: Answers, metrics: list[str], *, num_bootstraps: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % interval of each metric, NaN where the metric or every resample of it is undefined, or a level has one person.

    The quantiles of the resamples (see `draw`) about their median, times √`Answers.reuse`, are laid around the value: on
    the arcsine scale for what lies in [0, 1], so that no end leaves the metric's range. Around the value, because some
    resampled metrics are biased: the calibration error of a resample exceeds that of the study.
    """
    num_people = len(answers.truth_N)
    weights_BN = np.concatenate([np.ones((1, num_people)), draw(answers, num_bootstraps=num_bootstraps, seed=seed)])
    values = resampled(answers, weights_BN)
    found = {metric: interval(metric, values[metric], answers.reuse) for metric in metrics}
    certain = _of_certainty(answers, found)
    return {metric: ends if _varies(answers, ends) else (MISSING, MISSING) for metric, ends in found.items()} | certain


def _varies(answers: Answers, ends: tuple[float, float]) -> bool:
    """Whether resamples can tell how much a metric varies: not of one person, of a level or at all.

    Values of few people may have no spread either; shares of people may, where everybody is answered alike.
    """
    if len(np.unique(answers.person_N)) < 2:
        return False
    if not answers.levels:
        return ends[0] < ends[1]
    return min(len(np.unique(answers.person_N[answers.truth_N == level])) for level in answers.present) > 1


def _of_certainty(answers: Answers, found: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Intervals of metrics that are 0 or 1 in every resample: Wilson's, of the rarest level's people over `reuse`.

    People who are all ranked right are no evidence that all others would be.
    """
    if not answers.levels:
        return {}
    rarest = min(int(np.sum(answers.truth_N == level)) for level in answers.present) / answers.reuse
    certain = {}
    for name, (share, high) in found.items():
        if name in COUNTED and share == high and share in (0.0, 1.0):
            low_1, high_1 = wilson(np.array([share]), np.array([rarest]))
            certain[name] = float(low_1[0]), float(high_1[0])
    return certain


def interval(metric: str, values_B: np.ndarray, factor: float) -> tuple[float, float]:
    """95 % interval of a metric from its value (first) and its resamples, their variance multiplied by `factor`."""
    defined = values_B[1:][np.isfinite(values_B[1:])]
    if not np.isfinite(values_B[0]) or not len(defined):
        return MISSING, MISSING
    onto, back = SCALES.get(metric, ARCSINE)
    edges = [(1 - COVERAGE) / 2, 0.5, (1 + COVERAGE) / 2]
    low, middle, high = np.quantile(onto(defined), edges, method="linear")
    value = float(onto(values_B[0]))
    ends = (back(value + np.sqrt(factor) * (end - middle)) for end in (low, high))
    # Weighted sums of ones end a rounding error beside 1.
    first, second = (round(float(end), 12) for end in ends)
    return first, second


def _arcsine(value: np.ndarray) -> np.ndarray:
    return np.arcsin(np.sqrt(np.clip(value, 0.0, 1.0)))


def _from_arcsine(angle: np.ndarray) -> np.ndarray:
    return np.sin(np.clip(angle, 0.0, np.pi / 2)) ** 2


Scale = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""Onto a scale on which an interval is laid, and back."""

COUNTED = frozenset(
    ("auroc", "balanced_accuracy", "accuracy", "f1_macro", "f1_weighted", "sensitivity", "specificity", "auprc")
)
"""Metrics made of counts of people, or of pairs of them."""

ARCSINE: Scale = (_arcsine, _from_arcsine)
_ROOT: Scale = (lambda value: np.sqrt(np.maximum(value, 0.0)), lambda root: np.maximum(root, 0.0) ** 2)
_ITSELF: Scale = (np.asarray, np.asarray)
SCALES: dict[str, Scale] = {
    "brier": _ROOT,
    "mae": _ROOT,
    "r": (lambda r: _arcsine((r + 1) / 2), lambda angle: 2 * _from_arcsine(angle) - 1),
    "r2": _ITSELF,
    "calibration_slope": _ITSELF,
    "calibration_intercept": _ITSELF,
}
"""Of every metric that is no share: brier may be 2 and mae anything from 0, r lies in [-1, 1]."""


def draw(answers: Answers, *, num_bootstraps: int, seed: int) -> np.ndarray:
    """Weight of each person in each resample, shape B×N; every stratum keeps its total.

    Strata are the people of one level in one fold, or of one level where such strata hold single people: class counts
    and folds belong to the design. Where people answer several times, whole people are drawn from all instead, since
    their answers are not independent.
    """
    random = np.random.default_rng(seed)
    person, person_N = np.unique(answers.person_N, return_inverse=True)
    if len(person) < len(person_N):
        return _drawn(random, len(person), num_bootstraps)[:, person_N]
    level_N = answers.truth_N if answers.levels else np.zeros(len(answers.truth_N), dtype=int)
    _, stratum_N, sizes = np.unique(
        np.stack([level_N, answers.fold_N]), axis=1, return_inverse=True, return_counts=True
    )
    if sizes.min() < 2:
        stratum_N = level_N
    weights_BN = np.zeros((num_bootstraps, len(level_N)))
    for stratum in np.unique(stratum_N):
        people = np.flatnonzero(stratum_N == stratum)
        weights_BN[:, people] = _drawn(random, len(people), num_bootstraps)
    return weights_BN


def _drawn(random: np.random.Generator, num_people: int, num_bootstraps: int) -> np.ndarray:
    """Rescaled bootstrap (Rao & Wu 1988): n − 1 draws of weight n / (n − 1), else small strata give narrow intervals."""
    if num_people == 1:
        return np.ones((num_bootstraps, 1))
    shares = np.full(num_people, 1 / num_people)
    return random.multinomial(num_people - 1, shares, size=num_bootstraps) * (num_people / (num_people - 1))


def resampled(answers: Answers, weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of the target's kind under each row of weights, B values a metric."""
    if not answers.levels:
        return _regression(answers, weights_BN)
    values = from_confusion(answers, weights_BN)
    values["auroc"] = _mean_over_questions(answers, weights_BN, _weighted_auroc)
    values["auprc"] = _mean_over_questions(answers, weights_BN, _weighted_auprc)
    onehot_NL = np.eye(len(answers.levels))[answers.truth_N]
    error_N = np.sum((answers.scores_NL - onehot_NL) ** 2, axis=1) / (2 if len(answers.levels) == 2 else 1)
    values["brier"] = weights_BN @ error_N / weights_BN.sum(axis=1)
    values["ece"] = _calibration_error(answers, weights_BN)
    return values | _at_threshold(answers, weights_BN) | _recalibrations(answers, weights_BN)


def _calibration_error(answers: Answers, weights_BN: np.ndarray) -> np.ndarray:
    said_N, right_N = confidence(answers)
    difference_NC = np.eye(NUM_BINS)[bin_of(said_N)] * (right_N - said_N)[:, None]
    return np.abs(weights_BN @ difference_NC).sum(axis=1) / weights_BN.sum(axis=1)


def _at_threshold(answers: Answers, weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    called_N = answers.called
    if called_N is None:
        return {name: np.full(len(weights_BN), MISSING) for name in ("sensitivity", "specificity")}
    positive_N = answers.truth_N == 1
    return {
        "sensitivity": _ratio(weights_BN @ (positive_N & called_N), weights_BN @ positive_N),
        "specificity": _ratio(weights_BN @ (~positive_N & ~called_N), weights_BN @ ~positive_N),
    }


def _recalibrations(answers: Answers, weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    fitted = recalibration(answers)
    return resampled_recalibration(answers, fitted, weights_BN)


def from_confusion(answers: Answers, weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics that follow from true and named levels alone, under each row of weights, B values a metric."""
    num_levels = len(answers.levels)
    cell_N = answers.truth_N * num_levels + answers.predicted
    confusion_BLL = (weights_BN @ np.eye(num_levels**2)[cell_N]).reshape(-1, num_levels, num_levels)
    present = answers.present
    hits_BL = np.einsum("bll->bl", confusion_BLL)[:, present]
    truth_BL = confusion_BLL.sum(axis=2)[:, present]
    predicted_BL = confusion_BLL.sum(axis=1)[:, present]
    f1_BL = _ratio(2 * hits_BL, truth_BL + predicted_BL)
    return {
        "accuracy": np.einsum("bll->b", confusion_BLL) / weights_BN.sum(axis=1),
        "balanced_accuracy": _ratio(hits_BL, truth_BL).mean(axis=1),
        "f1_macro": f1_BL.mean(axis=1),
        # A level nobody drawn has, or was given, has no F1 and no weight either.
        "f1_weighted": np.nansum(f1_BL * truth_BL, axis=1) / truth_BL.sum(axis=1),
    }


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotient, missing where a resample has nothing to divide by (a level that was not drawn)."""
    return np.divide(top, bottom, out=np.full(top.shape, MISSING), where=bottom > 0)


def _mean_over_questions(
    answers: Answers,
    weights_BN: np.ndarray,
    area: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    values = []
    for level in answers.questions:
        top_B, bottom_B = np.zeros(len(weights_BN)), np.zeros(len(weights_BN))
        for fold in np.unique(answers.fold_N):
            here = answers.fold_N == fold
            truth = answers.truth_N[here] == level
            if truth.any() and not truth.all():
                sum_B, weight_B = area(truth, answers.scores_NL[here, level], weights_BN[:, here])
                top_B += sum_B
                bottom_B += weight_B
        values.append(_ratio(top_B, bottom_B))
    if not values:
        return np.full(len(weights_BN), MISSING)
    defined = ~np.isnan(np.stack(values))
    counts_B = defined.sum(axis=0)
    sums_B = np.where(defined, np.stack(values), 0.0).sum(axis=0)
    return _ratio(sums_B, counts_B)


def _weighted_auroc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted count of won pairs (a tie is half) and of all pairs, by cumulative sums over the sorted scores."""
    order = np.argsort(score, kind="stable")
    sorted_score = score[order]
    positive_BN = weights[:, order] * truth[order]
    negative_BN = weights[:, order] * ~truth[order]
    below_BN = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(negative_BN, axis=1)], axis=1)
    first = np.searchsorted(sorted_score, sorted_score, side="left")
    after = np.searchsorted(sorted_score, sorted_score, side="right")
    won_B = np.sum(positive_BN * (below_BN[:, first] + below_BN[:, after]) / 2, axis=1)
    return won_B, positive_BN.sum(axis=1) * negative_BN.sum(axis=1)


def _weighted_auprc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum over people with the level of the precision at their score, and their weight."""
    order = np.argsort(-score, kind="stable")
    descending = -score[order]
    positive_BN = weights[:, order] * truth[order]
    hits_BN = np.cumsum(positive_BN, axis=1)
    named_BN = np.cumsum(weights[:, order], axis=1)
    last = np.searchsorted(descending, descending, side="right") - 1
    named_at_BN = named_BN[:, last]
    precision_BN = np.divide(hits_BN[:, last], named_at_BN, out=np.zeros_like(named_at_BN), where=named_at_BN > 0)
    return np.sum(positive_BN * precision_BN, axis=1), positive_BN.sum(axis=1)


def _regression(answers: Answers, weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    truth_N, value_N = answers.truth_N.astype(float), answers.scores_NL[:, 0]
    total_B = weights_BN.sum(axis=1)
    mean_B = weights_BN @ truth_N / total_B
    residual_B = weights_BN @ (truth_N - value_N) ** 2
    spread_B = weights_BN @ truth_N**2 - total_B * mean_B**2
    return {
        "mae": weights_BN @ np.abs(truth_N - value_N) / total_B,
        "r2": 1 - np.divide(residual_B, spread_B, out=np.full(len(total_B), MISSING), where=spread_B > 1e-12),
        "r": _weighted_r(answers, weights_BN),
    }


def _weighted_r(answers: Answers, weights_BN: np.ndarray) -> np.ndarray:
    cross_B, truth_B, value_B = (np.zeros(len(weights_BN)) for _ in range(3))
    for fold in np.unique(answers.fold_N):
        here = answers.fold_N == fold
        weights, total_B = weights_BN[:, here], weights_BN[:, here].sum(axis=1)
        safe_B = np.where(total_B > 0, total_B, 1.0)
        # Centring first keeps the sums of squares from cancelling when the target is far from zero.
        truth = answers.truth_N[here] - answers.truth_N[here].mean()
        value = answers.scores_NL[here, 0] - answers.scores_NL[here, 0].mean()
        truth_sum_B, value_sum_B = weights @ truth, weights @ value
        cross_B += weights @ (truth * value) - truth_sum_B * value_sum_B / safe_B
        truth_B += weights @ truth**2 - truth_sum_B**2 / safe_B
        value_B += weights @ value**2 - value_sum_B**2 / safe_B
    scale_B = np.sqrt(np.maximum(truth_B, 0) * np.maximum(value_B, 0))
    return np.divide(cross_B, scale_B, out=np.full(len(scale_B), MISSING), where=scale_B > 1e-12)
