"""Decision values made probabilities, by a sigmoid for each level (Platt 1999), normalised over levels."""

# Shapes: N scans, L levels.

from __future__ import annotations

import numpy as np

FLATTEST = 0.01
"""Least slope, a deviation of the decision values: few scans by chance ranked the other way must not turn a ranking round."""


def platt(decision_NL: np.ndarray, target_N: np.ndarray) -> np.ndarray:
    """Slope and intercept of each level's sigmoid, (2, L), fitted on scans that fitted no decision value.

    Platt's targets are (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2) instead of 1 and 0, so that separated levels have a finite
    slope; it never falls below FLATTEST. A logistic regression of every scan as both levels, weighed by its target,
    maximises the same likelihood.
    """
    from sklearn.linear_model import LogisticRegression

    columns = []
    for level, decision_N in enumerate(decision_NL.T):
        own_N = target_N.astype(np.int64) == level
        target = np.where(own_N, (own_N.sum() + 1) / (own_N.sum() + 2), 1 / ((~own_N).sum() + 2))
        # On one scale, or the solver's tolerance would mean another thing for every kernel.
        spread = float(decision_N.std()) or 1.0
        fitted = LogisticRegression(
            C=np.inf, l1_ratio=0.0, fit_intercept=True, solver="lbfgs", tol=1e-8, max_iter=1000, class_weight=None
        )
        fitted.fit(
            np.tile(decision_N / spread, 2)[:, None],
            np.repeat([1, 0], len(decision_N)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if slope < FLATTEST:
            share = float(target.mean())
            slope, intercept = FLATTEST, float(np.log(share / (1 - share)))
        columns.append((slope / spread, intercept))
    return np.array(columns).T


def probabilities(decision_NL: np.ndarray, sigmoid_2L: np.ndarray) -> np.ndarray:
    """The levels' sigmoids over their sum, (N, L); of two levels, whose decisions are opposite, they sum to 1 already."""
    from scipy.special import expit

    share_NL = expit(decision_NL * sigmoid_2L[0] + sigmoid_2L[1])
    return share_NL / np.maximum(share_NL.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
