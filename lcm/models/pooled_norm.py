"""Batch normalisation over every process of a run: what networks share where a batch is spread over devices."""

# Shapes: M rows of a batch, D width.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _SumOverProcesses(torch.autograd.Function):
    """A sum that every process gets; each process's loss depends on every term, so gradients are summed alike."""

    @staticmethod
    def forward(_: Any, terms: Tensor) -> Tensor:
        total = terms.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class PooledBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation whose training statistics span every process, on CPU as on GPU.

    torch's SyncBatchNorm does the same, and refuses a CPU.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, rows_MD: Tensor) -> Tensor:
        """Normalise the M rows of this process by the mean and variance of all processes' rows."""
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if alone or not self.training:
            return super().forward(rows_MD)
        rows_MD = rows_MD.to(self.weight.dtype)
        count = _SumOverProcesses.apply(rows_MD.new_tensor(float(len(rows_MD))))
        mean_D = _SumOverProcesses.apply(rows_MD.sum(dim=0)) / count
        variance_D = _SumOverProcesses.apply((rows_MD - mean_D).square().sum(dim=0)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean_D, self.momentum)
            self.running_var.lerp_(variance_D * count / (count - 1), self.momentum)
        return (rows_MD - mean_D) * torch.rsqrt(variance_D + self.eps) * self.weight + self.bias
