"""What a network must be able to learn, what it must not, and the very losses of one run.

`PYTHONPATH=. python tests/unit/test_learning.py` makes tests/golden/lcm_losses.json anew, after a change that means to
change them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lcm.config import Training
from lcm.models.large_connectome_model import LargeConnectomeModel
from lcm.models.token_network import Target, token_names
from lcm.training.examples import InMemory
from lcm.training.loop import State, seed_everything, train
from tests.small_run import on_cpu

GOLDEN = Path(__file__).parents[1] / "golden" / "lcm_losses.json"
NUM_REGIONS = 8
QUESTION = Target("q", ("no", "yes"))
T_99 = 3.499
"""Student's t of a two-sided 99 % interval of eight studies."""


def planted(num_scans: int, generator: torch.Generator, *, effect: float = 0.0) -> dict[str, torch.Tensor]:
    """Symmetric matrices of unit noise in which `yes` raises the six edges of the first four regions by `effect`."""
    half_NRR = torch.randn(num_scans, NUM_REGIONS, NUM_REGIONS, generator=generator).triu(1)
    label_N = torch.arange(num_scans) % 2.0
    half_NRR[:, :4, :4] += (effect * label_N[:, None, None] * torch.ones(4, 4)).triu(1)
    return {
        "inputs": half_NRR + half_NRR.mT + torch.eye(NUM_REGIONS),
        "label:q": label_N,
        "weight:q": torch.ones(num_scans),
    }


def learned(training: dict[str, torch.Tensor], validation: dict[str, torch.Tensor], **settings: float) -> State:
    """The smallest LCM after the loop."""
    chosen = Training(**{"batch_size": 16, "learning_rate": 3e-3, **settings})
    seed_everything(chosen.seed)
    network = LargeConnectomeModel(
        NUM_REGIONS, token_names("q", QUESTION.levels), num_layers=2, width=16, num_heads=2, feedforward=32, dropout=0.0
    )
    objective = network.objective([QUESTION], chosen.first_stage_epochs)
    return train(network, objective, InMemory(training), InMemory(validation), chosen, devices=on_cpu())


def probability(state: State, scans: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of `yes`, (N,)."""
    with torch.no_grad():
        return state.network.read_out(state.network(scans["inputs"]), "q", QUESTION.levels)[:, 1]


def area_under_curve(score_N: torch.Tensor, label_N: torch.Tensor) -> float:
    """Share of pairs of a `yes` and a `no` whose scores stand in that order; a tie is half a pair."""
    difference = score_N[label_N == 1, None] - score_N[label_N == 0]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_sixteen_scans_with_random_labels_are_learned_by_heart():
    scans = planted(16, torch.Generator().manual_seed(0))
    state = learned(scans, scans, max_epochs=60, patience=60)
    assert torch.equal(probability(state, scans) > 0.5, scans["label:q"] > 0.5)
    assert state.history[-1]["training_loss"] < 0.01


def held_out_areas(*, permuted: bool, num_seeds: int) -> np.ndarray:
    """AUC of new scans, in studies of their own; `permuted` deals the labels of training and validation anew."""
    areas = []
    for seed in range(num_seeds):
        generator = torch.Generator().manual_seed(seed)
        training, validation, test = (planted(n, generator, effect=1.0) for n in (64, 32, 200))
        for part in (training, validation) if permuted else ():
            part["label:q"] = part["label:q"][torch.randperm(len(part["label:q"]), generator=generator)]
        state = learned(training, validation, seed=seed, max_epochs=10, patience=10)
        areas.append(area_under_curve(probability(state, test), test["label:q"]))
    return np.array(areas)


def test_permuted_labels_score_at_chance_and_the_true_ones_do_not():
    permuted, true = held_out_areas(permuted=True, num_seeds=8), held_out_areas(permuted=False, num_seeds=2)
    half_width = T_99 * permuted.std(ddof=1) / math.sqrt(len(permuted))
    assert abs(permuted.mean() - 0.5) < half_width < 0.15
    # The best possible score, the sum of six edges, has an AUC of Φ(6 / √12) = 0.96.
    assert true.min() > 0.7


def golden_run() -> dict[str, list[float]]:
    """Losses of eight epochs of a multitask run with gaps among the labels, through both stages.

    No dropout: its random bits are not the same in every build of torch.
    """
    generator = torch.Generator().manual_seed(3)
    targets = (Target("sex", ("female", "male")), Target("diagnosis", ("a", "b", "c")), Target("age", (), 1e-2))
    columns = planted(64, generator, effect=1.0)
    columns = {"inputs": columns["inputs"], "label:sex": columns["label:q"], "weight:sex": columns["weight:q"]}
    columns["label:diagnosis"] = torch.arange(64) % 3.0
    columns["weight:diagnosis"] = (torch.arange(64) % 4 > 0) * 1.0
    columns["label:age"] = 10 + 5 * columns["inputs"][:, 0, 1]
    columns["weight:age"] = (torch.arange(64) % 5 > 0) * 1.0
    tokens = [token for target in targets for token in token_names(target.name, target.levels)]
    settings = Training(max_epochs=8, patience=8, batch_size=16, learning_rate=5e-4, weight_decay=0.1, seed=5)
    seed_everything(settings.seed)
    network = LargeConnectomeModel(
        NUM_REGIONS, tokens, num_layers=3, width=32, num_heads=4, feedforward=48, dropout=0.0, form="absorbed"
    )
    network.start_at(10.0)
    parts = (InMemory({name: column[rows] for name, column in columns.items()}) for rows in (slice(48), slice(48, 64)))
    state = train(network, network.objective(targets, settings.first_stage_epochs), *parts, settings, devices=on_cpu())
    return {name: [row[name] for row in state.history] for name in ("training_loss", "validation_loss")}


def test_the_losses_of_a_run_are_what_they_were():
    frozen = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = golden_run()
    assert found.keys() == frozen.keys()
    for name, losses in frozen.items():
        assert found[name] == pytest.approx(losses, rel=1e-4), name


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_run(), indent=1) + "\n", encoding="utf-8")
