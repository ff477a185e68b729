"""Parcellate: the mean series of every atlas region, reading each image once from front to back."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcm.array_tables import series_schema
from lcm.atlas import Atlas, load_atlas
from lcm.config import Parcellate
from lcm.fingerprint import Fingerprint, of_stage
from lcm.imaging.header import ImageError, read_header
from lcm.imaging.preprocessed import files_of, read_runs, record_of
from lcm.imaging.stored_volumes import read_mask, stored_volumes
from lcm.provenance import code_hash, file_hash
from lcm.tables import OK, SCANS, failed, read_arrow, read_tsv, write_arrow

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# T time, R regions, V voxels

log = logging.getLogger(__name__)
Grids = dict[bytes, NDArray[np.int32]]
"""The atlas's labels on the last image's grid, under that grid's name."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--scans", type=Path, required=True, help="the batch's table, from results/index/batches")
    parser.add_argument(
        "--runs", type=Path, required=True, help="results/preprocess/<dataset>; not read for fMRIPrep output"
    )
    parser.add_argument("--output", type=Path, required=True, help="Arrow table of series, one row a scan")


def main(options: argparse.Namespace) -> None:
    """Write one row a scan of the batch, whatever became of it; rows of the former table that still hold are kept."""
    import pyarrow as pa

    settings: Parcellate = options.settings
    atlas = load_atlas(settings.atlas)
    scans = read_tsv(options.scans, SCANS)
    fingerprint = _images(scans, options.runs) | of_stage("parcellate", settings.model_dump(), ["min_coverage"])
    schema = series_schema(atlas.names, atlas.name, fingerprint)
    scans = with_preprocessed(scans, options.runs)
    rows = _rows(scans.to_dict("records"), atlas, settings, _former(options.output, schema))
    batches = (pa.RecordBatch.from_pylist([row], schema=schema) for row in rows)
    write_arrow(pa.RecordBatchReader.from_batches(schema, batches), options.output)


def methods(settings: Parcellate) -> str:
    """One sentence for a paper's methods section."""
    return (
        f"Mean series of the {load_atlas(settings.atlas).num_regions} regions of the {Path(settings.atlas).name} atlas were "
        f"taken over the voxels inside the brain mask; regions covered by less than {settings.min_coverage:.0%} were set "
        "to missing."
    )


def _images(scans: pd.DataFrame, runs_folder: Path) -> Fingerprint:
    """Where the batch's images come from, and what `preprocess` did to them by a participant's table and its record."""
    images: Fingerprint = {"images": str(scans["input"].iloc[0])}
    person = next((p for p in scans["participant_id"] if record_of(runs_folder, p).is_file()), None)
    if images["images"] == "derivatives" or person is None:
        return images
    settings = json.loads(record_of(runs_folder, person).read_text(encoding="utf-8"))["settings"]
    # `auto` is a wish; the table says which template it became.
    settings |= {"template": read_runs(runs_folder, person)["template"].iloc[0]}
    return images | of_stage("preprocess", settings, _shaping(images["images"], settings))


def _shaping(images: str, settings: dict[str, Any]) -> list[str]:
    """The settings of `preprocess` that had a say in such images."""
    if images != "bids":
        return ["template", "resolution_mm"]
    if settings["backend"] == "fmriprep":
        return ["backend", "template", "resolution_mm", "slice_timing"]
    return ["backend", "template", "resolution_mm", "slice_timing", "registration_mm", "normalization"]


def with_preprocessed(scans: pd.DataFrame, runs_folder: Path) -> pd.DataFrame:
    """The scans with BOLD, mask, confounds and outcome of `preprocess`; fMRIPrep's need none and stay as they are."""
    prepared = (scans["input"] != "derivatives") & (scans["outcome"] == OK)
    if not prepared.any():
        return scans
    tables = [read_runs(runs_folder, person) for person in scans.loc[prepared, "participant_id"].unique()]
    runs = {row["scan"]: row for table in tables for row in table.to_dict("records")}
    _refuse_two_spaces(runs_folder, {str(row["template"]) for row in runs.values() if row["outcome"] == OK})
    records = scans.to_dict("records")
    for record, asked in zip(records, prepared, strict=True):
        if asked:
            done = runs.get(record["scan"])
            if done is None:
                raise ValueError(f"{runs_folder}: no row for a run of the batch; re-run preprocess for its participant")
            record |= files_of(done, record) | {key: done[key] for key in ("tr_s", "num_volumes", "outcome")}
    return type(scans)(records, columns=scans.columns)


def _refuse_two_spaces(runs_folder: Path, templates: set[str]) -> None:
    """Stop where people of a batch are in different spaces: what `template: auto` means depends on the machine."""
    if len(templates) > 1:
        raise ValueError(
            f"{runs_folder}: people in the spaces {', '.join(sorted(templates))}; name one in preprocess.template instead of "
            "auto, see that TEMPLATEFLOW_HOME is the same on every node, and run preprocess again"
        )


def _rows(
    scans: list[dict[str, Any]], atlas: Atlas, settings: Parcellate, former: dict[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One row a scan, so that memory holds one series and not the batch's."""
    study = json.dumps(
        [code_hash("parcellate"), settings.model_dump(mode="json"), *(file_hash(Path(f)) for f in atlas.files)]
    )
    grids: Grids = {}
    num_reused = 0
    for scan in scans:
        inputs = _inputs(scan, study)
        num_reused += inputs in former
        row = {key: scan[key] for key in ("dataset", "participant_id", "scan", "outcome")} | {"inputs": inputs}
        if scan["outcome"] == OK:
            row |= {"tr_s": float(scan["tr_s"]), "confounds": scan["confounds"]}
            row |= former[inputs] if inputs in former else _measured(scan, atlas, settings, grids)
        yield row
    log.info("%d of %d scans reused", num_reused, len(scans))


def _inputs(scan: dict[str, Any], study: str) -> str | None:
    """Hash of all that shapes a scan's series; None where there is none to be had. Sizes and times stand for the files."""
    if scan["outcome"] != OK or not all(Path(scan[key]).is_file() for key in ("bold", "mask")):
        return None
    stats = [Path(scan[key]).stat() for key in ("bold", "mask")]
    text = json.dumps([study, scan["dataset"], scan["scan"], [(stat.st_size, stat.st_mtime_ns) for stat in stats]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _former(path: Path, schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What may be used again of an earlier table, by `inputs`: coverage and series, mapped and not read. Failures are not."""
    import pyarrow as pa

    try:
        table = read_arrow(path)
    except (OSError, pa.ArrowInvalid):
        return {}
    if not table.schema.equals(schema, check_metadata=True):
        return {}
    rows = zip(*(table[name] for name in ("inputs", "outcome", "num_volumes", "coverage", "series")), strict=True)
    return {
        inputs.as_py(): {
            "num_volumes": num_volumes.as_py(),
            "coverage": coverage.values.to_numpy(),
            "series": series.values.to_numpy(),
        }
        for inputs, outcome, num_volumes, coverage, series in rows
        if outcome.as_py() == OK and inputs.as_py()
    }


def _measured(scan: dict[str, Any], atlas: Atlas, settings: Parcellate, grids: Grids) -> dict[str, Any]:
    """What the scan's row gains from its images: length, coverage and series, or the reason why there are none."""
    try:
        series_TR, coverage_R = parcellate(Path(scan["bold"]), Path(scan["mask"]), atlas, settings, grids)
    except ImageError as error:
        log.warning("a scan of dataset %s failed: %s", scan["dataset"], error)
        return {"outcome": failed(str(error))}
    return {"num_volumes": len(series_TR), "coverage": coverage_R, "series": series_TR.ravel()}


def parcellate(
    bold: Path, mask: Path, atlas: Atlas, settings: Parcellate, grids: Grids
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Mean over each region's voxels inside the mask, and the share of the region that the mask covers.

    Args:
        bold: 4D image in the atlas's space.
        mask: 3D brain mask on the same grid.
        grids: kept here between the images of a batch, so that scans on one grid resample the atlas once.

    Returns:
        series T×R in the image's units, NaN for a region under `min_coverage` or without signal, and coverage R. Voxels
        outside the mask or outside every region have no say, whatever they hold.

    Raises:
        ImageError: the image is truncated, not finite in a region, or on another grid than the mask.
    """
    import nibabel as nib

    read_header(bold)
    image: Any = nib.load(bold)
    inside = read_mask(mask, image.shape[:3], image.affine)
    labels = _labels_on_grid(atlas, image, grids).ravel(order="F")
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


def _labels_on_grid(atlas: Atlas, image: Any, grids: Grids) -> NDArray[np.int32]:
    grid = np.asarray([*image.shape[:3], *image.affine.ravel()]).tobytes()
    if grid not in grids:
        # One at a time: in a batch where every scan has a grid of its own they would gather.
        grids.clear()
        grids[grid] = atlas.on_grid(image.shape[:3], image.affine)
    return grids[grid]


def _region_means(image: Any, labels: NDArray[np.int32], count_R: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means T×R over voxels with labels 1…R (flat, Fortran order), NaN for an empty region."""
    voxels = np.flatnonzero(labels)
    voxels = voxels[np.argsort(labels[voxels], kind="stable")]
    present = np.flatnonzero(count_R)
    if not len(present):
        raise ImageError("no atlas region inside the brain mask; is the image in MNI space?")
    starts = np.concatenate([[0], np.cumsum(count_R[present])[:-1]])
    means_TR = np.full((image.shape[3], len(count_R)), np.nan)
    stored, exact = np.empty(len(voxels), image.dataobj.dtype), np.empty(len(voxels))
    for time, volume_V in enumerate(stored_volumes(image)):
        # Unlike `raise`, the default, `clip` writes to `out` directly; a fancy index would allocate at every volume.
        np.take(volume_V, voxels, out=stored, mode="clip")
        np.copyto(exact, stored)
        means_TR[time, present] = np.add.reduceat(exact, starts) / count_R[present]
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    return means_TR * slope + intercept
