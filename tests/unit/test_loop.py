"""THE loop: learns, stops, keeps the best epoch, repeats itself bit for bit."""

from __future__ import annotations

import functools

import pytest
import torch

from lcm.config import Training
from lcm.models.large_connectome_model import LargeConnectomeModel
from lcm.models.token_network import Target
from lcm.training.loop import InMemory, State, moved, seed_everything, train
from tests.small_run import on_cpu

LEVELS = ("no", "yes")
LOSSES = ("training_loss", "validation_loss")


class Line(torch.nn.Module):
    """y = slope · x, a network whose gradients are known."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([[slope]]))
        self.unused = torch.nn.Parameter(torch.zeros(1, 1), requires_grad=False)

    def embedding_parameters(self) -> list[str]:
        return ["slope"]

    def forward(self, x_B1: torch.Tensor) -> torch.Tensor:
        return x_B1 @ self.slope.to(x_B1.dtype)


class Squared:
    """Squared error from each of two labels; the second has half the weight."""

    def __call__(self, outputs, batch, epoch):
        return self.validate(outputs, batch)

    def validate(self, outputs, batch):
        square = {name: batch[f"has:{name}"] * (outputs[:, 0] - batch[name]) ** 2 for name in ("a", "b")}
        return {"a": square["a"].sum(), "b": 0.5 * square["b"].sum()}

    def covers(self, columns):
        return {name: columns[f"has:{name}"] > 0 for name in ("a", "b")}


def points(*rows: tuple[float, float | None, float | None]) -> InMemory:
    """Inputs and their two labels, None where missing."""
    columns = {"inputs": torch.tensor([[x] for x, _, _ in rows])}
    for place, name in enumerate(("a", "b"), start=1):
        columns[name] = torch.tensor([row[place] or 0.0 for row in rows])
        columns[f"has:{name}"] = torch.tensor([float(row[place] is not None) for row in rows])
    return InMemory(columns)


POINTS = points((1.0, 3.0, None), (2.0, 4.0, 8.0), (3.0, None, 6.0), (-1.0, 1.0, 2.0), (5.0, None, None))


def line(examples: InMemory = POINTS, *, slope: float = 1.0, compiled: bool = False, **settings: object) -> State:
    chosen = Training(**{"batch_size": 8, "max_epochs": 1, **settings})
    return train(Line(slope), Squared(), examples, examples, chosen, devices=on_cpu(chosen.precision, compile=compiled))


def losses(state: State) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in LOSSES) for row in state.history]


def matrices(num_scans: int, seed: int) -> InMemory:
    """Random symmetric matrices with random levels."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(num_scans, 8, 8, generator=generator)
    label_N = torch.randint(0, 2, (num_scans,), generator=generator).float()
    return InMemory({"inputs": half + half.mT, "label:q": label_N, "weight:q": torch.ones(num_scans)})


def run(training: InMemory, validation: InMemory, *, dropout: float = 0.1, **settings: float) -> State:
    """A small LCM through the loop."""
    chosen = Training(**{"batch_size": 16, "learning_rate": 1e-3, **settings})
    seed_everything(chosen.seed)
    network = LargeConnectomeModel(
        8, ("q=no", "q=yes"), num_layers=2, width=16, num_heads=2, feedforward=32, dropout=dropout
    )
    objective = network.objective([Target("q", LEVELS)], chosen.first_stage_epochs)
    return train(network, objective, training, validation, chosen, devices=on_cpu(chosen.precision))


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, again, other = (run(matrices(32, 4), matrices(16, 5), max_epochs=3, seed=seed) for seed in (1, 1, 2))
    assert losses(first) == losses(again)
    assert all(torch.equal(a, b) for a, b in zip(first.best_weights.values(), again.best_weights.values(), strict=True))
    assert losses(first) != losses(other)


def test_it_stops_after_patience_and_keeps_the_best_epoch():
    state = run(matrices(32, 6), matrices(16, 7), max_epochs=100, patience=3, learning_rate=1e-2)
    losses = [row["validation_loss"] for row in state.history]
    assert state.best_loss == min(losses)
    assert losses[state.best_epoch - 1] == state.best_loss
    assert state.epoch == state.best_epoch + 3 < 100
    for name, value in state.network.state_dict().items():
        assert torch.equal(value, state.best_weights[name])


def test_weight_decay_shrinks_matrices_and_leaves_biases_and_norms():
    examples = matrices(16, 10)
    fixed = {"max_epochs": 1, "dropout": 0.0, "learning_rate": 1e-6}
    plain, decayed = (run(examples, examples, weight_decay=decay, **fixed).best_weights for decay in (0.0, 1e5))
    for name, before in plain.items():
        if before.ndim > 1:
            assert decayed[name].norm() < 0.95 * before.norm(), name
        elif "running" not in name:
            torch.testing.assert_close(decayed[name].float(), before.float(), atol=1e-5, rtol=0)


def test_the_loss_divides_each_term_by_those_who_have_it():
    row = line(learning_rate=1e-12).history[0]
    # Slope 1: errors of a are 2, 2 and 2; of b 6, 3 and 3.
    assert (row["training/a"], row["training/b"]) == (4.0, 9.0)
    assert row["training_loss"] == row["validation_loss"] == 13.0


def test_a_batch_in_parts_has_the_gradient_of_the_whole_batch():
    # Each part covers a and b in another proportion; two batches, so that the terms' shares matter to Adam too.
    uneven = points(*[(float(i % 5 - 1), i / 3, None if i % 4 else 1.0 - i) for i in range(24)])
    settings = {"batch_size": 12, "max_epochs": 20, "patience": 20, "learning_rate": 0.1}
    whole, parts = (line(uneven, gradient_accumulation=n, **settings) for n in (1, 4))
    for ours, theirs in zip(losses(whole), losses(parts), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_clipped_gradient_has_the_norm_asked_for():
    # d/dslope = 2 (-2 - 4 + 2) / 3 + (-12 - 9 + 3) / 3 = -26 / 3; Adam's first step is lr · g / (|g| + 1e-8).
    free, clipped = (line(max_gradient_norm=norm, learning_rate=0.1).network.slope.item() for norm in (None, 1e-8))
    assert free == pytest.approx(1.1)
    assert clipped == pytest.approx(1.05)


def test_a_frozen_weight_stays_and_is_not_decayed():
    network = line(learning_rate=0.1, weight_decay=0.5).network
    assert network.unused.item() == 0
    assert network.slope.item() == pytest.approx(1.0 * (1 - 0.1 * 0.5) + 0.1)


class Shifted(Line):
    """y = slope · x + shift, of which the slope reads the input."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x_B1: torch.Tensor) -> torch.Tensor:
        return super().forward(x_B1) + self.shift


def test_the_trunk_learns_at_its_share_of_the_rate():
    settings = Training(max_epochs=1, learning_rate=0.1, trunk_rate=0.2)
    network = train(Shifted(), Squared(), POINTS, POINTS, settings, devices=on_cpu()).network
    # Adam's first step is the learning rate, whatever the gradient.
    assert (network.slope.item(), network.shift.item()) == (pytest.approx(1.1), pytest.approx(0.02))


def test_the_last_epoch_is_kept_where_it_is_asked_for():
    settings = {"max_epochs": 30, "learning_rate": 0.3, "patience": 3}
    best, last = line(**settings), line(keep="last", **settings)
    assert best.best_epoch < best.epoch < 30
    assert last.epoch == last.best_epoch == 30
    assert losses(last)[: best.epoch] == losses(best)
    assert last.best_loss == last.history[-1]["validation_loss"] > best.best_loss


def test_the_average_of_the_weights_is_judged_and_kept():
    settings = {"learning_rate": 0.3, "keep": "last", "batch_size": 8}
    slopes = [line(max_epochs=n, **settings).network.slope.item() for n in range(1, 9)]
    averaged = line(max_epochs=8, average_decay=0.4, **settings)
    mean = 1.0
    for step, slope in enumerate(slopes, start=1):
        decay = min(0.4, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * slope
        judged = line(slope=mean, max_epochs=1, learning_rate=1e-12).history[0]
        assert averaged.history[step - 1]["validation_loss"] == pytest.approx(judged["validation_loss"], rel=1e-5)
    assert averaged.network.slope.item() == pytest.approx(mean, rel=1e-6)
    # What learns is not the average: the training losses are those of the plain run.
    assert [row["training_loss"] for row in averaged.history] == [
        row["training_loss"] for row in line(max_epochs=8, **settings).history
    ]


def test_every_step_draws_from_a_seed_of_its_own(monkeypatch):
    seeds = []
    monkeypatch.setattr("lcm.training.devices.Devices.seed", lambda _, value: seeds.append(value))
    for seed in (0, 1):
        line(batch_size=1, max_epochs=3, patience=3, seed=seed)
    assert len(set(seeds)) == len(seeds) == 2 * 3 * 4


def test_scans_without_a_label_are_left_out():
    without = InMemory({name: column[:4] for name, column in POINTS.columns.items()})
    broken = InMemory(POINTS.columns | {"inputs": POINTS.columns["inputs"].clone()})
    broken.columns["inputs"][4] = float("nan")
    settings = {"max_epochs": 5, "batch_size": 2, "learning_rate": 0.1}
    assert losses(line(broken, **settings)) == losses(line(without, **settings))


def test_batches_are_of_nearly_one_size(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        InMemory,
        "batch",
        lambda self, index_B, batch=InMemory.batch: sizes.append(len(index_B)) or batch(self, index_B),
    )
    line(points(*[(1.0, 1.0, None)] * 33), batch_size=16)
    assert sizes == [11, 11, 11] * 2


def test_a_batch_too_small_for_its_parts_is_an_error():
    with pytest.raises(
        ValueError, match=r"training batches of 2 scans \(batch_size 3\) cannot be shared by 1 devices and 3 parts"
    ):
        line(batch_size=3, gradient_accumulation=3)


def test_the_network_is_trained_as_a_copy_and_gets_the_best_weights():
    network = Line(1.0)
    before = network.slope
    settings = Training(max_epochs=30, learning_rate=0.3, patience=30)
    state = train(network, Squared(), POINTS, POINTS, settings, devices=on_cpu())
    assert network.slope is before
    assert state.network is network
    assert not network.training
    assert 1 < state.best_epoch < 30
    assert network.slope.item() == state.best_weights["slope"].item()


def test_bf16_learns_from_connectomes_held_in_half_the_bytes():
    full, half = matrices(64, 1), matrices(32, 2)
    settings = {"max_epochs": 2, "precision": "bf16-mixed"}
    mixed = run(*(InMemory(e.columns | {"inputs": e.columns["inputs"].half()}) for e in (full, half)), **settings)
    exact = run(full, half, max_epochs=2)
    assert losses(mixed) != losses(exact)
    for ours, theirs in zip(losses(mixed), losses(exact), strict=True):
        assert ours == pytest.approx(theirs, rel=0.03)
    assert all(value.dtype != torch.bfloat16 for value in mixed.best_weights.values())


def test_compiled_is_the_same_network(monkeypatch):
    compiled = []

    def eager(network, **_):
        compiled.append(network)
        return compile_(network, backend="eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", eager)
    settings = {"max_epochs": 3, "learning_rate": 0.1}
    state = line(compiled=True, **settings)
    assert compiled
    assert list(state.best_weights) == ["slope", "unused"]
    assert losses(state) == losses(line(**settings))


def test_validation_loss_does_not_depend_on_the_batch_size():
    training, validation = matrices(32, 8), matrices(20, 9)
    validation.columns["weight:q"][:7] = 0
    untouched = {"max_epochs": 1, "learning_rate": 1e-12, "dropout": 0.0}
    small, large = (run(training, validation, batch_size=size, **untouched) for size in (32, 64))
    three = run(training, validation, batch_size=32, **untouched | {"max_epochs": 2})
    assert small.best_loss == pytest.approx(large.best_loss, rel=1e-5)
    assert len(three.history) == 2


def test_no_validation_scan_or_label_is_an_error():
    empty = InMemory({name: column[:0] for name, column in matrices(4, 0).columns.items()})
    with pytest.raises(ValueError, match="validation"):
        run(matrices(16, 0), empty)
    unlabelled = matrices(8, 0)
    unlabelled.columns["weight:q"][:] = 0
    with pytest.raises(ValueError, match="no validation scan has a label"):
        run(matrices(16, 0), unlabelled)


def test_a_loss_that_is_not_a_number_is_an_error():
    broken = matrices(16, 0)
    broken.columns["inputs"][3] = 3e38
    with pytest.raises(ValueError, match="training loss"):
        run(broken, matrices(8, 1))


def test_a_run_tells_every_device_it_was_on():
    places = ["cpu", "cpu", "2 × cpu", "cpu", "H200"]
    assert functools.reduce(moved, places, "") == "cpu, then 2 × cpu, then cpu, then H200"
