"""On a GPU: the numbers of the CPU up to rounding, in every form of the loop. `pytest tests/gpu` runs it in a lab."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from lcm.models.token_network import Target
from lcm.training.checkpoint import Run
from lcm.training.gpu_claims import VISIBLE
from lcm.training.loop import State, train
from lcm.training.machine import Machine
from tests.conftest import REPOSITORY
from tests.small_run import examples, finish, fresh_processes, network_of, result, sorted_out, start

pytestmark = pytest.mark.gpu

EXACT = {"dtype": torch.float64, "gradient_accumulation": 1, "batch_size": 16, "max_epochs": 4}
LOSSES = ("training_loss", "validation_loss")


def go(run: Run | None = None, dtype: torch.dtype = torch.float32, **changed: object) -> State:
    """Four epochs of the small LCM without dropout, whose masks differ between CPU and GPU."""
    network = network_of(0.0).to(dtype)
    settings, devices = sorted_out({"max_epochs": 4, "batch_size": 16, "gradient_accumulation": 1, **changed})
    objective = network.objective([Target("q", ("no", "yes")), Target("age", ())], settings.first_stage_epochs)
    return train(network, objective, examples(115, 1, dtype), examples(41, 2, dtype), settings, run, devices)


def losses(state: State) -> list[float]:
    return [row[name] for row in state.history for name in LOSSES]


def test_the_gpu_learns_what_the_cpu_learns():
    ours, theirs = (go(dtype=torch.float64, accelerator=name) for name in ("gpu", "cpu"))
    assert ours.device == torch.cuda.get_device_name()
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-8)
    for name, value in theirs.best_weights.items():
        torch.testing.assert_close(ours.best_weights[name], value, atol=1e-7, rtol=0, msg=name)


def test_the_same_seed_gives_the_same_losses_twice():
    assert losses(go(accelerator="gpu")) == pytest.approx(losses(go(accelerator="gpu")), rel=1e-5)


@pytest.mark.parametrize("form", [{"compile": True}, {"precision": "bf16-mixed"}], ids=["compiled", "bf16"])
def test_every_form_of_a_step_learns_the_same_up_to_its_rounding(form):
    tolerance = 0.03 if "precision" in form else 1e-3
    assert losses(go(accelerator="gpu", **form)) == pytest.approx(losses(go(accelerator="gpu")), rel=tolerance)


def test_a_run_that_began_on_a_gpu_goes_on_on_the_cpu(tmp_path):
    go(Run(tmp_path), torch.float64, accelerator="gpu", max_epochs=2)
    moved = go(Run(tmp_path, "require"), torch.float64, accelerator="cpu")
    assert moved.device == f"{torch.cuda.get_device_name()}, then cpu"
    assert losses(moved) == pytest.approx(losses(go(dtype=torch.float64, accelerator="cpu")), rel=1e-8)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_gpus_learn_what_one_learns(tmp_path, parallel):
    if torch.cuda.device_count() < 2:
        pytest.skip("torch sees one GPU")
    processes, shared = fresh_processes(), EXACT | {"accelerator": "gpu"}
    assert finish(start(processes, tmp_path / "alone", **shared)) == [0]
    both = shared | {"count": 2, "devices": 2, "parallel": parallel}
    assert finish(start(processes, tmp_path / "both", **both)) == [0, 0]
    for row, theirs in zip(result(tmp_path / "both")[0], result(tmp_path / "alone")[0], strict=True):
        assert row == pytest.approx(theirs, rel=1e-8)


def test_a_process_without_a_scheduler_takes_a_gpu_of_its_own():
    """Before CUDA starts, so that it is the first of those that it sees."""
    code = (
        f"import os, torch; from lcm.training.machine import Machine; print(Machine().place(), os.environ['{VISIBLE}'])"
    )
    code += "; torch.zeros(1, device='cuda'); print(torch.cuda.device_count())"
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
    environment |= {"PYTHONPATH": str(REPOSITORY)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    place, visible, count = said.stdout.split()
    assert (place, count) == ("cuda", "1")
    assert int(visible) < torch.cuda.device_count()
    assert Machine("gpu").kind(torch.cuda.device_count()) == "cuda"
