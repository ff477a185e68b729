"""Layouts of datasets: the runs of raw BIDS, of fMRIPrep's output and of folders of series, each with files and verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcm.bids import SCAN_ENTITIES, entities, metadata, scan_name, series_person
from lcm.config import Dataset
from lcm.imaging.header import ImageError, read_header
from lcm.tables import OK, excluded, failed

Row = dict[str, Any]
"""A row of SCANS without `dataset`, `batch`, `input` and `fingerprint`; its BEHIND is for that fingerprint alone."""

BEHIND = "behind"
"""Key of files without a column, and of metadata, that a run's result depends on: paths and texts."""

_TIMING = ("SliceTiming", "SliceEncodingDirection")

Image = tuple[Path, dict[str, str]]
"""A file and the entities of its name."""

_IMAGE_EXTENSIONS = (".nii.gz", ".nii")
_CIFTI = ".dtseries.nii"
_PREFERRED_SPACES = ("MNI152NLin2009cAsym", "MNI152NLin6Asym")
_PREFERRED_RESOLUTIONS = ("2", None)
"""2 mm, then the BOLD's own: region means gain nothing from 1 mm, which is eight times the data."""

_ADULT_SPACES = ("MNI152", "MNI305", "MNIColin27")
"""Beginnings of the spaces an adult atlas fits; MNIInfant and MNIPediatricAsym are other brains."""

FSL_SPACE = "MNI152NLin6Asym"
"""FSL's template, to which HCP and UK Biobank register, as BIDS names it."""

_LONGEST_TR_S = 60.0


def images(root: Path) -> list[Image]:
    """Every NIfTI and CIFTI of a BIDS tree below sub-* folders, with its entities; names only, no file is opened."""
    found = (path for folder in sorted(root.glob("sub-*")) for path in sorted(folder.rglob("*.nii*")))
    pairs = ((path, entities(path)) for path in found)
    return [(path, e) for path, e in pairs if "sub" in e and e["ext"] in (*_IMAGE_EXTENSIONS, _CIFTI)]


def raw_rows(root: Path) -> list[Row]:
    """One row a BOLD run of a raw BIDS dataset, with the T1w of its session or else the participant's first."""
    found = [(path, e) for path, e in images(root) if e["ext"] in _IMAGE_EXTENSIONS]
    anatomy: dict[tuple[str, str | None], Path] = {}
    for path, e in found:
        if e["suffix"] == "T1w":
            anatomy.setdefault((e["sub"], e.get("ses")), path)
            anatomy.setdefault((e["sub"], None), path)
    rows = []
    for path, e in found:
        if e["suffix"] == "bold":
            row = _image_row(path, e)
            row["t1w"] = present(anatomy.get((e["sub"], e.get("ses")), anatomy.get((e["sub"], None))))
            if row["outcome"] == OK and row["t1w"] is not None and not Path(row["t1w"]).is_file():
                row["outcome"] = failed("the T1w is a link whose content was not fetched")
            if e.get("part", "mag") != "mag":
                row["outcome"] = excluded("not a magnitude image")
            if "echo" in e:
                row["outcome"] = excluded("multi-echo run: combine the echoes first or use fMRIPrep derivatives")
            rows.append(row)
    return rows


# ── fMRIPrep ────────────────────────────────────────────────────────────────────────────────────


def derivative_rows(root: Path) -> list[Row]:
    """One row a run of fMRIPrep output: the MNI-space BOLD, its mask and its confounds.

    Of several images MNI152NLin2009cAsym comes first, then MNI152NLin6Asym, then other adult MNI spaces; of one space 2 mm
    comes first, then the BOLD's own resolution.
    """
    runs: dict[str, list[Image]] = {}
    surfaces: dict[str, Image] = {}
    for path, e in images(root):
        if e["suffix"] == "bold" and e["ext"] == _CIFTI:
            surfaces.setdefault(scan_name(e), (path, e))
        elif e["suffix"] == "bold" and e.get("desc") == "preproc":
            runs.setdefault(scan_name(e), []).append((path, e))
    rows = [_derivative_row(candidates) for candidates in runs.values()]
    for scan in surfaces.keys() - runs.keys():
        path, e = surfaces[scan]
        reason = "CIFTI only, and surfaces are not read: run fMRIPrep with --output-spaces MNI152NLin2009cAsym"
        rows.append(named_row(path, e) | {"outcome": excluded(reason)})
    return rows


def _derivative_row(candidates: list[Image]) -> Row:
    in_mni = [(path, e) for path, e in candidates if e.get("space", "").startswith(_ADULT_SPACES)]
    path, e = min(in_mni or candidates, key=_preference)
    row = _image_row(path, e)
    row["space"] = e.get("space")
    row["mask"] = present(_sibling(path, "desc-preproc_bold", "desc-brain_mask"))
    row["confounds"] = present(_confounds(path, e))
    if "echo" in e:
        row["outcome"] = excluded("one echo of a multi-echo run; fMRIPrep's combination of all echoes is the run")
    elif not in_mni:
        row["outcome"] = excluded("no BOLD in an adult MNI space")
    elif row["outcome"] == OK and row["mask"] is None:
        row["outcome"] = failed("no brain mask beside the BOLD")
    elif row["outcome"] == OK and row["confounds"] is None:
        row["outcome"] = failed("no confounds table beside the BOLD")
    return row


def _preference(image: Image) -> tuple[int, int, str]:
    path, e = image
    space, resolution = e.get("space", ""), e.get("res")
    return (
        _PREFERRED_SPACES.index(space) if space in _PREFERRED_SPACES else len(_PREFERRED_SPACES),
        _PREFERRED_RESOLUTIONS.index(resolution)
        if resolution in _PREFERRED_RESOLUTIONS
        else len(_PREFERRED_RESOLUTIONS),
        path.name,
    )


def _sibling(path: Path, old: str, new: str) -> Path | None:
    sibling = path.with_name(path.name.replace(old, new))
    return sibling if sibling != path and sibling.is_file() else None


def _confounds(path: Path, e: dict[str, str]) -> Path | None:
    # fMRIPrep named the table `regressors` before 20.2 and `timeseries` since.
    for suffix in ("timeseries", "regressors"):
        table = path.with_name(f"{scan_name(e)}_desc-confounds_{suffix}.tsv")
        if table.is_file():
            return table
    return None


# ── what the rows of images share ───────────────────────────────────────────────────────────────


def named_row(path: Path | None, e: Mapping[str, str]) -> Row:
    """Names of a run from its entities, and its image; the outcome is ok until something says otherwise."""
    return {
        "participant_id": f"sub-{e['sub']}",
        "session_id": f"ses-{e['ses']}" if "ses" in e else None,
        "task": e.get("task"),
        "run": e.get("run"),
        "scan": scan_name(e),
        "bold": present(path),
        "outcome": OK,
    }


def _image_row(path: Path, e: dict[str, str]) -> Row:
    """Names, TR and length of a BOLD image; a defect becomes the outcome of this run alone."""
    row = named_row(path, e)
    try:
        header = read_header(path)
        row["num_volumes"] = header.num_volumes
        found = _sidecar(path)
        row["tr_s"], row["note"] = repetition_time(found["RepetitionTime"], header.tr_s)
        row[BEHIND] = [json.dumps({key: found.get(key) for key in _TIMING})]
    except ImageError as error:
        row["outcome"] = failed(str(error))
    return row


def _sidecar(path: Path) -> Mapping[str, object]:
    """Metadata of an image with a RepetitionTime; raises ImageError where they cannot be read or have none."""
    try:
        found = metadata(path)
    except (TypeError, ValueError) as error:
        raise ImageError(f"unreadable JSON sidecar ({type(error).__name__})") from None
    if "RepetitionTime" not in found:
        raise ImageError("no RepetitionTime in the JSON sidecars")
    return found


def repetition_time(stated: object, header_tr_s: float | None) -> tuple[float, str | None]:
    """TR (s) that JSON states, and a note where the header says otherwise; conventions differ on units there, so JSON wins.

    Raises ImageError for a value that is no number of seconds.
    """
    try:
        tr_s = float(stated)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ImageError(f"unreadable RepetitionTime ({type(error).__name__})") from None
    if not 0 < tr_s < _LONGEST_TR_S:
        raise ImageError(f"RepetitionTime {tr_s:g} s is not a repetition time; it is given in seconds")
    if header_tr_s is not None and abs(header_tr_s - tr_s) > 1e-3:
        return tr_s, f"header says TR {header_tr_s:g} s"
    return tr_s, None


def pipeline_row(path: Path, e: Mapping[str, str], json_file: Path) -> Row:
    """Like a BIDS run's row for an image of another pipeline, whose one sidecar may be missing: then the header's TR counts."""
    row = named_row(path, e)
    try:
        header = read_header(path)
        row["num_volumes"] = header.num_volumes
        stated = _read_json(json_file).get("RepetitionTime", header.tr_s)
        if stated is None:
            raise ImageError("no repetition time in the header, and no JSON sidecar with one")
        tr_s, row["note"] = repetition_time(stated, header.tr_s)
        # A header holds float32, in which 0.72 is 0.72000003.
        row["tr_s"] = round(tr_s, 6)
    except ImageError as error:
        row["outcome"] = failed(str(error))
    return row


def person_entities(name: str, pattern: re.Pattern[str], expected: str) -> dict[str, str]:
    """Entities of a person's folder by its name; raises ValueError that says what was expected."""
    match = pattern.match(name)
    if match is None:
        raise ValueError(f"{name}: no participant in this folder's name; expected {expected}")
    return {key: value for key, value in match.groupdict().items() if value}


def _read_json(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ImageError(f"unreadable JSON sidecar ({type(error).__name__})") from None


def add_note(row: Row, note: str) -> None:
    """Append to the row's note."""
    row["note"] = f"{row['note']}; {note}" if row.get("note") else note


def present(path: Path | None) -> str | None:
    """A path as the table writes it; None where there is neither file nor link."""
    return str(path) if path is not None and (path.is_symlink() or path.exists()) else None


# ── ready series ────────────────────────────────────────────────────────────────────────────────


def series_rows(root: Path, dataset: Dataset) -> list[Row]:
    """One row a file that the dataset's pattern matches."""
    return [_series_row(path, dataset) for path in sorted(root.glob(dataset.pattern or "*"))]


def _series_row(path: Path, dataset: Dataset) -> Row:
    e = entities(path) if path.name.startswith("sub-") else {}
    found = {"sub": series_person(path)} | {key: e[key] for key in SCAN_ENTITIES[1:] if key in e}
    row = named_row(None, found) | {"series": str(path), "space": e.get("space"), "tr_s": dataset.tr_s}
    try:
        stated = _series_tr_s(path, e)
        if stated is not None:
            row["tr_s"], _ = repetition_time(stated, None)
            if dataset.tr_s is not None and abs(row["tr_s"] - dataset.tr_s) > 1e-3:
                add_note(row, f"configuration says TR {dataset.tr_s:g} s")
    except ImageError as error:
        row["outcome"] = failed(str(error))
    if e:
        row[BEHIND] = [outliers_table(path)]
    if not dataset.denoised and _is_denoised(path, e):
        reason = "XCP-D and giga_connectome write denoised series: set `denoised: true` for the dataset"
        row["outcome"] = excluded(reason)
    return row


def outliers_table(path: Path) -> Path:
    """Where XCP-D says which volumes of a series it censored: a table beside it, named after the run."""
    return path.with_name(f"{scan_name(entities(path))}_outliers.tsv")


def _series_tr_s(path: Path, e: dict[str, str]) -> object:
    """What the sidecars of a series state, in seconds; None where they state nothing."""
    if not e:
        return None
    try:
        found = metadata(path)
        # XCP-D's sidecar says `"SamplingFrequency": "TR"`; the number stands beside the image it took the series from.
        beside = sorted(path.parent.glob(f"{scan_name(e)}_*desc-denoised_bold.json"))
        found = {**(_read_json(beside[0]) if beside else {}), **found}
    except (TypeError, ValueError) as error:
        raise ImageError(f"unreadable JSON sidecar ({type(error).__name__})") from None
    frequency = found.get("SamplingFrequency")
    if "RepetitionTime" not in found and isinstance(frequency, int | float) and frequency > 0:
        return 1 / frequency
    return found.get("RepetitionTime")


def _is_denoised(path: Path, e: dict[str, str]) -> bool:
    return path.name.endswith("stat-mean_timeseries.tsv") or e.get("desc", "").startswith("denoise")
