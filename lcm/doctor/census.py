"""Who and what will be indexed: participants and runs by the names of their files, without opening one."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lcm.bids import SCAN_ENTITIES, entities, scan_name, series_person
from lcm.config import Dataset, Study
from lcm.imaging.index import assign_batches
from lcm.tables import MISSING, OK, excluded

Row = dict[str, str]
"""The columns of SCANS that the plan counts jobs by."""

_IMAGE = (".nii.gz", ".nii")
_SURFACE = ".dtseries.nii"
_PERSON = re.compile(r"(?:sub-)?(?P<sub>[A-Za-z0-9]+)")
"""How the names of HCP's and UK Biobank's folders begin."""

_HCP_RUN = re.compile(r"MRI_[A-Za-z]+\d*(_\d+T)?_(LR|RL|AP|PA)$")
_UKB_RUNS = {
    "rfMRI.ica": ("filtered_func_data_clean_standard.nii.gz", "filtered_func_data_clean.nii.gz"),
    "tfMRI.feat": ("filtered_func_data_clean_standard.nii.gz", "filtered_func_data.nii.gz"),
}
_USELESS = excluded("not a run that can be used, by its name")


@dataclass(frozen=True)
class Census:
    """Every run that the index has, or will have as far as names tell."""

    rows: list[Row]
    source: str
    """Where the rows come from, for the reader."""
    problems: dict[str, str] = field(default_factory=dict)
    """Dataset → why it could not be looked through."""

    def usable(self, dataset: str | None = None) -> list[Row]:
        """Rows that will be worked on, of one dataset or of all."""
        return [row for row in self.rows if row["outcome"] == OK and dataset in (None, row["dataset"])]


def take_census(study: Study, scans: Path) -> Census:
    """The rows of an index that covers the study's datasets, or else what a walk over names finds; writes nothing.

    Headers are not read, so a run that the index will exclude for what is inside still counts.
    """
    indexed = _read_index(scans)
    if indexed and {row["dataset"] for row in indexed} == set(study.datasets):
        return Census(indexed, str(scans))
    rows: list[Row] = []
    problems: dict[str, str] = {}
    for name, dataset in study.datasets.items():
        try:
            rows += _batched(_rows_of(name, dataset, study), study.index.batch_size)
        except (OSError, ValueError) as error:
            # Of an OSError the reason alone: its file's name may be a participant's.
            problems[name] = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
    return Census(rows, "names of files", problems)


def _read_index(scans: Path) -> list[Row]:
    if not scans.is_file():
        return []
    with scans.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def _batched(rows: list[Row], batch_size: int) -> list[Row]:
    import pandas as pd

    labels = assign_batches(pd.Series([row["participant_id"] for row in rows], dtype=str), batch_size) if rows else []
    return [row | {"batch": str(label)} for row, label in zip(rows, labels, strict=True)]


def _rows_of(name: str, dataset: Dataset, study: Study) -> list[Row]:
    root = Path(dataset.path)
    common = {"dataset": name, "input": dataset.input}
    if study.simulate and not root.is_dir() and dataset.path.startswith("results/simulate/"):
        return [common | row for row in _simulated(root.parts[2], study)]
    if not root.is_dir():
        raise ValueError(f"no such folder: {dataset.path}")
    found: dict[str, Row] = {}
    series = dataset.input == "series"
    for row in _series(root, dataset.pattern or "*") if series else _WALKS[dataset.input](root):
        kept = found.get(row["scan"])
        if kept is None or (kept["outcome"] != OK and row["outcome"] == OK):
            found[row["scan"]] = common | row
    return list(found.values())


def _row(person: str, scan: str, path: str, *, usable: bool) -> Row:
    outcome = OK if usable else _USELESS
    return {"participant_id": person, "scan": scan, "bold": path, "num_volumes": MISSING, "outcome": outcome}


def _simulated(cohort: str, study: Study) -> Iterator[Row]:
    from lcm.cohort.simulated_people import recruit

    settings = study.simulate
    if settings is None:
        return
    counts = {"HCPA": settings.raw_people, "HCPYA": settings.derivative_people}
    for person in recruit(cohort, counts.get(cohort, settings.series_people), settings.seed):
        for task in person.tasks:
            scan = f"sub-{person.label}" + (f"_task-{task}" if task else "")
            row = _row(f"sub-{person.label}", scan, MISSING, usable=True)
            yield row | {"num_volumes": str(settings.num_volumes)}


def _images(root: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Path and entities of every image below sub-* folders; os.walk, because pathlib takes ten times as long."""
    with os.scandir(root) as folders:
        people = sorted(entry.path for entry in folders if entry.name.startswith("sub-") and entry.is_dir())
    for person in people:
        for folder, _, names in os.walk(person, onerror=_refuse):
            for name in sorted(names):
                if name.endswith(_IMAGE) and not name.endswith(_SURFACE):
                    found = entities(Path(name))
                    if "sub" in found:
                        yield f"{folder}/{name}", found


def _refuse(error: OSError) -> None:
    # The message without the path: a folder's name is a participant's.
    raise PermissionError(error.errno, f"a participant's folder cannot be listed ({error.strerror})")


def _raw(root: Path) -> Iterator[Row]:
    for path, e in _images(root):
        if e["suffix"] == "bold":
            usable = "echo" not in e and e.get("part", "mag") == "mag"
            yield _row(f"sub-{e['sub']}", scan_name(e), path, usable=usable)


def _derivatives(root: Path) -> Iterator[Row]:
    for path, e in _images(root):
        if e["suffix"] == "bold" and e.get("desc") == "preproc":
            usable = "echo" not in e and e.get("space", "").startswith("MNI")
            yield _row(f"sub-{e['sub']}", scan_name(e), path, usable=usable)


def _hcp(root: Path) -> Iterator[Row]:
    for folder in sorted(root.glob("*/MNINonLinear/Results/*")):
        plain = folder / f"{folder.name}.nii.gz"
        images = [plain] if plain.exists() else sorted(folder.glob(f"{folder.name}_hp*_clean.nii.gz"))
        if images:
            person = folder.parents[2].name
            usable = bool(_HCP_RUN.search(folder.name))
            yield _row(_person(person), f"{person}/{folder.name}", str(images[0]), usable=usable)


def _ukb(root: Path) -> Iterator[Row]:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for place in (folder / "fMRI", folder):
            for name, images in _UKB_RUNS.items():
                if (place / name).is_dir():
                    there = [image for image in images if (place / name / image).exists()]
                    path = str(place / name / (there or images)[0])
                    yield _row(_person(folder.name), f"{folder.name}/{name}", path, usable=bool(there))


def _person(name: str) -> str:
    match = _PERSON.match(name)
    if match is None:
        raise ValueError("a folder's name holds no participant")
    return f"sub-{match['sub']}"


def _series(root: Path, pattern: str) -> Iterator[Row]:
    for path in sorted(root.glob(pattern)):
        e = entities(path) if path.name.startswith("sub-") else {}
        try:
            person = {"sub": series_person(path)} | {key: e[key] for key in SCAN_ENTITIES[1:] if key in e}
        except ValueError as error:
            # Without the file's name, which may be a participant's.
            raise ValueError(str(error).split(": ", 1)[-1]) from None
        yield _row(f"sub-{person['sub']}", scan_name(person), str(path), usable=True)


_WALKS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "bids": _raw,
    "derivatives": _derivatives,
    "hcp": _hcp,
    "ukb": _ukb,
}
