"""Principal components of the FC upper triangle, then logistic regression: the row that first makes edges few.

Standardisation and components are those of training scans. Components have unit variance there, so that the penalty
weighs them alike; how many enter and the penalty are those with the lowest log-loss on validation scans. Both steps are
linear, and are stored as one: a coefficient an edge.
"""

# Shapes: N scans, E edges (upper triangle), K components, L levels.

from __future__ import annotations

import numpy as np

from lcm.models.labelled import Labelled, Lacking, check_labelled
from lcm.models.logistic import Logistic, check_levels, state_of
from lcm.models.softmax_path import Softmax, SoftmaxPath
from lcm.models.standardisation import standardisation, standardised

NUM_COMPONENTS = (10, 20, 50, 100, 200)
PENALTIES = np.logspace(4, -1, 11)
"""λ of λ/2 ‖w‖² + Σ log-loss over components of unit variance."""


class PcaLogistic(Logistic):
    """Arrays of Logistic, and components (1,), how many entered."""

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, num_levels: int) -> PcaLogistic:
        """Fit on training scans, choose components and penalty on validation scans.

        Raises ValueError for a continuous target, Lacking where all connectomes are the same.
        """
        check_levels("pca-logistic", num_levels)
        check_labelled("pca-logistic", training, validation, num_levels)
        mean_E, scale_E = standardisation(training.scans.edges_NE)
        standard_NE = standardised(training.scans.edges_NE, mean_E, scale_E)
        basis_EK = _whitened(standard_NE)
        features_NK = standard_NE @ basis_EK
        asked_NK = standardised(validation.scans.edges_NE, mean_E, scale_E) @ basis_EK
        chosen: dict[int, Softmax] = {}
        for count in sorted({min(count, basis_EK.shape[1]) for count in NUM_COMPONENTS}):
            path = SoftmaxPath(features_NK[:, :count], training.target_N)
            chosen[count] = path.best(PENALTIES, asked_NK[:, :count], validation.target_N)
        best = min(chosen, key=lambda count: chosen[count].log_loss(asked_NK[:, :count], validation.target_N))
        return cls(_state(mean_E, scale_E, basis_EK[:, :best], chosen[best]))

    def refit(self, everyone: Labelled, _num_levels: int) -> PcaLogistic:
        """The same number of components and penalty; all else by all these scans."""
        mean_E, scale_E = standardisation(everyone.scans.edges_NE)
        standard_NE = standardised(everyone.scans.edges_NE, mean_E, scale_E)
        basis_EK = _whitened(standard_NE)[:, : int(self.state["components"][0])]
        found = SoftmaxPath(standard_NE @ basis_EK, everyone.target_N).at(self.state["penalty"][0])
        return type(self)(_state(mean_E, scale_E, basis_EK, found))


def _whitened(standard_NE: np.ndarray) -> np.ndarray:
    """The basis (E, K) on which these scans are uncorrelated and of unit variance, largest variance first."""
    from sklearn.decomposition import PCA

    if not np.any(standard_NE):
        raise Lacking("no edge differs between training scans")
    most = min(max(NUM_COMPONENTS), len(standard_NE) - 1, standard_NE.shape[1])
    fitted = PCA(n_components=most, whiten=False, svd_solver="full", copy=True).fit(standard_NE)
    variance_K = fitted.explained_variance_
    # Scans on a smaller subspace leave components of rounding noise, which would be blown up to unit variance.
    real_K = variance_K > 1e-9 * variance_K[0]
    return fitted.components_[real_K].T / np.sqrt(variance_K[real_K])


def _state(mean_E: np.ndarray, scale_E: np.ndarray, basis_EK: np.ndarray, found: Softmax) -> dict[str, np.ndarray]:
    own = {"components": np.array([basis_EK.shape[1]])}
    return state_of(mean_E, scale_E, found._replace(coefficient_FL=basis_EK @ found.coefficient_FL)) | own
