"""Two processes inside one job of Slurm, by srun or by their own start, learn what one process learns."""

from __future__ import annotations

import csv
import shutil
from copy import deepcopy
from pathlib import Path

import pytest

from lcm.training.weights import read_manifest

from .conftest import METRICS, STARTED, copied

pytestmark = pytest.mark.slurm

# As docs/training.md asks for several nodes, on the one that is here.
STARTS = {
    "srun": [
        "mpi=srun",
        "tasks_per_node=2",
        "launcher=srun --nodes=1 --ntasks=2 --ntasks-per-node=2 --kill-on-bad-exit=1",
    ],
    "their own": [],
}


def losses(folder: Path) -> list[list[float]]:
    """Every number of every epoch, but for the seconds."""
    with (folder / METRICS).open() as table:
        rows = list(csv.DictReader(table))
    timed = ("seconds", "samples_per_s")
    return [[float(value) for name, value in row.items() if value and name not in timed] for row in rows]


@pytest.fixture(scope="module")
def alone(local, tmp_path_factory):
    """The network with a scan to judge by for each process, few epochs, so that rounding stays small, and no dropout.

    Dropout is drawn by each process for its own share.
    """
    study = copied(local, tmp_path_factory.mktemp("alone"))
    config = deepcopy(local.config)
    config["models"]["lcm"]["size"]["dropout"] = 0.0
    config["pretrain"]["max_epochs"] = 5
    config["split"]["validation_share"] = 0.4
    study.config = config
    run = study.snakemake(STARTED, "--quiet", "rules", "host")
    assert run.returncode == 0, run.stdout + run.stderr
    return study


@pytest.mark.parametrize("how", STARTS)
def test_two_processes_of_a_job_learn_what_one_learns(cluster, alone, tmp_path, how):
    study = copied(alone, tmp_path / "study")
    shutil.rmtree(study.folder / STARTED)
    seen = {}

    def look():
        seen.update((process, places.get("CUDA_VISIBLE_DEVICES")) for process, _, places in study.stages())

    asked = ["gpu=2", "machine='--accelerator cpu'", *STARTS[how]]
    study.submit(STARTED, "--set-resources", *(f"pretrain:{one}" for one in asked), watch=look)
    assert list(seen.values()) == ["0,1", "0,1"]
    shared, single = (read_manifest(one.folder / STARTED) for one in (study, alone))
    assert (shared.device, single.device) == ("2 × cpu", "cpu")
    # Adam makes steps of float32's rounding noise; processes that do not share their gradients differ by far more.
    for name in ("epochs", "best_epoch", "validation_loss"):
        assert shared.results[name] == pytest.approx(single.results[name], rel=2e-3), name
    ours, theirs = losses(study.folder), losses(alone.folder)
    assert len(ours) == len(theirs) == 5
    for row, other in zip(ours, theirs, strict=True):
        assert row == pytest.approx(other, rel=2e-3)
