"""Faults of the machine: a full disk or missing memory says nothing about a run, so it never becomes the outcome of one."""

from __future__ import annotations

import errno
import os
import re

_OF_THE_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT
)  # fmt: skip
"""No room, no memory, no more open files; a file server that is away."""

_OTHERWISE_SAID = {
    "MemoryError": errno.ENOMEM,
    "bad_alloc": errno.ENOMEM,
    os.strerror(errno.ENOSPC): errno.ENOSPC,
    os.strerror(errno.EDQUOT): errno.EDQUOT,
}
"""How Python, and libraries in C++ such as ANTs, say it without a number."""


def refuse_machine_fault(said: str) -> None:
    """Raise OSError where the last words of a failed step tell of the machine: the job must stop and be run again."""
    found = re.search(r"\[Errno (\d+)\]", said)
    number = int(found[1]) if found else 0
    number = next((of for words, of in _OTHERWISE_SAID.items() if words in said), number)
    if number in _OF_THE_MACHINE:
        raise OSError(number, f"{os.strerror(number)}; make room on disk, TMPDIR or in memory, and run again ({said})")
