"""Tangent space of covariances, then logistic regression: the strong linear row of the ABIDE literature.

A scan's covariance is Ledoit and Wolf's estimate for its z-scored series, (1 − δ) C + δ I with C its correlation matrix; δ
comes with the connectome. Where it is unknown it is the training scans' median, and 0.1 where nobody has one. With G the
geometric mean of the training scans' covariances, a scan is log(G^-½ Σ G^-½), whose lower triangle, the diagonal divided
by √2, keeps distances (Varoquaux et al. 2010, MICCAI 13:200; Dadi et al. 2019, NeuroImage 192:115). It is centred, and
scaled as a whole, by training scans; the penalty has the lowest log-loss on validation scans.
"""

# Shapes: N scans, E edges (upper triangle), R regions, T = R (R + 1) / 2 features, L levels.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lcm.models.labelled import Labelled, Scans, check_labelled
from lcm.models.logistic import PENALTIES, check_levels
from lcm.models.softmax_path import Softmax, SoftmaxPath
from lcm.models.standardisation import standardisation

SHRINKAGE = 0.1
"""Where no training scan knows its own: ABIDE's runs of some 200 volumes have 0.02 to 0.20."""

TOLERANCE = 3e-5
"""Of the gradient's norm over the number of elements, nilearn's criterion (its own is 1e-7). Over 230 people of ABIDE inner
products of features then differ by 0.2 % from those at 1e-7, for a third of the time."""

MAX_STEPS = 30

SMALLEST = 1e-6
"""Eigenvalue below which a covariance has none to speak of; reached where edges were filled in and nothing is shrunk."""


@dataclass(frozen=True)
class Tangent:
    """Arrays: mean_E, shrinkage (1,), whitening_RR, centre_T, scale (1,), coefficient_TL, intercept_L, penalty (1,)."""

    state: dict[str, np.ndarray]

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, num_levels: int) -> Tangent:
        """Fit on training scans, choose the penalty on validation scans; ValueError for a continuous target."""
        check_levels("tangent", num_levels)
        check_labelled("tangent", training, validation, num_levels)
        space, features_NT = _space(training.scans)
        path = SoftmaxPath(features_NT, training.target_N)
        asked_NT = _features(validation.scans, space)
        return cls(space | _linear(path.best(PENALTIES, asked_NT, validation.target_N)))

    def refit(self, everyone: Labelled, _num_levels: int) -> Tangent:
        """The same penalty; reference and coefficients by all these scans."""
        space, features_NT = _space(everyone.scans)
        return type(self)(space | _linear(SoftmaxPath(features_NT, everyone.target_N).at(self.state["penalty"][0])))

    def predict(self, scans: Scans) -> np.ndarray:
        """Probabilities of the levels, (N, L)."""
        from scipy.special import softmax

        return softmax(_features(scans, self.state) @ self.state["coefficient_TL"] + self.state["intercept_L"], axis=1)


def _space(training: Scans) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays that make features, and the training scans' own (N, T)."""
    mean_E, _ = standardisation(training.edges_NE)
    known_N = training.shrinkage_N[np.isfinite(training.shrinkage_N)]
    usual = float(np.median(known_N)) if len(known_N) else SHRINKAGE
    covariance_NRR = covariances(training, mean_E, usual)
    whitening_RR, logs_NRR = geometric_mean(covariance_NRR, TOLERANCE)
    tangent_NT = vectors(logs_NRR)
    centre_T = tangent_NT.mean(axis=0)
    # One scale for all: in the tangent space features are comparable as they are, and the grid of penalties stays Logistic's.
    scale = float(np.sqrt(np.mean((tangent_NT - centre_T) ** 2))) or 1.0
    arrays = {
        "mean_E": mean_E,
        "shrinkage": np.array([usual]),
        "whitening_RR": whitening_RR,
        "centre_T": centre_T,
        "scale": np.array([scale]),
    }
    return arrays, (tangent_NT - centre_T) / scale


def _features(scans: Scans, space: dict[str, np.ndarray]) -> np.ndarray:
    covariance_NRR = covariances(scans, space["mean_E"], float(space["shrinkage"][0]))
    tangent_NT = vectors(logarithms(covariance_NRR, space["whitening_RR"]))
    return (tangent_NT - space["centre_T"]) / space["scale"]


def covariances(scans: Scans, mean_E: np.ndarray, usual: float) -> np.ndarray:
    """Shrunken covariances (N, R, R), a missing edge `mean_E`, a missing shrinkage `usual`.

    Those of a correlation matrix have no eigenvalue below δ. Filled or corrected edges may make one that has; it is raised
    to δ.
    """
    num_regions = (1 + int(np.sqrt(1 + 8 * len(mean_E)))) // 2
    rows_E, columns_E = np.triu_indices(num_regions, k=1)
    shrinkage_N = np.where(np.isfinite(scans.shrinkage_N), scans.shrinkage_N, usual)
    edges_NE = np.where(np.isfinite(scans.edges_NE), scans.edges_NE, mean_E) * (1 - shrinkage_N[:, None])
    found_NRR = np.tile(np.eye(num_regions), (len(edges_NE), 1, 1))
    found_NRR[:, rows_E, columns_E] = edges_NE
    found_NRR[:, columns_E, rows_E] = edges_NE
    value_NR, vector_NRR = np.linalg.eigh(found_NRR)
    raised_NR = np.maximum(value_NR, np.maximum(shrinkage_N, SMALLEST)[:, None])
    return _assembled(raised_NR, vector_NRR)


def geometric_mean(covariance_NRR: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Inverse root (R, R) of the matrix with the least sum of squared distances ‖log(G^-½ Σ G^-½)‖² from all, and those logs.

    Gradient descent from the arithmetic mean with nilearn's steps (Fletcher & Joshi 2007).
    """
    mean_RR = covariance_NRR.mean(axis=0)
    before, step = np.inf, 1.0
    for _ in range(MAX_STEPS):
        whitening_RR = _power(mean_RR, -0.5)
        logs_NRR = logarithms(covariance_NRR, whitening_RR)
        gradient_RR = logs_NRR.mean(axis=0)
        norm = float(np.linalg.norm(gradient_RR))
        if norm / mean_RR.size < tolerance:
            break
        step = step / 2 if norm > before else step
        before = min(before, norm)
        root_RR = _power(mean_RR, 0.5)
        mean_RR = root_RR @ _map(np.exp, step * gradient_RR) @ root_RR
        mean_RR = (mean_RR + mean_RR.T) / 2
    return whitening_RR, logs_NRR


def logarithms(covariance_NRR: np.ndarray, whitening_RR: np.ndarray) -> np.ndarray:
    """log(G^-½ Σ G^-½) of every scan, (N, R, R)."""
    return _map(np.log, whitening_RR @ covariance_NRR @ whitening_RR)


def vectors(tangent_NRR: np.ndarray) -> np.ndarray:
    """Lower triangles (N, T), the diagonal divided by √2, so that norms of matrices are those of vectors but for √2."""
    rows_T, columns_T = np.tril_indices(tangent_NRR.shape[-1])
    return tangent_NRR[:, rows_T, columns_T] / np.where(rows_T == columns_T, np.sqrt(2.0), 1.0)


def _map(function: np.ufunc, matrix_RR: np.ndarray) -> np.ndarray:
    """A function of symmetric matrices (…, R, R), by their eigenvalues."""
    value_R, vector_RR = np.linalg.eigh(matrix_RR)
    return _assembled(function(value_R), vector_RR)


def _power(matrix_RR: np.ndarray, exponent: float) -> np.ndarray:
    value_R, vector_RR = np.linalg.eigh(matrix_RR)
    return _assembled(value_R**exponent, vector_RR)


def _assembled(value_R: np.ndarray, vector_RR: np.ndarray) -> np.ndarray:
    return (vector_RR * value_R[..., None, :]) @ np.swapaxes(vector_RR, -1, -2)


def _linear(found: Softmax) -> dict[str, np.ndarray]:
    return {
        "coefficient_TL": found.coefficient_FL,
        "intercept_L": found.intercept_L,
        "penalty": np.array([found.penalty]),
    }
