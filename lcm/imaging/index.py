"""Index: find every run of every dataset once, with its files, its TR and a verdict whether it can be used."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.bids import entities, metadata, scan_name, series_person
from lcm.config import Dataset, Index
from lcm.imaging.header import ImageError, read_header
from lcm.tables import OK, SCANS, excluded, failed, write_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_FILE_COLUMNS = ("bold", "t1w", "mask", "confounds", "series")
_IMAGE_EXTENSIONS = (".nii.gz", ".nii")
_PREFERRED_SPACES = ("MNI152NLin2009cAsym", "MNI152NLin6Asym")
_ADULT_SPACES = ("MNI152", "MNI305", "MNIColin27")
"""Beginnings of the spaces an adult atlas fits; MNIInfant and MNIPediatricAsym are other brains."""

Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--datasets", required=True, help="the `datasets` block of config.yaml, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="folder for scans.tsv and batches/")


def main(options: argparse.Namespace) -> None:
    """Write scans.tsv and one table a batch, from which the jobs read their share."""
    datasets = {name: Dataset.model_validate(d) for name, d in json.loads(options.datasets).items()}
    scans = index(datasets, options.settings)
    batches = options.output / "batches"
    shutil.rmtree(batches, ignore_errors=True)
    for (dataset, batch), rows in scans.groupby(["dataset", "batch"], sort=True):
        write_tsv(rows, batches / dataset / f"{batch}.tsv", SCANS)
    write_tsv(scans, options.output / "scans.tsv", SCANS)


def index(datasets: dict[str, Dataset], settings: Index) -> pd.DataFrame:
    """One row a run of every dataset, sorted; raises ValueError when a folder is missing or holds no run."""
    import pandas as pd

    frames = []
    for name, dataset in datasets.items():
        rows = _find(Path(dataset.path), dataset, name)
        if not rows:
            raise ValueError(f"dataset {name}: no run of input kind {dataset.input!r} in {dataset.path}")
        frame = pd.DataFrame(rows, columns=[c for c in SCANS.columns if c != "batch"])
        frame["dataset"], frame["input"] = name, dataset.input
        frame["fingerprint"] = [_fingerprint(row) for row in rows]
        frame["batch"] = assign_batches(frame["participant_id"], settings.batch_size)
        frames.append(_refuse_duplicates(frame, name))
    return pd.concat(frames, ignore_index=True).sort_values(["dataset", "scan"], ignore_index=True)


def _find(root: Path, dataset: Dataset, name: str) -> list[Row]:
    if not root.is_dir():
        raise ValueError(f"dataset {name}: no such folder: {root} (paths are relative to the working directory)")
    if dataset.input == "series":
        return [_series_row(path, dataset) for path in sorted(root.glob(dataset.pattern or "*"))]
    images = _images(root)
    return _raw_rows(images) if dataset.input == "bids" else _derivative_rows(images)


def assign_batches(participants: pd.Series, batch_size: int) -> pd.Series:
    """A batch label for each participant by hash, so that a new participant moves no other one.

    The number of batches is the power of two that brings their mean size to `batch_size` at most; only crossing one
    reshuffles them.
    """
    num_batches = 2 ** max(0, math.ceil(math.log2(participants.nunique() / batch_size)))
    return participants.map(lambda p: f"{int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) % num_batches:04d}")


def _fingerprint(row: Row) -> str:
    """Sizes and times of a run's files: it changes the batch's table, and so re-runs the batch, when a file changes."""
    digest = hashlib.sha256()
    for column in _FILE_COLUMNS:
        if row.get(column):
            # A link whose content was not fetched (DataLad) has no size; it is the outcome of its run.
            path = Path(row[column])
            stat = path.stat(follow_symlinks=path.exists())
            digest.update(f"{column} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _refuse_duplicates(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Keep the first of several files that claim to be one run, marked as failed: nobody can say which is meant."""
    twice = frame.duplicated("scan", keep=False)
    if twice.any():
        log.warning("dataset %s: %d files share a run's name; such runs are not used", dataset, int(twice.sum()))
        frame.loc[twice, "outcome"] = failed("several files for one run")
    return frame.drop_duplicates("scan")


# ── images ──────────────────────────────────────────────────────────────────────────────────────


def _images(root: Path) -> list[tuple[Path, dict[str, str]]]:
    """Every NIfTI of a BIDS tree below sub-* folders, with its entities; names only, no file is opened."""
    found = (path for folder in sorted(root.glob("sub-*")) for path in sorted(folder.rglob("*.nii*")))
    pairs = ((path, entities(path)) for path in found)
    return [(path, e) for path, e in pairs if "sub" in e and e["ext"] in _IMAGE_EXTENSIONS]


def _raw_rows(images: list[tuple[Path, dict[str, str]]]) -> list[Row]:
    anatomy: dict[tuple[str, str | None], Path] = {}
    for path, e in images:
        if e["suffix"] == "T1w":
            anatomy.setdefault((e["sub"], e.get("ses")), path)
            anatomy.setdefault((e["sub"], None), path)
    rows = []
    for path, e in images:
        if e["suffix"] == "bold":
            row = _image_row(path, e)
            row["t1w"] = _text(anatomy.get((e["sub"], e.get("ses")), anatomy.get((e["sub"], None))))
            if row["outcome"] == OK and row["t1w"] is not None and not Path(row["t1w"]).is_file():
                row["outcome"] = failed("the T1w is a link whose content was not fetched")
            if e.get("part", "mag") != "mag":
                row["outcome"] = excluded("not a magnitude image")
            if "echo" in e:
                row["outcome"] = excluded("multi-echo run: combine the echoes first or use fMRIPrep derivatives")
            rows.append(row)
    return rows


def _derivative_rows(images: list[tuple[Path, dict[str, str]]]) -> list[Row]:
    """One row a run of fMRIPrep output: the MNI-space BOLD, its mask and its confounds."""
    runs: dict[str, list[tuple[Path, dict[str, str]]]] = {}
    for path, e in images:
        if e["suffix"] == "bold" and e.get("desc") == "preproc":
            runs.setdefault(scan_name(e), []).append((path, e))
    rows = []
    for candidates in runs.values():
        in_mni = [(path, e) for path, e in candidates if e.get("space", "").startswith(_ADULT_SPACES)]
        path, e = min(in_mni or candidates, key=lambda c: (_space_rank(c[1]), c[0].name))
        row = _image_row(path, e)
        row["space"] = e.get("space")
        row["mask"] = _text(_sibling(path, "desc-preproc_bold", "desc-brain_mask"))
        row["confounds"] = _text(_confounds(path, e))
        if not in_mni:
            row["outcome"] = excluded("no BOLD in an adult MNI space")
        elif row["outcome"] == OK and row["mask"] is None:
            row["outcome"] = failed("no brain mask beside the BOLD")
        elif row["outcome"] == OK and row["confounds"] is None:
            row["outcome"] = failed("no confounds table beside the BOLD")
        rows.append(row)
    return rows


def _space_rank(e: dict[str, str]) -> int:
    space = e.get("space", "")
    return _PREFERRED_SPACES.index(space) if space in _PREFERRED_SPACES else len(_PREFERRED_SPACES)


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


def _image_row(path: Path, e: dict[str, str]) -> Row:
    """Names, TR and length of a BOLD image; a defect becomes the outcome of this run alone."""
    row: Row = {
        "participant_id": f"sub-{e['sub']}",
        "session_id": f"ses-{e['ses']}" if "ses" in e else None,
        "task": e.get("task"),
        "run": e.get("run"),
        "scan": scan_name(e),
        "bold": str(path),
        "outcome": OK,
    }
    try:
        header = read_header(path)
        row["num_volumes"] = header.num_volumes
        row["tr_s"], row["note"] = _repetition_time(path, header.tr_s)
    except ImageError as error:
        row["outcome"] = failed(str(error))
    return row


def _repetition_time(path: Path, header_tr_s: float | None) -> tuple[float, str | None]:
    """TR from JSON, and a note where the header says otherwise; conventions differ on units there, so JSON wins."""
    try:
        tr_s = float(metadata(path)["RepetitionTime"])  # type: ignore[arg-type]
    except KeyError:
        raise ImageError("no RepetitionTime in the JSON sidecars") from None
    except (TypeError, ValueError) as error:
        raise ImageError(f"unreadable JSON sidecar or RepetitionTime ({type(error).__name__})") from None
    if not 0 < tr_s < 60:
        raise ImageError(f"RepetitionTime {tr_s:g} s is not a repetition time; it is given in seconds")
    if header_tr_s is not None and abs(header_tr_s - tr_s) > 1e-3:
        return tr_s, f"header says TR {header_tr_s:g} s"
    return tr_s, None


# ── ready series ────────────────────────────────────────────────────────────────────────────────


def _series_row(path: Path, dataset: Dataset) -> Row:
    person = series_person(path)
    e = entities(path) if path.name.startswith("sub-") else {}
    found = {"sub": person} | {k: e[k] for k in ("ses", "task", "run") if k in e}
    return {
        "participant_id": f"sub-{person}",
        "session_id": f"ses-{e['ses']}" if "ses" in e else None,
        "task": e.get("task"),
        "run": e.get("run"),
        "scan": scan_name(found),
        "series": str(path),
        "tr_s": dataset.tr_s,
        "outcome": OK,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
