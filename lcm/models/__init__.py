"""The table of architectures: what a model of config.yaml may be, without importing any of them.

An *estimator* is fitted at once and needs no torch: a class with `fit(training, validation, num_levels, **size)`,
`predict(edges_NE)` and `state`, a dict of numpy arrays. A *network* is trained by `lcm.training.loop`: a
`torch.nn.Module` with `tokens`, `append_tokens`, `start_at`, `objective` and `read_out` (see LargeConnectomeModel).
A new row of the benchmark is one file here and one line of MODELS.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple


class Architecture(NamedTuple):
    """How an architecture is trained and how its class is imported."""

    kind: Literal["estimator", "network"]
    load: Callable[[], Any]


# One import statement each, not a dotted path: the code hash and the import law read the syntax tree.
def _majority() -> Any:
    from lcm.models.majority import Majority

    return Majority


def _ridge() -> Any:
    from lcm.models.ridge import Ridge

    return Ridge


def _large_connectome_model() -> Any:
    from lcm.models.large_connectome_model import LargeConnectomeModel

    return LargeConnectomeModel


MODELS: dict[str, Architecture] = {
    "majority": Architecture("estimator", _majority),
    "ridge": Architecture("estimator", _ridge),
    "lcm": Architecture("network", _large_connectome_model),
}
"""Name in config.yaml → architecture."""


def architecture(name: str) -> Architecture:
    """The architecture of that name; ValueError lists the known ones."""
    if name not in MODELS:
        raise ValueError(f"unknown architecture '{name}'; lcm.models.MODELS has: {', '.join(MODELS)}")
    return MODELS[name]


def check_size(name: str, size: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the key, when `size` has an argument the architecture does not take."""
    loaded = architecture(name)
    called = loaded.load().fit if loaded.kind == "estimator" else loaded.load()
    known = [key for key, value in inspect.signature(called).parameters.items() if value.kind is value.KEYWORD_ONLY]
    unknown = sorted(set(size) - set(known))
    if unknown:
        raise ValueError(f"architecture '{name}' has no size {unknown}; it takes: {', '.join(known) or 'none'}")
