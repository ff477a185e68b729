"""A study of any number of people, planted as each stage of it would have left it: what benchmarks/scale.py measures on.

    python benchmarks/scale_study.py FOLDER NUMBER_OF_PEOPLE

Images are a few voxels and hard links of one file, because it is the number of files that is asked about, not their size.
Series and connectomes are noise in the AAL atlas, as large as real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from lcm.array_tables import connectome_schema, denoised_schema
from lcm.atlas import load_atlas
from lcm.config import Index
from lcm.imaging.index import assign_batches
from lcm.tables import SCANS, write_arrow, write_tsv

# N scans, T time, R regions, E edges

DATASET, TR_S, NUM_VOLUMES = "LAB", 2.0, 100
MOST_LINKS = 30_000
"""Of one file: ext4 allows 65,000, and other file systems may allow fewer."""
SHAPE, VOXEL_MM, IMAGE_VOLUMES = (24, 28, 24), 8.0, 4
"""MNI space in voxels so large that the atlas is the cost of reading, and the file is read in a millisecond."""


class Linker:
    """Hard links of planted files; a file that has many gets a twin."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.count = folder, Counter[str]()

    def link(self, source: Path, target: Path) -> None:
        """`target` becomes a name of what `source` holds."""
        twin = self.folder / f"{self.count[source.name] // MOST_LINKS}-{source.name}"
        if not twin.exists():
            twin.write_bytes(source.read_bytes())
        self.count[source.name] += 1
        os.link(twin, target)


def plant(folder: Path, num_people: int) -> None:
    """Write the study: raw images, fMRIPrep's, phenotypes, a configuration, and what later stages read."""
    people = [f"sub-{number:06d}" for number in range(num_people)]
    files = sources(folder / "sources")
    linker = Linker(folder / "linked")
    raw(folder / "bids", people, files, linker)
    derivatives(folder / "fmriprep", people, files, linker)
    _phenotypes(folder / "phenotypes", people)
    for kind in ("bids", "fmriprep"):
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(_configuration(kind)), encoding="utf-8")
    scans = _scans(folder, people, files)
    write_tsv(scans, folder / "planted" / "scans.tsv", SCANS)
    _denoised(folder / "planted" / "denoised.arrow", scans)
    for batch, rows in scans.groupby("batch"):
        _connectomes(folder / "planted" / "correlate" / DATASET / f"{batch}.arrow", rows)


def sources(folder: Path) -> dict[str, Path]:
    """One file of each kind."""
    folder.mkdir(parents=True)
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = (-92, -126, -72)
    bold = np.random.default_rng(0).integers(1, 1000, (*SHAPE, IMAGE_VOLUMES)).astype("int16")
    images = {"T1w": np.ones((1, 1, 1), "int16"), "mask": np.ones(SHAPE, "uint8"), "bold": bold}
    for name, data in images.items():
        image = nib.Nifti1Image(data, affine)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((VOXEL_MM, VOXEL_MM, VOXEL_MM, TR_S)[: data.ndim])
        nib.save(image, folder / f"{name}.nii.gz")
    (folder / "sidecar.json").write_text(json.dumps({"RepetitionTime": TR_S}), encoding="utf-8")
    (folder / "confounds.tsv").write_text("csf\n" + "1\n" * IMAGE_VOLUMES, encoding="utf-8")
    return {path.name.split(".")[0]: path for path in folder.iterdir()}


def raw(root: Path, people: list[str], files: dict[str, Path], linker: Linker) -> None:
    """T1w, BOLD and their sidecars."""
    _describe(root)
    for person in people:
        for room, suffix in (("anat", "T1w"), ("func", "task-rest_bold")):
            place = root / person / room
            place.mkdir(parents=True)
            linker.link(files[suffix.removeprefix("task-rest_")], place / f"{person}_{suffix}.nii.gz")
            linker.link(files["sidecar"], place / f"{person}_{suffix}.json")


def derivatives(root: Path, people: list[str], files: dict[str, Path], linker: Linker) -> None:
    """BOLD in MNI space, its sidecar, mask and confounds."""
    _describe(root)
    names = {
        "space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz": "bold",
        "space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.json": "sidecar",
        "space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz": "mask",
        "desc-confounds_timeseries.tsv": "confounds",
    }
    for person in people:
        place = root / person / "func"
        place.mkdir(parents=True)
        for name, source in names.items():
            linker.link(files[source], place / f"{person}_task-rest_{name}")


def _describe(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "planted", "BIDSVersion": "1.10.0"}', encoding="utf-8")


def _phenotypes(folder: Path, people: list[str]) -> None:
    """participants.tsv: sexes in turn, ages from 20 to 79, ten sites."""
    folder.mkdir()
    number_N = np.arange(len(people))
    columns = {"participant_id": people, "sex": np.array(["female", "male"])[number_N % 2]}
    columns |= {"age": 20 + number_N % 60, "site": [f"site{number % 10}" for number in number_N]}
    pd.DataFrame(columns).to_csv(folder / "participants.tsv", sep="\t", index=False)


def datasets(kind: str) -> dict[str, Any]:
    """The `datasets` block of the study on raw images (`bids`) or on fMRIPrep's (`fmriprep`)."""
    entry = "bids" if kind == "bids" else "derivatives"
    return {DATASET: {"path": kind, "input": entry, "cohort": "generic", "phenotypes": "phenotypes"}}


def _configuration(kind: str) -> dict[str, Any]:
    """The demo's: its models, strategies, protocols and tasks, on the one dataset."""
    path = Path(__file__).parents[1] / "config.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    config |= {"datasets": datasets(kind), "simulate": None, "export": None}
    for task in config["tasks"].values():
        task["cohorts"] = []
    return config


def _scans(folder: Path, people: list[str], files: dict[str, Path]) -> pd.DataFrame:
    """The index of the study, of which all images are one file."""
    planted: dict[str, Any] = {
        "dataset": DATASET,
        "batch": assign_batches(pd.Series(people), Index().batch_size),
        "participant_id": people,
        "task": "rest",
        "scan": [f"{person}_task-rest" for person in people],
        "input": "derivatives",
        "bold": str(files["bold"].relative_to(folder)),
        "mask": str(files["mask"].relative_to(folder)),
        "confounds": str(files["confounds"].relative_to(folder)),
        "tr_s": TR_S,
        "num_volumes": IMAGE_VOLUMES,
        "fingerprint": "planted",
        "outcome": "ok",
    }
    return pd.DataFrame({name: planted.get(name) for name in SCANS.columns}, index=range(len(people)))


def _rows(scans: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What names and times every scan in a table of arrays."""
    named = scans[["dataset", "participant_id", "scan", "outcome", "tr_s"]].to_dict("records")
    num_regions = load_atlas("AAL").num_regions
    for row in named:
        row |= {"num_volumes": NUM_VOLUMES, "num_kept": NUM_VOLUMES, "residual_dof": 40.0, "mean_fd_mm": 0.1}
        yield row | {"coverage": np.ones(num_regions, np.float32)}


def _denoised(path: Path, scans: pd.DataFrame) -> None:
    """Denoised series of noise, one record batch a scan."""
    atlas, generator = load_atlas("AAL"), np.random.default_rng(0)
    schema = denoised_schema(atlas.names, atlas.name, "9P")

    def batch(row: dict[str, Any]) -> pa.RecordBatch:
        noise_TR = generator.standard_normal((NUM_VOLUMES, atlas.num_regions), dtype=np.float32)
        kept_T = np.ones(NUM_VOLUMES, dtype=bool)
        row |= {"fd_mm": np.full(NUM_VOLUMES, 0.1, np.float32), "kept": kept_T, "series": noise_TR.ravel()}
        return pa.RecordBatch.from_pylist([row], schema=schema)

    write_arrow(pa.RecordBatchReader.from_batches(schema, map(batch, _rows(scans))), path)


def _connectomes(path: Path, scans: pd.DataFrame) -> None:
    """Connectomes of noise of one batch."""
    atlas = load_atlas("AAL")
    schema = connectome_schema(atlas.names, atlas.name, "9P")
    num_edges = atlas.num_regions * (atlas.num_regions - 1) // 2
    edges_NE = np.random.default_rng(int(path.stem)).uniform(-0.9, 0.9, (len(scans), num_edges)).astype(np.float32)
    more = {"window": 0, "window_start": 0, "shrinkage": 0.1}
    rows = [row | more | {"fc": edges_E} for row, edges_E in zip(_rows(scans), edges_NE, strict=True)]
    write_arrow(pa.Table.from_pylist(rows, schema=schema), path)


def main() -> None:
    """Plant the study that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder of the study")
    parser.add_argument("num_people", type=int, help="each has one scan")
    options = parser.parse_args()
    plant(options.folder, options.num_people)


if __name__ == "__main__":
    main()
