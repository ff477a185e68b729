"""The fingerprint: what shaped the values of a connectome beyond its atlas, from the images to the correlation.

A flat dict of JSON values, a setting a key (`denoise.high_hz`), in the order of the stages. Each stage of the images writes
its own keys beside those of its input into the table's metadata; weights keep the variants they learned from. What merely
leaves runs out (`min_minutes`, `min_volumes`) or names a file is no part of it. What was done elsewhere is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Fingerprint = dict[str, Any]


def of_stage(stage: str, settings: Mapping[str, Any], names: Iterable[str]) -> Fingerprint:
    """The named settings under `stage`'s keys."""
    return {f"{stage}.{name}": settings[name] for name in names}


def unlike(known: Sequence[Fingerprint], asked: Sequence[Fingerprint]) -> str | None:
    """How the first variant of `asked` that is not among `known` differs from the nearest one there; None: all are.

    A key that a known variant does not state is not compared: whoever imports weights may know little about their data.
    Who states nothing at all knows nothing.
    """
    for theirs in asked:
        differences = [_differences(ours, theirs) for ours in known if ours]
        if not all(differences):
            continue
        nearest = min(differences, key=len, default=["the weights state no preprocessing"])
        more = f" (and {len(nearest) - 3} more)" if len(nearest) > 3 else ""
        return "; ".join(nearest[:3]) + more
    return None


def _differences(ours: Fingerprint, theirs: Fingerprint) -> list[str]:
    return [
        f"{key}: the weights learned from {_said(value)}, these connectomes {_have(theirs, key)}"
        for key, value in ours.items()
        if key not in theirs or theirs[key] != value
    ]


def _have(theirs: Fingerprint, key: str) -> str:
    return f"have {_said(theirs[key])}" if key in theirs else "do not state it"


def _said(value: object) -> str:
    return "none" if value is None or value == [] else str(value)
