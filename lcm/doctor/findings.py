"""What a check of `lcm doctor` says: a finding with its level, what it is about and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "stop"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's page; it names files, settings and numbers, and never a participant."""

    level: Level
    """ok: well; warn: look at it; stop: the study would not run to its end."""
    subject: str
    says: str
    do: str = ""
    """What helps; empty where all is well."""


Check = Callable[[], Iterable[Finding]]


def guarded(subject: str, check: Check) -> list[Finding]:
    """Findings of one check; whatever stops the check itself becomes a warning, so that the others go on."""
    try:
        return list(check())
    except Exception as error:
        # A check meets every oddity of a strange machine, and none of them may hide what the next check knows.
        # Of an OSError the reason alone: its file's name may be a participant's.
        reason = error.strerror if isinstance(error, OSError) else error
        says = f"could not be checked ({type(error).__name__}: {reason})"
        return [Finding("warn", subject, says, "look at it by hand; the other checks do not depend on it")]


def size(amount: float) -> str:
    """Bytes as a person reads them, e.g. `12 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds as a person reads them, e.g. `12 min` or `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
