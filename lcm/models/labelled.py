"""Scans with a known answer: what an estimator is fitted on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Labelled(NamedTuple):
    """`edges_NE` (N, E) float32, NaN where a region is uncovered; `target_N` (N,) level index, or value."""

    edges_NE: np.ndarray
    target_N: np.ndarray
