"""A private folder at a place that everybody may write to, such as /tmp."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def private_folder(folder: Path) -> None:
    """Make the folder, or take the one that is there.

    Raises OSError where it is a link or another user's: its owner could read, swap and plant files.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "a link, or another user's: remove it, or have them remove it", str(folder))
