"""Preprocess: one participant's raw BOLD to MNI space with brain mask, confounds and figure, by a nipype graph."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.bids import derivative_path, description, metadata
from lcm.config import Preprocess
from lcm.imaging.registration import load_template, space_name
from lcm.imaging.run_image import RunImage
from lcm.imaging.workflow import Run, execute
from lcm.provenance import code_hash
from lcm.tables import OK, RUNS, SCANS, excluded, failed, read_tsv, write_atomically, write_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--scans", type=Path, required=True, help="scans.tsv of the index stage")
    parser.add_argument("--dataset", required=True, help="name of the dataset in config.yaml")
    parser.add_argument("--participant", required=True, help="participant_id, e.g. sub-01")
    parser.add_argument(
        "--output", type=Path, required=True, help="runs table, results/preprocess/<dataset>/sub-X_runs.tsv"
    )


def main(options: argparse.Namespace) -> None:
    """Preprocess the runs of one participant; the runs table is written last."""
    scans = read_tsv(options.scans, SCANS)
    mine = scans[(scans["dataset"] == options.dataset) & (scans["participant_id"] == options.participant)]
    if mine.empty:
        raise ValueError(f"{options.scans}: no scan of {options.participant} in dataset {options.dataset}")
    runs = preprocess(mine, options.settings, options.output.parent)
    write_tsv(runs, options.output, RUNS)


def methods(settings: Preprocess) -> str:
    """What was done to the images, for a paper."""
    deformable = "affine and symmetric diffeomorphic (SyN)" if settings.normalization == "SyN" else "affine"
    return (
        "Head motion was estimated by rigid least-squares realignment of every volume to a mean of realigned volumes. "
        "T1-weighted images were corrected for bias field (N4), stripped of the skull by the template's mask through an "
        "affine and a coarse deformable registration, and normalised to "
        f"{space_name(settings.template)} at {settings.registration_mm:g} mm by {deformable} registration (ANTs). "
        "Mean BOLD images were registered rigidly to the T1-weighted image by mutual information or, without one, to the "
        f"template by {deformable} registration. Every volume was resampled once, by cubic splines through all "
        f"transforms, to {settings.resolution_mm:g} mm. No slice-timing or susceptibility-distortion correction was made."
    )


def preprocess(scans: pd.DataFrame, settings: Preprocess, output: Path) -> pd.DataFrame:
    """The runs table of one participant's rows of the scans table; images, confounds and figures go below `output`.

    A run that cannot be processed gets its reason as outcome and the others go on. Rows that were not ok stay as they are.
    Raises ValueError when the template is missing.
    """
    import pandas as pd

    load_template(settings.template, settings.resolution_mm)
    _describe_dataset(output, scans["dataset"].iloc[0])
    records = [{str(name): value for name, value in scan.items()} for scan in scans.to_dict("records")]
    rows = [_row(scan, settings) for scan in records]
    waiting = {}
    for scan, row in zip(records, rows, strict=True):
        if row["outcome"] == OK:
            row["outcome"] = _verdict(scan, settings)
        if row["outcome"] == OK:
            waiting[row["scan"]] = _run(scan, settings, output)
    working = output.resolve() / f".nipype_{scans['participant_id'].iloc[0]}"
    quality = _execute(list(waiting.values()), settings, working) if waiting else {}
    for row in rows:
        if row["scan"] in waiting:
            run, found = waiting[row["scan"]], quality[row["scan"]]
            row |= found
            if found["outcome"] == OK:
                _write_sidecar(run)
                row |= {"bold": run.bold_out, "mask": run.mask_out, "confounds": run.confounds_out}
        if row["outcome"] != OK:
            log.warning("%s: %s", row["scan"], row["outcome"])
    frame = pd.DataFrame(rows, columns=list(RUNS.columns))
    for name in ("bold", "mask", "confounds"):
        frame[name] = frame[name].map(_relative, na_action="ignore")
    return frame


def _relative(path: str) -> str:
    """Relative to the working directory when below it, as the other tables write paths."""
    found = Path(path)
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)


def _describe_dataset(output: Path, dataset: str) -> None:
    # Every participant's job writes the same bytes and renames them into place, so a race has no loser.
    with write_atomically(output / "dataset_description.json") as temporary:
        text = description(f"{dataset}: preprocessed BOLD", code_hash("preprocess"))
        temporary.write_text(text, encoding="utf-8")


def _row(scan: dict[str, Any], settings: Preprocess) -> dict[str, Any]:
    keep = ("dataset", "participant_id", "scan", "tr_s", "num_volumes", "outcome")
    return (
        dict.fromkeys(RUNS.columns) | {name: scan[name] for name in keep} | {"template": space_name(settings.template)}
    )


def _verdict(scan: dict[str, Any], settings: Preprocess) -> str:
    """Whether a run can be processed, from a full read of its voxels."""
    if not scan["tr_s"] > 0:
        return failed("no repetition time")
    try:
        run = RunImage(Path(scan["bold"]))
        if run.num_volumes < settings.min_volumes:
            return excluded(f"{run.num_volumes} volumes, fewer than {settings.min_volumes}")
        run.check_values()
    except (ValueError, OSError) as error:
        return failed(str(error))
    return OK


def _run(scan: dict[str, Any], settings: Preprocess, output: Path) -> Run:
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
        bold_out=derived("bold.nii.gz", space=space, desc="preproc"),
        mask_out=derived("mask.nii.gz", space=space, desc="brain"),
        confounds_out=derived("timeseries.tsv", desc="confounds"),
        figure_out=str(root / "figures" / f"{scan['scan']}_desc-registration.png"),
    )


def _execute(runs: list[Run], settings: Preprocess, working: Path) -> dict[str, dict[str, Any]]:
    """Outcome and QC numbers of each run. The working folder is gone afterwards, nipype's crash files with it."""
    # It is named after the participant, so that what a killed job left is cleared here and never piles up.
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        results = execute(runs, settings.model_dump_json(), working)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    found = {}
    for run in runs:
        result = results[run.scan]
        outcome = OK if result.error is None else failed(result.error)
        found[run.scan] = {"outcome": outcome, "mean_fd_mm": result.mean_fd_mm, "dice_template": result.dice_template}
    return found


def _write_sidecar(run: Run) -> None:
    raw = metadata(Path(run.bold))
    content = {
        "RepetitionTime": run.tr_s,
        "TaskName": raw.get("TaskName"),
        "SkullStripped": True,
        "Sources": [f"bids:raw:{Path(run.bold).name}"],
    }
    path = Path(run.bold_out.removesuffix(".nii.gz") + ".json")
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
