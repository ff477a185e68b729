"""Correlate: Pearson correlation of every pair of regions, by the sample estimator, over the kept volumes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcm.atlas import load_atlas
from lcm.config import Correlate
from lcm.imaging.series import SeriesError, covered, read_series
from lcm.tables import (
    OK,
    SCANS,
    atlas_name,
    connectome_schema,
    excluded,
    failed,
    read_arrow,
    read_tsv,
    region_names,
    write_arrow,
)

# T time, R regions, E edges of the upper triangle

_COPIED = ("dataset", "participant_id", "scan", "outcome", "tr_s", "num_volumes", "num_kept", "mean_fd_mm", "coverage")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--scans", type=Path, required=True, help="the batch's table, from results/index/batches")
    parser.add_argument(
        "--series", type=Path, nargs="?", help="the batch's series from denoise; absent: denoised elsewhere"
    )
    parser.add_argument("--atlas", required=True, help="atlas of ready series, as in parcellate.atlas")
    parser.add_argument("--output", type=Path, required=True, help="Arrow table of connectomes, one row a scan")


def main(options: argparse.Namespace) -> None:
    """Write one row a scan of the batch, whatever became of it."""
    import pyarrow as pa

    if options.series:
        table = read_arrow(options.series)
        regions, atlas, rows = region_names(table), atlas_name(table), _denoised(table)
        strategy = table.schema.metadata[b"strategy"].decode()
    else:
        loaded = load_atlas(options.atlas)
        regions, atlas, rows = list(loaded.names), loaded.name, _ready(options.scans, options.atlas)
        strategy = "denoised elsewhere"
    done = [_row(row, len(regions), options.settings) for row in rows]
    write_arrow(pa.Table.from_pylist(done, schema=connectome_schema(regions, atlas, strategy)), options.output)


def methods(settings: Correlate) -> str:
    """One sentence for a paper's methods section."""
    return (
        "Functional connectivity is the Pearson correlation (sample estimator, no shrinkage, no Fisher z) of every pair of "
        f"regions over the kept volumes; runs with fewer than {settings.min_volumes} were excluded."
    )


def correlation(series_TR: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sample Pearson correlation E of every pair of columns, upper triangle; NaN where a column holds NaN."""
    present_R = ~np.isnan(series_TR).any(axis=0)
    num_regions = series_TR.shape[1]
    fc_RR = np.full((num_regions, num_regions), np.nan)
    fc_RR[np.ix_(present_R, present_R)] = np.atleast_2d(
        np.corrcoef(series_TR[:, present_R], rowvar=False, dtype=np.float64)
    )
    return fc_RR[np.triu_indices(num_regions, k=1)]


def _denoised(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1):
        yield batch.drop_columns(["series", "kept", "fd_mm"]).to_pylist()[0] | {
            "series": batch.column("series")[0].values,
            "kept": batch.column("kept")[0].values,
        }


def _ready(scans: Path, atlas: str) -> Iterator[dict[str, Any]]:
    """Rows like denoise's for series that another pipeline has denoised: every volume is kept."""
    loaded = load_atlas(atlas)
    for scan in read_tsv(scans, SCANS).to_dict("records"):
        row = {key: scan[key] for key in ("dataset", "participant_id", "scan", "outcome")}
        if scan["outcome"] == OK:
            try:
                series_TR = read_series(Path(scan["series"]), loaded)
                row |= {"tr_s": scan["tr_s"], "num_volumes": len(series_TR), "num_kept": len(series_TR)}
                row |= {
                    "coverage": covered(series_TR),
                    "series": series_TR,
                    "kept": np.ones(len(series_TR), dtype=bool),
                }
            except SeriesError as error:
                row["outcome"] = failed(str(error))
        yield row


def _row(row: dict[str, Any], num_regions: int, settings: Correlate) -> dict[str, Any]:
    copied = {key: row.get(key) for key in _COPIED}
    if row["outcome"] != OK:
        return copied
    if row["num_kept"] < settings.min_volumes:
        return copied | {"outcome": excluded(f"fewer than {settings.min_volumes} volumes kept")}
    series_TR = np.asarray(row["series"]).reshape(-1, num_regions)[np.asarray(row["kept"])]
    return copied | {"fc": correlation(series_TR).astype(np.float32)}
