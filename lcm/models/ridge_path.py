"""Ridge regression at every penalty from one eigendecomposition: what estimators of squared error stand on."""

# Shapes: N scans, F features, O outputs, S of the smaller side, min(N, F).

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """A linear answer: features @ coefficient_FO + intercept_O, and the penalty behind it."""

    coefficient_FO: np.ndarray
    intercept_O: np.ndarray
    penalty: float

    def outputs(self, features_NF: np.ndarray) -> np.ndarray:
        """The answers, (N, O)."""
        return features_NF @ self.coefficient_FO + self.intercept_O


class RidgePath:
    """Minimisers of ‖Y − X W − b‖² + λ ‖W‖² for any λ > 0; the intercept b is not penalised.

    With centred X the solution is V (Λ + λ)⁻¹ Vᵀ Xᵀ Y, or, of fewer scans than features, Xᵀ U (Λ + λ)⁻¹ Uᵀ Y: the
    eigenvectors of the smaller Gram matrix serve every penalty (Hastie, Tibshirani & Friedman 2009, 3.4.1 and 18.3.5).
    """

    def __init__(self, features_NF: np.ndarray, outputs_NO: np.ndarray) -> None:
        self._features_F, self._outputs_O = features_NF.mean(axis=0), outputs_NO.mean(axis=0)
        self._centred_NF = features_NF - self._features_F
        centred_NO = outputs_NO - self._outputs_O
        self._dual = len(features_NF) < features_NF.shape[1]
        gram_SS = self._centred_NF @ self._centred_NF.T if self._dual else self._centred_NF.T @ self._centred_NF
        values_S, self._vectors_SS = np.linalg.eigh(gram_SS)
        self._values_S = np.maximum(values_S, 0.0)
        self._rotated_SO = self._vectors_SS.T @ (centred_NO if self._dual else self._centred_NF.T @ centred_NO)

    def at(self, penalty: float) -> Line:
        """The solution at one λ."""
        solved_SO = self._vectors_SS @ (self._rotated_SO / (self._values_S + penalty)[:, None])
        coefficient_FO = self._centred_NF.T @ solved_SO if self._dual else solved_SO
        return Line(coefficient_FO, self._outputs_O - self._features_F @ coefficient_FO, float(penalty))

    def best(self, penalties: np.ndarray, features_NF: np.ndarray, outputs_NO: np.ndarray) -> Line:
        """The solution whose λ has the lowest squared error on these scans."""
        lines = [self.at(penalty) for penalty in penalties]
        return min(lines, key=lambda line: float(np.mean((line.outputs(features_NF) - outputs_NO) ** 2)))
