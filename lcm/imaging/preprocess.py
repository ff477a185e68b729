"""Preprocess: one participant's raw BOLD to MNI space with brain mask, confounds and figure, by a nipype graph."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.bids import derivative_path, metadata
from lcm.config import Preprocess
from lcm.imaging.header import read_header
from lcm.imaging.machine_faults import refuse_machine_fault
from lcm.imaging.preprocessed import runs_table, write_runs
from lcm.imaging.registration import load_template
from lcm.imaging.run_image import RunImage
from lcm.imaging.scratch import work_folder
from lcm.imaging.slice_timing import SliceTimes, read_slice_times
from lcm.imaging.stored_volumes import read_mask
from lcm.imaging.templates import resolve_template, space_name, template_origin
from lcm.imaging.workflow import Run, execute
from lcm.tables import OK, RUNS, SCANS, excluded, failed, read_tsv, write_atomically

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--scans", type=Path, required=True, help="scans.tsv of the index stage")
    parser.add_argument("--dataset", required=True, help="name of the dataset in config.yaml")
    parser.add_argument("--participant", required=True, help="participant_id, e.g. sub-01")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the participant's folder, results/preprocess/<dataset>/<participant>",
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder for work files, best on a disk of the node; default: TMPDIR"
    )
    parser.add_argument("--threads", type=int, default=1, help="processor cores it may use")
    parser.add_argument("--mem-mb", type=int, default=4000, help="memory it may use, for fMRIPrep's own limit")


def main(options: argparse.Namespace) -> None:
    """Preprocess the runs of one participant; the runs table is written last."""
    mine = read_tsv(options.scans, SCANS, {"dataset": options.dataset, "participant_id": options.participant})
    if mine.empty:
        raise ValueError(f"{options.scans}: no scan of {options.participant} in dataset {options.dataset}")
    _begin(options.output, options.participant)
    write_runs(_runs(mine, options), options.output)


def _begin(folder: Path, participant: str) -> None:
    """Make the folder; what an earlier run left in it must not look done.

    Raises ValueError for a folder with another name, or one that others share.
    """
    if folder.name != participant:
        raise ValueError(f"--output {folder}: the folder must have the participant's name, {participant}")
    if folder.is_symlink() or any(path.is_symlink() for path in folder.glob("*")):
        raise ValueError(f"--output {folder}: links into a cache that others share; remove it, then run again")
    folder.mkdir(parents=True, exist_ok=True)
    runs_table(folder.parent, participant).unlink(missing_ok=True)


def _runs(scans: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """The participant's runs table, by the road of its dataset's input and of the backend."""
    settings, dataset = options.settings, options.output.parent
    if scans["input"].iloc[0] in ("hcp", "ukb"):
        from lcm.imaging.ingest import METHODS as INGESTED
        from lcm.imaging.ingest import ingest

        options.methods = INGESTED
        return ingest(scans, settings, dataset, threads=options.threads)
    if settings.backend == "fmriprep":
        from lcm.imaging.fmriprep import run_fmriprep

        return run_fmriprep(
            scans, settings, options.output, options.scratch, threads=options.threads, mem_mb=options.mem_mb
        )
    return preprocess(scans, settings, dataset, options.scratch, threads=options.threads)


def methods(settings: Preprocess) -> str:
    """What was done to the images, for a paper."""
    if settings.backend == "fmriprep":
        from lcm.imaging import fmriprep

        return fmriprep.methods(settings)
    # The images are there by now, and so is the template that `auto` took: nothing is fetched for a sentence.
    local = settings.model_copy(update={"download_templates": False})
    template = resolve_template(local) if settings.template == "auto" else settings.template
    deformable = "affine and symmetric diffeomorphic (SyN)" if settings.normalization == "SyN" else "affine"
    return (
        "Head motion was estimated by rigid least-squares realignment of every raw volume to a mean of realigned volumes. "
        f"{_slice_timing_methods(settings)} "
        "T1-weighted images were corrected for bias field (N4), stripped of the skull by the template's mask through an "
        "affine and a coarse deformable registration, and normalised to "
        f"{template_origin(template)} at {settings.registration_mm:g} mm by {deformable} registration "
        "(ANTs). Mean BOLD images were registered rigidly to the T1-weighted image by mutual information or, without one, to "
        f"the template by {deformable} registration. Every volume was resampled once, by cubic splines through all "
        f"transforms, to {settings.resolution_mm:g} mm. No susceptibility-distortion correction was made."
    )


def _slice_timing_methods(settings: Preprocess) -> str:
    if not settings.slice_timing:
        return "Slice timing was not corrected."
    return (
        "Where a run's metadata hold slice times, every slice of the raw volumes was then interpolated in time, by cubic "
        "splines and without the volumes before the steady state, to the middle of the acquisition (the table of runs says "
        "for which); other runs were not corrected."
    )


def preprocess(
    scans: pd.DataFrame, settings: Preprocess, output: Path, scratch: Path | None = None, *, threads: int = 1
) -> pd.DataFrame:
    """The runs table of one participant's rows of the scans table; files go to the participant's folder below `output`.

    Work files go to `scratch` (TMPDIR where None) and are gone at the end. A run that cannot be processed gets its reason as
    outcome and the others go on. Rows that were not ok stay as they are.
    Raises ValueError when the template is missing. `threads` changes the time it takes and nothing else.
    """
    import pandas as pd

    settings = settings.model_copy(update={"template": resolve_template(settings)})
    load_template(settings.template, settings.resolution_mm)
    log.info("the template is %s", template_origin(settings.template))
    records = [{str(name): value for name, value in scan.items()} for scan in scans.to_dict("records")]
    rows = [_row(scan, settings) for scan in records]
    waiting = {}
    for scan, row in zip(records, rows, strict=True):
        if row["outcome"] == OK:
            found = _examine(scan, settings, output)
            if isinstance(found, Run):
                waiting[row["scan"]] = found
            else:
                row["outcome"] = found
    place = output / str(scans["participant_id"].iloc[0])
    with work_folder(scratch, "lcm-preprocess", place) as working:
        quality = _execute(list(waiting.values()), settings, working, threads) if waiting else {}
    for row in rows:
        if row["scan"] in waiting:
            run = waiting[row["scan"]]
            row |= quality[row["scan"]]
            if row["outcome"] == OK:
                _write_sidecar(run, row["slice_timing"], settings)
                row |= {"bold": run.bold_out, "mask": run.mask_out, "confounds": run.confounds_out}
        if row["outcome"] != OK:
            log.warning("%s: %s", row["scan"], row["outcome"])
    return pd.DataFrame(rows, columns=list(RUNS.columns))


def _row(scan: dict[str, Any], settings: Preprocess) -> dict[str, Any]:
    keep = ("dataset", "participant_id", "scan", "tr_s", "num_volumes", "outcome")
    return (
        dict.fromkeys(RUNS.columns) | {name: scan[name] for name in keep} | {"template": space_name(settings.template)}
    )


def _examine(scan: dict[str, Any], settings: Preprocess, output: Path) -> Run | str:
    """The run where it can be processed, judged by a full read of its voxels; its outcome where not."""
    if not scan["tr_s"] > 0:
        return failed("no repetition time")
    try:
        image = RunImage(Path(scan["bold"]))
        if image.num_volumes < settings.min_volumes:
            return excluded(f"{image.num_volumes} volumes, fewer than {settings.min_volumes}")
        image.check_values()
        raw = metadata(Path(scan["bold"]).absolute())
        timing = read_slice_times(raw, image.shape, float(scan["tr_s"]), wanted=settings.slice_timing)
    except (ValueError, OSError) as error:
        refuse_machine_fault(str(error))
        return failed(str(error))
    return _run(scan, settings, output, timing)


def _run(scan: dict[str, Any], settings: Preprocess, output: Path, timing: SliceTimes | str) -> Run:
    # Absolute and not resolved: an annexed file is a link, and the link has the BIDS name.
    root, space = output.absolute(), space_name(settings.template)

    def derived(suffix: str, **more: str) -> str:
        path = derivative_path(root, scan["scan"], suffix, **more)
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    return Run(
        scan=scan["scan"],
        bold=str(Path(scan["bold"]).absolute()),
        t1w=str(Path(scan["t1w"]).absolute()) if isinstance(scan["t1w"], str) else None,
        tr_s=float(scan["tr_s"]),
        slice_timing=timing,
        bold_out=derived("bold.nii.gz", space=space, desc="preproc"),
        mask_out=derived("mask.nii.gz", space=space, desc="brain"),
        confounds_out=derived("timeseries.tsv", desc="confounds"),
        figure_out=str(root / scan["participant_id"] / "figures" / f"{scan['scan']}_desc-registration.png"),
    )


def _execute(runs: list[Run], settings: Preprocess, working: Path, threads: int) -> dict[str, dict[str, Any]]:
    """Outcome and QC numbers of each run, whose files were read back."""
    results = execute(runs, settings.model_dump_json(), working, threads)
    found = {}
    for run in runs:
        numbers = dataclasses.asdict(results[run.scan])
        error = numbers.pop("error")
        if error is None:
            _check_written(run)
        found[run.scan] = numbers | {"outcome": OK if error is None else failed(error)}
    return found


def _check_written(run: Run) -> None:
    """Raises OSError where a run's files on disk are not what was computed: a fault of the disk and not of the run."""
    import nibabel as nib

    try:
        header = read_header(Path(run.bold_out))
        mask = read_mask(Path(run.mask_out), header.shape[:3], nib.Nifti1Image.from_filename(run.bold_out).affine)
        num_rows = len(Path(run.confounds_out).read_text(encoding="utf-8").splitlines()) - 1
        if not mask.any() or num_rows != header.num_volumes or not Path(run.figure_out).is_file():
            raise ValueError(
                f"{num_rows} rows of confounds for {header.num_volumes} volumes, or an empty mask, or no figure"
            )
    except ValueError as error:
        raise OSError(
            f"{run.bold_out}: what was written reads back wrong ({error}); check the disk and run again"
        ) from None


def _write_sidecar(run: Run, slice_timing: str, settings: Preprocess) -> None:
    raw = metadata(Path(run.bold))
    content: dict[str, object] = {
        "RepetitionTime": run.tr_s,
        "TaskName": raw.get("TaskName"),
        "SkullStripped": True,
        "SpatialReference": template_origin(settings.template),
        "SliceTimingCorrected": slice_timing.startswith("corrected"),
        "Sources": [f"bids:raw:{Path(run.bold).name}"],
    }
    if isinstance(run.slice_timing, SliceTimes) and content["SliceTimingCorrected"]:
        content["StartTime"] = run.slice_timing.reference_s
    path = Path(run.bold_out.removesuffix(".nii.gz") + ".json")
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
