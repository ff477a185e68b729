"""The demo study, start to end, through Slurm and without it: the same predictions, weights and scores."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import REPOSITORY, SmallStudy

from .conftest import Submitted

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# Simulated files are as old as their run, and tables of scans say so; what is learned from them does not.
COMPARED = ("folds.tsv", "weights.safetensors", "predictions.parquet", "scores.tsv", "benchmark.tsv")


def learned(folder: Path) -> dict[str, str]:
    """SHA-256 of what must not depend on where the study ran."""
    files = [path for name in COMPARED for path in (folder / "results").rglob(name)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_demo_through_slurm_and_without_it(cluster, tmp_path):
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    submitted = Submitted(tmp_path / "slurm", config)
    local = SmallStudy(tmp_path / "local", config)
    submitted.folder.mkdir()
    local.folder.mkdir()
    submitted.submit()
    verdict = submitted.lcm("report", "--verdict", "--output", "results/report")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    run = local.snakemake("--quiet", "rules", "host")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(learned(local.folder)) > 100
    assert learned(submitted.folder) == learned(local.folder)
