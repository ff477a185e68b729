"""The checkpoint: it goes on with its own run alone, names what differs, executes nothing, and leaves no rubbish."""

from __future__ import annotations

import logging
import pickle
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

from lcm.config import Training
from lcm.training.checkpoint import CHECKPOINT, Run, add_run_flags, differences, digest, remove_checkpoint, run_of
from lcm.training.loop import InMemory, State, train
from tests.small_run import SETTINGS, examples, network_of

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
    settings = Training(**SETTINGS | {"max_epochs": 2, "checkpoint_minutes": 60.0, **changed})
    return train(network_of(0.1), Answer(), training or examples(32, 1), examples(16, 2), settings, run)


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
        train(network, Answer(), examples(32, 1), examples(16, 2), settings, again(folder))


def test_settings_that_shape_no_number_are_no_difference(finished):
    folder, before = finished
    assert go(again(folder), checkpoint_minutes=1.0, accelerator="auto").history == before.history


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
