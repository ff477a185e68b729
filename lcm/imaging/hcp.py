"""HCP minimal-preprocessing folders: the runs below MNINonLinear/Results, with mask and movement parameters."""

from __future__ import annotations

import re
from pathlib import Path

from lcm.imaging.layouts import FSL_SPACE, Row, add_note, named_row, person_entities, pipeline_row, present
from lcm.tables import OK, excluded, failed

# 100307, HCA6000030_V1_MR; rfMRI_REST1_LR, rfMRI_REST1_7T_PA, tfMRI_EMOTION_RL.
_PERSON = re.compile(r"^(?:sub-)?(?P<sub>[A-Za-z0-9]+)(?:_(?:ses-)?(?P<ses>[A-Za-z0-9]+))??(?:_MR)?$")
_RUN = re.compile(r"^[A-Za-z]*MRI_(?P<task>[A-Za-z]+)(?P<run>\d*)(?:_(?P<acq>\d+T))?_(?P<dir>LR|RL|AP|PA)$")


def hcp_rows(root: Path) -> list[Row]:
    """One row a folder of `<id>/MNINonLinear/Results`; `confounds` is its Movement_Regressors.txt until `preprocess`.

    The image without ICA-FIX is taken. Where the dataset has none, the cleaned ones are, all of them: the two are never mixed.
    Names as in HCPpipelines and in the HCP Young Adult and Lifespan releases. Raises ValueError for a person's folder without a
    name that can be read.
    """
    folders = [path for path in sorted(root.glob("*/MNINonLinear/Results/*")) if path.is_dir()]
    rows = [row for folder in folders if (row := _run_row(folder)) is not None]
    if any(row["outcome"] == OK and not _is_cleaned(row) for row in rows):
        for row in rows:
            if row["outcome"] == OK and _is_cleaned(row):
                row["outcome"] = excluded(
                    "only FIX-cleaned, while other runs of the dataset are not: they are never mixed"
                )
    return rows


def _run_row(folder: Path) -> Row | None:
    """None for a folder that holds no BOLD, such as a task's statistics."""
    plain = folder / f"{folder.name}.nii.gz"
    cleaned = sorted(folder.glob(f"{folder.name}_hp*_clean.nii.gz"))
    if not (present(plain) or cleaned):
        return None
    names = person_entities(folder.parents[2].name, _PERSON, "<id> or <id>_<visit>_MR")
    run = _RUN.match(folder.name)
    if run is None:
        return _no_run(folder, names)
    found = {key: value for key, value in run.groupdict().items() if value}
    found["task"] = found["task"].lower()
    bold = plain if present(plain) else cleaned[0]
    row = pipeline_row(bold, names | found, folder / f"{folder.name}.json")
    if cleaned:
        add_note(row, "FIX-cleaned: motion is already regressed out" if _is_cleaned(row) else "taken without ICA-FIX")
    return _with_companions(row, folder)


def _is_cleaned(row: Row) -> bool:
    return row["bold"].endswith("_clean.nii.gz")


def _no_run(folder: Path, names: dict[str, str]) -> Row:
    """A concatenation of runs (rfMRI_REST, fMRI_CONCAT_ALL) or another analysis that is no run."""
    task = re.sub(r"[^A-Za-z0-9]", "", folder.name)
    reason = "not the name of an HCP run, such as rfMRI_REST1_LR: a concatenation of runs?"
    return named_row(None, names | {"task": task}) | {"outcome": excluded(reason)}


def _with_companions(row: Row, folder: Path) -> Row:
    motion = folder / "Movement_Regressors.txt"
    # In the run's folder the mask has the BOLD's voxel size in its name: brainmask_fs.2, .2.0 or .1.60.
    masks = sorted(folder.glob("brainmask_fs.*.nii.gz")) or sorted(folder.parents[1].glob("brainmask_fs.2*.nii.gz"))
    row |= {"space": FSL_SPACE, "mask": present(masks[0]) if masks else None, "confounds": present(motion)}
    if row["outcome"] == OK and not motion.is_file():
        row["outcome"] = failed("no Movement_Regressors.txt beside the BOLD")
    elif row["outcome"] == OK and not masks:
        row["outcome"] = failed("no brainmask_fs.2.0.nii.gz beside the BOLD or in MNINonLinear")
    return row
