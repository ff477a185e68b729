"""The Large Connectome Model: BEI tokens read a connectome through a decoder-only transformer.

Wei, Dan & Wu, "Large Connectome Model" (arXiv 2510.18910). Rows of the FC matrix, embedded once, are the memory of
every layer; one learnable token for each level of a categorical BEI, and one for each continuous BEI, is the query; a
token's logit comes from one linear head that all tokens and all layers share. Zero target stream, post-norm, eight
heads and a feed-forward of 768 are the authors' program; its two unused heads (2 × (width + 1) parameters) are left out.
"""

# Shapes: B scans, N regions, P tokens, D width, H heads, d = D/H, F feed-forward, L layers, K levels of one BEI, M rows.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcm.models.pooled_norm import PooledBatchNorm1d
from lcm.models.standard_edges import StandardEdges
from lcm.models.token_network import TokenNetwork

Form = Literal["auto", "standard", "absorbed"]
"""How cross-attention is computed; the function is the same, the cost is not (see CrossAttention)."""


def cheaper_form(num_tokens: int, num_regions: int, width: int, num_heads: int) -> Form:
    """The form of cross-attention with fewer multiplications; each has 2PD² more, of query and output."""
    standard = 2 * num_regions * width**2 + 2 * num_tokens * num_regions * width
    absorbed = 2 * num_tokens * width**2 + 2 * num_heads * num_tokens * num_regions * width
    return "absorbed" if absorbed < standard else "standard"


class Attention(nn.Module):
    """Multi-head attention, standard form: softmax(q kᵀ / √d) v."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"size: width {width} is not divisible by num_heads {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _heads(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, query_BPD: Tensor, key_BND: Tensor, value_BND: Tensor) -> Tensor:
        """Attend from P queries to N keys, (B, P, D); queries of a batch of one ask every scan alike."""
        query_BHPd, key_BHNd = self._heads(self.query(query_BPD)), self._heads(self.key(key_BND))
        attended_BHPd = functional.scaled_dot_product_attention(
            query_BHPd.expand(len(key_BHNd), -1, -1, -1),
            key_BHNd,
            self._heads(self.value(value_BND)),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(attended_BHPd.transpose(1, 2).flatten(2))


class CrossAttention(Attention):
    """Attention from tokens to regions, in the standard form or the absorbed one.

    There are more regions than tokens, and their rows are the same in every layer. The absorbed form does not project
    them into keys and values: with K = X Wₖᵀ, q Kᵀ = (q Wₖ) Xᵀ, and with V = X Wᵥᵀ, A V = (A X) Wᵥᵀ.
    """

    def read(self, query_BPD: Tensor, memory_BND: Tensor, form: Form) -> Tensor:
        """What the tokens read from the regions, (B, P, D)."""
        if form == "standard":
            return self(query_BPD, memory_BND, memory_BND)
        dropout = self.dropout if self.training else 0.0
        weights_BHPN = functional.dropout(self._weights(query_BPD, memory_BND), dropout)
        read_BHPD = (weights_BHPN.flatten(1, 2) @ memory_BND).unflatten(1, weights_BHPN.shape[1:3])
        value_HDd = self.value.weight.unflatten(0, (self.num_heads, -1)).transpose(1, 2)
        value_H1d = self.value.bias.view(self.num_heads, 1, -1)
        # Weights sum to one but for dropout, and V's bias is weighed with them.
        weight_BHP1 = weights_BHPN.sum(dim=-1, keepdim=True)
        attended_BHPd = _by_head(read_BHPD, value_HDd) + weight_BHP1 * value_H1d
        return self.output(attended_BHPd.transpose(1, 2).flatten(2))

    def shares(self, query_BPD: Tensor, memory_BND: Tensor) -> Tensor:
        """How much each token attends to each region, (B, P, N), the mean over heads; regions sum to 1."""
        return self._weights(query_BPD, memory_BND).mean(dim=1)

    def _weights(self, query_BPD: Tensor, memory_BND: Tensor) -> Tensor:
        query_BHPd = self._heads(self.query(query_BPD))
        key_HdD = self.key.weight.unflatten(0, (self.num_heads, -1))
        asked_BQD = _by_head(query_BHPd, key_HdD).flatten(1, 2)
        scores_BHPN = (asked_BQD @ memory_BND.transpose(1, 2)).unflatten(1, query_BHPd.shape[1:3])
        # Softmax cancels the key's bias; it is added because DDP waits for the gradient of every parameter.
        shift_BHP1 = query_BHPd @ self.key.bias.view(self.num_heads, -1, 1)
        return ((scores_BHPN + shift_BHP1) * query_BHPd.shape[-1] ** -0.5).softmax(dim=-1)


def _by_head(x_BHPi: Tensor, weight_Hio: Tensor) -> Tensor:
    """Each head's rows times its own matrix, (B, H, P, o): H large products instead of B × H small ones."""
    rows_HMi = x_BHPi.transpose(0, 1).flatten(1, 2)
    return (rows_HMi @ weight_Hio).unflatten(1, (len(x_BHPi), -1)).transpose(0, 1)


class DecoderLayer(nn.Module):
    """Post-norm: tokens attend to tokens, then to regions, then a feed-forward; tokens act as query position."""

    def __init__(self, width: int, num_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, num_heads, dropout)
        self.cross_attention = CrossAttention(width, num_heads, dropout)
        self.expand, self.contract = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, target_BPD: Tensor, tokens_BPD: Tensor, memory_BND: Tensor, form: Form) -> Tensor:
        """The next target stream, (B, P, D)."""
        target_BPD = self.confer(target_BPD, tokens_BPD)
        read_BPD = self.cross_attention.read(target_BPD + tokens_BPD, memory_BND, form)
        target_BPD = self.norm2(target_BPD + self.dropout(read_BPD))
        hidden_BPF = self.dropout(functional.relu(self.expand(target_BPD)))
        return self.norm3(target_BPD + self.dropout(self.contract(hidden_BPF)))

    def confer(self, target_BPD: Tensor, tokens_BPD: Tensor) -> Tensor:
        """The target stream after tokens attended to tokens, (B, P, D)."""
        placed_BPD = target_BPD + tokens_BPD
        return self.norm1(target_BPD + self.dropout(self.self_attention(placed_BPD, placed_BPD, target_BPD)))


class LargeConnectomeModel(TokenNetwork):
    """FC matrices (B, N, N) → one logit for every layer, scan and token (L, B, P)."""

    def __init__(
        self,
        num_regions: int,
        tokens: Sequence[str],
        *,
        num_layers: int = 4,
        width: int = 2048,
        num_heads: int = 8,
        feedforward: int = 768,
        dropout: float = 0.1,
        edges: Literal["raw", "standard"] = "raw",
        region_mark: float = 100.0,
        form: Form = "auto",
    ) -> None:
        super().__init__(tokens)
        self.form: Form = form
        self.num_heads, self.dropout = num_heads, dropout
        self.edges = StandardEdges(num_regions, region_mark) if edges == "standard" else None
        self.region_embedding = nn.Linear(num_regions, width)
        self.region_norm = PooledBatchNorm1d(width)
        self.token_embedding = nn.Parameter(torch.empty(len(self.tokens), width).normal_())
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, feedforward, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, fc_BNN: Tensor) -> Tensor:
        """Logits of every layer, (L, B, P). A missing edge is NaN: 0 as in the authors' data, or the mean in `edges`."""
        target_BPD, tokens_1PD, memory_BND, form = self._begin(fc_BNN)
        logits_BP = []
        for layer in self.layers:
            target_BPD = layer(target_BPD, tokens_1PD, memory_BND, form)
            logits_BP.append(self._logits(target_BPD))
        return torch.stack(logits_BP)

    def attend(self, fc_BNN: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (L, B, P), and each layer's shares of attention to the regions, the mean over heads, (L, B, P, N)."""
        target_BPD, tokens_1PD, memory_BND, form = self._begin(fc_BNN)
        logits_BP, shares_BPN = [], []
        for layer in cast("Iterable[DecoderLayer]", self.layers):
            asking_BPD = layer.confer(target_BPD, tokens_1PD) + tokens_1PD
            shares_BPN.append(layer.cross_attention.shares(asking_BPD, memory_BND))
            target_BPD = layer(target_BPD, tokens_1PD, memory_BND, form)
            logits_BP.append(self._logits(target_BPD))
        return torch.stack(logits_BP), torch.stack(shares_BPN)

    def _begin(self, fc_BNN: Tensor) -> tuple[Tensor, Tensor, Tensor, Form]:
        """Target stream, tokens, memory, and the form in which the tokens will read it."""
        known_BNN = self.edges(fc_BNN) if self.edges else fc_BNN.nan_to_num(0.0, 0.0, 0.0)
        rows_MD = self.region_norm(self.region_embedding(known_BNN).flatten(0, 1))
        memory_BND = functional.leaky_relu(rows_MD).unflatten(0, fc_BNN.shape[:2])
        tokens_1PD = self.token_embedding[None]
        # Without dropout the first layer's tokens are alike for every scan until they read: they confer once.
        first = len(fc_BNN) if self.layers.training and self.dropout else 1
        target_BPD = torch.zeros_like(tokens_1PD).expand(first, -1, -1)
        cheaper = cheaper_form(len(self.tokens), fc_BNN.shape[1], tokens_1PD.shape[2], self.num_heads)
        return target_BPD, tokens_1PD, memory_BND, cheaper if self.form == "auto" else self.form

    def _logits(self, target_BPD: Tensor) -> Tensor:
        # The bias is added outside the product: half precision, near an age of 50, steps by a quarter.
        return functional.linear(self.norm(target_BPD), self.head.weight).squeeze(-1) + self.head.bias

    def embed(self, fc_BNN: Tensor) -> Tensor:
        """What the last layer makes of a connectome, (B, D): its normed stream, the mean over tokens."""
        target_BPD, tokens_1PD, memory_BND, form = self._begin(fc_BNN)
        for layer in self.layers:
            target_BPD = layer(target_BPD, tokens_1PD, memory_BND, form)
        return self.norm(target_BPD).mean(dim=1)

    def append_tokens(self, names: Sequence[str]) -> None:
        """Add tokens for levels not seen so far; the present ones keep their weights."""
        self.check_new(names)
        new_PD = self.token_embedding.new_empty(len(names), self.token_embedding.shape[1]).normal_()
        self.token_embedding = nn.Parameter(torch.cat([self.token_embedding.detach(), new_PD]))
        self.tokens += tuple(names)

    def embedding_parameters(self) -> list[str]:
        """Names of the weights that read the input; `trunk_rate` slows all others."""
        return ["region_embedding.weight"]

    def trunk(self) -> tuple[nn.Module, ...]:
        """All but tokens and head."""
        return self.region_embedding, self.region_norm, self.layers, self.norm
