"""Connectomes as a network reads them best: each edge as a deviation from the training people's, each row marked."""

# Shapes: B and S scans, N regions, E edges (upper triangle).

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lcm.models.standardisation import standardisation


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

    def fit(self, edges_SE: np.ndarray) -> None:
        """Take mean and deviation of every edge (upper triangle, `numpy.triu_indices(N, k=1)`) over the training scans."""
        rows_E, columns_E = torch.triu_indices(len(self.mean_NN), len(self.mean_NN), offset=1)
        for table_NN, fitted_E in zip((self.mean_NN, self.scale_NN), standardisation(edges_SE), strict=True):
            values_E = torch.from_numpy(fitted_E).to(table_NN)
            table_NN[rows_E, columns_E] = values_E
            table_NN[columns_E, rows_E] = values_E

    def forward(self, fc_BNN: Tensor) -> Tensor:
        """Standard edges, a missing one the training mean, with the mark on the diagonal."""
        own_NN = torch.eye(len(self.mean_NN), dtype=torch.bool, device=fc_BNN.device)
        edges_BNN = ((fc_BNN - self.mean_NN) / self.scale_NN).nan_to_num(0.0, 0.0, 0.0)
        return edges_BNN.masked_fill(own_NN, self.mark)
