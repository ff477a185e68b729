"""Connectomes as a network reads them best: each edge as a deviation from the training people's, each row marked."""

# Shapes: B and S scans, N regions.

from __future__ import annotations

import torch
from torch import Tensor, nn


class StandardEdges(nn.Module):
    """Connectomes as deviations from the training scans' mean edge, in standard deviations, each row marked as its region's.

    Between people an edge differs by a fraction of what it differs from its neighbours, so raw rows look alike. Standard
    rows alone would not say whose they are, and what attends to all regions alike would see nothing but each column's
    sum; so the diagonal, which says nothing else, holds a constant that only row r has in column r.
    """

    mean_NN: Tensor
    scale_NN: Tensor

    def __init__(self, num_regions: int, mark: float) -> None:
        super().__init__()
        self.mark = mark
        self.register_buffer("mean_NN", torch.zeros(num_regions, num_regions))
        self.register_buffer("scale_NN", torch.ones(num_regions, num_regions))

    def fit(self, fc_SNN: Tensor) -> None:
        """Take mean and standard deviation of every edge over the S training scans that have it."""
        count_NN, sum_NN, square_NN = (torch.zeros_like(self.mean_NN, dtype=torch.float64) for _ in range(3))
        # In parts, because a boolean and a float64 copy of ten thousand scans would not be small.
        for part_BNN in fc_SNN.split(256):
            count_NN += part_BNN.isfinite().sum(dim=0)
            known_BNN = part_BNN.double().nan_to_num(0.0, 0.0, 0.0)
            sum_NN += known_BNN.sum(dim=0)
            square_NN += known_BNN.square().sum(dim=0)
        mean_NN = sum_NN / count_NN.clamp(min=1)
        variance_NN = (square_NN / count_NN.clamp(min=1) - mean_NN.square()).clamp(min=0)
        # An edge that is constant in training must not explode in validation or test.
        self.scale_NN.copy_(torch.where(variance_NN > 1e-8, variance_NN.sqrt(), 1.0))
        self.mean_NN.copy_(mean_NN)

    def forward(self, fc_BNN: Tensor) -> Tensor:
        """Standard edges, a missing one the training mean, with the mark on the diagonal."""
        own_NN = torch.eye(len(self.mean_NN), dtype=torch.bool, device=fc_BNN.device)
        edges_BNN = ((fc_BNN - self.mean_NN) / self.scale_NN).nan_to_num(0.0, 0.0, 0.0)
        return edges_BNN.masked_fill(own_NN, self.mark)
