"""Logistic regression on the FC upper triangle, L2-penalised: the linear row that speaks in probabilities.

Everything is fitted on training scans: the mean edge that fills an uncovered one, the standardisation and the
coefficients. The penalty is the one with the lowest log-loss on validation scans.
"""

# Shapes: N scans, E edges (upper triangle), L levels.

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from lcm.models.labelled import Labelled, Scans, check_labelled
from lcm.models.softmax_path import Softmax, SoftmaxPath
from lcm.models.standardisation import standardisation, standardised

PENALTIES = np.logspace(6, 0, 13)
"""λ of λ/2 ‖w‖² + Σ log-loss. Below 1 the levels of as few scans as a study has are separated whatever λ is."""


@dataclass(frozen=True)
class Logistic:
    """Arrays: mean_E, scale_E, coefficient_EL, intercept_L, penalty (1,)."""

    state: dict[str, np.ndarray]

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, num_levels: int) -> Self:
        """Fit on training scans, choose the penalty on validation scans; ValueError for a continuous target."""
        check_levels("logistic", num_levels)
        check_labelled("logistic", training, validation, num_levels)
        mean_E, scale_E = standardisation(training.scans.edges_NE)
        path = SoftmaxPath(standardised(training.scans.edges_NE, mean_E, scale_E), training.target_N)
        asked_NE = standardised(validation.scans.edges_NE, mean_E, scale_E)
        return cls(state_of(mean_E, scale_E, path.best(PENALTIES, asked_NE, validation.target_N)))

    def refit(self, everyone: Labelled, _num_levels: int) -> Self:
        """The same penalty; standardisation and coefficients by all these scans."""
        mean_E, scale_E = standardisation(everyone.scans.edges_NE)
        path = SoftmaxPath(standardised(everyone.scans.edges_NE, mean_E, scale_E), everyone.target_N)
        return type(self)(state_of(mean_E, scale_E, path.at(self.state["penalty"][0])))

    def predict(self, scans: Scans) -> np.ndarray:
        """Probabilities of the levels, (N, L)."""
        from scipy.special import softmax

        standard_NE = standardised(scans.edges_NE, self.state["mean_E"], self.state["scale_E"])
        return softmax(standard_NE @ self.state["coefficient_EL"] + self.state["intercept_L"], axis=1)


def check_levels(name: str, num_levels: int) -> None:
    """Raise ValueError for a continuous target."""
    if num_levels == 0:
        raise ValueError(f"{name} tells levels apart and its target is continuous; use ridge for it")


def state_of(mean_E: np.ndarray, scale_E: np.ndarray, fitted: Softmax) -> dict[str, np.ndarray]:
    """The arrays of a softmax over standard edges."""
    return {
        "mean_E": mean_E,
        "scale_E": scale_E,
        "coefficient_EL": fitted.coefficient_FL,
        "intercept_L": fitted.intercept_L,
        "penalty": np.array([fitted.penalty]),
    }
