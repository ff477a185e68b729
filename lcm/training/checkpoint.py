"""The checkpoint of a training run: what a killed run goes on from, whose it is, and where a run leaves its traces.

It lies beside the output of its stage, never inside, because Snakemake deletes the output of a job that was killed. It is
no bundle: it goes on with one run, and says nothing of how its weights may be used.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from lcm.tables import clear_leftovers, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from lcm.training.devices import Devices

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
FORMAT = "lcm checkpoint 1"

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM: pre-emption and scancel; SIGUSR1: what batch scripts ask Slurm for some minutes before a job's time is over."""

Resume = Literal["auto", "never", "require"]


@dataclass(frozen=True)
class Run:
    """Where a training run leaves its traces, and whether it goes on from them; each process has its own copy."""

    checkpoint: Path | None = None
    """Folder of the checkpoint; None: the run cannot go on after it was killed."""
    resume: Resume = "auto"
    """auto: go on if the checkpoint is this run's, else start over; require: it must be; never: start over."""
    log_folder: Path | None = None
    """Folder of metrics.csv and TensorBoard's events; None: neither."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """JSON: what shapes the numbers and the loop cannot see, such as the code's hash."""


class Stopped(SystemExit):
    """Told to stop, with the checkpoint written: exit status 143, as a shell says SIGTERM, so that a scheduler asks again."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def add_run_flags(parser: ArgumentParser) -> None:
    """The flags of a stage that trains."""
    parser.add_argument("--checkpoint", type=Path, help="folder of what a killed run goes on from, beside --output")
    parser.add_argument(
        "--resume",
        choices=get_args(Resume),
        default="auto",
        help="auto: go on from the checkpoint if it is of this very run; require: stop if it is not; never: start over",
    )
    parser.add_argument("--log-folder", type=Path, help="folder of metrics.csv and TensorBoard's events")


def run_of(options: Namespace, identity: Mapping[str, Any]) -> Run:
    """The run that the flags ask for."""
    return Run(options.checkpoint, options.resume, options.log_folder, identity)


def remove_checkpoint(folder: Path | None) -> None:
    """Forget a run whose output stands; anything else that lies in the folder stays."""
    if folder is not None and folder.is_dir():
        (folder / CHECKPOINT).unlink(missing_ok=True)
        clear_leftovers(folder / CHECKPOINT)
        if not any(folder.iterdir()):
            folder.rmdir()


def write_checkpoint(folder: Path, identity: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write tensors and plain values in one file, whole or not at all."""
    import torch

    with write_atomically(folder / CHECKPOINT) as temporary:
        torch.save({"format": FORMAT, "identity": dict(identity), **content}, temporary)


def read_checkpoint(run: Run, identity: Mapping[str, Any], max_epochs: int) -> dict[str, Any] | None:
    """What to go on from, None to start from the beginning.

    Nothing in the file is executed. Raises ValueError where `run.checkpoint` is something else or cannot be read, and
    with `resume: require` where there is no checkpoint, or one of another run; what differs is named.
    """
    if run.checkpoint is None:
        if run.resume == "require":
            raise ValueError("--resume require: without --checkpoint there is nothing to go on from")
        return None
    _check_folder(run.checkpoint)
    if run.resume == "never":
        return None
    path = run.checkpoint / CHECKPOINT
    if not path.is_file():
        if run.resume == "require":
            raise ValueError(f"{path}: no such checkpoint, and --resume is `require`; `auto` starts from the beginning")
        return None
    content = _load(path)
    theirs, ours = content["identity"], dict(identity)
    differing = differences(theirs, ours)
    # With more epochs a run goes on; that it should have stopped earlier cannot be undone.
    state = content["state"]
    if state["epoch"] > max_epochs:
        differing.append(f"settings.max_epochs ({state['epoch']} epochs done, {max_epochs} wanted)")
    if not differing:
        log.info("%s: going on after epoch %d, batch %d", path, state["epoch"], state["step"])
        return content
    problem = f"{path}: of another run, which differs in {', '.join(differing)}"
    if run.resume == "require":
        raise ValueError(f"{problem}; make them alike, or start over with --resume never")
    log.warning("%s; starting over", problem)
    return None


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], place: str = "") -> list[str]:
    """Dotted names of the fields that differ, with both values where they are short."""
    found = []
    for name in sorted({*theirs, *ours}):
        before, now = theirs.get(name), ours.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{place}{name}.")
        elif before != now:
            values = f" ({before} then, {now} now)"
            found.append(f"{place}{name}" + (values if len(values) < 80 else ""))
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, kinds, shapes and bytes, in the order given."""
    import torch

    content = hashlib.sha256()
    for name, tensor in tensors.items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


class Keeper:
    """Writes the checkpoint of a run on a clock, when it ends, and when it is told to stop; does nothing without a folder."""

    def __init__(self, folder: Path | None, identity: Mapping[str, Any], devices: Devices) -> None:
        self.folder, self.identity, self.devices = folder, identity, devices
        self.minutes = devices.machine.checkpoint_minutes
        self.asked_to_stop = threading.Event()
        self.written_s = time.monotonic()
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if self.folder and self.devices.first:
            clear_leftovers(self.folder / CHECKPOINT)
        # Python hands signals to the main thread alone.
        if self.folder and threading.current_thread() is threading.main_thread():
            self.handlers = {told: signal.signal(told, lambda *_: self.asked_to_stop.set()) for told in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for told, handler in self.handlers.items():
            signal.signal(told, handler)

    def stops(self) -> bool:
        """Whether a process was told to stop; all must ask together, and those told yes must `look` next."""
        return self.folder is not None and self.devices.agree(self.asked_to_stop.is_set())[0]

    def look(self, snapshot: Callable[[], Mapping[str, Any]], *, last: bool = False) -> None:
        """Write if it is time, or the `last` time; raise Stopped after a signal to stop. All processes must look together."""
        if self.folder is None:
            return
        is_time = time.monotonic() - self.written_s >= 60 * self.minutes
        write, stop = self.devices.agree(is_time or last, self.asked_to_stop.is_set())
        if write or stop:
            content = snapshot()
            if self.devices.first:
                write_checkpoint(self.folder, self.identity, content)
            self.written_s = time.monotonic()
        if stop and not last:
            if self.devices.first:
                log.warning("told to stop: %s is written; the same command goes on from it", self.folder / CHECKPOINT)
            # A launcher kills the process that writes as soon as another one has ended.
            self.devices.barrier()
            raise Stopped


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"{folder}: a file; --checkpoint wants the folder that holds {CHECKPOINT}")
    for name in ("manifest.json", "weights.safetensors"):
        if (folder / name).exists():
            raise ValueError(f"{folder}: a bundle, not a checkpoint; to begin with its weights use pretrain.init_from")


def _load(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        raise ValueError(
            f"{path}: cannot be read as a checkpoint; delete it, or start over with --resume never"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this program; --resume never overwrites it")
    return content
