"""UK Biobank folders: the resting-state and the task run of FSL's pipeline, with mask, motion and field to MNI."""

from __future__ import annotations

import re
from pathlib import Path

from lcm.imaging.layouts import BEHIND, FSL_SPACE, Row, add_note, named_row, person_entities, pipeline_row, present
from lcm.tables import OK, failed

# 1234567 or, of a bulk download, 1234567_20227_2_0: person, field, instance (2: first imaging visit, 3: repeat), array.
_PERSON = re.compile(r"^(?:sub-)?(?P<sub>[A-Za-z0-9]+)(?:_\d+_(?P<ses>\d+)_\d+)?$")
_RUNS = {"rfMRI.ica": "rest", "tfMRI.feat": "emotion"}
"""Folder of a run and its task; that of UK Biobank is HCP's faces and shapes, which HCP calls EMOTION."""

_STANDARD = "filtered_func_data_clean_standard.nii.gz"
_NATIVE = {"rest": "filtered_func_data_clean.nii.gz", "emotion": "filtered_func_data.nii.gz"}
MOTION = "mc/prefiltered_func_data_mcf.par"
WARP = "reg/example_func2standard_warp.nii.gz"


def ukb_rows(root: Path) -> list[Row]:
    """One row a run below `<id>[_<field>_<instance>_0][/fMRI]`; `confounds` is mcflirt's .par until `preprocess`.

    `space` is empty for an image on the scanner's grid, which `preprocess` brings to MNI. Names as in bulk fields 20227 and
    20249 and in XCP-D's reader of them (ingression/ukbiobank.py). Raises ValueError for a folder that names no person.
    """
    rows = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for place in (folder / "fMRI", folder):
            for name, task in _RUNS.items():
                if (place / name).is_dir():
                    names = person_entities(folder.name, _PERSON, "<id> or <id>_<field>_<instance>_<array>")
                    rows.append(_run_row(place / name, names | {"task": task}))
    return rows


def _run_row(folder: Path, e: dict[str, str]) -> Row:
    standard, native = folder / _STANDARD, folder / _NATIVE[e["task"]]
    ready = standard.is_file()
    if not ready and not present(native):
        return named_row(None, e) | {"outcome": failed(f"no {native.name} in {folder.name}")}
    row = pipeline_row(standard if ready else native, e, folder.with_suffix(".json"))
    if e["task"] == "rest":
        add_note(row, "FIX-cleaned: motion is already regressed out")
    needed = {"mask": "mask.nii.gz", "confounds": MOTION} if not ready else {"confounds": MOTION}
    row[BEHIND] = [folder / WARP]
    row |= {column: present(folder / name) for column, name in needed.items()} | {"space": FSL_SPACE if ready else None}
    missing = [name for name in (*needed.values(), *(() if ready else (WARP,))) if not (folder / name).is_file()]
    if row["outcome"] == OK and missing:
        row["outcome"] = failed(f"no {missing[0]} in {folder.name}")
    return row
