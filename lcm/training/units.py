"""Answers of several connectomes as one: a scan's windows, a person's scans."""

# Shapes: N connectomes, U units that they belong to, L layers.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_of_units(values_NX: NDArray, code_N: NDArray, num_units: int) -> NDArray[np.float64]:
    """Mean of the rows of each unit, (U, …); `code_N` is the place of a row's unit."""
    sums_UX = np.zeros((num_units, *values_NX.shape[1:]))
    np.add.at(sums_UX, code_N, values_NX)
    count_U = np.bincount(code_N, minlength=num_units)
    return sums_UX / count_U.reshape(-1, *[1] * (values_NX.ndim - 1))


def most_frequent(layer_N: NDArray, code_N: NDArray, num_units: int) -> NDArray[np.int64]:
    """The layer that most rows of each unit have, the lowest of several, (U,)."""
    counts_UL = np.zeros((num_units, int(layer_N.max()) + 1), dtype=np.int64)
    np.add.at(counts_UL, (code_N, layer_N), 1)
    return counts_UL.argmax(axis=1)
