"""Ingest: what other pipelines preprocessed (HCP, UK Biobank), made complete: MNI space, a brain mask, fMRIPrep's confounds."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcm.bids import derivative_path
from lcm.config import Preprocess
from lcm.imaging.fnirt import source_points
from lcm.imaging.layouts import FSL_SPACE
from lcm.imaging.machine_faults import refuse_machine_fault
from lcm.imaging.motion import framewise_displacement
from lcm.imaging.registration import Template, dice, load_template, resample_to_grid
from lcm.imaging.registration_figure import draw
from lcm.imaging.regressors import NUM_VOLUMES_JUDGED, count_non_steady, write_confounds
from lcm.imaging.resampling import resample_volumes, write_brain_mask
from lcm.imaging.run_image import RunImage, checked_volumes, open_run_writer
from lcm.imaging.stored_volumes import read_mask
from lcm.imaging.ukb import WARP
from lcm.tables import OK, RUNS, excluded, failed, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# T volume, 6 = trans x y z (mm), rot x y z (rad), P voxel of the grid.

log = logging.getLogger(__name__)

METHODS = (
    "Images were taken as the HCP pipelines or UK Biobank left them; those on the scanner's grid were resampled once, by cubic "
    "splines through the pipeline's own displacement field. Tissue signals, DVARS and CompCor were computed on them with masks "
    "of the template, framewise displacement from the pipeline's motion parameters."
)
"""What was done to the images, for a paper; HCP: Glasser et al. 2013, UK Biobank: Alfaro-Almagro et al. 2018."""

_NUM_HCP_COLUMNS = 12
_NUM_MCFLIRT_COLUMNS = 6


def ingest(scans: pd.DataFrame, settings: Preprocess, output: Path, *, threads: int = 1) -> pd.DataFrame:
    """The runs table of one participant's rows of the scans table; files go to the participant's folder below `output`.

    An image in MNI space stays where it is; one on the scanner's grid is brought to `settings.resolution_mm` by the pipeline's
    own field. A run that cannot be read gets its reason as outcome and the others go on.
    """
    import pandas as pd

    job = _Job(settings, output, load_template("nilearn", 1.0), threads)
    rows = []
    for record in scans.to_dict("records"):
        scan = {str(name): value for name, value in record.items()}
        keep = ("dataset", "participant_id", "scan", "tr_s", "num_volumes", "outcome")
        row = dict.fromkeys(RUNS.columns) | {name: scan[name] for name in keep} | {"template": FSL_SPACE}
        if row["outcome"] == OK:
            row |= _ingest_run(scan, job)
        if row["outcome"] != OK:
            log.warning("%s: %s", row["scan"], row["outcome"])
        rows.append(row)
    return pd.DataFrame(rows, columns=list(RUNS.columns))


@dataclasses.dataclass(frozen=True)
class _Job:
    """What the runs of a participant share; `fine` is an MNI152 brain at 1 mm, for masks, Dice and figures."""

    settings: Preprocess
    output: Path
    fine: Template
    threads: int


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A run in MNI space: its files, its grid, and its brain mask and mean over time on that grid (X×Y×Z)."""

    bold: Path
    mask: Path
    grid: Template
    brain: NDArray[np.bool_]
    mean: NDArray[np.float32]
    dice_template: float
    num_non_steady: int


def _ingest_run(scan: dict[str, Any], job: _Job) -> dict[str, Any]:
    """What the run's row gains: its files and QC numbers, or the reason why there are none."""
    if scan["num_volumes"] < job.settings.min_volumes:
        return {"outcome": excluded(f"{scan['num_volumes']} volumes, fewer than {job.settings.min_volumes}")}
    try:
        parameters_T6 = _MOTION[scan["input"]](Path(scan["confounds"]))
        if len(parameters_T6) != scan["num_volumes"]:
            raise ValueError(f"{len(parameters_T6)} rows of motion parameters for {scan['num_volumes']} volumes")
        return _complete(scan, parameters_T6, _place(scan, job), job)
    except ValueError as error:
        return {"outcome": failed(str(error))}
    except OSError as error:
        refuse_machine_fault(str(error))
        # Its text holds a path, and a path names a person.
        return {"outcome": failed(f"unreadable file ({type(error).__name__})")}


def _place(scan: dict[str, Any], job: _Job) -> _Placed:
    """The run in MNI space. An HCP run has four gigabytes of voxels: one in MNI space already is read a volume at a time."""
    import nibabel as nib

    image: Any = nib.load(scan["bold"])
    if image.dataobj.inter != 0:
        raise ValueError("the image is stored with an intercept (scl_inter): save it as float32")
    mask_out = derivative_path(job.output, scan["scan"], "mask.nii.gz", space=FSL_SPACE, desc="brain")
    if scan["space"] == FSL_SPACE:
        return _in_mni(scan, image, job.fine, mask_out)
    return _to_mni(scan, RunImage(Path(scan["bold"])), job, mask_out)


def _complete(scan: dict[str, Any], parameters_T6: NDArray[np.float64], placed: _Placed, job: _Job) -> dict[str, Any]:
    """Write confounds and figure of a placed run; what its row gains."""
    import nibabel as nib

    confounds_out = derivative_path(job.output, scan["scan"], "timeseries.tsv", desc="confounds")
    motion = (parameters_T6, placed.num_non_steady)
    image = nib.Nifti1Image.from_filename(placed.bold)
    write_confounds(image, placed.brain, motion, float(scan["tr_s"]), {}, confounds_out)
    figures = job.output / scan["participant_id"] / "figures"
    draw(placed.mean, placed.grid, job.fine, figures / f"{scan['scan']}_desc-registration.png")
    return {
        "bold": str(placed.bold),
        "mask": str(placed.mask),
        "confounds": str(confounds_out),
        "num_non_steady": placed.num_non_steady,
        "mean_fd_mm": float(np.nanmean(framewise_displacement(parameters_T6))),
        "dice_template": placed.dice_template,
    }


# ── motion parameters ───────────────────────────────────────────────────────────────────────────


def read_hcp_motion(path: Path) -> NDArray[np.float64]:
    """T×6 (mm, rad) of a Movement_Regressors.txt: translations (mm), rotations (degrees), their backward differences.

    Signs, axes and centre stay FSL's (HCPpipelines, global/scripts/mcflirt.sh). FD is blind to signs and to the order of axes;
    a centre d mm away changes it by no more than the rotation times d. The six span, to first order, the same space about any
    centre. Raises ValueError for another number of columns.
    """
    values = _read_columns(path, _NUM_HCP_COLUMNS, "6 parameters and 6 derivatives")
    return np.hstack([values[:, :3], np.deg2rad(values[:, 3:6])])


def read_mcflirt_motion(path: Path) -> NDArray[np.float64]:
    """T×6 (mm, rad) of mcflirt's .par: rotations (rad), then translations (mm). See `read_hcp_motion` on signs and centre."""
    values = _read_columns(path, _NUM_MCFLIRT_COLUMNS, "3 rotations and 3 translations")
    return np.hstack([values[:, 3:], values[:, :3]])


_MOTION: dict[str, Callable[[Path], NDArray[np.float64]]] = {"hcp": read_hcp_motion, "ukb": read_mcflirt_motion}


def _read_columns(path: Path, num_columns: int, meaning: str) -> NDArray[np.float64]:
    try:
        values = np.loadtxt(path, ndmin=2)
    except (UnicodeDecodeError, ValueError):
        raise ValueError(f"{path.name} is no table of numbers with {num_columns} columns") from None
    if values.shape[1] != num_columns:
        raise ValueError(f"{path.name} has {values.shape[1]} columns; {num_columns} are expected: {meaning}")
    if not np.isfinite(values).all():
        raise ValueError(f"{path.name} holds values that are not finite")
    return values


# ── images ──────────────────────────────────────────────────────────────────────────────────────


def _in_mni(scan: dict[str, Any], image: Any, fine: Template, mask_out: Path) -> _Placed:
    """An image in MNI space already: its mask holds the voxels of the pipeline's mask (else the template's) with a signal.

    A pipeline's mask is the anatomy's and knows nothing of dropout or of the field of view, which zeros in the image show.
    """
    import nibabel as nib
    from scipy.ndimage import binary_dilation

    shape, affine = image.shape[:3], np.asarray(image.affine, dtype=np.float64)
    expected = resample_to_grid(fine.mask, fine.affine, shape, affine) > 0.5
    given = read_mask(Path(scan["mask"]), shape, affine) if isinstance(scan["mask"], str) else binary_dilation(expected)
    lowest, highest, total = np.full(shape, np.inf), np.full(shape, -np.inf), np.zeros(shape)
    means = []
    for volume in checked_volumes(image):
        np.minimum(lowest, volume, out=lowest)
        np.maximum(highest, volume, out=highest)
        total += volume
        means.append(volume.mean(dtype=np.float64))
    brain = (highest > lowest) & given
    if not brain.any():
        raise ValueError("no voxel of the brain mask has a signal")
    mask = nib.Nifti1Image(brain.astype(np.uint8), affine)
    mask.header.set_sform(affine, code="mni")
    with write_atomically(mask_out) as temporary:
        nib.save(mask, temporary)
    grid = Template(FSL_SPACE, np.where(expected, 1, 0).astype(np.float32), expected, affine)
    mean, num_non_steady = (total / len(means)).astype(np.float32), count_non_steady(np.array(means))
    return _Placed(Path(scan["bold"]), mask_out, grid, brain, mean, dice(brain, expected), num_non_steady)


def _to_mni(scan: dict[str, Any], run: RunImage, job: _Job, mask_out: Path) -> _Placed:
    """Bring a run to MNI: one interpolation of every volume, which the pipeline has aligned to one another."""
    import nibabel as nib

    run.check_values()
    bold_out = derivative_path(job.output, scan["scan"], "bold.nii.gz", space=FSL_SPACE, desc="preproc")
    # The grid and the brain that bounds the mask; all MNI152 versions agree within the voxel that the mask may exceed it.
    grid = dataclasses.replace(load_template("nilearn", job.settings.resolution_mm), name=FSL_SPACE)
    index = np.indices(grid.mask.shape).reshape(3, -1)
    world_3P = grid.affine[:3, :3] @ index + grid.affine[:3, 3:]
    bold = Path(scan["bold"])
    points_3P = source_points(bold.parent / WARP, world_3P, nib.load(bold))
    own = read_mask(Path(scan["mask"]), run.shape, run.affine)
    brain, overlap = write_brain_mask(own, run.affine, points_3P, grid, mask_out)
    limit = 4.0 * max(float(np.percentile(np.abs(run.volume(0)[own]), 99)), 1e-6)
    identity_T44 = np.broadcast_to(np.eye(4), (run.num_volumes, 4, 4))
    shape, tr_s = (*brain.shape, run.num_volumes), float(scan["tr_s"])
    with (
        write_atomically(bold_out) as temporary,
        open_run_writer(temporary, shape, grid.affine, tr_s, limit) as writer,
    ):
        mean = resample_volumes(run, identity_T44, points_3P[:, brain.ravel()], brain, writer, job.threads)
    _write_sidecar(bold_out, bold, tr_s)
    num_non_steady = count_non_steady(run.first_means(NUM_VOLUMES_JUDGED))
    return _Placed(bold_out, mask_out, grid, brain, mean, overlap, num_non_steady)


def _write_sidecar(bold_out: Path, source: Path, tr_s: float) -> None:
    about = {"RepetitionTime": tr_s, "SkullStripped": True, "Sources": [f"bids:raw:{source.parent.name}/{source.name}"]}
    with write_atomically(Path(str(bold_out).removesuffix(".nii.gz") + ".json")) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
