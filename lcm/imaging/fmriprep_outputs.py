"""What fMRIPrep left of a run: found by name, checked against the raw run, and read for the runs table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lcm.bids import entities, scan_name
from lcm.imaging.header import ImageError, read_header
from lcm.imaging.stored_volumes import read_mask
from lcm.tables import OK, failed

Record = dict[str, Any]


def verified(scan: Record, folder: Path, space: str, resolution: str) -> Record:
    """Columns of the runs table from a run's outputs, or the outcome that says what is wrong with them."""
    try:
        bold = _find_bold(scan["scan"], folder, space, resolution)
        header = read_header(bold)
        if header.num_volumes != scan["num_volumes"]:
            raise ImageError(f"preprocessed BOLD has {header.num_volumes} volumes, the raw run {scan['num_volumes']}")
        mask = bold.with_name(bold.name.replace("desc-preproc_bold", "desc-brain_mask"))
        _check_mask(mask, bold)
        confounds, columns = _check_confounds(bold, header.num_volumes)
        sidecar = _read_sidecar(bold)
    except ImageError as error:
        return {"outcome": failed(str(error))}
    columns["outcome"] = OK
    paths = {"bold": bold, "mask": mask, "confounds": confounds}
    return columns | sidecar | {name: str(path) for name, path in paths.items()}


def _find_bold(scan: str, folder: Path, space: str, resolution: str) -> Path:
    """The preprocessed BOLD of a run in one space and resolution (`res-2` and `res-02` are one)."""
    wanted = {"suffix": "bold", "desc": "preproc", "space": space}
    # fMRIPrep uses the magnitude image of a run and, by version, leaves `part` out of the derivative's name.
    names = (scan, scan.replace("_part-mag", ""))
    for path in sorted(folder.rglob("*_bold.nii*")):
        e = entities(path)
        at = f"res-{e.get('res', '').lstrip('0')}"
        if scan_name(e) in names and at == resolution and wanted.items() <= e.items():
            return path
    raise ImageError(f"no preprocessed BOLD in {space} at {resolution}")


def _check_mask(path: Path, bold: Path) -> None:
    import nibabel as nib

    if not path.is_file():
        raise ImageError("no brain mask beside the preprocessed BOLD")
    image = nib.Nifti1Image.from_filename(bold)
    if not read_mask(path, image.shape[:3], image.affine).any():
        raise ImageError("the brain mask is empty")


def _check_confounds(bold: Path, num_volumes: int) -> tuple[Path, Record]:
    """The confounds table (`regressors` before fMRIPrep 20.2) and what it says about the run."""
    import pandas as pd

    stem = f"{scan_name(entities(bold))}_desc-confounds"
    names = [bold.with_name(f"{stem}_{suffix}.tsv") for suffix in ("timeseries", "regressors")]
    path = next((name for name in names if name.is_file()), None)
    if path is None:
        raise ImageError("no confounds table beside the preprocessed BOLD")
    try:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"])
        fd_mm = table["framewise_displacement"].astype(float)
    except (ValueError, KeyError) as error:
        raise ImageError(f"unreadable confounds table ({type(error).__name__})") from None
    if len(table) != num_volumes:
        raise ImageError(f"confounds table has {len(table)} rows for {num_volumes} volumes")
    non_steady = [name for name in table.columns if name.startswith("non_steady_state_outlier")]
    return path, {"mean_fd_mm": float(fd_mm.mean()), "num_non_steady": len(non_steady)}


def _read_sidecar(bold: Path) -> Record:
    """Repetition time and slice timing from the JSON beside the preprocessed BOLD."""
    path = Path(str(bold).removesuffix(".gz")).with_suffix(".json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found: Record = {"tr_s": float(content["RepetitionTime"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"unreadable JSON beside the preprocessed BOLD ({type(error).__name__})") from None
    if not content.get("SliceTimingCorrected"):
        return found | {"slice_timing": "not corrected"}
    reference_s = content.get("StartTime")
    return found | {"slice_timing": "corrected" if reference_s is None else f"corrected to {reference_s:g} s"}
