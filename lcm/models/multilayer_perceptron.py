"""The multilayer perceptron of the LCM paper's Table 3: as many parameters, and no tokens that look at regions.

As its authors' logs count them (151.8 million at 4 layers, 1,208.9 at 32), every region's FC row is embedded, one learned
weighting pools the regions, and hidden layers of width 6,144 follow; the paper says 6,177, which fits no count. Residual
connections and batch normalisation are the paper's words; the authors' program has neither. `reads: edges` is the plain
one, on the upper triangle.
"""

# Shapes: B scans, N regions, E edges (upper triangle), P tokens, D width, M rows of a batch.

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcm.models.pooled_norm import PooledBatchNorm1d
from lcm.models.standard_edges import StandardEdges
from lcm.models.token_network import TokenNetwork


class HiddenLayer(nn.Module):
    """A layer that adds to what it reads."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(width, width), PooledBatchNorm1d(width), nn.Dropout(dropout)

    def forward(self, hidden_BD: Tensor) -> Tensor:
        """The next hidden state, (B, D)."""
        return hidden_BD + self.dropout(functional.leaky_relu(self.norm(self.linear(hidden_BD))))


class MultilayerPerceptron(TokenNetwork):
    """FC matrices (B, N, N) → one logit for every scan and token, as of one layer, (1, B, P)."""

    triangle_2E: Tensor

    def __init__(
        self,
        num_regions: int,
        tokens: Sequence[str],
        *,
        num_layers: int = 4,
        width: int = 6144,
        dropout: float = 0.0,
        reads: Literal["rows", "edges"] = "rows",
        edges: Literal["raw", "standard"] = "raw",
    ) -> None:
        super().__init__(tokens)
        self.edges = StandardEdges(num_regions, mark=0.0) if edges == "standard" else None
        triangle_2E = torch.triu_indices(num_regions, num_regions, offset=1)
        self.register_buffer("triangle_2E", triangle_2E, persistent=False)
        self.input = nn.Linear(num_regions if reads == "rows" else triangle_2E.shape[1], width)
        self.input_norm = PooledBatchNorm1d(width)
        self.pool = nn.Linear(num_regions, 1) if reads == "rows" else None
        self.layers = nn.Sequential(*(HiddenLayer(width, dropout) for _ in range(num_layers)))
        self.head = nn.Linear(width, len(self.tokens))

    def forward(self, fc_BNN: Tensor) -> Tensor:
        """Logits (1, B, P). A missing edge is NaN: 0 as in the authors' data, or the mean in `edges`."""
        # The bias is added outside the product: half precision, near an age of 50, steps by a quarter.
        return (functional.linear(self.embed(fc_BNN), self.head.weight) + self.head.bias)[None]

    def embed(self, fc_BNN: Tensor) -> Tensor:
        """The last hidden state, (B, D)."""
        known_BNN = self.edges(fc_BNN) if self.edges else fc_BNN.nan_to_num(0.0, 0.0, 0.0)
        if self.pool is None:
            edges_BE = known_BNN[:, self.triangle_2E[0], self.triangle_2E[1]]
            return self.layers(functional.leaky_relu(self.input_norm(self.input(edges_BE))))
        rows_MD = functional.leaky_relu(self.input_norm(self.input(known_BNN).flatten(0, 1)))
        pooled_BD = self.pool(rows_MD.unflatten(0, fc_BNN.shape[:2]).transpose(1, 2)).squeeze(-1)
        return self.layers(functional.leaky_relu(pooled_BD))

    def append_tokens(self, names: Sequence[str]) -> None:
        """Add outputs for levels not seen so far; the present ones keep their weights."""
        self.check_new(names)
        new = nn.Linear(self.head.in_features, len(names), device=self.head.weight.device)
        joined = nn.Linear(self.head.in_features, len(self.tokens) + len(names), device=self.head.weight.device)
        with torch.no_grad():
            joined.weight.copy_(torch.cat([self.head.weight, new.weight]))
            joined.bias.copy_(torch.cat([self.head.bias, new.bias]))
        self.head = joined
        self.tokens += tuple(names)

    def embedding_parameters(self) -> list[str]:
        """Names of the weights that read the input; `trunk_rate` slows all others."""
        return ["input.weight"]

    def trunk(self) -> tuple[nn.Module, ...]:
        """All but the head."""
        pooling = (self.pool,) if self.pool is not None else ()
        return self.input, self.input_norm, *pooling, self.layers
