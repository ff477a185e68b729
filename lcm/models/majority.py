"""The row every benchmark needs: answers with the level shares of the training scans, whatever the connectome."""

# Shapes: N scans, L levels (1 for a continuous target).

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lcm.models.labelled import Labelled, Scans


@dataclass(frozen=True)
class Majority:
    """Level shares (L,) of the training scans, or their mean where the target is continuous."""

    state: dict[str, np.ndarray]

    @classmethod
    def fit(cls, training: Labelled, _validation: Labelled, num_levels: int) -> Majority:
        """Count levels; `num_levels` 0 means continuous. Validation scans are not used."""
        if len(training.target_N) == 0:
            raise ValueError("majority: no training scan has a label")
        if num_levels == 0:
            return cls({"answer": np.array([training.target_N.mean()], dtype=np.float64)})
        counts_L = np.bincount(training.target_N.astype(np.int64), minlength=num_levels)
        return cls({"answer": counts_L / counts_L.sum()})

    def refit(self, everyone: Labelled, num_levels: int) -> Majority:
        """Count everyone's levels."""
        return self.fit(everyone, everyone, num_levels)

    def predict(self, scans: Scans) -> np.ndarray:
        """Scores (N, L): the same row for every scan."""
        return np.repeat(self.state["answer"][None, :], len(scans.edges_NE), axis=0)
