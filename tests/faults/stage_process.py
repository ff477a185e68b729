"""A stage in a process of its own that starts in milliseconds, is killed at a given moment, and leaves bytes to compare."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from lcm.__main__ import main
from lcm.config import COMMANDS, STAGE_ROOMS, module_of

if multiprocessing.current_process().name != "MainProcess":
    # The server that stages are forked from imports what they import, once.
    for _name in (*STAGE_ROOMS, *COMMANDS):
        importlib.import_module(module_of(_name))
    for _name in ("pandas", "pandera.pandas", "pyarrow.parquet", "nibabel", "scipy.stats", "sklearn.linear_model"):
        importlib.import_module(_name)
    for _name in ("torch", "lightning.fabric", "torch.utils.tensorboard", "safetensors.torch", "matplotlib.pyplot"):
        importlib.import_module(_name)

TIMED = {"seconds", "peak_mb", "ms_per_scan", "manifest_sha256"}
"""What a JSON file says of the time and memory that a run took, and the seal of a file that holds such numbers."""


@dataclass(frozen=True)
class Death:
    """SIGKILL by the process itself, before or after it moves its `number`-th file (from 1) to its final path."""

    number: int
    when: Literal["before", "after"]


def processes() -> ForkServerContext:
    """Processes that start anew but need not import anything again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def start(
    study: Path, command: list[str], log: Path, *, death: Death | None = None, prepare: Callable[[], None] | None = None
) -> BaseProcess:
    """Begin `lcm <command>` in the study's folder, in a process group of its own; its stderr goes to `log`.

    `prepare` is called in the process before the stage. The log's last line is the number of files moved into place.
    """
    process = processes().Process(target=_run, args=(study, command, log, death, prepare))
    process.start()
    return process


def kill(process: BaseProcess, after_s: float) -> None:
    """SIGKILL the process and all that it started, `after_s` seconds from now, unless it ends before."""
    process.join(after_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()


def finish(process: BaseProcess) -> int | None:
    """Wait for it and return its exit code."""
    process.join()
    return process.exitcode


def _run(study: Path, command: list[str], log: Path, death: Death | None, prepare: Callable[[], None] | None) -> None:
    os.setsid()
    os.chdir(study)
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    moved = _count_moves(death)
    if prepare is not None:
        prepare()
    code = main(command)
    sys.stderr.write(f"\n{moved[0]}\n")
    sys.stderr.flush()
    # Not sys.exit: what the server's modules registered for its end is not the stage's.
    os._exit(code)


def _count_moves(death: Death | None) -> list[int]:
    """Count the files that are moved to their final path from now on, and die at the chosen one."""
    moved, replace = [0], Path.replace

    def counted(path: Path, target: Any) -> Path:
        moved[0] += 1
        if death == Death(moved[0], "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        placed = replace(path, target)
        if death == Death(moved[0], "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return placed

    Path.replace = counted  # type: ignore[method-assign, assignment]
    return moved


def moved_files(log: Path) -> int:
    """How many files an undisturbed run moved into place."""
    return int(log.read_text().splitlines()[-1])


def contents(folder: Path) -> dict[str, str]:
    """Path below the folder → hash of what a file holds, of a JSON file without what it says of time; empty folders, too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = _content(path)
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = ""
    return found


def _content(path: Path) -> str:
    read = path.read_bytes()
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):
            read = json.dumps(_untimed(json.loads(read))).encode()
    return hashlib.sha256(read).hexdigest()


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _untimed(one) for name, one in value.items() if name not in TIMED}
    return [_untimed(one) for one in value] if isinstance(value, list) else value


def timed(study: Path, command: list[str], log: Path) -> float:
    """Run the stage undisturbed; the seconds it took. Raises RuntimeError with its log where it failed."""
    started = time.monotonic()
    if finish(start(study, command, log)) != 0:
        raise RuntimeError(f"{command[0]}: {log.read_text()[-2000:]}")
    return time.monotonic() - started
