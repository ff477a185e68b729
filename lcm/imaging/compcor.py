"""CompCor: the principal components of noise voxels and the slow cosines taken out before, under fMRIPrep's names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# T steady volume, P voxel, C cosine, K component.

CUTOFF_S = 128.0
VARIANCE_KEPT = 0.5
"""fMRIPrep's: the fewest components that explain half of the variance."""

MIN_KEPT = 5
"""Ours: fMRIPrep has no minimum, and strategies in use ask for the first five of each tissue (Muschelli et al. 2014)."""

TEMPORAL_SHARE = 0.02
"""fMRIPrep's share of voxels, those of the largest temporal deviation, that tCompCor takes."""

_DECIMALS = 8
"""Of what is written: linear algebra on two threads differs in the last bits, and tables must not."""

_CHUNK_VOXELS = 4_000


def cosine_basis(num_volumes: int, tr_s: float) -> NDArray[np.float64]:
    """T×C: the cosines (DCT-II, unit length) slower than CUTOFF_S, without the constant; C is 0 for a short run.

    nipype's, and so fMRIPrep's, rule: C = floor(2 T tr_s / CUTOFF_S) − 1.
    """
    from nipype.algorithms.confounds import cosine_filter

    basis = cosine_filter(np.zeros((1, num_volumes)), tr_s, CUTOFF_S)[1]
    return basis.reshape(num_volumes, -1)


def _chunks(values_PT: NDArray, basis_TC: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """The values in float64, some voxels at a time, without their mean and without `basis_TC`."""
    design = np.column_stack([np.ones(values_PT.shape[1]), basis_TC])
    orthonormal = np.linalg.qr(design)[0]
    for start in range(0, values_PT.shape[0], _CHUNK_VOXELS):
        values = values_PT[start : start + _CHUNK_VOXELS].astype(np.float64)
        size = np.abs(values).max(axis=1, keepdims=True)
        values -= (values @ orthonormal) @ orthonormal.T
        # What rounding leaves of a voxel without any other variance must not be scaled up to look like a signal.
        yield np.where(values.std(axis=1, keepdims=True) > 1e-9 * size, values, 0)


def covariance(values_PT: NDArray, basis_TC: NDArray[np.float64]) -> NDArray[np.float64]:
    """T×T: M Mᵀ of Behzadi et al. 2007 (NeuroImage 37:90), M the T×P filtered voxels over their standard deviations.

    nipype's `compute_noise_components` decomposes M itself, in float64 and several copies of it: gigabytes for the white
    matter of a long run. M Mᵀ needs T×T numbers, has the same left singular vectors and adds up over disjoint masks.
    """
    total = np.zeros((values_PT.shape[1],) * 2)
    for values in _chunks(values_PT, basis_TC):
        deviation = values.std(axis=1, keepdims=True)
        values /= np.where(deviation > 0, deviation, 1)
        total += values.T @ values
    return total


def components(covariance_TT: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[dict[str, object]]]:
    """T×K left singular vectors of M, the strongest first, and each one's metadata under fMRIPrep's keys.

    K explains VARIANCE_KEPT of the variance and is at least MIN_KEPT where there are that many. The largest entry of a
    component is positive, so that repeats agree.
    """
    squares, vectors = np.linalg.eigh(covariance_TT)
    squares, vectors = np.maximum(squares[::-1], 0), vectors[:, ::-1]
    if squares[0] == 0:
        return np.zeros((len(squares), 0)), []
    share = squares / squares.sum()
    explained = np.cumsum(share)
    kept = max(int(np.searchsorted(explained, VARIANCE_KEPT)) + 1, MIN_KEPT)
    kept = min(kept, int(np.count_nonzero(squares > 1e-10 * squares[0])))
    found = vectors[:, :kept]
    found = np.round(found * np.sign(found[np.abs(found).argmax(axis=0), np.arange(kept)]), _DECIMALS)
    about: list[dict[str, object]] = [
        {
            "Retained": True,
            "SingularValue": round(float(np.sqrt(squares[k])), _DECIMALS),
            "VarianceExplained": round(float(share[k]), _DECIMALS),
            "CumulativeVarianceExplained": round(float(explained[k]), _DECIMALS),
        }
        for k in range(kept)
    ]
    return found, about


def most_variable(values_PT: NDArray) -> NDArray[np.bool_]:
    """P: the voxels of the largest standard deviation over time, after a quadratic trend (nipype's TCompCor)."""
    from numpy.polynomial import legendre

    if not values_PT.size:
        return np.zeros(len(values_PT), dtype=bool)
    trend = legendre.legvander(np.linspace(-1, 1, values_PT.shape[1]), 2)[:, 1:].astype(np.float64)
    deviation = np.concatenate([values.std(axis=1) for values in _chunks(values_PT, trend)])
    return deviation >= np.percentile(deviation, 100 * (1 - TEMPORAL_SHARE))


def compcor(
    values_PT: NDArray, masks: dict[str, NDArray[np.bool_]], tr_s: float, num_non_steady: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, dict[str, object]]]:
    """Columns `cosineXX`, `a_`, `c_`, `w_` and `t_comp_cor_XX` of all volumes, and the metadata of each component.

    `masks` (each P, disjoint but for `inner`): `csf` and `white_matter`, and `inner`, the eroded brain, for tCompCor. The
    first `num_non_steady` volumes take no part and are zero.
    """
    steady_PT = values_PT[:, num_non_steady:]
    basis_TC = cosine_basis(steady_PT.shape[1], tr_s)
    tissues = {name: covariance(steady_PT[masks[name]], basis_TC) for name in ("csf", "white_matter")}
    inner_PT = steady_PT[masks["inner"]]
    sources: dict[str, tuple[NDArray[np.float64], dict[str, object]]] = {
        "a": (tissues["csf"] + tissues["white_matter"], {"Method": "aCompCor", "Mask": "combined"}),
        "c": (tissues["csf"], {"Method": "aCompCor", "Mask": "CSF"}),
        "w": (tissues["white_matter"], {"Method": "aCompCor", "Mask": "WM"}),
        "t": (covariance(inner_PT[most_variable(inner_PT)], basis_TC), {"Method": "tCompCor"}),
    }
    columns = {f"cosine{number:02d}": column for number, column in enumerate(basis_TC.T)}
    metadata: dict[str, dict[str, object]] = {}
    for letter, (covariance_TT, origin) in sources.items():
        found_TK, about = components(covariance_TT)
        for number, column in enumerate(found_TK.T):
            columns[f"{letter}_comp_cor_{number:02d}"] = column
            metadata[f"{letter}_comp_cor_{number:02d}"] = origin | about[number]
    dummies = np.zeros(num_non_steady)
    return {name: np.concatenate([dummies, column]) for name, column in columns.items()}, metadata
