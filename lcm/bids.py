"""BIDS names in, BIDS names out: entities of a file, the name of a scan, the path of a derivative."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

SCAN_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part")
"""The entities that tell one run from another, in BIDS order; space, res and desc describe a derivative of it."""

_ENTITY_ORDER = (*SCAN_ENTITIES, "hemi", "space", "split", "recording", "chunk", "atlas", "seg", "scale", "res", "den")
_PCP_SERIES = re.compile(r"^(?P<site>[A-Za-z]+(?:_[A-Za-z0-9]+)?)_(?P<id>\d{7})_rois_(?P<atlas>[a-z0-9]+)\.1D(\.gz)?$")
_DIGITS = re.compile(r"^(?P<id>\d+)$")


def entities(path: Path) -> dict[str, str]:
    """Entities of a BIDS file name as written (`run-01` stays `01`), plus `suffix` and `ext`."""
    stem, _, extension = path.name.partition(".")
    *pairs, suffix = stem.split("_")
    found = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return found | {"suffix": suffix, "ext": f".{extension}"}


def scan_name(found: Mapping[str, str]) -> str:
    """The name of a run: its identifying entities in BIDS order, e.g. `sub-01_ses-1_task-rest_run-1`."""
    return "_".join(f"{key}-{found[key]}" for key in SCAN_ENTITIES if found.get(key))


def derivative_path(root: Path, scan: str, suffix: str, **more: str) -> Path:
    """Path of a derivative of `scan` below `root`, e.g. `sub-01/func/<scan>_space-X_desc-preproc_bold.nii.gz`.

    `suffix` carries the extension; `more` are further entities, put in BIDS order with `desc` last.
    """
    found = entities(Path(f"{scan}_x"))
    folder = root / f"sub-{found['sub']}"
    folder = folder / f"ses-{found['ses']}" if "ses" in found else folder
    extra = [f"{key}-{more[key]}" for key in (*_ENTITY_ORDER, "label", "stat", "desc") if key in more]
    return folder / "func" / "_".join([scan, *extra, suffix])


def series_person(path: Path) -> str:
    """Participant label of a ready series, from the namings in use.

    `sub-X_…` (BIDS, Xu et al.), `<SITE>_<7 digits>_rois_<atlas>.1D` (Preprocessed Connectomes Project) and `<digits>.mat`
    (REST/DPARSF exports). Raises ValueError for any other name.
    """
    if path.name.startswith("sub-"):
        return re.split(r"[_.]", path.name.removeprefix("sub-"), maxsplit=1)[0]
    match = _PCP_SERIES.match(path.name) or _DIGITS.match(path.name.split(".")[0])
    if match is None:
        raise ValueError(
            f"{path.name}: no participant in this name; expected sub-<label>_…, <SITE>_<7 digits>_rois_<atlas>.1D "
            "or <digits>.mat"
        )
    return match["id"]


def metadata(path: Path) -> dict[str, object]:
    """JSON metadata of a BIDS file with the inheritance principle: files nearer to it win."""
    from bids2table import load_bids_metadata

    return load_bids_metadata(path, inherit=True)


def description(name: str, version: str) -> str:
    """Text of a derivative dataset's dataset_description.json (BIDS 1.10)."""
    content = {
        "Name": name,
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "lcm", "Version": version}],
    }
    return json.dumps(content, indent=2) + "\n"
