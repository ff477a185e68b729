"""Support vector machines on the FC upper triangle, linear and with a Gaussian kernel.

Levels are told apart one against the rest; decision values become probabilities by Platt's sigmoid, fitted on validation
scans. A continuous target is regressed (ε-insensitive, ε a tenth of its deviation). Standardisation and machine are those
of training scans; the cost C, and the kernel's width, have the lowest log-loss, or squared error, on validation scans.
The kernels are divided by the number of edges, so that a scan has about 1 with itself whatever the atlas.
"""

# Shapes: N scans, M scans of the machine, S support vectors, E edges (upper triangle), L levels (1 for a continuous target).

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np

from lcm.models.labelled import Labelled, Scans, check_labelled
from lcm.models.platt import platt, probabilities
from lcm.models.standardisation import standardisation, standardised

COSTS = np.logspace(-2, 2, 5)
WIDTHS = (0.25, 1.0, 4.0)
"""γ of exp(−γ ‖x − y‖²) in units of one over the median squared distance of two training scans."""
EPSILON = 0.1


class _Machine(NamedTuple):
    """Dual weights and intercepts; the decision is K @ dual_ML + intercept_L."""

    dual_ML: np.ndarray
    intercept_L: np.ndarray


class _Choice(NamedTuple):
    """What validation scans decide, and the loss by which they did."""

    loss: float
    cost: float
    gamma: float
    sigmoid_2L: np.ndarray


@dataclass(frozen=True)
class Svm(ABC):
    """Arrays: mean_E, scale_E, intercept_L, cost (1,), gamma (1,), sigmoid_2L ((2, 1) for continuous), and the kernel's own."""

    state: dict[str, np.ndarray]
    widths: ClassVar[tuple[float, ...]] = (0.0,)

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, num_levels: int) -> Self:
        """Fit on training scans, choose C, width and sigmoid on validation scans; `num_levels` 0 means continuous."""
        check_labelled("a support vector machine", training, validation, num_levels)
        mean_E, scale_E = standardisation(training.scans.edges_NE)
        edges_ME = _single(training.scans, mean_E, scale_E)
        asked_NE = _single(validation.scans, mean_E, scale_E)
        choices = []
        for width in cls.widths:
            gamma = width / _median_distance(edges_ME) if width else 0.0
            kernel_MM, kernel_NM = cls._kernel(edges_ME, edges_ME, gamma), cls._kernel(asked_NE, edges_ME, gamma)
            for cost in COSTS:
                machine = _solve(kernel_MM, training.target_N, num_levels, cost)
                choices.append(_judged(machine, kernel_NM, validation.target_N, num_levels, cost, gamma))
        best = min(choices, key=lambda choice: choice.loss)
        return cls._fitted(training, num_levels, best)

    def refit(self, everyone: Labelled, num_levels: int) -> Self:
        """The same C, width and sigmoid; standardisation and machine by all these scans."""
        cost, gamma = float(self.state["cost"][0]), float(self.state["gamma"][0])
        return self._fitted(everyone, num_levels, _Choice(0.0, cost, gamma, self.state["sigmoid_2L"]))

    def predict(self, scans: Scans) -> np.ndarray:
        """Probabilities of the levels, (N, L), or one column of values for a continuous target."""
        decision_NL = self._decide(_single(scans, self.state["mean_E"], self.state["scale_E"]))
        sigmoid_2L = self.state["sigmoid_2L"]
        # A sigmoid of zeros is one, of levels that no decision value tells apart.
        return probabilities(decision_NL, sigmoid_2L) if sigmoid_2L.shape[1] > 1 else decision_NL

    @classmethod
    def _fitted(cls, training: Labelled, num_levels: int, choice: _Choice) -> Self:
        mean_E, scale_E = standardisation(training.scans.edges_NE)
        edges_ME = _single(training.scans, mean_E, scale_E)
        kernel_MM = cls._kernel(edges_ME, edges_ME, choice.gamma)
        machine = _solve(kernel_MM, training.target_N, num_levels, choice.cost)
        own = {
            "mean_E": mean_E,
            "scale_E": scale_E,
            "intercept_L": machine.intercept_L,
            "cost": np.array([choice.cost]),
            "gamma": np.array([choice.gamma]),
            "sigmoid_2L": choice.sigmoid_2L,
        }
        return cls(own | cls._stored(edges_ME, machine.dual_ML))

    @staticmethod
    @abstractmethod
    def _kernel(asked_NE: np.ndarray, edges_ME: np.ndarray, gamma: float) -> np.ndarray:
        """The kernel between scans, (N, M) float64."""

    @staticmethod
    @abstractmethod
    def _stored(edges_ME: np.ndarray, dual_ML: np.ndarray) -> dict[str, np.ndarray]:
        """What a decision needs of the machine's scans."""

    @abstractmethod
    def _decide(self, edges_NE: np.ndarray) -> np.ndarray:
        """Decision values of standard edges, (N, L)."""


class LinearSvm(Svm):
    """Arrays of Svm, and coefficient_EL."""

    @staticmethod
    def _kernel(asked_NE: np.ndarray, edges_ME: np.ndarray, gamma: float) -> np.ndarray:  # noqa: ARG004 - the other's
        return asked_NE.astype(np.float64) @ edges_ME.T.astype(np.float64) / edges_ME.shape[1]

    @staticmethod
    def _stored(edges_ME: np.ndarray, dual_ML: np.ndarray) -> dict[str, np.ndarray]:
        return {"coefficient_EL": edges_ME.T.astype(np.float64) @ dual_ML / edges_ME.shape[1]}

    def _decide(self, edges_NE: np.ndarray) -> np.ndarray:
        return edges_NE @ self.state["coefficient_EL"] + self.state["intercept_L"]


class RbfSvm(Svm):
    """Arrays of Svm, and the support vectors: support_SE (standard edges, float32) and dual_SL."""

    widths = WIDTHS

    @staticmethod
    def _kernel(asked_NE: np.ndarray, edges_ME: np.ndarray, gamma: float) -> np.ndarray:
        return np.exp(-gamma * _distances(asked_NE, edges_ME))

    @staticmethod
    def _stored(edges_ME: np.ndarray, dual_ML: np.ndarray) -> dict[str, np.ndarray]:
        support_M = dual_ML.any(axis=1)
        return {"support_SE": edges_ME[support_M], "dual_SL": dual_ML[support_M]}

    def _decide(self, edges_NE: np.ndarray) -> np.ndarray:
        kernel_NS = self._kernel(edges_NE, self.state["support_SE"], float(self.state["gamma"][0]))
        return kernel_NS @ self.state["dual_SL"] + self.state["intercept_L"]


def _single(scans: Scans, mean_E: np.ndarray, scale_E: np.ndarray) -> np.ndarray:
    """Standard edges as they are stored, float32: support vectors are a copy of the scans, and weigh most of a bundle."""
    return standardised(scans.edges_NE, mean_E, scale_E).astype(np.float32)


def _distances(asked_NE: np.ndarray, edges_ME: np.ndarray) -> np.ndarray:
    """Mean squared difference of the edges of two scans, (N, M) float64."""
    asked_NE, edges_ME = asked_NE.astype(np.float64), edges_ME.astype(np.float64)
    square_N, square_M = (asked_NE**2).sum(axis=1), (edges_ME**2).sum(axis=1)
    # Products of matrices are fifty times as fast as differences, and lose no more than 1e-12 of the squares.
    return np.maximum(square_N[:, None] + square_M - 2 * asked_NE @ edges_ME.T, 0.0) / edges_ME.shape[1]


def _median_distance(edges_ME: np.ndarray) -> float:
    distance_MM = _distances(edges_ME, edges_ME)
    if len(distance_MM) < 2:
        return 1.0
    return float(np.median(distance_MM[np.triu_indices(len(distance_MM), k=1)])) or 1.0


def _solve(kernel_MM: np.ndarray, target_M: np.ndarray, num_levels: int, cost: float) -> _Machine:
    """A machine for each level against the rest, or one for the value."""
    from sklearn.svm import SVC, SVR

    if not num_levels:
        mean, spread = float(target_M.mean()), float(target_M.std()) or 1.0
        value = SVR(kernel="precomputed", C=cost, epsilon=EPSILON, tol=1e-5, shrinking=True, max_iter=-1)
        value.fit(kernel_MM, (target_M - mean) / spread)
        dual_M, intercept = _dual(value, len(kernel_MM))
        return _Machine(spread * dual_M[:, None], np.array([spread * intercept + mean]))
    # Of two levels the first machine is the second one's negative.
    asked = range(num_levels) if num_levels > 2 else (1,)
    duals, intercepts = [], []
    for level in asked:
        machine = SVC(kernel="precomputed", C=cost, tol=1e-5, shrinking=True, class_weight=None, max_iter=-1)
        dual_M, intercept = _dual(machine.fit(kernel_MM, target_M.astype(np.int64) == level), len(kernel_MM))
        duals.append(dual_M)
        intercepts.append(intercept)
    if num_levels == 2:
        duals, intercepts = [-duals[0], *duals], [-intercepts[0], *intercepts]
    return _Machine(np.stack(duals, axis=1), np.array(intercepts))


def _dual(machine: object, num_scans: int) -> tuple[np.ndarray, float]:
    """Weights of all scans, zero where one is no support vector, and the intercept."""
    dual_M = np.zeros(num_scans)
    dual_M[machine.support_] = machine.dual_coef_[0]  # type: ignore[attr-defined]
    return dual_M, float(machine.intercept_[0])  # type: ignore[attr-defined]


def _judged(
    machine: _Machine, kernel_NM: np.ndarray, target_N: np.ndarray, num_levels: int, cost: float, gamma: float
) -> _Choice:
    decision_NL = kernel_NM @ machine.dual_ML + machine.intercept_L
    if not num_levels:
        loss = float(np.mean((decision_NL[:, 0] - target_N) ** 2))
        return _Choice(loss, float(cost), gamma, np.zeros((2, 1)))
    sigmoid_2L = platt(decision_NL, target_N)
    chosen_N = probabilities(decision_NL, sigmoid_2L)[np.arange(len(target_N)), target_N.astype(np.int64)]
    return _Choice(float(-np.log(chosen_N + 1e-12).mean()), float(cost), gamma, sigmoid_2L)
