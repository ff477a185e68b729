"""Ridge regression on the FC upper triangle: the linear row that a large model has to beat.

Levels are coded one-hot and regressed jointly. Everything is fitted on training scans: the mean edge that fills an
uncovered one, the standardisation and the coefficients. The penalty is the one with the lowest squared error on
validation scans, the sharpness that turns outputs into probabilities the one with their lowest log-loss.
"""

# Shapes: N scans, E edges (upper triangle), L levels (1 for a continuous target).

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lcm.models.labelled import Labelled
from lcm.models.standardisation import standardisation, standardised

PENALTIES = np.logspace(1, 7, 13)
"""Standardised edges give a Gram matrix with a diagonal near E (6,670 for AAL); the grid spans it both ways."""

SHARPNESS = np.logspace(-1, 2, 31)
"""Inverse temperatures; one-hot regression under strong shrinkage separates levels by 0.01 to 1."""


@dataclass(frozen=True)
class Ridge:
    """Arrays: mean_E, scale_E, coefficient_EL, intercept_L, penalty (1,), sharpness (1,), 0 for continuous."""

    state: dict[str, np.ndarray]

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, num_levels: int) -> Ridge:
        """Fit on training scans, choose penalty and sharpness on validation scans; `num_levels` 0 means continuous."""
        if len(training.target_N) == 0 or len(validation.target_N) == 0:
            raise ValueError(
                f"ridge needs labelled training and validation scans, got {len(training.target_N)} and "
                f"{len(validation.target_N)}: use fewer folds, or drop this task"
            )
        mean_E, scale_E = standardisation(training.edges_NE)
        edges_NE = standardised(training.edges_NE, mean_E, scale_E)
        coded_NL = _coded(training.target_N, num_levels)
        validation_NE = standardised(validation.edges_NE, mean_E, scale_E)
        fits = [_solve(edges_NE, coded_NL, penalty) for penalty in PENALTIES]
        outputs = [validation_NE @ coefficient_EL + intercept_L for coefficient_EL, intercept_L in fits]
        validation_NL = _coded(validation.target_N, num_levels)
        best = int(np.argmin([np.mean((output_NL - validation_NL) ** 2) for output_NL in outputs]))
        coefficient_EL, intercept_L = fits[best]
        sharpness = _sharpness(outputs[best], validation.target_N) if num_levels else 0.0
        return cls(
            {
                "mean_E": mean_E,
                "scale_E": scale_E,
                "coefficient_EL": coefficient_EL,
                "intercept_L": intercept_L,
                "penalty": np.array([PENALTIES[best]]),
                "sharpness": np.array([sharpness]),
            }
        )

    def predict(self, edges_NE: np.ndarray) -> np.ndarray:
        """Scores (N, L): probabilities of the levels, or one column of values for a continuous target."""
        standard_NE = standardised(edges_NE, self.state["mean_E"], self.state["scale_E"])
        output_NL = standard_NE @ self.state["coefficient_EL"] + self.state["intercept_L"]
        sharpness = float(self.state["sharpness"][0])
        return _softmax(sharpness * output_NL) if sharpness else output_NL


def _coded(target_N: np.ndarray, num_levels: int) -> np.ndarray:
    """One-hot levels (N, L), or the values as one column."""
    if num_levels == 0:
        return target_N.astype(np.float64)[:, None]
    return np.eye(num_levels)[target_N.astype(np.int64)]


def _solve(edges_NE: np.ndarray, coded_NL: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (E, L) and intercepts (L,); with more edges than scans sklearn solves the N×N dual problem."""
    from sklearn.linear_model import Ridge as SklearnRidge

    fitted = SklearnRidge(alpha=float(penalty), fit_intercept=True, copy_X=True, solver="cholesky", positive=False)
    fitted.fit(edges_NE, coded_NL)
    coefficient_LE = np.atleast_2d(fitted.coef_)
    return np.ascontiguousarray(coefficient_LE.T), np.atleast_1d(fitted.intercept_)


def _sharpness(output_NL: np.ndarray, target_N: np.ndarray) -> float:
    """The inverse temperature of SHARPNESS with the lowest log-loss."""
    rows_N = np.arange(len(target_N))
    levels_N = target_N.astype(np.int64)
    losses = [-np.log(_softmax(s * output_NL)[rows_N, levels_N] + 1e-12).mean() for s in SHARPNESS]
    return float(SHARPNESS[int(np.argmin(losses))])


def _softmax(logits_NL: np.ndarray) -> np.ndarray:
    exponential_NL = np.exp(logits_NL - logits_NL.max(axis=1, keepdims=True))
    return exponential_NL / exponential_NL.sum(axis=1, keepdims=True)
