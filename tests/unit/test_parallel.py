"""Several processes train one network: the numbers of one process, one bundle, one set of logs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lcm.training.checkpoint import CHECKPOINT
from lcm.training.data import read_cohort, tables_of
from lcm.training.networks import build_network, load_arrays
from lcm.training.weights import WEIGHTS, read_manifest
from tests.asking import scores_of
from tests.conftest import REPOSITORY
from tests.small_run import deal_out, fill_in, finish, fresh_processes, result, start

# In float32 Adam makes steps of the rounding noise of weights whose true gradient is 0, as of every key's bias.
# At this learning rate an epoch comes that is not the best so far, after which nothing is kept.
EXACT = {"dtype": torch.float64, "gradient_accumulation": 1, "batch_size": 16, "max_epochs": 4, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def processes():
    return fresh_processes()


@pytest.fixture(scope="module")
def alone(processes, tmp_path_factory) -> Path:
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert finish(start(processes, folder, **EXACT)) == [0]
    judged = [row["validation_loss"] for row in result(folder)[0]]
    assert judged[:-1] != sorted(judged[:-1], reverse=True)
    return folder


def assert_alike(folder: Path, other: Path) -> None:
    (losses, weights), (their_losses, their_weights) = result(folder), result(other)
    assert len(losses) == len(their_losses) > 1
    for row, theirs in zip(losses, their_losses, strict=True):
        assert row == pytest.approx(theirs, abs=1e-6)
    assert list(weights) == list(their_weights)
    for name in weights:
        torch.testing.assert_close(weights[name], their_weights[name], atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize(("parallel", "launcher"), [("auto", "srun"), ("fsdp", "torchrun")])
def test_two_processes_learn_what_one_learns(processes, alone, tmp_path, parallel, launcher):
    # 115 scans, less those without a label, in batches whose two shares differ by one scan.
    shared = EXACT | {"count": 2, "launcher": launcher, "devices": 2, "parallel": parallel}
    assert finish(start(processes, tmp_path, **shared)) == [0, 0]
    assert_alike(alone, tmp_path)


def test_batches_in_parts_are_shared_too(processes, tmp_path):
    settings = EXACT | {"fixed_norm": True}
    assert finish(start(processes, tmp_path / "alone", **settings)) == [0]
    for parallel in ("ddp", "fsdp"):
        parts = settings | {"gradient_accumulation": 3, "devices": 2, "parallel": parallel}
        assert finish(start(processes, tmp_path / parallel, count=2, **parts)) == [0, 0]
        assert_alike(tmp_path / "alone", tmp_path / parallel)


def test_what_is_hidden_of_a_window_does_not_depend_on_who_computes_it(processes, tmp_path):
    """BrainLM on windows: two processes, in parts too, hide what one hides, and learn what it learns."""
    exact = EXACT | {"target": fill_in, "max_epochs": 3, "learning_rate": 3e-3}
    assert finish(start(processes, tmp_path / "alone", **exact)) == [0]
    for parallel, num_parts in (("ddp", 1), ("ddp", 3), ("fsdp", 1)):
        folder = tmp_path / f"{parallel}-{num_parts}"
        shared = exact | {"gradient_accumulation": num_parts, "devices": 2, "parallel": parallel}
        assert finish(start(processes, folder, count=2, **shared)) == [0, 0]
        assert_alike(tmp_path / "alone", folder)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_that_were_stopped_go_on_together(processes, alone, tmp_path, parallel):
    path = tmp_path / "checkpoint" / CHECKPOINT
    shared = EXACT | {"count": 2, "devices": 2, "parallel": parallel, "checkpoint_minutes": 1e-3}
    first, other = start(processes, tmp_path, path.parent, **shared)
    while first.is_alive() and not path.exists():
        time.sleep(0.002)
    # One process is told; all stop after the same batch.
    os.kill(other.pid, signal.SIGTERM)
    assert finish([first, other]) == [143, 143]
    # Each of FSDP's weights is gathered for each checkpoint.
    assert finish(start(processes, tmp_path, path.parent, **shared | {"checkpoint_minutes": 60.0})) == [0, 0]
    assert_alike(alone, tmp_path)


def test_the_command_starts_its_processes_and_writes_the_bundle_of_one_process(study, run_stage):
    size = {"num_layers": 2, "width": 16, "num_heads": 2, "feedforward": 32, "dropout": 0.0}
    model = {"architecture": "lcm", "start": "pretrained", "size": size}
    settings = {"targets": ["sex", "age", "autism"], "max_epochs": 2, "batch_size": 8}
    alone = read_manifest(run_stage("pretrain", "alone", settings, model=model))
    output = study.folder / "shared"
    flags = {"model": "tiny", "model-definition": json.dumps(model), "fold": 0, "output": output}
    flags |= {name: getattr(study.flags(), name) for name in ("bei", "folds", "scans", "connectomes")}
    flags |= {"settings": json.dumps(settings), "accelerator": "cpu", "devices": 2, "parallel": "fsdp"}
    flags |= {"checkpoint": study.folder / "checkpoint", "log-folder": study.folder / "log"}
    command = [sys.executable, "-m", "lcm", "pretrain", *(str(x) for k, v in flags.items() for x in (f"--{k}", v))]
    # A job of several tasks, whose one process Lightning would take for the first of four.
    allocation = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "pretrain", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    allocation |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "elsewhere"}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | allocation
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("epoch 2/2") == 1, run.stderr
    assert not (study.folder / "checkpoint").exists()
    assert len(list((study.folder / "log").glob("events*"))) == 1
    manifest = read_manifest(output)
    assert manifest.results["validation_loss"] == pytest.approx(alone.results["validation_loss"], rel=1e-4)
    network = build_network(manifest.model, len(manifest.regions), manifest.tokens, seed=1)
    load_arrays(network, {name: value.numpy() for name, value in load_file(output / WEIGHTS).items()})
    assert json.loads((output / "record.json").read_text())["stage"] == "pretrain"


@pytest.mark.parametrize(
    ("rule", "launcher"),
    [
        ({"keep": "best"}, ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python")),
        ({"keep": "best-on-test", "refit": False}, ()),
    ],
    ids=["refit, by torchrun", "chosen by the tested, by Fabric"],
)
def test_two_processes_choose_and_fit_again_as_one_does(study, run_stage, rule, launcher):
    """What is counted over all judges is counted once, and each of the two fits is shared."""
    size = {"num_layers": 1, "width": 16, "num_heads": 2, "feedforward": 16, "dropout": 0.0}
    model, task = {"architecture": "lcm", "size": size}, {"target": "sex", "levels": ["female", "male"]}
    settings = {"max_epochs": 4, "batch_size": 8, "learning_rate": 1e-3, **rule}
    alone = read_manifest(run_stage("finetune", "alone", settings, model=model, task=task))
    output = study.folder / "shared"
    flags = {"model": "tiny", "model-definition": json.dumps(model), "fold": 0, "output": output, "task": "question"}
    flags |= {name: getattr(study.flags(), name) for name in ("bei", "folds", "scans", "connectomes")}
    flags |= {"definition": json.dumps(task), "checkpoint": study.folder / "checkpoint"}
    flags |= {"settings": json.dumps(settings), "accelerator": "cpu", "devices": 2}
    started_by = [sys.executable, "-m", *launcher] if launcher else []
    command = [
        *started_by,
        sys.executable,
        "-m",
        "lcm",
        "finetune",
        *(str(x) for k, v in flags.items() for x in (f"--{k}", v)),
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    shared = read_manifest(output)
    assert shared.device == "2 × cpu"
    assert shared.results["best_epoch"] == alone.results["best_epoch"]
    assert shared.training_people == alone.training_people
    for name in ("validation_loss", "threshold"):
        assert shared.results[name] == pytest.approx(alone.results[name], rel=1e-3), name
    # The answers, not the weights: what moves no answer moves by rounding.
    tested = read_cohort(tables_of(study.flags()), fold=0, roles=("test",))
    ours, theirs = (scores_of(folder, tested) for folder in (output, study.folder / "alone"))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert not list(study.folder.glob("checkpoint*"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_fsdp_deals_the_weights_out_and_ddp_copies_them(processes, tmp_path, parallel):
    assert finish(start(processes, tmp_path, count=2, target=deal_out, devices=2, parallel=parallel)) == [0, 0]
    held = [json.loads((tmp_path / f"held-{rank}.json").read_text()) for rank in (0, 1)]
    for name in held[0]:
        shares = sorted(rank[name] for rank in held)
        # A vector of one value has one owner, and three tokens are dealt two and one.
        alike = shares in ([0.5, 0.5], [0, 1], [pytest.approx(1 / 3), pytest.approx(2 / 3)])
        assert alike if parallel == "fsdp" else shares == [1, 1], name


def test_a_stopped_run_goes_on_with_another_number_of_processes(processes, alone, tmp_path):
    """As after pre-emption, on a node with fewer devices, and back: without dropout the numbers are those of one process."""
    path = tmp_path / "checkpoint" / CHECKPOINT
    for count, parallel in ((2, "fsdp"), (1, "auto")):
        [first, *_] = started = start(
            processes, tmp_path, path.parent, count=count, devices=count, parallel=parallel, **EXACT
        )
        before = path.stat().st_mtime_ns if path.exists() else 0
        while first.is_alive() and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.002)
        os.kill(first.pid, signal.SIGUSR1)
        assert finish(started) == [143] * count
    assert finish(start(processes, tmp_path, path.parent, count=2, devices=2, **EXACT)) == [0, 0]
    assert_alike(alone, tmp_path)


WAIT = """
import os, time
from lcm.training.devices import _watch
parent = os.getpid()
if os.fork():
    print("started", flush=True)
    time.sleep(600)
_watch(parent)
"""


def test_a_process_ends_when_the_one_that_started_it_was_killed():
    """Its end of the pipe closes with it."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    first = subprocess.Popen([sys.executable, "-c", WAIT], env=environment, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "started\n"
    assert not select.select([first.stdout], [], [], 1.5)[0]
    first.kill()
    assert select.select([first.stdout], [], [], 60)[0]
    assert first.stdout.read() == ""
    first.wait()
