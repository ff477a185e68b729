"""THE loop: learns, stops, keeps the best epoch, repeats itself bit for bit."""

from __future__ import annotations

import pytest
import torch

from lcm.config import Training
from lcm.models.large_connectome_model import LargeConnectomeModel, Target
from lcm.training.loop import InMemory, State, seed_everything, total, train

LEVELS = ("no", "yes")


def matrices(num_scans: int, seed: int) -> InMemory:
    """Random symmetric matrices with random levels."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(num_scans, 8, 8, generator=generator)
    label_N = torch.randint(0, 2, (num_scans,), generator=generator).float()
    return InMemory({"inputs": half + half.mT, "label:q": label_N, "weight:q": torch.ones(num_scans)})


def run(training: InMemory, validation: InMemory, *, dropout: float = 0.1, **settings: float) -> State:
    """A small LCM through the loop."""
    chosen = Training(**{"accelerator": "cpu", "batch_size": 16, "learning_rate": 1e-3, **settings})
    seed_everything(chosen.seed)
    network = LargeConnectomeModel(
        8, ("q=no", "q=yes"), num_layers=2, width=16, num_heads=2, feedforward=32, dropout=dropout
    )
    objective = network.objective([Target("q", LEVELS)], chosen.first_stage_epochs)
    return train(network, objective, training, validation, chosen)


def accuracy(state: State, examples: InMemory) -> float:
    with torch.no_grad():
        scores = state.network.read_out(state.network(examples.columns["inputs"]), "q", LEVELS)
    return float((scores.argmax(dim=1) == examples.columns["label:q"]).float().mean())


def test_sixteen_scans_are_learned_by_heart():
    examples = matrices(16, 0)
    state = run(examples, examples, dropout=0.0, max_epochs=200, patience=200, learning_rate=3e-3)
    assert accuracy(state, examples) == 1.0
    assert state.best_loss < 0.05


def test_random_labels_teach_nothing_about_other_scans():
    state = run(matrices(64, 1), matrices(32, 2), max_epochs=15, patience=15)
    # 200 scans: four standard errors are 0.14.
    assert abs(accuracy(state, matrices(200, 3)) - 0.5) < 0.14


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, again, other = (run(matrices(32, 4), matrices(16, 5), max_epochs=3, seed=seed) for seed in (1, 1, 2))
    assert first.history == again.history
    assert all(torch.equal(a, b) for a, b in zip(first.best_weights.values(), again.best_weights.values(), strict=True))
    assert first.history != other.history


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
    terms = {"a": (torch.tensor(6.0), torch.tensor(3)), "b": (torch.tensor(0.0), torch.tensor(0))}
    assert float(total(terms)) == 2.0


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
    broken.columns["inputs"][3] = float("nan")
    with pytest.raises(ValueError, match="training loss"):
        run(broken, matrices(8, 1))
