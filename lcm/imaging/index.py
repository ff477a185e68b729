"""Index: find every run of every dataset once, with its files, its TR and a verdict whether it can be used."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lcm.bids import description
from lcm.config import Dataset, Index
from lcm.imaging.hcp import hcp_rows
from lcm.imaging.layouts import BEHIND, Row, derivative_rows, raw_rows, series_rows
from lcm.imaging.ukb import ukb_rows
from lcm.provenance import code_hash
from lcm.tables import SCANS, failed, write_atomically, write_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
PREPARED = ("bids", "hcp", "ukb")
"""Inputs that `preprocess` makes something of: raw images, and processed ones without confounds under fMRIPrep's names."""
SMALL_BATCH, FEW_BATCHES = 50, 8
_FILE_COLUMNS = ("bold", "t1w", "mask", "confounds", "series")
_FINDERS: dict[str, Callable[[Path], list[Row]]] = {
    "bids": raw_rows,
    "derivatives": derivative_rows,
    "hcp": hcp_rows,
    "ukb": ukb_rows,
}
_NARROW = {
    "series": "narrow `pattern` to one atlas, space and strategy",
    "hcp": "keep one folder a person and visit",
    "ukb": "keep one folder a person and visit",
}
"""What to do about several files of one run, by input."""


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
    _describe_preprocessed(datasets, options.output.parent / "preprocess")
    write_tsv(scans, options.output / "scans.tsv", SCANS)


def _describe_preprocessed(datasets: dict[str, Dataset], folder: Path) -> None:
    """What makes a BIDS derivative of each dataset that `preprocess` fills, a participant's folder at a time."""
    for name, dataset in datasets.items():
        if dataset.input in PREPARED:
            with write_atomically(folder / name / "dataset_description.json") as temporary:
                temporary.write_text(description(f"{name}: preprocessed BOLD", code_hash("index")), encoding="utf-8")
        if dataset.input == "bids":
            # The same of every T1w that `preprocess` writes, and inherited by all; fMRIPrep's have sidecars of their own.
            with write_atomically(folder / name / "desc-preproc_T1w.json") as temporary:
                temporary.write_text(json.dumps({"SkullStripped": False}, indent=2) + "\n", encoding="utf-8")


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
    return series_rows(root, dataset) if dataset.input == "series" else _FINDERS[dataset.input](root)


def assign_batches(participants: pd.Series, batch_size: int) -> pd.Series:
    """A batch label for each participant by hash, so that a new participant moves no other one.

    The number of batches is the power of two that brings their mean size to `batch_size` at most; only crossing one
    reshuffles them. Up to FEW_BATCHES they hold SMALL_BATCH people at most, so that a small dataset keeps several cores busy:
    it is in large ones that each batch's handful of files and seconds of start count.
    """
    people = participants.nunique()
    wanted = max(people / batch_size, min(FEW_BATCHES, people / SMALL_BATCH))
    num_batches = 2 ** max(0, math.ceil(math.log2(wanted)))
    return participants.map(lambda p: f"{int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) % num_batches:04d}")


def _fingerprint(row: Row) -> str:
    """Hash of sizes and times of a run's files, and of its BEHIND. It stands in the batch's table, so the batch runs again."""
    digest = hashlib.sha256()
    files = {column: Path(row[column]) for column in _FILE_COLUMNS if row.get(column)}
    behind = row.get(BEHIND, ())
    for name, path in [*files.items(), *((item.name, item) for item in behind if isinstance(item, Path))]:
        if path.is_symlink() or path.exists():
            # A link whose content was not fetched (DataLad) has no size; it is the outcome of its run.
            stat = path.stat(follow_symlinks=path.exists())
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    for text in behind:
        if isinstance(text, str):
            digest.update(f"{text}\n".encode())
    return digest.hexdigest()[:12]


def _refuse_duplicates(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Keep the first of several files that claim to be one run, marked as failed: nobody can say which is meant."""
    twice = frame.duplicated("scan", keep=False)
    if twice.any():
        log.warning("dataset %s: %d files share a run's name; such runs are not used", dataset, int(twice.sum()))
        advice = _NARROW.get(frame["input"].iloc[0], "their names differ in no entity that tells runs apart")
        frame.loc[twice, "outcome"] = failed(f"several files for one run: {advice}")
    return frame.drop_duplicates("scan")
