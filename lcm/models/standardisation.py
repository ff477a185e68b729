"""Edges on one scale, by training scans alone: what the linear models stand on, and networks that ask for it."""

# Shapes: N scans, E edges (upper triangle).

from __future__ import annotations

import numpy as np


def standardisation(edges_NE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every edge over scans that have it; (0, 1) for an edge no scan has."""
    edges_NE = np.asarray(edges_NE, dtype=np.float64)
    seen_NE = np.isfinite(edges_NE)
    count_E = np.maximum(seen_NE.sum(axis=0), 1)
    mean_E = np.where(seen_NE, edges_NE, 0.0).sum(axis=0) / count_E
    variance_E = np.where(seen_NE, (edges_NE - mean_E) ** 2, 0.0).sum(axis=0) / count_E
    scale_E = np.sqrt(variance_E)
    # An edge that is constant in training must not explode in validation or test.
    return mean_E, np.where(scale_E > 1e-6, scale_E, 1.0)


def standardised(edges_NE: np.ndarray, mean_E: np.ndarray, scale_E: np.ndarray) -> np.ndarray:
    """Standard edges; a missing one gets the training mean, 0 on this scale."""
    standard_NE = (np.asarray(edges_NE, dtype=np.float64) - mean_E) / scale_E
    return np.nan_to_num(standard_NE, nan=0.0, posinf=0.0, neginf=0.0)
