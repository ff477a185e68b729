"""Ridge regression on the FC upper triangle: the linear row that a large model has to beat.

Levels are coded one-hot and regressed jointly. Everything is fitted on training scans: the mean edge that fills an
uncovered one, the standardisation and the coefficients. The penalty is the one with the lowest squared error on
validation scans, the sharpness that turns outputs into probabilities the one with their lowest log-loss.
"""

# Shapes: N scans, E edges (upper triangle), L levels (1 for a continuous target).

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lcm.models.labelled import Labelled, Scans, check_labelled
from lcm.models.ridge_path import Line, RidgePath
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
        check_labelled("ridge", training, validation, num_levels)
        mean_E, scale_E, path = _path(training, num_levels)
        validation_NE = standardised(validation.scans.edges_NE, mean_E, scale_E)
        line = path.best(PENALTIES, validation_NE, _coded(validation.target_N, num_levels))
        sharpness = _sharpness(line.outputs(validation_NE), validation.target_N) if num_levels else 0.0
        return cls(_state(mean_E, scale_E, line, sharpness))

    def refit(self, everyone: Labelled, num_levels: int) -> Ridge:
        """The same penalty and sharpness; standardisation and coefficients by all these scans."""
        mean_E, scale_E, path = _path(everyone, num_levels)
        return type(self)(_state(mean_E, scale_E, path.at(self.state["penalty"][0]), float(self.state["sharpness"][0])))

    def predict(self, scans: Scans) -> np.ndarray:
        """Scores (N, L): probabilities of the levels, or one column of values for a continuous target."""
        standard_NE = standardised(scans.edges_NE, self.state["mean_E"], self.state["scale_E"])
        output_NL = standard_NE @ self.state["coefficient_EL"] + self.state["intercept_L"]
        sharpness = float(self.state["sharpness"][0])
        return _softmax(sharpness * output_NL) if sharpness else output_NL


def _path(training: Labelled, num_levels: int) -> tuple[np.ndarray, np.ndarray, RidgePath]:
    mean_E, scale_E = standardisation(training.scans.edges_NE)
    standard_NE = standardised(training.scans.edges_NE, mean_E, scale_E)
    return mean_E, scale_E, RidgePath(standard_NE, _coded(training.target_N, num_levels))


def _state(mean_E: np.ndarray, scale_E: np.ndarray, line: Line, sharpness: float) -> dict[str, np.ndarray]:
    return {
        "mean_E": mean_E,
        "scale_E": scale_E,
        "coefficient_EL": line.coefficient_FO,
        "intercept_L": line.intercept_O,
        "penalty": np.array([line.penalty]),
        "sharpness": np.array([sharpness]),
    }


def _coded(target_N: np.ndarray, num_levels: int) -> np.ndarray:
    """One-hot levels (N, L), or the values as one column."""
    if num_levels == 0:
        return target_N.astype(np.float64)[:, None]
    return np.eye(num_levels)[target_N.astype(np.int64)]


def _sharpness(output_NL: np.ndarray, target_N: np.ndarray) -> float:
    """The inverse temperature of SHARPNESS with the lowest log-loss."""
    rows_N = np.arange(len(target_N))
    levels_N = target_N.astype(np.int64)
    losses = [-np.log(_softmax(s * output_NL)[rows_N, levels_N] + 1e-12).mean() for s in SHARPNESS]
    return float(SHARPNESS[int(np.argmin(losses))])


def _softmax(logits_NL: np.ndarray) -> np.ndarray:
    exponential_NL = np.exp(logits_NL - logits_NL.max(axis=1, keepdims=True))
    return exponential_NL / exponential_NL.sum(axis=1, keepdims=True)
