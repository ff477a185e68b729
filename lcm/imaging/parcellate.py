"""Parcellate: the mean series of every atlas region, reading each image once from front to back."""

from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lcm.atlas import Atlas, load_atlas
from lcm.config import Parcellate
from lcm.imaging.header import ImageError, read_header
from lcm.tables import OK, RUNS, SCANS, failed, read_tsv, series_schema, write_arrow

if TYPE_CHECKING:
    import pandas as pd

# T time, R regions, V voxels that belong to a region, C volumes of a chunk

log = logging.getLogger(__name__)
_CHUNK_BYTES = 16 << 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--scans", type=Path, required=True, help="the batch's table, from results/index/batches")
    parser.add_argument("--runs", type=Path, required=True, help="results/preprocess/<dataset>, read for raw datasets")
    parser.add_argument("--output", type=Path, required=True, help="Arrow table of series, one row a scan")


def main(options: argparse.Namespace) -> None:
    """Write one row a scan of the batch, whatever became of it."""
    import pyarrow as pa

    settings: Parcellate = options.settings
    atlas = load_atlas(settings.atlas)
    scans = with_preprocessed(read_tsv(options.scans, SCANS), options.runs)
    grids: dict[bytes, NDArray[np.int32]] = {}
    rows = [_row(scan, atlas, settings, grids) for scan in scans.to_dict("records")]
    write_arrow(pa.Table.from_pylist(rows, schema=series_schema(atlas.names, atlas.name)), options.output)


def methods(settings: Parcellate) -> str:
    """One sentence for a paper's methods section."""
    return (
        f"Mean series of the {load_atlas(settings.atlas).num_regions} regions of the {Path(settings.atlas).name} atlas were "
        f"taken over the voxels inside the brain mask; regions covered by less than {settings.min_coverage:.0%} were set "
        "to missing."
    )


def with_preprocessed(scans: pd.DataFrame, runs_folder: Path) -> pd.DataFrame:
    """The scans with BOLD, mask, confounds and outcome of `preprocess` where they came in raw."""
    raw = (scans["input"] == "bids") & (scans["outcome"] == OK)
    if not raw.any():
        return scans
    tables = [
        read_tsv(runs_folder / f"{person}_runs.tsv", RUNS) for person in scans.loc[raw, "participant_id"].unique()
    ]
    runs = {row["scan"]: row for table in tables for row in table.to_dict("records")}
    records = scans.to_dict("records")
    for record in records:
        if record["input"] == "bids" and record["outcome"] == OK:
            done = runs.get(record["scan"])
            if done is None:
                raise ValueError(f"{runs_folder}: no row for a run of the batch; re-run preprocess for its participant")
            record |= {key: done[key] for key in ("bold", "mask", "confounds", "tr_s", "num_volumes", "outcome")}
    return type(scans)(records, columns=scans.columns)


def _row(
    scan: dict[Hashable, Any], atlas: Atlas, settings: Parcellate, grids: dict[bytes, NDArray[np.int32]]
) -> dict[str, Any]:
    row = {key: scan[key] for key in ("dataset", "participant_id", "scan", "outcome")}
    if scan["outcome"] != OK:
        return row
    try:
        series_TR, coverage_R = parcellate(Path(scan["bold"]), Path(scan["mask"]), atlas, settings, grids)
    except ImageError as error:
        log.warning("a scan of dataset %s failed: %s", scan["dataset"], error)
        return row | {"outcome": failed(str(error))}
    return row | {
        "tr_s": float(scan["tr_s"]),
        "num_volumes": len(series_TR),
        "confounds": scan["confounds"],
        "coverage": coverage_R,
        "series": series_TR.ravel(),
    }


def parcellate(
    bold: Path, mask: Path, atlas: Atlas, settings: Parcellate, grids: dict[bytes, NDArray[np.int32]]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Mean over each region's voxels inside the mask, and the share of the region that the mask covers.

    Args:
        bold: 4D image in the atlas's space.
        mask: 3D brain mask on the same grid.
        grids: atlas labels by grid, filled here, so that a batch resamples the atlas once a grid.

    Returns:
        series T×R in the image's units, NaN for a region under `min_coverage` or without signal, and coverage R.

    Raises:
        ImageError: the image is truncated, not finite, or on another grid than the mask.
    """
    import nibabel as nib

    read_header(bold)
    image: Any = nib.load(bold)
    inside = _mask_on_grid(mask, image)
    grid = np.asarray([*image.shape[:3], *image.affine.ravel()]).tobytes()
    if grid not in grids:
        grids[grid] = atlas.on_grid(image.shape[:3], image.affine)
    labels = grids[grid].ravel(order="F")
    size_R = np.bincount(labels, minlength=atlas.num_regions + 1)[1:]
    labels = np.where(inside.ravel(order="F"), labels, 0)
    count_R = np.bincount(labels, minlength=atlas.num_regions + 1)[1:]
    series_TR = _region_means(image, labels, count_R)
    if not np.isfinite(series_TR[:, count_R > 0]).all():
        raise ImageError("NaN or infinite voxels inside the brain mask")
    with np.errstate(invalid="ignore"):
        coverage_R = np.where(np.ptp(series_TR, axis=0) > 0, count_R / np.maximum(size_R, 1), 0)
    series_TR[:, coverage_R < max(settings.min_coverage, 1e-9)] = np.nan
    return series_TR, coverage_R.astype(np.float32)


def _mask_on_grid(mask: Path, image: Any) -> NDArray[np.bool_]:
    import nibabel as nib

    try:
        loaded: Any = nib.load(mask)
        inside = np.asarray(loaded.dataobj) > 0
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise ImageError(f"unreadable brain mask ({type(error).__name__})") from None
    if inside.shape != image.shape[:3] or not np.allclose(loaded.affine, image.affine, rtol=0, atol=1e-3):
        raise ImageError("brain mask and BOLD are on different grids")
    return inside


def _region_means(image: Any, labels: NDArray[np.int32], count_R: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means T×R over voxels with labels 1…R (flat, Fortran order), NaN for an empty region."""
    voxels_V = np.flatnonzero(labels)
    voxels_V = voxels_V[np.argsort(labels[voxels_V], kind="stable")]
    present = np.flatnonzero(count_R)
    if not len(present):
        raise ImageError("no atlas region inside the brain mask; is the image in MNI space?")
    starts = np.concatenate([[0], np.cumsum(count_R[present])[:-1]])
    means_TR = np.full((image.shape[3], len(count_R)), np.nan)
    at = 0
    for chunk_CV in _chunks(image):
        gathered = chunk_CV[:, voxels_V]
        sums = np.add.reduceat(gathered, starts, axis=1, dtype=np.float64)
        means_TR[at : at + len(sums), present] = sums / count_R[present]
        at += len(sums)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    return means_TR * slope + intercept


def _chunks(image: Any) -> Iterator[NDArray[Any]]:
    """The image's stored values, some volumes at a time: arrays C×(all voxels, Fortran order), scaling not applied."""
    proxy = image.dataobj
    path = Path(image.get_filename())
    num_voxels = int(np.prod(image.shape[:3]))
    num_volumes = max(1, _CHUNK_BYTES // (num_voxels * proxy.dtype.itemsize))
    with _open(path) as stream:
        stream.seek(proxy.offset)
        for start in range(0, image.shape[3], num_volumes):
            count = min(num_volumes, image.shape[3] - start)
            data = _read_exactly(stream, count * num_voxels * proxy.dtype.itemsize)
            yield np.frombuffer(data, dtype=proxy.dtype).reshape(count, num_voxels)


def _open(path: Path) -> BinaryIO:
    # isal inflates gzip two to three times as fast as zlib, and inflating is most of this stage's time.
    from isal import igzip

    return igzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_exactly(stream: BinaryIO, num_bytes: int) -> bytes:
    from isal import igzip_lib

    try:
        data = stream.read(num_bytes)
    except (EOFError, OSError, igzip_lib.IsalError) as error:  # type: ignore[misc]  # isal has no type for it
        raise ImageError(f"truncated or corrupt image ({type(error).__name__})") from None
    if len(data) < num_bytes:
        raise ImageError("truncated image: the file ends before its last voxel")
    return data
