"""The Large Connectome Model: BEI tokens read a connectome through a decoder-only transformer.

Wei, Dan & Wu, "Large Connectome Model" (arXiv 2510.18910). Rows of the FC matrix, embedded once, are the memory of
every layer; one learnable token for each level of a categorical BEI, and one for each continuous BEI, is the query; a
token's logit comes from one linear head that all tokens and all layers share. Zero target stream, post-norm, eight
heads and a feed-forward of 768 are the authors' program; its two unused heads (2 × (width + 1) parameters) are left out.
"""

# Shapes: B scans, N regions, P tokens, D width, H heads, d = D/H, F feed-forward, L layers, K levels of one BEI, M rows.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from lcm.models.standard_edges import StandardEdges

Form = Literal["auto", "standard", "absorbed"]
"""How cross-attention is computed; the function is the same, the cost is not (see CrossAttention)."""

Stages = Literal["both", "first", "second", "last_layer"]
"""Which layers learn (paper Table 5)."""

Terms = dict[str, Tensor]
"""BEI → weighted sum of its losses over a batch; the loop divides it by the number of scans that it covers."""


class Target(NamedTuple):
    """One BEI that supervises: its levels (none if continuous) and its weight in the loss."""

    name: str
    levels: tuple[str, ...]
    weight: float = 1.0


def token_names(name: str, levels: Sequence[str]) -> tuple[str, ...]:
    """`sex` with two levels → ("sex=female", "sex=male"); a continuous BEI is one token under its own name."""
    return tuple(f"{name}={level}" for level in levels) or (name,)


def cheaper_form(num_tokens: int, num_regions: int, width: int, num_heads: int) -> Form:
    """The form of cross-attention with fewer multiplications; each has 2PD² more, of query and output."""
    standard = 2 * num_regions * width**2 + 2 * num_tokens * num_regions * width
    absorbed = 2 * num_tokens * width**2 + 2 * num_heads * num_tokens * num_regions * width
    return "absorbed" if absorbed < standard else "standard"


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


class LargeConnectomeModel(nn.Module):
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
        super().__init__()
        self.tokens = tuple(tokens)
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

    def embedding_parameters(self) -> list[str]:
        """Names of the weights that read the input; `trunk_rate` slows all others."""
        return ["region_embedding.weight"]

    def fit_edges(self, edges_SE: np.ndarray) -> None:
        """Fit what turns edges into input on the training scans' upper triangles; nothing happens to raw edges."""
        if self.edges:
            self.edges.fit(edges_SE)

    def freeze_trunk(self) -> None:
        """Let nothing learn but tokens and head; the trunk stays as in evaluation, without dropout, in `train` too."""
        for module in (self.region_embedding, self.region_norm, self.layers, self.norm):
            module.requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Training or evaluation mode; a frozen part stays in evaluation."""
        super().train(mode)
        for module in (self.region_norm, self.layers):
            module.train(mode and all(parameter.requires_grad for parameter in module.parameters()))
        return self

    def objective(self, targets: Sequence[Target], first_stage_epochs: int, stages: Stages = "both") -> TwoStageLoss:
        """The loss that trains this model on these BEIs."""
        columns = {target.name: self._columns(target.name, target.levels) for target in targets}
        return TwoStageLoss(targets, columns, first_stage_epochs, stages)

    def read_out(self, logits_LBP: Tensor, name: str, levels: Sequence[str], stages: Stages = "both") -> Tensor:
        """Probabilities (B, K) of a BEI's levels, or its value (B, 1) if `levels` is empty."""
        read_BK = _read_out(_taught(logits_LBP, stages)[..., self._columns(name, levels)], continuous=not levels)
        return read_BK.float().softmax(dim=-1) if levels else read_BK

    def choose_layers(self, logits_LBP: Tensor, name: str, levels: Sequence[str], stages: Stages = "both") -> Tensor:
        """The layer, from 0, whose logit is the read-out of each level, (B, K); a continuous BEI is read from all."""
        if stages == "last_layer":
            return torch.full_like(logits_LBP[0][:, self._columns(name, levels)], len(logits_LBP) - 1, dtype=torch.long)
        return logits_LBP[..., self._columns(name, levels)].argmax(dim=0)

    def _columns(self, name: str, levels: Sequence[str]) -> list[int] | slice:
        """Where a BEI's tokens are: a slice if they stand together, because a list is copied to the GPU at every use."""
        wanted = token_names(name, levels)
        missing = [token for token in wanted if token not in self.tokens]
        if missing:
            raise ValueError(f"the model has no token {missing}; it has: {', '.join(self.tokens)}")
        places = [self.tokens.index(token) for token in wanted]
        together = slice(places[0], places[0] + len(places))
        return together if self.tokens[together] == wanted else places


def _taught(logits_LBP: Tensor, stages: Stages) -> Tensor:
    """The layers that learn, and are read."""
    return logits_LBP[-1:] if stages == "last_layer" else logits_LBP


def _read_out(logits_LBK: Tensor, *, continuous: bool) -> Tensor:
    """The rule at test time, (B, K): the best layer of each level; the layer mean of a continuous BEI."""
    return logits_LBK.mean(dim=0) if continuous else logits_LBK.amax(dim=0)


class TwoStageLoss:
    """Weighted cross-entropy of categorical BEIs plus squared error of continuous ones, with two-stage learning.

    Stage 1 (epochs 1..m) scores the layer mean. Stage 2 scores, scan by scan, the layer whose logit for the true level
    is largest. Continuous BEIs always use the layer mean. `stages` keeps one of the two for all epochs, or the last
    layer alone. A batch holds `label:<BEI>` (level index or value, anything finite where missing) and `weight:<BEI>`
    (0 where missing, less than 1 for a pseudo label).
    """

    def __init__(
        self,
        targets: Sequence[Target],
        columns: Mapping[str, list[int] | slice],
        first_stage_epochs: int,
        stages: Stages = "both",
    ) -> None:
        self.targets, self.columns, self.stages = tuple(targets), columns, stages
        self.num_mean_epochs = {"both": first_stage_epochs, "second": 0}.get(stages, float("inf"))

    def __call__(self, outputs: Tensor, batch: Mapping[str, Tensor], epoch: int) -> Terms:
        """Training terms of `outputs` (L, B, P); the first epoch is 1."""
        first_stage = epoch <= self.num_mean_epochs
        terms = {}
        for target in self.targets:
            logits_LBK = _taught(outputs, self.stages)[..., self.columns[target.name]]
            label_B = batch[f"label:{target.name}"]
            by_layer = target.levels and not first_stage
            scored_BK = _best_layer(logits_LBK, label_B.long()) if by_layer else logits_LBK.mean(dim=0)
            terms[target.name] = _term(scored_BK, batch, target)
        return terms

    def validate(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Terms:
        """The same losses under the read-out rule, which looks at no label and is one scale for both stages."""
        terms = {}
        for target in self.targets:
            logits_LBK = _taught(outputs, self.stages)[..., self.columns[target.name]]
            terms[target.name] = _term(_read_out(logits_LBK, continuous=not target.levels), batch, target)
        return terms

    def covers(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """BEI → which scans have it, (B,) bool."""
        return {target.name: columns[f"weight:{target.name}"] > 0 for target in self.targets}


def _best_layer(logits_LBK: Tensor, level_B: Tensor) -> Tensor:
    """Logits (B, K) of each scan's layer with the largest true-level logit."""
    true_LB1 = logits_LBK.gather(2, level_B[None, :, None].expand(len(logits_LBK), -1, 1))
    layer_1BK = true_LB1.argmax(dim=0, keepdim=True).expand(1, -1, logits_LBK.shape[2])
    return logits_LBK.gather(0, layer_1BK).squeeze(0)


def _term(scored_BK: Tensor, batch: Mapping[str, Tensor], target: Target) -> Tensor:
    label_B, weight_B = batch[f"label:{target.name}"], batch[f"weight:{target.name}"]
    scored_BK = scored_BK.float()
    if target.levels:
        loss_B = functional.cross_entropy(scored_BK, label_B.long(), reduction="none")
    else:
        loss_B = (scored_BK.squeeze(-1) - label_B) ** 2
    return target.weight * (weight_B * loss_B).sum()
