"""Logistic regression over a grid of L2 penalties: what estimators that speak in probabilities stand on.

An L2 penalty keeps every coefficient in the span of the scans, so that with more features than scans the problem is
solved exactly in that span, by a QR decomposition, in as many dimensions as there are scans.
"""

# Shapes: N scans, F features, L levels, S dimensions of the span, min(N, F).

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class Softmax(NamedTuple):
    """Levels of probability softmax(features @ coefficient_FL + intercept_L), and the penalty behind it."""

    coefficient_FL: np.ndarray
    intercept_L: np.ndarray
    penalty: float

    def log_loss(self, features_NF: np.ndarray, target_N: np.ndarray) -> float:
        """Mean −log probability of the true level (its index)."""
        from scipy.special import log_softmax

        logs_NL = log_softmax(features_NF @ self.coefficient_FL + self.intercept_L, axis=1)
        return float(-logs_NL[np.arange(len(target_N)), target_N.astype(np.int64)].mean())


class SoftmaxPath:
    """Minimisers of λ/2 ‖W‖² + Σ log-loss for any λ; the intercepts are not penalised.

    Two levels are one column of coefficients whose other column is zero, as in scikit-learn.
    """

    def __init__(self, features_NF: np.ndarray, target_N: np.ndarray) -> None:
        self._levels_N = target_N.astype(np.int64)
        self._basis_FS, scans_SN = np.linalg.qr(features_NF.T)
        self._scans_NS = scans_SN.T

    def at(self, penalty: float) -> Softmax:
        """The solution at one λ."""
        (inside,) = self._inside(np.array([penalty]))
        return inside._replace(coefficient_FL=self._basis_FS @ inside.coefficient_FL)

    def best(self, penalties: np.ndarray, features_NF: np.ndarray, target_N: np.ndarray) -> Softmax:
        """The solution whose λ has the lowest log-loss on these scans; penalties strongest first, each a start for the next."""
        asked_NS = features_NF @ self._basis_FS
        inside = min(self._inside(penalties), key=lambda found: found.log_loss(asked_NS, target_N))
        return inside._replace(coefficient_FL=self._basis_FS @ inside.coefficient_FL)

    def _inside(self, penalties: np.ndarray) -> Iterator[Softmax]:
        """Solutions in the span."""
        fitted = _estimator()
        for penalty in penalties:
            fitted.set_params(C=1 / penalty).fit(self._scans_NS, self._levels_N)
            yield _a_column_a_level(fitted, float(penalty))


def _estimator() -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        l1_ratio=0.0, fit_intercept=True, solver="lbfgs", tol=1e-6, max_iter=2000, class_weight=None, warm_start=True
    )


def _a_column_a_level(fitted: LogisticRegression, penalty: float) -> Softmax:
    """Copies of what the next fit overwrites; of two levels the first is the origin."""
    coefficient_LS, intercept_L = fitted.coef_.copy(), fitted.intercept_.copy()
    if len(coefficient_LS) == 1:
        coefficient_LS, intercept_L = np.pad(coefficient_LS, ((1, 0), (0, 0))), np.pad(intercept_L, (1, 0))
    return Softmax(coefficient_LS.T, intercept_L, penalty)
