"""Logistic regression on the FC upper triangle, L2-penalised: the linear row that speaks in probabilities.

Everything is fitted on training scans: the mean edge that fills an uncovered one, the standardisation and the
coefficients. The penalty is the one with the lowest log-loss on validation scans. An L2 penalty keeps every
coefficient in the span of the training scans, so that with more edges than scans the problem is solved exactly in
that span, by a QR decomposition, in as many dimensions as there are scans.
"""

# Shapes: N scans, E edges (upper triangle), L levels, S dimensions of the span, min(N, E).

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lcm.models.labelled import Labelled
from lcm.models.standardisation import standardisation, standardised

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PENALTIES = np.logspace(6, 0, 13)
"""λ of λ/2 ‖w‖² + Σ log-loss, strongest first: each fit starts from the one before. Below 1 the levels of as few scans
as a study has are separated whatever λ is."""


@dataclass(frozen=True)
class Logistic:
    """Arrays: mean_E, scale_E, coefficient_EL, intercept_L, penalty (1,)."""

    state: dict[str, np.ndarray]

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, num_levels: int) -> Logistic:
        """Fit on training scans, choose the penalty on validation scans; ValueError for a continuous target."""
        _check(training, validation, num_levels)
        mean_E, scale_E = standardisation(training.edges_NE)
        span_ES, training_NS = _span(standardised(training.edges_NE, mean_E, scale_E))
        validation_NS = standardised(validation.edges_NE, mean_E, scale_E) @ span_ES
        best, coefficient_SL, intercept_L, penalty = np.inf, np.empty(0), np.empty(0), 0.0
        fitted = _estimator()
        for tried in PENALTIES:
            fitted.set_params(C=1 / tried).fit(training_NS, training.target_N.astype(np.int64))
            found_SL, found_L = _a_column_a_level(fitted)
            loss = _log_loss(validation_NS @ found_SL + found_L, validation.target_N)
            if loss < best:
                best, coefficient_SL, intercept_L, penalty = loss, found_SL, found_L, float(tried)
        return cls(
            {
                "mean_E": mean_E,
                "scale_E": scale_E,
                "coefficient_EL": span_ES @ coefficient_SL,
                "intercept_L": intercept_L,
                "penalty": np.array([penalty]),
            }
        )

    def predict(self, edges_NE: np.ndarray) -> np.ndarray:
        """Probabilities of the levels, (N, L)."""
        from scipy.special import softmax

        standard_NE = standardised(edges_NE, self.state["mean_E"], self.state["scale_E"])
        return softmax(standard_NE @ self.state["coefficient_EL"] + self.state["intercept_L"], axis=1)


def _check(training: Labelled, validation: Labelled, num_levels: int) -> None:
    if num_levels == 0:
        raise ValueError("logistic regression tells levels apart and its target is continuous; use ridge for it")
    absent = sorted(set(range(num_levels)) - set(training.target_N.astype(np.int64).tolist()))
    if absent or not len(validation.target_N):
        raise ValueError(
            f"logistic needs training scans of all {num_levels} levels and validation scans; missing are levels "
            f"{absent} of training, and there are {len(validation.target_N)} validation scans: use fewer folds, or drop "
            "this task"
        )


def _span(edges_NE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis (E, S) of the span of the scans, and the scans in it (N, S)."""
    basis_ES, scans_SN = np.linalg.qr(edges_NE.T)
    return basis_ES, scans_SN.T


def _estimator() -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        l1_ratio=0.0, fit_intercept=True, solver="lbfgs", tol=1e-6, max_iter=2000, class_weight=None, warm_start=True
    )


def _a_column_a_level(fitted: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (S, L) and intercepts (L,) of a softmax; of two levels the first is the origin."""
    coefficient_LS, intercept_L = fitted.coef_, fitted.intercept_
    if len(coefficient_LS) == 1:
        coefficient_LS, intercept_L = np.pad(coefficient_LS, ((1, 0), (0, 0))), np.pad(intercept_L, (1, 0))
    return coefficient_LS.T, intercept_L


def _log_loss(logits_NL: np.ndarray, target_N: np.ndarray) -> float:
    from scipy.special import log_softmax

    return float(-log_softmax(logits_NL, axis=1)[np.arange(len(target_N)), target_N.astype(np.int64)].mean())
