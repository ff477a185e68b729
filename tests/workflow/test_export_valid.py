"""The exported dataset passes the official BIDS validator, offline, and a broken one does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lcm.config import Correlate
from lcm.tables import OK
from tests.planted_export import PlantedBatch

from .conftest import OFFLINE

VALIDATOR = shutil.which("bids-validator-deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(VALIDATOR is None, reason="bids-validator-deno is not installed")
DRAFTS = {"timeseries", "relmat", "outliers", "stat-coverage"}


@pytest.fixture
def batch(tmp_path: Path) -> PlantedBatch:
    """Two strategies of one batch, the second in windows; two sessions' names; one atlas."""
    batch = PlantedBatch(tmp_path, outcomes={})
    batch.export()
    batch.strategy, batch.correlate, batch.windows = "36P-scrub", Correlate(window_volumes=20), 2
    batch.export()
    return batch


def _errors(tree: Path) -> list[str]:
    """Code and place of every error the validator finds."""
    command = [str(VALIDATOR), str(tree), "--format", "json"]
    run = subprocess.run(command, env=os.environ | OFFLINE, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    assert found["summary"]["totalFiles"] > 0
    errors = [issue for issue in found["issues"]["issues"] if issue["severity"] == "error"]
    assert bool(errors) == (run.returncode != 0)
    return [f"{issue['code']} {issue.get('location', '')}" for issue in errors]


def test_an_exported_dataset_is_valid(batch: PlantedBatch):
    assert _errors(batch.tree) == []


def test_a_dataset_with_an_atlas_of_ones_own_is_valid(batch: PlantedBatch):
    import nibabel as nib
    import numpy as np

    image = batch.folder / "halls.nii"
    nib.save(nib.Nifti1Image(np.arange(27, dtype="int16").reshape(3, 3, 3) % 8, np.eye(4)), image)
    image.with_name("halls.txt").write_text("".join(f"{label} hall {label}\n" for label in range(1, 8)))
    image.with_name("LICENSE").write_text("do as you like")
    batch.atlas = str(image)
    assert (batch.export()["outcome"] == OK).all()
    assert _errors(batch.tree) == []


def test_what_the_validator_must_not_see_is_the_listed_draft_suffixes_and_no_more(batch: PlantedBatch):
    ignored = (batch.tree / ".bidsignore").read_text().splitlines()
    assert {name.strip("*_").split(".")[0] for name in ignored} == DRAFTS
    (batch.tree / ".bidsignore").unlink()
    places = {error.split(" ")[1] for error in _errors(batch.tree)}
    assert places
    assert all(any(f"_{draft}" in place for draft in DRAFTS) or "/desc-" in place for place in places)


def _generated_by_no_one(tree: Path) -> None:
    # The validator (3.0) asks for GeneratedBy of raw datasets only; what it holds is checked in derivatives too.
    path = tree / "dataset_description.json"
    content = json.loads(path.read_text())
    del content["GeneratedBy"][0]["Name"]
    path.write_text(json.dumps(content))


def _with_a_bad_name(tree: Path) -> None:
    (tree / "sub-01" / "func" / "sub-01_task-rest_series.tsv").write_text("a\n1\n")


def _with_entities_out_of_order(tree: Path) -> None:
    name = "tpl-MNIColin27_atlas-AAL_res-2_dseg.tsv"
    (tree / "tpl-MNIColin27" / name).rename(tree / "tpl-MNIColin27" / "tpl-MNIColin27_res-2_atlas-AAL_dseg.tsv")


def _without_description(tree: Path) -> None:
    (tree / "dataset_description.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_generated_by_no_one, "JSON_SCHEMA_VALIDATION_ERROR /dataset_description.json"),
        (_with_a_bad_name, "NOT_INCLUDED /sub-01/func/sub-01_task-rest_series.tsv"),
        (_with_entities_out_of_order, "FILENAME_MISMATCH /tpl-MNIColin27/tpl-MNIColin27_res-2_atlas-AAL_dseg.tsv"),
        (_without_description, "MISSING_DATASET_DESCRIPTION"),
    ],
)
def test_a_broken_dataset_is_refused(batch: PlantedBatch, damage, message: str):
    damage(batch.tree)
    errors = _errors(batch.tree)
    assert any(error.startswith(message) for error in errors), errors
