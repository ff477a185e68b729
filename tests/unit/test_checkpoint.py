"""The checkpoint: it goes on with its own run alone, names what differs, executes nothing, and leaves no rubbish."""

from __future__ import annotations

import logging
import os
import pickle
import signal
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

from lcm.config import Training
from lcm.training.checkpoint import (
    CHECKPOINT,
    STOP_SIGNALS,
    Run,
    Stopped,
    add_run_flags,
    differences,
    digest,
    remove_checkpoint,
    run_of,
)
from lcm.training.loop import InMemory, State, train
from tests.small_run import SETTINGS, examples, network_of, on_cpu, sorted_out

LOSSES = ("training_loss", "validation_loss")


class Answer:
    """A level's mean squared error, on the first column of the outputs."""

    def __call__(self, outputs, batch, epoch):
        return self.validate(outputs, batch)

    def validate(self, outputs, batch):
        return {"q": (batch["weight:q"] * (outputs[0, :, 0] - batch["label:q"]) ** 2).sum()}

    def covers(self, columns):
        return {"q": columns["weight:q"] > 0}


def go(run: Run, training: InMemory | None = None, **changed: object) -> State:
    """Train the small network for two epochs; a checkpoint is written when the run ends."""
    settings, devices = sorted_out({"max_epochs": 2, "checkpoint_minutes": 60.0, **changed})
    return train(network_of(0.1), Answer(), training or examples(32, 1), examples(16, 2), settings, run, devices)


def losses(state: State) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in LOSSES) for row in state.history]


@pytest.fixture
def finished(tmp_path) -> tuple[Path, State]:
    """A checkpoint of two epochs, and the run that left it."""
    run = Run(tmp_path / "run", identity={"code": "abc", "model": {"name": "tiny"}})
    return run.checkpoint, go(run)


def again(folder: Path, resume: str = "require", **identity: object) -> Run:
    return Run(folder, resume, identity={"code": "abc", "model": {"name": "tiny"}} | identity)


def test_a_finished_run_is_read_and_not_trained_again(finished, monkeypatch):
    folder, before = finished
    monkeypatch.setattr(InMemory, "batch", lambda *_: pytest.fail("a batch was asked for"))
    after = go(again(folder))
    assert after.history == before.history
    assert (after.best_epoch, after.best_loss) == (before.best_epoch, before.best_loss)
    assert all(torch.equal(after.network.state_dict()[name], value) for name, value in before.best_weights.items())


def test_more_epochs_go_on_as_if_asked_for_at_once(finished):
    folder, _ = finished
    at_once, further = go(Run(), max_epochs=4), go(again(folder), max_epochs=4)
    assert len(losses(further)) == 4
    assert losses(further) == losses(at_once)


def test_fewer_epochs_are_another_run(finished):
    folder, _ = finished
    with pytest.raises(ValueError, match=r"differs in settings.max_epochs \(2 epochs done, 1 wanted\)"):
        go(again(folder), max_epochs=1)


def other_order() -> InMemory:
    return InMemory({name: column.flip(0) for name, column in examples(32, 1).columns.items()})


def one_label_less() -> InMemory:
    columns = examples(32, 1).columns
    return InMemory(columns | {"weight:q": columns["weight:q"] * (torch.arange(32) != 5)})


def one_bit_of_one_connectome() -> InMemory:
    changed = examples(32, 1)
    changed.columns["inputs"].view(torch.int32)[7, 3, 4] ^= 1
    return changed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-4}, r"settings.learning_rate \(0.003 then, 0.0001 now\)"),
        ({"patience": 4}, r"settings.patience \(5 then, 4 now\)"),
        ({"training": other_order()}, "training scans"),
        ({"training": one_label_less()}, "training scans"),
        ({"training": one_bit_of_one_connectome()}, "training scans"),
        ({"identity": {"code": "def"}}, r"code \(abc then, def now\)"),
        ({"identity": {"model": {"name": "big"}}}, r"model.name \(tiny then, big now\)"),
    ],
)
def test_another_run_is_refused_by_what_differs_or_started_over_with_one_warning(finished, change, named, caplog):
    folder, _ = finished
    change = dict(change)
    identity = change.pop("identity", {})
    with pytest.raises(ValueError, match=f"differs in {named}"):
        go(again(folder, **identity), **change)
    with caplog.at_level(logging.WARNING):
        over = go(again(folder, "auto", **identity), **change)
    assert len(caplog.records) == 1
    assert "starting over" in caplog.text
    assert losses(over) == losses(go(Run(), **change))


def test_other_starting_weights_are_another_run(finished):
    folder, _ = finished
    network = network_of(0.1)
    network.start_at(40.0)
    settings = Training(**SETTINGS | {"max_epochs": 2})
    with pytest.raises(ValueError, match="differs in starting weights"):
        train(network, Answer(), examples(32, 1), examples(16, 2), settings, again(folder), on_cpu())


class Told(Answer):
    """Gets a signal while it judges the first of two batches of the second epoch."""

    def __init__(self, told: signal.Signals) -> None:
        self.told, self.judged = told, 0

    def validate(self, outputs, batch):
        # Training asks it too, and learns.
        self.judged += not torch.is_grad_enabled()
        if self.judged == 3:
            os.kill(os.getpid(), self.told)
        return super().validate(outputs, batch)


@pytest.mark.parametrize("told", STOP_SIGNALS)
def test_who_is_stopped_while_it_judges_judges_the_epoch_anew(tmp_path, told):
    """The weights in the checkpoint are those that learn, and not their average, which is judged."""
    objective, before = Told(told), signal.getsignal(told)
    settings, devices = sorted_out({"max_epochs": 3, "checkpoint_minutes": 60.0})
    with pytest.raises(Stopped) as stopped:
        train(network_of(0.1), objective, examples(32, 1), examples(16, 2), settings, Run(tmp_path), devices)
    assert stopped.value.code == 143
    assert objective.judged == 3
    assert signal.getsignal(told) is before
    left = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]
    assert (left["epoch"], left["step"], len(left["history"])) == (1, 3, 1)
    whole, further = go(Run(), max_epochs=3), go(Run(tmp_path, "require"), max_epochs=3)
    assert losses(further) == losses(whole)
    assert all(torch.equal(further.best_weights[name], value) for name, value in whole.best_weights.items())


def test_another_machine_is_no_difference(finished):
    folder, before = finished
    after = go(again(folder), checkpoint_minutes=1.0, compile=True, devices=0, parallel="fsdp")
    assert after.history == before.history
    assert after.device == "cpu"


@pytest.mark.parametrize(("decay", "bytes_each"), [(None, 16), (0.9, 20)])
def test_a_checkpoint_has_the_size_that_the_documentation_says(tmp_path, decay, bytes_each):
    """Weights, two moments, the best weights, and the average where there is one; of buffers and step counts, a trifle."""
    network = go(Run(tmp_path), average_decay=decay).network
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    size = bytes_of(torch.load(tmp_path / CHECKPOINT, weights_only=True))
    assert bytes_each * num_parameters <= size < (bytes_each + 0.5) * num_parameters


def bytes_of(content: object) -> int:
    """Of all tensors in nested dicts."""
    if isinstance(content, dict):
        return sum(map(bytes_of, content.values()))
    return content.numel() * content.element_size() if isinstance(content, torch.Tensor) else 0


def test_never_starts_over(finished):
    folder, before = finished
    over = go(again(folder, "never"))
    assert losses(over) == losses(before)
    assert over.history != before.history


def test_to_require_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"run/checkpoint.pt: no such checkpoint, and --resume is `require`"):
        go(Run(tmp_path / "run", "require"))
    with pytest.raises(ValueError, match="without --checkpoint there is nothing to go on from"):
        go(Run(None, "require"))


def test_a_bundle_or_a_file_is_no_checkpoint_folder(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    for resume in ("auto", "never"):
        with pytest.raises(ValueError, match=r"a bundle, not a checkpoint; .* pretrain.init_from"):
            go(Run(tmp_path, resume))
    with pytest.raises(ValueError, match=r"manifest.json: a file; --checkpoint wants the folder"):
        go(Run(tmp_path / "manifest.json"))


class Mischief:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_what_is_no_checkpoint_is_refused_and_never_executed(tmp_path):
    path, trace = tmp_path / CHECKPOINT, tmp_path / "executed"
    for write in (
        lambda: torch.save({"format": Mischief(trace)}, path),
        lambda: path.write_bytes(pickle.dumps(Mischief(trace), protocol=2)),
        lambda: path.write_bytes(b"PK\x03\x04 cut short"),
        lambda: path.write_bytes(b"\x80\x02X\x01\x00\x00\x00\xff."),
        lambda: path.write_bytes(b""),
    ):
        write()
        with pytest.raises(ValueError, match=r"checkpoint.pt: cannot be read as a checkpoint; delete it"):
            go(Run(tmp_path))
    assert not trace.exists()
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"not a checkpoint of this program"):
        go(Run(tmp_path))


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    rubbish = tmp_path / f".0123456789ab.{CHECKPOINT}"
    rubbish.write_bytes(b"half of it")
    go(Run(tmp_path))
    assert [item.name for item in tmp_path.iterdir()] == [CHECKPOINT]
    remove_checkpoint(tmp_path)
    remove_checkpoint(tmp_path)
    remove_checkpoint(None)
    assert not tmp_path.exists()


def test_nothing_but_the_checkpoint_is_removed(tmp_path):
    for name in (CHECKPOINT, f".0123456789ab.{CHECKPOINT}", "thesis.docx"):
        (tmp_path / name).write_text("here")
    remove_checkpoint(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.docx"]


def test_the_clock_decides_when_to_write(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("lcm.training.checkpoint.write_checkpoint", lambda *_: written.append(now[0]))
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr("lcm.training.checkpoint.time", type("Clock", (), {"monotonic": staticmethod(tick)}))
    # 24 labelled scans in 6 batches, two epochs: 14 looks. The clock ticks once a look, and once when it has written.
    go(Run(tmp_path / "run"), batch_size=4, checkpoint_minutes=4 / 60)
    assert written == [5, 10, 15, 18]


def test_the_flags_say_where_a_run_goes_on():
    parser = ArgumentParser()
    add_run_flags(parser)
    options = parser.parse_args(["--checkpoint", "c", "--resume", "never", "--log-folder", "l"])
    assert run_of(options, {"code": "x"}) == Run(Path("c"), "never", Path("l"), {"code": "x"})
    assert run_of(parser.parse_args([]), {}) == Run()


def test_differences_are_named_by_their_place():
    assert differences({"a": {"b": 1, "c": "x" * 99}, "d": 2}, {"a": {"b": 3, "c": "y"}, "d": 2, "e": 0}) == [
        "a.b (1 then, 3 now)",
        "a.c",
        "e (None then, 0 now)",
    ]


def test_a_digest_knows_names_kinds_shapes_and_bytes():
    one = {"a": torch.arange(4.0), "b": torch.tensor(1)}
    others = [
        {"a": torch.arange(4.0), "c": torch.tensor(1)},
        {"a": torch.arange(4.0).reshape(2, 2), "b": torch.tensor(1)},
        {"a": torch.arange(4.0), "b": torch.tensor(1, dtype=torch.int32)},
        {"a": torch.arange(4.0).flip(0), "b": torch.tensor(1)},
    ]
    assert digest(one) == digest({"a": torch.arange(8.0)[::2] / 2, "b": torch.tensor(1)})
    assert len({digest(tensors) for tensors in [one, *others]}) == 5
