"""What a training run shows while it runs: a bar or a line an epoch, metrics.csv, and TensorBoard's events."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lcm.tables import write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

METRICS = "metrics.csv"
EVENTS = "events.out.tfevents.*"

Row = Mapping[str, float]
"""One epoch: `epoch`, `training_loss`, `validation_loss`, a loss of each term, `learning_rate`, `seconds`, `samples_per_s`."""


class Monitor:
    """Shows the epochs of one run; a context manager, so that a terminal is left in order."""

    def __init__(
        self, log_folder: Path | None, history: Sequence[Row], num_scans: int, max_epochs: int, *, silent: bool = False
    ) -> None:
        """`history`: epochs done before, which go into the logs once more; `silent`: a process that shows nothing."""
        self.log_folder = None if silent else log_folder
        self.history: list[Row] = []
        self.max_epochs, self.silent = max_epochs, silent
        self.progress = _bar(len(history), max_epochs, num_scans) if sys.stderr.isatty() and not silent else None
        self.writer = _writer(self.log_folder) if self.log_folder else None
        for row in history:
            self._keep(row)
        if self.log_folder and history:
            _write_csv(self.history, self.log_folder / METRICS)

    def __enter__(self) -> Self:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.progress:
            self.progress.stop()
        if self.writer:
            self.writer.close()

    def advance(self, num_scans: int) -> None:
        """A batch of that many scans is under way."""
        if self.progress:
            self.progress.advance(self.progress.task_ids[0], num_scans)

    def end_epoch(self, row: Row, best_epoch: int) -> None:
        """Show and log an epoch."""
        if self.silent:
            return
        self._keep(row)
        if self.log_folder:
            _write_csv(self.history, self.log_folder / METRICS)
        remaining = timedelta(seconds=round(row["seconds"] * (self.max_epochs - row["epoch"])))
        line = (
            f"epoch {row['epoch']}/{self.max_epochs}  training {row['training_loss']:.4f}  "
            f"validation {row['validation_loss']:.4f}  best {best_epoch}  {row['samples_per_s']:.0f} samples/s"
        )
        if self.progress:
            self.progress.console.print(line, highlight=False)
        else:
            log.info("%s  at most %s to go", line, remaining)

    def _keep(self, row: Row) -> None:
        self.history.append(row)
        if self.writer:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, int(row["epoch"]))
            self.writer.flush()


def _bar(epochs_done: int, max_epochs: int, num_scans: int) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        """Samples a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.0f} samples/s")

    progress = Progress("training", BarColumn(), Speed(), TimeRemainingColumn(), console=Console(stderr=True))
    progress.add_task("training", total=max_epochs * num_scans, completed=epochs_done * num_scans)
    return progress


def _writer(folder: Path) -> SummaryWriter:
    """A new event file in place of an earlier one: the history is written again, so that no epoch is there twice."""
    from torch.utils.tensorboard import SummaryWriter

    for earlier in folder.glob(EVENTS):
        earlier.unlink()
    return SummaryWriter(str(folder))


def _write_csv(history: Sequence[Row], path: Path) -> None:
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
