"""Calibration: whether of the people given a probability of 0.8 eight in ten have the level.

Shape suffixes: N people, L levels, B resamples, C bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lcm.evaluation.answers import COVERAGE, MISSING, Answers

if TYPE_CHECKING:
    import pandas as pd

NUM_BINS = 10
"""Bins of equal width, [0, 0.1) to [0.9, 1]."""
LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit is taken: a saturated softmax says exactly 1."""
MOST_STEPS = 50
"""Newton's method needs about six; where the levels are separated it never ends."""


def confidence(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """What was said with which probability, and whether it was so, both shape N.

    Of two levels that the person has the positive one; of more that they have the named one.
    """
    if len(answers.levels) == 2:
        return np.clip(answers.scores_NL[:, 1], 0.0, 1.0), (answers.truth_N == 1).astype(float)
    return np.clip(answers.scores_NL.max(axis=1), 0.0, 1.0), (answers.truth_N == answers.predicted).astype(float)


def bin_of(said_N: np.ndarray) -> np.ndarray:
    """The bin (0..NUM_BINS-1) of each probability; an edge belongs to the bin above it, 1 to the last."""
    return np.clip(np.searchsorted(np.linspace(0, 1, NUM_BINS + 1), said_N, side="right") - 1, 0, NUM_BINS - 1)


def ece(answers: Answers) -> float:
    """Expected calibration error: mean distance of share and probability over bins, by their people (Guo et al. 2017).

    Missing when the scores are no probabilities. Even a perfect model's is above 0 in a finite study.
    """
    if not answers.are_probabilities:
        return MISSING
    said_N, right_N = confidence(answers)
    sums_C = np.bincount(bin_of(said_N), weights=right_N - said_N, minlength=NUM_BINS)
    return float(np.abs(sums_C).sum() / len(said_N))


class Recalibration(NamedTuple):
    """Logistic regressions of having the level on the logit of its probability (Van Calster et al. 2019).

    `slope` and `offset` are of the free one, `intercept` of the one whose slope is 1; calibrated models have slope 1 and
    intercept 0. A slope below 1 is overconfident, an intercept below 0 gives the level too much.
    """

    slope: float
    offset: float
    intercept: float


def recalibration(answers: Answers) -> Recalibration:
    """Calibration slope and intercept of a target with two levels.

    Missing of more levels, of scores that are no probabilities, when one level is absent, when the probabilities of each
    fold are constant, or when a threshold separates the levels.
    """
    nothing = Recalibration(MISSING, MISSING, MISSING)
    if len(answers.levels) != 2 or len(answers.present) < 2 or not answers.are_probabilities:
        return nothing
    logit_N, positive_N = logits(answers), (answers.truth_N == 1).astype(float)
    folds = [logit_N[answers.fold_N == fold] for fold in np.unique(answers.fold_N)]
    # Constants that differ between folds would give the slope of the folds' prevalences.
    if all(np.ptp(fold) < 1e-9 for fold in folds):
        slope_and_offset = np.full(2, MISSING)
    else:
        slope_and_offset = _fitted(
            np.stack([logit_N, np.ones_like(logit_N)], axis=1), positive_N, np.zeros_like(logit_N)
        )
    intercept = _fitted(np.ones((len(logit_N), 1)), positive_N, logit_N)
    return Recalibration(float(slope_and_offset[0]), float(slope_and_offset[1]), float(intercept[0]))


def calibration_slope(answers: Answers) -> float:
    """`Recalibration.slope`."""
    return recalibration(answers).slope


def calibration_intercept(answers: Answers) -> float:
    """`Recalibration.intercept`."""
    return recalibration(answers).intercept


def logits(answers: Answers) -> np.ndarray:
    """Log-odds of the positive level, shape N."""
    said_N = np.clip(answers.scores_NL[:, 1], LEAST, 1 - LEAST)
    return np.asarray(np.log(said_N) - np.log1p(-said_N))


def _fitted(columns_ND: np.ndarray, positive_N: np.ndarray, known_N: np.ndarray) -> np.ndarray:
    """Coefficients (D,) of an unpenalised logistic regression with a known summand, by Newton's method."""
    coefficient_D = np.zeros(columns_ND.shape[1])
    for _ in range(MOST_STEPS):
        share_N = _expit(columns_ND @ coefficient_D + known_N)
        gradient_D = columns_ND.T @ (positive_N - share_N)
        curvature_DD = (columns_ND * (share_N * (1 - share_N))[:, None]).T @ columns_ND
        if np.linalg.cond(curvature_DD) > 1e12 or np.trace(curvature_DD) < 1e-6:
            break
        step_D = np.linalg.solve(curvature_DD, gradient_D)
        # A first step from far away may overshoot into saturation.
        coefficient_D = coefficient_D + step_D / max(1.0, float(np.abs(step_D).max()) / 2)
        if float(np.abs(step_D).max()) < 1e-10 * max(1.0, float(np.abs(coefficient_D).max())):
            return coefficient_D
    return np.full(len(coefficient_D), MISSING)


def resampled_recalibration(answers: Answers, fitted: Recalibration, weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    """Slope and intercept under each row of weights, B values each: one Newton step from the study's own.

    Few Newton steps can stand in for fitting every resample again (Davidson & MacKinnon 1999); one is a product of weights
    with a matrix. Among few people its slopes lack the long upper tail of fitted ones.
    """
    values = {name: np.full(len(weights_BN), MISSING) for name in ("calibration_slope", "calibration_intercept")}
    if len(answers.levels) != 2 or not np.isfinite(fitted.intercept):
        return values
    logit_N, positive_N = logits(answers), (answers.truth_N == 1).astype(float)
    share_N = _expit(logit_N + fitted.intercept)
    step_B = _quotient(weights_BN @ (positive_N - share_N), weights_BN @ (share_N * (1 - share_N)))
    values["calibration_intercept"] = fitted.intercept + step_B
    if np.isfinite(fitted.slope):
        share_N = _expit(fitted.slope * logit_N + fitted.offset)
        error_N, spread_N = positive_N - share_N, share_N * (1 - share_N)
        gradient_B, constant_B = weights_BN @ (error_N * logit_N), weights_BN @ error_N
        square_B, cross_B, total_B = (weights_BN @ (spread_N * logit_N**power) for power in (2, 1, 0))
        top_B = total_B * gradient_B - cross_B * constant_B
        values["calibration_slope"] = fitted.slope + _quotient(top_B, square_B * total_B - cross_B**2)
    return values


def _quotient(top_B: np.ndarray, bottom_B: np.ndarray) -> np.ndarray:
    return np.divide(top_B, bottom_B, out=np.full(top_B.shape, MISSING), where=bottom_B > 1e-12)


def _expit(value: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(value))


def curve(answers: Answers) -> pd.DataFrame:
    """The calibration curve, a row a bin that holds people.

    Columns: bin_low, bin_high, mean_score (mean probability of the bin's people), share (of them for whom it was so; see
    `confidence`), ci_low, ci_high (Wilson 1927, 95 %, with the people of several folds counting as half as many:
    decision 16), num_people. No row where the scores are no probabilities, or the target is continuous.
    """
    import pandas as pd

    columns = ["bin_low", "bin_high", "mean_score", "share", "ci_low", "ci_high", "num_people"]
    if not answers.levels or not answers.are_probabilities:
        return pd.DataFrame(columns=columns)
    said_N, right_N = confidence(answers)
    rows = []
    for place in np.unique(bin_of(said_N)):
        here = bin_of(said_N) == place
        share, count = float(right_N[here].mean()), int(here.sum())
        low, high = (float(end) for end in wilson(np.array(share), np.array(count / answers.reuse)))
        rows.append((place / NUM_BINS, (place + 1) / NUM_BINS, float(said_N[here].mean()), share, low, high, count))
    return pd.DataFrame(rows, columns=columns)


def wilson(share: np.ndarray, num_people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of shares of so many people, not necessarily whole ones (Wilson 1927); arrays of one shape."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + COVERAGE) / 2))
    middle = (share + z**2 / (2 * num_people)) / (1 + z**2 / num_people)
    half = z * np.sqrt(share * (1 - share) / num_people + z**2 / (4 * num_people**2)) / (1 + z**2 / num_people)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
