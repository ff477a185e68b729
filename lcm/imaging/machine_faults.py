"""Faults of the machine: a full disk or missing memory says nothing about a run, so it never becomes the outcome of one."""

from __future__ import annotations

import errno
import os
import re

_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM)


def refuse_machine_fault(said: str) -> None:
    """Raise OSError where the last words of a failed step tell of the machine: the job must stop and be run again."""
    found = re.search(r"\[Errno (\d+)\]", said)
    number = errno.ENOMEM if "MemoryError" in said else int(found[1]) if found else 0
    if number in _OF_THE_MACHINE:
        raise OSError(number, f"{os.strerror(number)}; make room on disk, TMPDIR or in memory, and run again ({said})")
