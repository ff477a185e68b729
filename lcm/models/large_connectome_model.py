"""The Large Connectome Model: BEI tokens read a connectome through a decoder-only transformer.

Wei, Dan & Wu, "Large Connectome Model". Rows of the FC matrix, embedded once, are the memory of every layer; one
learnable token for each level of a categorical BEI, and one for each continuous BEI, is the query; a token's logit
comes from one linear head that all tokens and all layers share. Zero target stream, post-norm, eight heads and a
feed-forward of 768 are the authors' program; its two unused heads (2 × (width + 1) parameters) are left out.
"""

# Shapes: B scans, R regions, P tokens, D width, H heads, L layers, K levels of one BEI.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Terms = dict[str, tuple[Tensor, Tensor]]
"""BEI → (weighted sum of its losses over a batch, number of scans that have it)."""


class Target(NamedTuple):
    """One BEI that supervises: its levels (none if continuous) and its weight in the loss."""

    name: str
    levels: tuple[str, ...]
    weight: float = 1.0


def token_names(name: str, levels: Sequence[str]) -> tuple[str, ...]:
    """`sex` with two levels → ("sex=female", "sex=male"); a continuous BEI is one token under its own name."""
    return tuple(f"{name}={level}" for level in levels) or (name,)


class Attention(nn.Module):
    """Multi-head attention, standard form: softmax(q kᵀ / √(D/H)) v."""

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
        """Attend from P queries to N keys; (B, P, D)."""
        attended_BHPd = functional.scaled_dot_product_attention(
            self._heads(self.query(query_BPD)),
            self._heads(self.key(key_BND)),
            self._heads(self.value(value_BND)),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(attended_BHPd.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Post-norm: tokens attend to tokens, then to regions, then a feed-forward; tokens act as query position."""

    def __init__(self, width: int, num_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, num_heads, dropout)
        self.cross_attention = Attention(width, num_heads, dropout)
        self.expand, self.contract = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, target_BPD: Tensor, tokens_BPD: Tensor, memory_BRD: Tensor) -> Tensor:
        """The next target stream, (B, P, D)."""
        placed_BPD = target_BPD + tokens_BPD
        attended_BPD = self.self_attention(placed_BPD, placed_BPD, target_BPD)
        target_BPD = self.norm1(target_BPD + self.dropout(attended_BPD))
        attended_BPD = self.cross_attention(target_BPD + tokens_BPD, memory_BRD, memory_BRD)
        target_BPD = self.norm2(target_BPD + self.dropout(attended_BPD))
        hidden_BPF = self.dropout(functional.relu(self.expand(target_BPD)))
        return self.norm3(target_BPD + self.dropout(self.contract(hidden_BPF)))


class LargeConnectomeModel(nn.Module):
    """FC matrices (B, R, R) → one logit for every layer, scan and token (L, B, P)."""

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
    ) -> None:
        super().__init__()
        self.tokens = tuple(tokens)
        self.region_embedding = nn.Linear(num_regions, width)
        self.region_norm = nn.BatchNorm1d(width)
        self.token_embedding = nn.Parameter(torch.empty(len(self.tokens), width).normal_())
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, feedforward, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, fc_BRR: Tensor) -> Tensor:
        """Logits of every layer, (L, B, P). Missing edges must be 0 already, as in the authors' data."""
        rows_MD = self.region_norm(self.region_embedding(fc_BRR).flatten(0, 1))
        memory_BRD = functional.leaky_relu(rows_MD).unflatten(0, fc_BRR.shape[:2])
        tokens_BPD = self.token_embedding.expand(len(fc_BRR), -1, -1)
        target_BPD = torch.zeros_like(tokens_BPD)
        logits_BP = []
        for layer in self.layers:
            target_BPD = layer(target_BPD, tokens_BPD, memory_BRD)
            # The bias is added outside the product: half precision, near an age of 50, steps by a quarter.
            score_BP = functional.linear(self.norm(target_BPD), self.head.weight).squeeze(-1)
            logits_BP.append(score_BP + self.head.bias)
        return torch.stack(logits_BP)

    def append_tokens(self, names: Sequence[str]) -> None:
        """Add tokens for levels not seen so far; the present ones keep their weights."""
        repeated = sorted(set(names) & set(self.tokens))
        if repeated:
            raise ValueError(f"tokens {repeated} are already in the model")
        new_PD = self.token_embedding.new_empty(len(names), self.token_embedding.shape[1]).normal_()
        self.token_embedding = nn.Parameter(torch.cat([self.token_embedding.detach(), new_PD]))
        self.tokens += tuple(names)

    def start_at(self, value: float) -> None:
        """Let every output begin near `value`, the training mean of a continuous BEI (age in raw years).

        The head is shared, so its bias moves all logits alike: neither softmax over levels nor maximum over layers
        notice it, while the continuous token need not climb 50 years in steps of the learning rate.
        """
        nn.init.constant_(self.head.bias, value)

    def objective(self, targets: Sequence[Target], first_stage_epochs: int) -> TwoStageLoss:
        """The loss that trains this model on these BEIs."""
        columns = {target.name: self._columns(target.name, target.levels) for target in targets}
        return TwoStageLoss(targets, columns, first_stage_epochs)

    def read_out(self, logits_LBP: Tensor, name: str, levels: Sequence[str]) -> Tensor:
        """Probabilities (B, K) of a BEI's levels, or its value (B, 1) if `levels` is empty."""
        return read_out(logits_LBP[..., self._columns(name, levels)], continuous=not levels)

    def _columns(self, name: str, levels: Sequence[str]) -> list[int]:
        wanted = token_names(name, levels)
        missing = [token for token in wanted if token not in self.tokens]
        if missing:
            raise ValueError(f"the model has no token {missing}; it has: {', '.join(self.tokens)}")
        return [self.tokens.index(token) for token in wanted]


def read_out(logits_LBK: Tensor, *, continuous: bool) -> Tensor:
    """The rule at test time: a level's best layer, then softmax over levels; the layer mean of a continuous BEI."""
    if continuous:
        return logits_LBK.mean(dim=0)
    return logits_LBK.amax(dim=0).softmax(dim=-1)


class TwoStageLoss:
    """Weighted cross-entropy of categorical BEIs plus squared error of continuous ones, with two-stage learning.

    Stage 1 (epochs 1..m) scores the layer mean. Stage 2 scores, scan by scan, the layer whose logit for the true level
    is largest. Continuous BEIs always use the layer mean. A batch holds `label:<BEI>` (level index or value, anything
    finite where missing) and `weight:<BEI>` (0 where missing, less than 1 for a pseudo label).
    """

    def __init__(self, targets: Sequence[Target], columns: Mapping[str, list[int]], first_stage_epochs: int) -> None:
        self.targets, self.columns = tuple(targets), columns
        self.first_stage_epochs = first_stage_epochs

    def __call__(self, outputs: Tensor, batch: Mapping[str, Tensor], epoch: int) -> Terms:
        """Training terms of `outputs` (L, B, P); the first epoch is 1."""
        first_stage = epoch <= self.first_stage_epochs
        terms = {}
        for target in self.targets:
            logits_LBK = outputs[..., self.columns[target.name]]
            label_B = batch[f"label:{target.name}"]
            by_layer = target.levels and not first_stage
            scored_BK = _best_layer(logits_LBK, label_B.long()) if by_layer else logits_LBK.mean(dim=0)
            terms[target.name] = _term(scored_BK, batch, target)
        return terms

    def validate(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Terms:
        """The same losses under the read-out rule, which looks at no label and is one scale for both stages."""
        terms = {}
        for target in self.targets:
            logits_LBK = outputs[..., self.columns[target.name]]
            scored_BK = logits_LBK.amax(dim=0) if target.levels else logits_LBK.mean(dim=0)
            terms[target.name] = _term(scored_BK, batch, target)
        return terms


def _best_layer(logits_LBK: Tensor, level_B: Tensor) -> Tensor:
    """Logits (B, K) of each scan's layer with the largest true-level logit."""
    scans_B = torch.arange(logits_LBK.shape[1], device=logits_LBK.device)
    layer_B = logits_LBK[:, scans_B, level_B].argmax(dim=0)
    return logits_LBK[layer_B, scans_B]


def _term(scored_BK: Tensor, batch: Mapping[str, Tensor], target: Target) -> tuple[Tensor, Tensor]:
    label_B, weight_B = batch[f"label:{target.name}"], batch[f"weight:{target.name}"]
    scored_BK = scored_BK.float()
    if target.levels:
        loss_B = functional.cross_entropy(scored_BK, label_B.long(), reduction="none")
    else:
        loss_B = (scored_BK.squeeze(-1) - label_B) ** 2
    return target.weight * (weight_B * loss_B).sum(), (weight_B > 0).sum()
