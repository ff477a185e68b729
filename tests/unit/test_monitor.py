"""What a run shows: every epoch once, in the log, the CSV and TensorBoard, and no control character in a log."""

from __future__ import annotations

import csv
import io
import logging
import sys
from pathlib import Path

import pytest

from lcm.training.monitor import EVENTS, METRICS, Monitor


def row(epoch: int, loss: float = 1.0) -> dict[str, float]:
    return {
        "epoch": epoch,
        "training_loss": loss,
        "validation_loss": 2 * loss,
        "training/sex": loss,
        "validation/sex": 2 * loss,
        "learning_rate": 1e-4,
        "seconds": 30.0,
        "samples_per_s": 123.4,
    }


def show(folder: Path | None, history: list[dict[str, float]], epochs: list[int], **more: bool) -> None:
    with Monitor(folder, history, 64, 10, **more) as monitor:
        for epoch in epochs:
            monitor.advance(64)
            monitor.end_epoch(row(epoch, 1 / epoch), 1)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value), as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_both_logs_hold_every_number_of_every_epoch(tmp_path):
    show(tmp_path, [], [1, 2, 3])
    found = events(tmp_path)
    assert set(found) == set(row(1)) - {"epoch"}
    assert found["training/sex"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [line["epoch"] for line in table(tmp_path)] == ["1", "2", "3"]
    assert [float(line["validation_loss"]) for line in table(tmp_path)] == [2.0, 1.0, 2 / 3]
    assert list(table(tmp_path)[0]) == list(row(1))


def test_a_resumed_run_has_no_epoch_twice(tmp_path):
    show(tmp_path, [], [1, 2, 3])
    # It was killed after epoch 3, and its checkpoint was of epoch 1.
    show(tmp_path, [row(1, 1.0)], [2, 3, 4])
    assert [step for step, _ in events(tmp_path)["validation_loss"]] == [1, 2, 3, 4]
    assert [line["epoch"] for line in table(tmp_path)] == ["1", "2", "3", "4"]
    assert len(list(tmp_path.glob(EVENTS))) == 1


def test_a_log_file_gets_one_plain_line_an_epoch(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO):
        show(tmp_path, [], [1, 2])
    assert caplog.messages == [
        "epoch 1/10  training 1.0000  validation 2.0000  best 1  123 samples/s  at most 0:04:30 to go",
        "epoch 2/10  training 0.5000  validation 1.0000  best 1  123 samples/s  at most 0:04:00 to go",
    ]
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_the_lines_above_it(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with caplog.at_level(logging.INFO):
        show(None, [row(1)], [2, 3])
    shown = terminal.getvalue()
    assert "epoch 3/10  training 0.3333" in shown
    assert "samples/s" in shown
    assert "\x1b[" in shown
    assert not caplog.messages


def test_a_process_that_is_not_the_first_shows_and_writes_nothing(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO):
        show(tmp_path, [row(1)], [2], silent=True)
    assert not list(tmp_path.iterdir())
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")
