"""Denoise: interpolate censored volumes, detrend, filter, regress confounds out, drop what was censored."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcm.array_tables import atlas_name, denoised_schema, fingerprint_of, region_names
from lcm.atlas import load_atlas
from lcm.config import Denoise
from lcm.fingerprint import Fingerprint, of_stage
from lcm.imaging.series import SeriesError, covered, read_series
from lcm.imaging.strategy import Confounds, ConfoundsError, Strategy, read_strategy
from lcm.tables import OK, SCANS, excluded, failed, read_arrow, read_tsv, write_arrow

# T time, R regions, K confounds

log = logging.getLogger(__name__)


class Refused(ValueError):
    """A run that a rule of the study leaves out; the text is the reason."""


@dataclass(frozen=True)
class Denoised:
    """Residual series T×R (NaN rows where a volume was censored, NaN columns where a region is uncovered)."""

    series_TR: NDArray[np.float64]
    kept_T: NDArray[np.bool_]
    fd_mm_T: NDArray[np.float64] | None
    residual_dof: float
    """Degrees of freedom that filter, confounds and censoring leave."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--scans", type=Path, required=True, help="the batch's table, from results/index/batches")
    parser.add_argument(
        "--series", type=Path, nargs="?", help="the batch's series from parcellate; absent: ready series"
    )
    parser.add_argument("--atlas", required=True, help="atlas of ready series, as in parcellate.atlas")
    parser.add_argument("--strategy", type=Path, required=True, help="YAML file of the confound strategy")
    parser.add_argument("--output", type=Path, required=True, help="Arrow table of denoised series, one row a scan")


def main(options: argparse.Namespace) -> None:
    """Write one row a scan of the batch, whatever became of it."""
    import pyarrow as pa

    strategy = read_strategy(options.strategy)
    if options.series:
        table = read_arrow(options.series)
        regions, atlas, rows = region_names(table), atlas_name(table), _parcellated(table)
        before = fingerprint_of(table)
    else:
        loaded = load_atlas(options.atlas)
        regions, atlas, rows = list(loaded.names), loaded.name, _ready(options.scans, options.atlas)
        before = {"images": "series"}
    settings = strategy.applied_to(options.settings)
    options.methods = _methods(settings, strategy)
    schema = denoised_schema(regions, atlas, strategy.name, before | _fingerprint(settings, strategy))
    done = (pa.RecordBatch.from_pylist([_row(row, len(regions), strategy, settings)], schema=schema) for row in rows)
    write_arrow(pa.RecordBatchReader.from_batches(schema, done), options.output)


def _fingerprint(settings: Denoise, strategy: Strategy) -> Fingerprint:
    # Sorted: a regression does not see the order of its columns.
    own = {"columns": sorted(strategy.columns), "patterns": sorted(strategy.patterns)}
    shaping = [name for name in Denoise.model_fields if name != "min_minutes"]
    return of_stage("denoise", own | settings.model_dump(mode="json"), [*own, *shaping])


def _methods(settings: Denoise, strategy: Strategy) -> str:
    """Sentences for a paper's methods section; `settings` are those that the strategy leaves in force."""
    steps = ["detrended"] if settings.detrend else []
    filtering = bool(settings.low_hz or settings.high_hz)
    if filtering:
        low = f"{settings.low_hz:g}" if settings.low_hz else "0"
        band = f"{low}–{settings.high_hz:g} Hz" if settings.high_hz else f"above {low} Hz"
        steps.append(f"filtered ({band}, Butterworth order {settings.filter_order}, zero phase)")
    limits = [f"framewise displacement over {settings.fd_mm:g} mm"] if settings.fd_mm else []
    limits += [f"standardised DVARS over {settings.std_dvars:g}"] if settings.std_dvars else []
    dropped = "were interpolated before the filter and dropped after it" if filtering else "were dropped"
    censoring = f"volumes with {' or '.join(limits)} {dropped}"
    if limits and settings.min_segment_volumes > 1:
        censoring += f", as were segments shorter than {settings.min_segment_volumes} volumes"
    cleaned = (
        f"Region series were {' and '.join(steps)}, and so were the confounds" if steps else "Nothing was filtered"
    )
    return (
        f"Strategy {strategy.name}: {strategy.description.strip()} "
        f"{cleaned}; {censoring if limits else 'no volume was censored'}. "
        f"Runs with less than {settings.min_minutes:g} minutes left were excluded ({strategy.citation})."
    )


def _parcellated(table: Any) -> Iterator[dict[str, Any]]:
    for row in table.to_batches(max_chunksize=1):
        yield row.drop_columns(["series"]).to_pylist()[0] | {"series": row.column("series")[0].values}


def _ready(scans: Path, atlas: str) -> Iterator[dict[str, Any]]:
    """Rows like parcellate's for ready series files, which bring no confounds."""
    loaded = load_atlas(atlas)
    for scan in read_tsv(scans, SCANS).to_dict("records"):
        row = {key: scan[key] for key in ("dataset", "participant_id", "scan", "outcome")} | {"confounds": None}
        if scan["outcome"] == OK:
            try:
                series_TR = read_series(Path(scan["series"]), loaded)
                row |= {"tr_s": scan["tr_s"], "num_volumes": len(series_TR), "series": series_TR.ravel()}
                row["coverage"] = covered(series_TR)
            except SeriesError as error:
                row["outcome"] = failed(str(error))
        yield row


def _row(row: dict[str, Any], num_regions: int, strategy: Strategy, settings: Denoise) -> dict[str, Any]:
    kept = {
        key: row.get(key) for key in ("dataset", "participant_id", "scan", "outcome", "tr_s", "num_volumes", "coverage")
    }
    if row["outcome"] != OK:
        return kept
    series_TR = np.asarray(row["series"]).reshape(-1, num_regions)
    try:
        confounds = Confounds(Path(row["confounds"]), len(series_TR)) if row["confounds"] else None
        done = denoise(series_TR, row["tr_s"], confounds, strategy, settings)
    except Refused as reason:
        return kept | {"outcome": excluded(str(reason))}
    except ConfoundsError as error:
        log.warning("a scan of dataset %s failed: %s", row["dataset"], error)
        return kept | {"outcome": failed(str(error))}
    fd_mm_T = done.fd_mm_T
    return kept | {
        "num_kept": int(done.kept_T.sum()),
        "residual_dof": done.residual_dof,
        "mean_fd_mm": None if fd_mm_T is None else float(fd_mm_T.mean()),
        "fd_mm": fd_mm_T,
        "kept": done.kept_T,
        "series": done.series_TR.ravel(),
    }


def denoise(
    series_TR: NDArray[np.float64],
    tr_s: float | None,
    confounds: Confounds | None,
    strategy: Strategy,
    settings: Denoise,
) -> Denoised:
    """Residuals of a run's region series in the order of Lindquist et al. 2019 (doi:10.1002/hbm.24528).

    Dummy volumes go first. Censored volumes are interpolated (cubic spline, no extrapolation at the edges) in series and
    confounds, both are detrended and band-passed, betas are fitted on kept volumes, and what was censored is dropped.

    Raises:
        Refused: too little data is left, by time or by degrees of freedom.
        ConfoundsError: the confounds do not fit the run.
    """
    if tr_s is None or np.isnan(tr_s):
        raise Refused("no repetition time, so nothing can be filtered; set tr_s of the dataset")
    if confounds is None and strategy.needs_confounds:
        raise Refused(f"strategy {strategy.name} needs confounds and a ready series has none; declare it denoised")
    num_volumes = len(series_TR)
    fd_mm_T = confounds.fd_mm() if confounds and (settings.fd_mm or confounds.has_fd) else None
    design_TK = confounds.design(strategy) if confounds else np.empty((num_volumes, 0))
    kept_T = _kept(num_volumes, confounds, fd_mm_T, settings)
    if kept_T.sum() * tr_s / 60 < settings.min_minutes or not kept_T.any():
        raise Refused(f"less than {settings.min_minutes:g} minutes left after censoring")
    residual_dof = _residual_dof(kept_T, design_TK, tr_s, settings)
    if residual_dof < 1:
        raise Refused("no degree of freedom left after filter and confounds")
    present_R = ~np.isnan(series_TR).any(axis=0)
    if not present_R.any():
        raise Refused("no region is covered enough")
    residuals_TR = np.full(series_TR.shape, np.nan)
    # From the first kept volume to the last: a spline must not extrapolate over censored edges.
    span = slice(np.flatnonzero(kept_T)[0], np.flatnonzero(kept_T)[-1] + 1)
    cleaned = _clean(series_TR[span, present_R], design_TK[span], kept_T[span], tr_s, settings)
    residuals_TR[np.ix_(kept_T, present_R)] = cleaned
    return Denoised(residuals_TR, kept_T, fd_mm_T, residual_dof)


def _kept(
    num_volumes: int, confounds: Confounds | None, fd_mm_T: NDArray[np.float64] | None, settings: Denoise
) -> NDArray[np.bool_]:
    """Volumes that are no dummy, did not move, and stand in a segment that is long enough."""
    kept_T = np.arange(num_volumes) >= (confounds.num_dummies if confounds else 0)
    if fd_mm_T is not None and settings.fd_mm is not None:
        kept_T &= fd_mm_T <= settings.fd_mm
    if confounds is not None and settings.std_dvars is not None:
        kept_T &= confounds.std_dvars() <= settings.std_dvars
    edges = np.flatnonzero(np.diff(np.concatenate([[0], kept_T.astype(np.int8), [0]])))
    for start, end in edges.reshape(-1, 2):
        if end - start < settings.min_segment_volumes:
            kept_T[start:end] = False
    return kept_T


def _residual_dof(kept_T: NDArray[np.bool_], design_TK: NDArray[np.float64], tr_s: float, settings: Denoise) -> float:
    # A band-pass keeps this share of a white series' degrees of freedom.
    high_hz = min(settings.high_hz or np.inf, 0.5 / tr_s)
    share = max(0.0, min(1.0, 2 * tr_s * (high_hz - (settings.low_hz or 0))))
    # Fitted on kept volumes, so a regressor that lives in censored ones costs nothing. Scaled, as the fit scales them: a
    # squared signal is 10^15 times a squared rotation, and the rank of raw columns would overlook the small ones.
    centred_TK = design_TK[kept_T] - design_TK[kept_T].mean(axis=0)
    spread_K = np.linalg.norm(centred_TK, axis=0)
    # A high-pass has taken mean and line with it; without one they cost a degree each.
    num_lines = 0 if settings.low_hz else 1 + settings.detrend
    rank = np.linalg.matrix_rank(centred_TK / np.where(spread_K > 0, spread_K, 1))
    return float(kept_T.sum() * share - rank - num_lines)


def _without_line(values_TX: NDArray[np.float64], kept_T: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values minus the straight line that fits the kept volumes of each column best."""
    line_T2 = np.column_stack([np.ones(len(kept_T)), np.arange(len(kept_T))])
    return values_TX - line_T2 @ np.linalg.lstsq(line_T2[kept_T], values_TX[kept_T], rcond=None)[0]


def _clean(
    series_TR: NDArray[np.float64],
    design_TK: NDArray[np.float64],
    kept_T: NDArray[np.bool_],
    tr_s: float,
    settings: Denoise,
) -> NDArray[np.float64]:
    """`nilearn.signal.clean` with every parameter that shapes the result; rows are the kept volumes."""
    from nilearn.signal import clean

    filtering = bool(settings.low_hz or settings.high_hz)
    if settings.detrend and not filtering:
        # nilearn would drop the censored volumes first and then see a line broken at every gap.
        series_TR, design_TK = _without_line(series_TR, kept_T), _without_line(design_TK, kept_T)
    return clean(
        series_TR,
        runs=None,
        detrend=settings.detrend and filtering,
        standardize=None,
        sample_mask=np.flatnonzero(kept_T),
        confounds=design_TK if design_TK.shape[1] else None,
        standardize_confounds=True,
        filter="butterworth" if filtering else False,
        low_pass=settings.high_hz,
        high_pass=settings.low_hz or None,
        t_r=tr_s,
        ensure_finite=False,
        extrapolate=False,
        butterworth__order=settings.filter_order,
        butterworth__padtype="constant",
        butterworth__padlen=len(series_TR) - 1,
    )
