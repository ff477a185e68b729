"""THE loop: epochs of any network over indexed examples, and the weights of its best epoch on validation people."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from lcm.config import Training

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger(__name__)

Terms = Mapping[str, tuple[Tensor, Tensor]]
Outputs = Any
"""Whatever a network returns; only its objective looks inside."""


class Objective(Protocol):
    """What a network is trained on: named terms, each (weighted sum over a batch, number of examples it covers)."""

    def __call__(self, outputs: Outputs, batch: dict[str, Tensor], epoch: int) -> Terms:
        """Terms of a training batch; the first epoch is 1."""

    def validate(self, outputs: Outputs, batch: dict[str, Tensor]) -> Terms:
        """Terms of a validation batch, on one scale in every epoch."""


class Examples(Protocol):
    """A source of batches by index; `batch["inputs"]` is what the network reads."""

    def __len__(self) -> int:
        """Number of examples."""

    def to(self, device: torch.device) -> Examples:
        """The same examples, batches delivered on that device."""

    def batch(self, index_B: Tensor) -> dict[str, Tensor]:
        """The examples of these indices, first axis B."""


class InMemory:
    """Examples held whole on the training device: batches are gathers, and no worker process is needed."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(self.columns["inputs"])

    def to(self, device: torch.device) -> InMemory:
        """The same columns on that device."""
        return InMemory({name: column.to(device) for name, column in self.columns.items()})

    def batch(self, index_B: Tensor) -> dict[str, Tensor]:
        """Rows of every column."""
        return {name: column[index_B.to(column.device)] for name, column in self.columns.items()}


@dataclass
class State:
    """All that a run is at the end of an epoch, in one object."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    shuffle: torch.Generator
    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def seed_everything(seed: int) -> None:
    """Seed torch's generators, from which weights and dropout are drawn; call it before a network is built."""
    torch.manual_seed(seed)


def train(
    network: nn.Module, objective: Objective, training: Examples, validation: Examples, settings: Training
) -> State:
    """Train until `max_epochs`, or until `patience` epochs brought no lower validation loss.

    The network is left on the CPU with the weights of its best epoch. Raises ValueError without training or validation
    examples, and when the loss stops being a number. On a CPU the same seed gives the same bits; the caller sets it
    (`seed_everything`) before it builds the network.
    """
    from lightning.fabric import Fabric

    if not len(training) or not len(validation):
        raise ValueError(f"{len(training)} training and {len(validation)} validation scans: the loop needs both")
    fabric = Fabric(accelerator=settings.accelerator, devices=1, precision=settings.precision)
    # Decay of a bias that starts at 50 years would outrun Adam's steps, and a norm has nothing to shrink.
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=settings.weight_decay,
    )
    fabric_network, fabric_optimizer = fabric.setup(network, optimizer)
    training, validation = training.to(fabric.device), validation.to(fabric.device)
    state = State(network, optimizer, torch.Generator().manual_seed(settings.seed))
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    log.info("%d parameters, %d training and %d validation scans", num_parameters, len(training), len(validation))
    while state.epoch < settings.max_epochs and state.epoch - state.best_epoch < settings.patience:
        started = time.monotonic()
        state.epoch += 1
        order = torch.randperm(len(training), generator=state.shuffle)
        batches = (training.batch(index_B) for index_B in order.split(settings.batch_size))
        loss = _epoch(fabric, fabric_network, fabric_optimizer, objective, batches, state.epoch)
        _keep_best(state, loss, _validate(fabric_network, objective, validation, settings.batch_size))
        _report(state, settings.max_epochs, len(training) / (time.monotonic() - started))
    network.load_state_dict(state.best_weights)
    network.to("cpu").eval()
    log.info("best epoch %d of %d, validation loss %.4f", state.best_epoch, state.epoch, state.best_loss)
    return state


def total(terms: Terms) -> Tensor:
    """Sum over terms of (weighted sum / number of examples); a term that covers no example adds nothing."""
    return torch.stack([summed / count.clamp(min=1) for summed, count in terms.values()]).sum()


def _epoch(
    fabric: Fabric,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: Iterable[dict[str, Tensor]],
    epoch: int,
) -> float:
    """One pass over the batches; mean loss of a batch."""
    network.train()
    losses = []
    for batch in batches:
        terms = objective(network(batch["inputs"]), batch, epoch)
        loss = total(terms)
        # A batch in which nobody has a label would still move the weights through Adam's momentum.
        if not any(int(count) for _, count in terms.values()):
            continue
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
    mean = float(torch.stack(losses).mean()) if losses else float("nan")
    if not torch.isfinite(torch.tensor(mean)):
        raise ValueError(f"epoch {epoch}: the training loss is {mean}; lower learning_rate, or check the labels")
    return mean


@torch.no_grad()
def _validate(network: nn.Module, objective: Objective, validation: Examples, batch_size: int) -> float:
    """Loss over all validation examples: sums and counts of every term are pooled before they are divided."""
    network.eval()
    pooled: dict[str, tuple[Tensor, Tensor]] = {}
    for index_B in torch.arange(len(validation)).split(batch_size):
        batch = validation.batch(index_B)
        for name, (summed, count) in objective.validate(network(batch["inputs"]), batch).items():
            before = pooled.get(name, (torch.zeros_like(summed), torch.zeros_like(count)))
            pooled[name] = (before[0] + summed, before[1] + count)
    if not any(int(count) for _, count in pooled.values()):
        raise ValueError("no validation scan has a label of any target: the best epoch cannot be chosen")
    return float(total(pooled))


def _keep_best(state: State, training_loss: float, validation_loss: float) -> None:
    state.history.append({"epoch": state.epoch, "training_loss": training_loss, "validation_loss": validation_loss})
    if validation_loss < state.best_loss:
        state.best_epoch, state.best_loss = state.epoch, validation_loss
        state.best_weights = {name: value.detach().clone() for name, value in state.network.state_dict().items()}
    elif not state.best_weights:
        raise ValueError(f"epoch {state.epoch}: the validation loss is {validation_loss}; check the validation labels")


def _report(state: State, max_epochs: int, samples_per_s: float) -> None:
    last = state.history[-1]
    log.info(
        "epoch %d/%d  training %.4f  validation %.4f  best %d  %.0f samples/s",
        state.epoch, max_epochs, last["training_loss"], last["validation_loss"], state.best_epoch, samples_per_s,
    )  # fmt: skip
