"""The learning rate's way through a run: a straight rise, half a cosine, and the same rates when a model is fitted again."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from lcm.config import Training
from lcm.training.checkpoint import Run
from lcm.training.examples import InMemory
from lcm.training.loop import State, rate_at, train
from lcm.training.weights import summary
from tests.small_run import on_cpu

NUM_BATCHES = 4


class Slope(torch.nn.Module):
    """Two numbers that nothing but the rate moves: each has the gradient 1 at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.trunk = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))

    def embedding_parameters(self) -> list[str]:
        return ["reading"]

    def forward(self, x_B1: torch.Tensor) -> torch.Tensor:
        return x_B1 * (self.reading + self.trunk)


class Mean:
    """The outputs themselves."""

    def __call__(self, outputs, batch, epoch):
        return self.validate(outputs, batch)

    def validate(self, outputs, batch):
        return {"a": outputs.sum()}

    def covers(self, columns):
        return {"a": torch.ones(len(columns["inputs"]), dtype=torch.bool)}


def fall(run: Run | None = None, **settings: object) -> State:
    """Adam moves a number of constant gradient by the learning rate itself, so that it falls by the sum of all rates."""
    ones = InMemory({"inputs": torch.ones(8, 1)})
    chosen = Training(**{"batch_size": 2, "keep": "last", "learning_rate": 0.01, "max_epochs": 5, **settings})
    return train(Slope(), Mean(), ones, ones, chosen, run, on_cpu())


def rates(schedule: str, num_warm: int, num_steps: int, full: float = 0.01) -> list[float]:
    """By the formulas of the settings' descriptions."""
    found = []
    for step in range(num_steps):
        if step < num_warm:
            found.append(full * (step + 1) / num_warm)
        else:
            share = (step - num_warm) / (num_steps - num_warm)
            found.append(full * (0.5 + 0.5 * math.cos(math.pi * share) if schedule == "cosine" else 1.0))
    return found


@pytest.mark.parametrize(
    ("schedule", "warmup_share", "num_warm"),
    [("constant", 0.0, 0), ("constant", 0.25, 5), ("cosine", 0.0, 0), ("cosine", 0.25, 5), ("cosine", 0.05, 1)],
)
def test_every_step_is_taken_at_its_rate(schedule, warmup_share, num_warm):
    state = fall(schedule=schedule, warmup_share=warmup_share)
    wanted = rates(schedule, num_warm, 5 * NUM_BATCHES)
    assert state.network.reading.item() == pytest.approx(-sum(wanted), rel=1e-4)
    # The row of an epoch has the rate of its last step.
    assert [row["learning_rate"] for row in state.history] == pytest.approx(wanted[NUM_BATCHES - 1 :: NUM_BATCHES])


def test_what_learns_slowly_does_so_at_every_step():
    network = fall(schedule="cosine", warmup_share=0.25, trunk_rate=0.1).network
    assert network.trunk.item() == pytest.approx(0.1 * network.reading.item(), rel=1e-4)


def test_a_rise_reaches_the_full_rate_and_a_cosine_ends_at_nothing():
    assert [rate_at("cosine", 0.2, step, 20) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate_at("cosine", 0.2, 12, 20) == pytest.approx(0.5)
    assert rate_at("cosine", 0.2, 20, 20) == pytest.approx(0.0)
    assert rate_at("cosine", 0.2, 30, 20) == pytest.approx(0.0)
    # A run of one step is all warm-up, and after it nothing is divided by 0.
    assert [rate_at("cosine", 0.99, step, 1) for step in (0, 1)] == [1.0, 1.0]
    assert rate_at("constant", 0.0, 0, 1) == 1.0


def test_a_shorter_run_of_a_longer_schedule_takes_its_first_rates():
    whole = rates("cosine", 5, 5 * NUM_BATCHES)
    state = fall(schedule="cosine", warmup_share=0.25, max_epochs=2, schedule_epochs=5)
    assert state.epoch == 2
    assert state.network.reading.item() == pytest.approx(-sum(whole[: 2 * NUM_BATCHES]), rel=1e-4)


def test_a_longer_schedule_is_another_run_and_a_constant_rate_goes_on(tmp_path):
    def folder(name: str) -> Run:
        return Run(tmp_path / name, "require" if (tmp_path / name).exists() else "auto")

    changing = {"schedule": "cosine", "warmup_share": 0.25}
    for name, settings in {"changing": changing, "constant": {}}.items():
        fall(folder(name), max_epochs=2, **settings)
    with pytest.raises(ValueError, match=r"differs in settings.schedule_epochs \(2 then, 4 now\)"):
        fall(folder("changing"), max_epochs=4, **changing)
    # A schedule as long as before is the same run, whatever it was cut to.
    further = fall(folder("constant"), max_epochs=4, schedule_epochs=9)
    assert [row["epoch"] for row in further.history] == [1, 2, 3, 4]
    (tmp_path / "cut").mkdir()
    fall(Run(tmp_path / "cut"), max_epochs=2, schedule_epochs=4, **changing)
    resumed = fall(folder("cut"), max_epochs=4, **changing)
    assert resumed.network.reading.item() == fall(max_epochs=4, **changing).network.reading.item()


def rates_in(log: Path) -> list[float]:
    with (log / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        return [float(row["learning_rate"]) for row in csv.DictReader(stream)]


def test_a_model_that_is_fitted_again_keeps_the_rates_that_its_best_epoch_had(study, run_stage, monkeypatch):
    monkeypatch.setattr("lcm.training.finetune.summary", lambda *found: summary(*found) | {"best_epoch": 3})
    model = {"architecture": "lcm", "size": {"num_layers": 1, "width": 16, "num_heads": 2, "feedforward": 16}}
    task = {"target": "sex", "levels": ["female", "male"]}
    settings = {"max_epochs": 6, "patience": 6, "batch_size": 8, "learning_rate": 1e-3, "schedule": "cosine"}
    settings |= {"warmup_share": 0.3, "refit": True}
    log = study.folder / "log"
    run_stage("finetune", "out", settings, model=model, task=task, log_folder=log)
    first, again = rates_in(log), rates_in(log / "refit")
    assert (len(first), len(again)) == (6, 3)
    # It is fitted again on more people and so in more steps, whose places in the schedule are nearly the same.
    assert again == pytest.approx(first[:3], rel=0.1)
    assert max(first) / min(first) > 5
