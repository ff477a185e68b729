"""Scratch: a stage's work folder on a disk of the node, private, cleared before it is used, and gone when it is left."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


def scratch_folder(scratch: Path | None) -> Path:
    """The folder for work files, absolute; TMPDIR where none is named. Raises ValueError where it is missing."""
    folder = Path(tempfile.gettempdir() if scratch is None else scratch).absolute()
    if not folder.is_dir():
        raise ValueError(f"--scratch: no such folder: {folder}; make it, or leave the flag out for TMPDIR")
    return folder


@contextlib.contextmanager
def work_folder(scratch: Path | None, stage: str, output: Path) -> Iterator[Path]:
    """An empty folder for the work behind `output`.

    Its name follows from the user and the output, so that another attempt on the same machine clears what a killed one left,
    and never meets what another user's left. Raises ValueError where `scratch` is missing.
    """
    place = output.absolute()
    short = hashlib.sha256(f"{os.getuid()} {place}".encode()).hexdigest()[:8]
    folder = scratch_folder(scratch) / f"{stage}-{place.parent.name}-{place.name}-{short}"
    shutil.rmtree(folder, ignore_errors=True)
    # /tmp belongs to everybody, and what comes here is a person's head.
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a work folder; a warning where something stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        log.warning("%s could not be removed whole", folder)
