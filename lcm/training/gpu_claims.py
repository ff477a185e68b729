"""Whose GPU is whose on a machine without a scheduler: a lock file a GPU, held until the process ends, however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path

from lcm.private_folder import private_folder

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"


def claim_gpus(wanted: int, there: int, folder: Path | None = None) -> tuple[int, ...]:
    """Let this process see `wanted` GPUs that no other process of the program uses, out of those `there`.

    Call it before CUDA is used. Does nothing and returns () where somebody, such as a scheduler, has said which GPUs are
    this process's. Where too few are free it shares, with a warning: who waited could wait for days.
    `folder`: of the lock files, on this machine's own disk. Raises OSError where another user has made it.
    """
    if VISIBLE in os.environ:
        return ()
    folder = folder or lock_folder()
    private_folder(folder)
    # One process chooses at a time, or two that want several would each hold a part.
    with (folder / "choosing").open("w") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)
        claimed = _lock(wanted, there, folder)
    if not claimed:
        claimed = tuple((os.getpid() + place) % there for place in range(wanted))
        log.warning(
            "fewer than %d of %d GPUs are free; sharing GPU %s: give Snakemake `--resources gpu=%d`, or wait for the others",
            wanted, there, ", ".join(map(str, claimed)), there,
        )  # fmt: skip
    os.environ[VISIBLE] = ",".join(map(str, claimed))
    return claimed


def lock_folder() -> Path:
    """The lock files of this user on this machine; TMPDIR is not asked, which a scheduler may set for each job."""
    return Path("/tmp") / f"lcm-gpus-{socket.gethostname()}-{os.getuid()}"  # noqa: S108


def _lock(wanted: int, there: int, folder: Path) -> tuple[int, ...]:
    """The first GPUs that nobody holds, now held; () where they are too few."""
    held: dict[int, int] = {}
    for number in range(there):
        descriptor = os.open(folder / f"gpu-{number}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        held[number] = descriptor
        if len(held) == wanted:
            # The descriptors stay open, and no child gets them: the kernel lets go of the locks when the process ends.
            return tuple(held)
    for descriptor in held.values():
        os.close(descriptor)
    return ()
