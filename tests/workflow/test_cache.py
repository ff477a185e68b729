"""A cache that two studies share: what one has preprocessed the other takes, and what differs is made anew."""

from __future__ import annotations

import copy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lcm.imaging.registration import load_template
from lcm.tables import RUNS, read_tsv

from .conftest import SmallStudy

PEOPLE = ("100001", "100002")
FOLDERS = [f"results/preprocess/LAB/sub-{label}" for label in PEOPLE]
SERIES = "results/parcellate/LAB/0000.arrow"
NUM_VOLUMES = 24


def write_hcp(folder: Path) -> None:
    """Two people of the HCP's layout with the same image at 8 mm, which is in MNI space and stays where it is."""
    template = load_template("nilearn", 8.0)
    noise = np.random.default_rng(0).normal(0, 10, (*template.mask.shape, NUM_VOLUMES))
    bold = nib.Nifti1Image((template.mask[..., None] * (1000 + noise)).astype("float32"), template.affine)
    bold.header.set_zooms((8, 8, 8, 0.72))
    bold.header.set_xyzt_units("mm", "sec")
    for label in PEOPLE:
        place = folder / label / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
        place.mkdir(parents=True)
        nib.save(bold, place / "rfMRI_REST1_LR.nii.gz")
        nib.save(nib.Nifti1Image(template.mask.astype("uint8"), template.affine), place / "brainmask_fs.2.0.nii.gz")
        np.savetxt(place / "Movement_Regressors.txt", np.full((NUM_VOLUMES, 12), 0.01))


def _study(folder: Path, like: SmallStudy, data: str) -> SmallStudy:
    folder.mkdir()
    datasets = {"LAB": {"path": data, "input": "hcp", "cohort": "generic"}}
    study = SmallStudy(folder, copy.deepcopy(like.config) | {"datasets": datasets})
    run = study.snakemake("results/index/scans.tsv")
    assert run.returncode == 0, run.stdout + run.stderr
    return study


def _run(study: SmallStudy) -> str:
    run = study.snakemake(SERIES, "--cache", "preprocess")
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_a_second_study_of_the_same_images_preprocesses_nothing(
    small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch
):
    cache = small_study.folder / "cache"
    cache.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(cache))
    write_hcp(small_study.folder / "data")
    one = _study(small_study.folder / "one", small_study, str(small_study.folder / "data"))
    _run(one)
    entries = sorted(path.name for path in cache.iterdir())
    assert len(entries) == len(PEOPLE)
    assert all((one.folder / folder).is_symlink() for folder in FOLDERS)
    runs = read_tsv(one.folder / FOLDERS[0] / f"sub-{PEOPLE[0]}_runs.tsv", RUNS)
    assert runs["outcome"].to_list() == ["ok"]
    # Paths hold in any study: those of the folder's own files, and none of an image that lies outside.
    assert runs["bold"].isna().all()
    assert (one.folder / FOLDERS[0] / runs["mask"].item()).is_file()

    two = _study(small_study.folder / "two", small_study, "../data")
    _run(two)
    assert sorted(path.name for path in cache.iterdir()) == entries
    # What was made here is a link to the cache; what was taken from it is a folder of links.
    assert not any((two.folder / folder).is_symlink() for folder in FOLDERS)
    assert all((two.folder / folder / "func").is_symlink() for folder in FOLDERS)
    assert (two.folder / SERIES).read_bytes() == (one.folder / SERIES).read_bytes()
    inside = {path.name for path in (two.folder / FOLDERS[0]).iterdir()} - {".snakemake_timestamp"}
    assert inside == {path.name for path in (one.folder / FOLDERS[0]).iterdir()}
    assert inside == {"record.json", "figures", "func", f"sub-{PEOPLE[0]}_runs.tsv"}

    # Another setting is another entry, and takes nothing from those who share the first one.
    two.config["preprocess"]["seed"] = 2
    _run(two)
    assert len(list(cache.iterdir())) == 2 * len(PEOPLE)
    assert entries == [path.name for path in sorted(cache.iterdir()) if path.name in entries]
    assert "Nothing to be done" in _run(one)
    assert (one.folder / FOLDERS[0] / f"sub-{PEOPLE[0]}_runs.tsv").is_file()
