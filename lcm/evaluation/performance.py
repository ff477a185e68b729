"""Curves behind the scores: ROC, precision–recall, confusion and predicted against true values, with their uncertainty.

A curve is drawn from what a score is computed from, fold by fold, so that the area under it is the score that the table
prints. Shape suffixes: N people, L levels, B resamples, P points of a curve, Q bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcm.evaluation.answers import COVERAGE, Answers
from lcm.evaluation.bootstrap import draw, interval
from lcm.evaluation.calibration import wilson

Array = NDArray[np.float64]
NUM_POINTS = 101
NUM_BINS = 10
UPPER = (1 + COVERAGE) / 2


@dataclass(frozen=True)
class Curve:
    """A curve on a fixed grid with its pointwise 95 % band; all arrays have one length."""

    x_P: Array
    y_P: Array
    low_P: Array
    high_P: Array


@dataclass(frozen=True)
class Confusion:
    """People by true (rows) and named level, and the share of each true level that was named right, with its interval."""

    levels: tuple[str, ...]
    counts_LL: NDArray[np.int_]
    recall_L: Array
    low_L: Array
    high_L: Array


def roc(answers: Answers, *, num_bootstraps: int, seed: int) -> Curve | None:
    """Sensitivity over 1 − specificity: the mean of the folds' curves by their pairs, then of one-against-the-rest curves.

    The area under it is `metrics.auroc`. None where no fold holds both sides of a question.
    """
    return _curve(answers, np.linspace(0, 1, NUM_POINTS), _roc_of_fold, num_bootstraps=num_bootstraps, seed=seed)


def precision_recall(answers: Answers, *, num_bootstraps: int, seed: int) -> Curve | None:
    """Precision over recall: the mean of the folds' curves by their positive people, then over levels.

    Its mean over recall is `metrics.auprc`. None where no fold holds both sides of a question.
    """
    # A step has the precision of the threshold at which the recall is reached; recall 0 is reached by no threshold.
    grid_P = np.linspace(0, 1, NUM_POINTS)[1:]
    return _curve(answers, grid_P, _precision_of_fold, num_bootstraps=num_bootstraps, seed=seed)


def _curve(
    answers: Answers,
    grid_P: Array,
    of_fold: Callable[[NDArray[np.bool_], Array, Array, Array], tuple[Array, Array]],
    *,
    num_bootstraps: int,
    seed: int,
) -> Curve | None:
    drawn_BN = draw(answers, num_bootstraps=num_bootstraps, seed=seed)
    weights_BN = np.concatenate([np.ones((1, drawn_BN.shape[1])), drawn_BN])
    questions = []
    for level in answers.questions:
        top_BP, bottom_B = np.zeros((len(weights_BN), len(grid_P))), np.zeros(len(weights_BN))
        for fold in np.unique(answers.fold_N):
            here = answers.fold_N == fold
            truth = answers.truth_N[here] == level
            if truth.any() and not truth.all():
                values_BP, weight_B = of_fold(truth, answers.scores_NL[here, level], weights_BN[:, here], grid_P)
                top_BP += values_BP * weight_B[:, None]
                bottom_B += weight_B
        if bottom_B[0] > 0:
            questions.append(top_BP / np.where(bottom_B > 0, bottom_B, np.nan)[:, None])
    if not questions:
        return None
    curve_BP = np.nanmean(questions, axis=0)
    # The scale and the widening of the area's own interval, so that band and table agree.
    ends = [interval("auroc", value_B, answers.reuse) for value_B in curve_BP.T]
    low_P, high_P = np.array(ends).T
    return Curve(grid_P, curve_BP[0], np.minimum(low_P, curve_BP[0]), np.maximum(high_P, curve_BP[0]))


def _cumulated(truth: NDArray[np.bool_], score: Array, weights_BN: Array) -> tuple[Array, Array]:
    """Weight of the people with and without the level whose score is at least each threshold, from none to all."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    none_B1 = np.zeros((len(weights_BN), 1))
    positive_BT = np.cumsum(weights_BN[:, order] * truth[order], axis=1)[:, last]
    negative_BT = np.cumsum(weights_BN[:, order] * ~truth[order], axis=1)[:, last]
    return np.concatenate([none_B1, positive_BT], axis=1), np.concatenate([none_B1, negative_BT], axis=1)


def _roc_of_fold(truth: NDArray[np.bool_], score: Array, weights_BN: Array, grid_P: Array) -> tuple[Array, Array]:
    positive_BT, negative_BT = _cumulated(truth, score, weights_BN)
    num_pairs_B = positive_BT[:, -1] * negative_BT[:, -1]
    safe_B = np.maximum(positive_BT[:, -1:], 1e-12), np.maximum(negative_BT[:, -1:], 1e-12)
    rates = zip(negative_BT / safe_B[1], positive_BT / safe_B[0], strict=True)
    return np.stack([np.interp(grid_P, false_T, true_T) for false_T, true_T in rates]), num_pairs_B


def _precision_of_fold(truth: NDArray[np.bool_], score: Array, weights_BN: Array, grid_P: Array) -> tuple[Array, Array]:
    positive_BT, negative_BT = _cumulated(truth, score, weights_BN)
    named_BT = positive_BT + negative_BT
    precision_BT = np.divide(positive_BT, named_BT, out=np.zeros_like(named_BT), where=named_BT > 0)
    recall_BT = positive_BT / np.maximum(positive_BT[:, -1:], 1e-12)
    # Rounding may leave the last recall below 1 by an ulp.
    reached = [np.minimum(np.searchsorted(r_T, grid_P - 1e-9), len(r_T) - 1) for r_T in recall_BT]
    return np.stack([p_T[place] for p_T, place in zip(precision_BT, reached, strict=True)]), positive_BT[:, -1]


def confusion(answers: Answers) -> Confusion:
    """True against named level over all people, and the recall of each level with its interval.

    Wilson's interval (1927), the people of several folds counting as half as many (decision 16).
    """
    num_levels = len(answers.levels)
    counts_LL = np.zeros((num_levels, num_levels), dtype=int)
    np.add.at(counts_LL, (answers.truth_N, answers.predicted), 1)
    total_L = counts_LL.sum(axis=1)
    recall_L = np.divide(np.diag(counts_LL), total_L, out=np.full(num_levels, np.nan), where=total_L > 0)
    low_L, high_L = wilson(recall_L, np.maximum(total_L, 1) / answers.reuse)
    return Confusion(answers.levels, counts_LL, recall_L, low_L, high_L)


def true_over_predicted(answers: Answers) -> Curve:
    """Mean true value of people in bins of the predicted one that hold equally many, with the 95 % t interval of the mean.

    People of a bin with one person have no interval (NaN); a prediction that is the same for everyone is one bin.
    """
    from scipy.stats import t

    value_N, truth_N = answers.scores_NL[:, 0], answers.truth_N.astype(float)
    num_bins = 1 if np.ptp(value_N) == 0 else min(NUM_BINS, len(value_N))
    bins = np.array_split(np.argsort(value_N, kind="stable"), num_bins)
    x_Q, y_Q = (np.array([values[place].mean() for place in bins]) for values in (value_N, truth_N))
    sizes = np.array([len(place) for place in bins])
    spread_Q = np.array([truth_N[place].std(ddof=1) if len(place) > 1 else np.nan for place in bins])
    half_Q = t.ppf(UPPER, np.maximum(sizes - 1, 1)) * spread_Q * np.sqrt(answers.reuse / sizes)
    return Curve(x_Q, y_Q, y_Q - half_Q, y_Q + half_Q)
