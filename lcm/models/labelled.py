"""Scans as estimators see them, with a known answer or without one."""

# Shapes: N scans, E edges (upper triangle).

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

NUMBERS = ("age", "mean_fd_mm", "num_kept")
"""Covariates that are numbers, NaN where missing; the others are names, None where missing."""


class Lacking(ValueError):
    """These scans lack what an estimator is fitted on, so that it cannot answer; the text is the reason."""


class Scans(NamedTuple):
    """What an estimator may know of scans."""

    edges_NE: np.ndarray
    """FC of the upper triangle, float32; NaN where a region is uncovered."""
    shrinkage_N: np.ndarray
    """Ledoit-Wolf's weight of the identity in a scan's correlation matrix, 0 to 1; NaN where unknown."""
    covariates: Mapping[str, np.ndarray] = MappingProxyType({})
    """Of every scan: `site`, `sex` (names), `age` in years, `mean_fd_mm`, `num_kept` volumes."""

    @classmethod
    def of_edges(cls, edges_NE: np.ndarray) -> Scans:
        """Scans of which nothing but the edges is known."""
        return cls(edges_NE, np.full(len(edges_NE), np.nan))

    def without(self, names: tuple[str, ...]) -> Scans:
        """The same scans, those covariates left out."""
        return self._replace(covariates={name: cells for name, cells in self.covariates.items() if name not in names})


class Labelled(NamedTuple):
    """Scans with a known answer: `target_N` (N,) is the index of a level, or a value."""

    scans: Scans
    target_N: np.ndarray


def together(first: Labelled, second: Labelled) -> Labelled:
    """The scans of both, in that order; a covariate that one of them lacks is left out."""
    ours, theirs = first.scans, second.scans
    covariates = {
        name: np.concatenate([cells_N, theirs.covariates[name]])
        for name, cells_N in ours.covariates.items()
        if name in theirs.covariates
    }
    scans = Scans(
        np.concatenate([ours.edges_NE, theirs.edges_NE]),
        np.concatenate([ours.shrinkage_N, theirs.shrinkage_N]),
        covariates,
    )
    return Labelled(scans, np.concatenate([first.target_N, second.target_N]))


def check_labelled(name: str, training: Labelled, validation: Labelled, num_levels: int) -> None:
    """Raise ValueError where a level has no training scan, or nobody can choose; `num_levels` 0 means continuous."""
    absent = sorted(set(range(num_levels)) - set(training.target_N.astype(np.int64).tolist()))
    if absent or not len(training.target_N) or not len(validation.target_N):
        raise ValueError(
            f"{name} needs labelled training scans, of every level, and validation scans; there are "
            f"{len(training.target_N)} and {len(validation.target_N)}, training without levels {absent}: use fewer folds, "
            "or drop this task"
        )
