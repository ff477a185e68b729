"""Small studies for the workflow's tests: trees of tiny files, a configuration, and Snakemake run on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
# Every request goes to a port where nobody listens: what tried to download or to call home would fail.
OFFLINE = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")


def write_image(path: Path, *, num_volumes: int = 0, tr_s: float | None = None) -> None:
    """A 2×2×2 NIfTI, 4D when `num_volumes` is given, with a sidecar when `tr_s` is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (2, 2, 2, num_volumes) if num_volumes else (2, 2, 2)
    nib.save(nib.Nifti1Image(np.zeros(shape, "int16"), np.eye(4)), path)
    if tr_s is not None:
        Path(str(path).replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": tr_s}))


@dataclass
class SmallStudy:
    """A study in a folder of its own; `config` may be changed before a run."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)

    def lcm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a stage through the door, in the study's folder."""
        environment = os.environ | OFFLINE | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "lcm", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def index(self) -> subprocess.CompletedProcess[str]:
        """Write results/index as the checkpoint would."""
        datasets = json.dumps(self.config["datasets"])
        return self.lcm("index", "--datasets", datasets, "--output", "results/index", "--settings", '{"batch_size": 2}')

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with the study's configuration."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.config))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "2"]
        command += ["--configfile", "study.yaml", "--nocolor", *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | OFFLINE | {"PATH": path}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def planned(self, *targets: str) -> dict[str, int]:
        """Jobs a stage that a dry run announces, of the whole study or of some results."""
        run = self.snakemake(*targets, "--dry-run", "--quiet", "rules")
        assert run.returncode == 0, run.stdout + run.stderr
        return {
            name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)
        }


@pytest.fixture
def small_study(tmp_path: Path) -> SmallStudy:
    """The demo's settings on one raw BIDS dataset, one task, majority and ridge, two folds."""
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"] = {"LAB": {"path": "bids", "input": "bids", "cohort": "generic"}}
    config["tasks"] = {"sex": {"target": "sex", "levels": ["female", "male"]}}
    config["models"] = {name: {"architecture": name} for name in ("majority", "ridge")}
    config["protocols"] = {"honest": {}}
    config["simulate"] = config["export"] = config["probe"] = config["forecast"] = None
    config["forecasters"] = {}
    config["strategies"] = ["9P"]
    config["split"]["num_folds"] = 2
    return SmallStudy(tmp_path, config)


NINE = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "csf", "white_matter", "global_signal")


def write_derivatives(folder: Path, people: dict[str, str], *, num_volumes: int = 90) -> None:
    """fMRIPrep-like output on an 8 mm MNI grid for people {label: sex}, with their participants.tsv."""
    affine = np.array([[-8.0, 0, 0, 92], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
    shape = (24, 28, 24)
    for label, sex in people.items():
        rng = np.random.default_rng(sum(map(ord, label)))
        stem = folder / f"sub-{label}" / "func" / f"sub-{label}_task-rest"
        stem.parent.mkdir(parents=True, exist_ok=True)
        shared = rng.standard_normal(num_volumes)
        bold = 1000 + 10 * rng.standard_normal((*shape, num_volumes))
        bold[:12] += (30 if sex == "male" else 0) * shared
        image = nib.Nifti1Image(bold.astype("float32"), affine)
        image.header.set_zooms((8, 8, 8, 2.0))
        nib.save(image, f"{stem}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
        mask = nib.Nifti1Image(np.ones(shape, "uint8"), affine)
        nib.save(mask, f"{stem}_space-MNI152NLin6Asym_desc-brain_mask.nii.gz")
        Path(f"{stem}_space-MNI152NLin6Asym_desc-preproc_bold.json").write_text('{"RepetitionTime": 2.0}')
        values = rng.standard_normal((num_volumes, len(NINE)))
        rows = ["\t".join((*NINE, "framewise_displacement"))]
        rows += ["\t".join([*map(str, row), "n/a" if t == 0 else "0.1"]) for t, row in enumerate(values)]
        Path(f"{stem}_desc-confounds_timeseries.tsv").write_text("\n".join(rows) + "\n")
    rows = [f"sub-{label}\t{20 + i}\t{sex}" for i, (label, sex) in enumerate(people.items())]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]) + "\n")


@pytest.fixture
def derivative_study(small_study: SmallStudy) -> SmallStudy:
    """A study of twelve people that runs from fMRIPrep output to the report in seconds."""
    people = {f"p{i:02d}": ("female", "male")[i % 2] for i in range(12)}
    write_derivatives(small_study.folder / "fmriprep", people)
    small_study.config["datasets"]["LAB"] = {
        "path": "fmriprep",
        "input": "derivatives",
        "cohort": "generic",
        "phenotypes": "fmriprep",
    }
    small_study.config["denoise"]["min_minutes"] = 1.0
    return small_study
