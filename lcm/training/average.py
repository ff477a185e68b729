"""A running average of a network's weights, which validation judges and the run keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lcm.training.devices import dealt_as, local


class Average:
    """After each step, decay × what it was + (1 − decay) × the weights; statistics of BatchNorm are averaged too."""

    def __init__(self, network: nn.Module, decay: float, saved: Mapping[str, Tensor] | None) -> None:
        """`network`: on its devices already; `saved`: a whole average to go on from, None to start at the weights."""
        live = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
        self.decay = decay
        self.weights = {name: dealt_as(value, saved[name]) if saved else value.clone() for name, value in live.items()}
        self._live = [local(value) for value in live.values()]
        self._average = [local(value) for value in self.weights.values()]

    def update(self, num_steps: int) -> None:
        """Take the weights after the step of that number in, the first is 1; early ones count for more."""
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps))
        torch._foreach_lerp_(self._average, self._live, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the network has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for ours, theirs in zip(self._average, self._live, strict=True):
            before = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(before)
