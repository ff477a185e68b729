"""Kinds of functional connectivity of a run's series, and the mean covariance that the tangent space is centred on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcm.tables import write_atomically

# T time, R regions, P regions present in a run, E edges of the upper triangle

_NILEARN_KINDS = {"partial correlation": "partial correlation", "covariance": "covariance"}


class TooShort(ValueError):
    """A run with too few volumes for this kind of connectivity; the text is the reason."""


def connectivity(
    series_TR: NDArray[np.floating],
    kind: str,
    reference_RR: NDArray[np.float64] | None = None,
    residual_dof: float | None = None,
) -> NDArray[np.float64]:
    """Connectivity E of every pair of columns, upper triangle without the diagonal; NaN where a column holds NaN.

    All kinds rest on the sample covariance, without shrinkage: nilearn's own default is Ledoit–Wolf. `correlation` is
    Pearson's. `tangent` is log(C₀^-½ C C₀^-½) around the reference C₀ (Varoquaux et al. 2010, MICCAI 13:200), which only it
    needs.

    Raises:
        TooShort: partial correlation and tangent invert the covariance, so they need more degrees of freedom than regions:
            volumes, or what filter and regressors left of them (`residual_dof`), if that is known.
    """
    present_R = ~np.isnan(series_TR).any(axis=0)
    present_TP = np.asarray(series_TR[:, present_R], dtype=np.float64)
    dof = len(present_TP) if residual_dof is None else min(residual_dof, len(present_TP))
    if kind in ("partial correlation", "tangent") and dof <= present_TP.shape[1]:
        raise TooShort(
            f"{kind} of {present_TP.shape[1]} regions needs more degrees of freedom than that, left: {dof:.0f}"
        )
    if kind == "correlation":
        found_PP = np.atleast_2d(np.corrcoef(present_TP, rowvar=False, dtype=np.float64))
    elif kind == "tangent":
        if reference_RR is None:
            raise ValueError("correlate.kind is tangent, and correlate.reference names no file")
        found_PP = _tangent(present_TP, reference_RR[np.ix_(present_R, present_R)])
    else:
        found_PP = _measure(_NILEARN_KINDS[kind]).fit_transform([present_TP])[0]
    num_regions = series_TR.shape[1]
    fc_RR = np.full((num_regions, num_regions), np.nan)
    fc_RR[np.ix_(present_R, present_R)] = found_PP
    return fc_RR[np.triu_indices(num_regions, k=1)]


def shrinkage(series_TR: NDArray[np.floating]) -> float | None:
    """Weight δ of the identity in Ledoit and Wolf's estimate (2004, J. Multivar. Anal. 88:365) of the correlation, 0 to 1.

    The correlation C of the sample is the covariance of the z-scored series, so the estimate is (1 − δ) C + δ I. A region
    that holds NaN is left out; None where no two regions are there, or one is constant.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    present_R = ~np.isnan(series_TR).any(axis=0)
    present_TP = np.asarray(series_TR[:, present_R], dtype=np.float64)
    spread_P = present_TP.std(axis=0, ddof=0)
    if present_TP.shape[1] < 2 or not (spread_P > 0).all():
        return None
    standard_TP = (present_TP - present_TP.mean(axis=0)) / spread_P
    return float(ledoit_wolf_shrinkage(standard_TP, assume_centered=True, block_size=1000))


def _measure(kind: str) -> Any:
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance

    return ConnectivityMeasure(
        cov_estimator=EmpiricalCovariance(assume_centered=False, store_precision=False),
        kind=kind,
        vectorize=False,
        discard_diagonal=False,
        standardize=False,
    )


def _tangent(present_TP: NDArray[np.float64], reference_PP: NDArray[np.float64]) -> NDArray[np.float64]:
    covariance_PP = np.cov(present_TP, rowvar=False, bias=True)
    values, vectors = np.linalg.eigh(reference_PP)
    whitening_PP = vectors @ np.diag(values**-0.5) @ vectors.T
    values, vectors = np.linalg.eigh(whitening_PP @ covariance_PP @ whitening_PP)
    return vectors @ np.diag(np.log(values)) @ vectors.T


def tangent_reference(series: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Geometric mean R×R of the covariances of some runs (T×R each), by nilearn.

    It is fitted: the runs must be those of training people. Raises ValueError for a run with an uncovered region or with too
    few volumes, which has no covariance of full rank.
    """
    for number, series_TR in enumerate(series):
        if np.isnan(series_TR).any() or len(series_TR) <= series_TR.shape[1]:
            raise ValueError(f"run {number} of {len(series)} has an uncovered region or fewer volumes than regions")
    if not series:
        raise ValueError("no run to take a reference from")
    return _measure("tangent").fit(list(series)).mean_


def write_reference(reference_RR: NDArray[np.float64], regions: Sequence[str], path: Path) -> None:
    """A TSV with the region names as header, R rows of R numbers."""
    with write_atomically(path) as temporary:
        np.savetxt(temporary, reference_RR, delimiter="\t", header="\t".join(regions), comments="", fmt="%.17g")


def read_reference(path: Path, regions: Sequence[str]) -> NDArray[np.float64]:
    """The reference R×R; raises ValueError when its regions are not the study's in their order, or it is not positive."""
    if not path.is_file():
        raise ValueError(f"correlate.reference: no such file: {path}")
    with path.open(encoding="utf-8") as stream:
        names = stream.readline().rstrip("\n").split("\t")
        values_RR = np.loadtxt(stream, delimiter="\t", ndmin=2)
    if names != list(regions):
        raise ValueError(f"{path}: its header is not the {len(regions)} regions of the study in their order")
    if values_RR.shape != (len(regions), len(regions)) or np.linalg.eigvalsh(values_RR)[0] <= 0:
        raise ValueError(f"{path}: needs {len(regions)} rows of as many numbers, a positive definite matrix")
    return values_RR
