"""THE loop: epochs of any network over indexed examples, and the weights of its best epoch on validation people.

A run can be killed at any moment and go on to the same bits: what is drawn by chance follows from the seed and the place
in the run (`_seed`), and a checkpoint holds the rest.
"""

# Shapes: N examples, B examples of a batch, T terms of the loss.

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lcm.config import Training
from lcm.training.average import Average
from lcm.training.checkpoint import Keeper, Run, digest, read_checkpoint
from lcm.training.devices import Devices, load_optimizer, whole
from lcm.training.examples import Examples, InMemory, Objective, Side  # noqa: F401 - one door to the loop
from lcm.training.machine import STANDARD
from lcm.training.monitor import Monitor

log = logging.getLogger(__name__)

NOT_IDENTITY = {"max_epochs"}
"""Settings that shape no number of an epoch. The machine is none: a run goes on wherever it is started again."""


@dataclass
class State:
    """How far a run is, and what it found."""

    network: nn.Module
    """The caller's, on the CPU: it gets the best weights when the run ends."""
    first_process: bool
    """Whether it is for this process to write what the run leaves."""
    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Batches done of the epoch under way."""
    device: str = ""
    """What it ran on, one after the other where it was moved."""
    seconds: float = 0.0
    """Time spent on those batches."""
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Where the network is, and dealt out as it is, until the run ends; then whole, on the CPU."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row an epoch: losses, learning rate and speed."""

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds of it, by field."""
        return whole({name: value for name, value in vars(self).items() if name not in ("network", "first_process")})


def seed_everything(seed: int) -> None:
    """Seed torch's generators, from which weights and dropout are drawn; call it before a network is built."""
    torch.manual_seed(seed)


def train(
    network: nn.Module,
    objective: Objective,
    training: Examples,
    validation: Examples,
    settings: Training,
    run: Run | None = None,
    devices: Devices | None = None,
) -> State:
    """Train until `max_epochs`, or until `patience` epochs brought no lower validation loss.

    A copy is trained; the network itself, on the CPU, gets the weights of the best epoch, or of the last if those are
    to be kept. Examples that no term of the loss covers are left out. Raises ValueError without training or validation
    examples, when the loss stops being a number, and where `run` cannot go on (read_checkpoint); Stopped on SIGTERM, if
    there is a checkpoint to write.
    On a CPU the same seed and starting weights give the same bits, whether the run was killed in between or not. Where it
    goes on with other devices, what they change follows: rounding, and which units dropout hides.
    """
    run = run or Run()
    # One process joins the others once, however often it trains.
    devices = devices or Devices(STANDARD, settings.precision)
    identity: dict[str, Any] = {}
    if run.checkpoint:
        identity = {
            **run.identity,
            "settings": settings.model_dump(mode="json", exclude=NOT_IDENTITY) | _schedule(settings),
            "starting weights": digest(network.state_dict()),
            "training scans": digest(training.columns),
            "validation scans": digest(validation.columns),
            "torch": str(torch.__version__),
        }
    saved = read_checkpoint(run, identity, settings.max_epochs)
    size, parts = settings.batch_size, settings.gradient_accumulation
    learning = Side("training", training, objective, devices, batch_size=size, num_parts=parts)
    judging = Side("validation", validation, objective, devices, batch_size=size, num_parts=1)
    loop = _Loop(network, objective, learning, judging, settings, devices, saved)
    state, num_scans = loop.state, len(learning.examples)
    with (
        Monitor(run.log_folder, state.history, num_scans, settings.max_epochs, silent=not devices.first) as monitor,
        Keeper(run.checkpoint, identity, devices) as keeper,
    ):
        while not loop.ended:
            loop.run_epoch(monitor, keeper)
    state.best_weights = whole(state.best_weights)
    network.load_state_dict(state.best_weights)
    network.to("cpu").eval()
    log.info("best epoch %d of %d, validation loss %.4f", state.best_epoch, state.epoch, state.best_loss)
    return state


def moved(before: str, device: str) -> str:
    """The devices a run was on, one after the other, with the one that it is on now; `2 × cpu` is another than `cpu`."""
    places = before.split(", then ") if before else []
    return before if places[-1:] == [device] else ", then ".join([*places, device])


class _Loop:
    """A run under way: a copy of the network on the devices, its optimizer, and State."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        learning: Side,
        judging: Side,
        settings: Training,
        devices: Devices,
        saved: Mapping[str, Any] | None,
    ) -> None:
        self.objective, self.learning, self.judging = objective, learning, judging
        self.settings, self.devices, self.fabric = settings, devices, devices.fabric
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        num_scans = len(learning.examples), len(judging.examples)
        log.info("%d parameters, %d training and %d validation scans", num_parameters, *num_scans)
        self.network = copy.deepcopy(network)
        if saved:
            self.network.load_state_dict(saved["network"])
        # Batches have two sizes; a graph for each is faster than one for any.
        called: Any = torch.compile(self.network, dynamic=False) if devices.machine.compile else self.network
        self.module = self.fabric.setup_module(called)
        self.optimizer = _optimizer(self.network, settings)
        if saved:
            load_optimizer(self.optimizer, saved["optimizer"])
        decay = settings.average_decay
        self.average = Average(self.network, decay, saved and saved["average"]) if decay else None
        self.state = State(network, devices.first, **(saved["state"] if saved else {}))
        self.state.device = moved(self.state.device, devices.name)
        self.sums_T = torch.zeros(len(learning.terms), device=self.fabric.device)
        if saved and devices.first:
            self.sums_T += saved["sums_T"].to(self.sums_T.device)

    @property
    def ended(self) -> bool:
        """Whether there is no further epoch."""
        state, settings = self.state, self.settings
        # With `keep: last` every epoch is the best so far.
        return state.epoch >= settings.max_epochs or state.epoch - state.best_epoch >= settings.patience

    def run_epoch(self, monitor: Monitor, keeper: Keeper) -> None:
        """What is left of an epoch, and what it taught."""
        state = self.state
        started = time.monotonic() - state.seconds
        self._learn(started, monitor, keeper)
        # Here the device is waited for, and only from here on is the time known.
        learned = self.learning.losses(self.devices.sum(self.sums_T))
        speed = len(self.learning.examples) / (time.monotonic() - started)
        training_loss = sum(learned.values())
        if not math.isfinite(training_loss):
            raise ValueError(
                f"epoch {state.epoch + 1}: the training loss is {training_loss}; lower learning_rate, or check the labels"
            )
        with self.average.in_place() if self.average else nullcontext():
            judged = self._judge(keeper)
            if judged:
                state.epoch += 1
                self._keep(sum(judged.values()))
        if not judged:
            # It writes what the last batch left, and raises Stopped: who goes on from it judges the epoch anew.
            keeper.look(self.snapshot)
        row: dict[str, float] = {
            "epoch": state.epoch,
            "training_loss": training_loss,
            "validation_loss": sum(judged.values()),
        }
        row |= {f"training/{name}": loss for name, loss in learned.items()}
        row |= {f"validation/{name}": loss for name, loss in judged.items()}
        row["learning_rate"] = max(group["lr"] for group in self.optimizer.param_groups)
        row |= {"seconds": time.monotonic() - started, "samples_per_s": speed}
        state.step, state.seconds = 0, 0.0
        self.sums_T.zero_()
        state.history.append(row)
        monitor.end_epoch(row, state.best_epoch)
        keeper.look(self.snapshot, last=self.ended)

    def snapshot(self) -> dict[str, Any]:
        """All that the run needs to go on; every process must ask for it."""
        return {
            "network": whole(self.network.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
            "average": whole(self.average.weights) if self.average else None,
            "sums_T": self.devices.sum(self.sums_T).cpu(),
            "state": self.state.kept(),
        }

    def _learn(self, started: float, monitor: Monitor, keeper: Keeper) -> None:
        """Train on the batches that are left of the epoch; `started`: when it would have begun without a break."""
        state = self.state
        self.module.train()
        examples, seed = self.learning.examples, _seed(self.settings.seed, state.epoch)
        examples.begin_epoch(seed)
        order_N = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
        # One copy to the device an epoch; an index sent with each batch would wait for the batch before.
        there_N = order_N.to(examples.index_device)
        batches = list(zip(self.learning.split(order_N), self.learning.split(there_N), strict=True))[state.step :]
        parts = examples.stream(part_B for _, there_B in batches for part_B in self._parts(there_B))
        for index_B, _ in batches:
            self._step(self.learning.counts(index_B), parts)
            state.step += 1
            if self.average:
                self.average.update(state.epoch * self.learning.num_batches + state.step)
            state.seconds = time.monotonic() - started
            monitor.advance(len(index_B))
            keeper.look(self.snapshot)

    def _parts(self, index_B: Tensor) -> tuple[Tensor, ...]:
        """What this process computes of a batch, one after the other."""
        return self.devices.share(index_B).tensor_split(self.settings.gradient_accumulation)

    def _step(self, counts: Mapping[str, int], parts: Iterator[dict[str, Any]]) -> None:
        """One change of the weights by the next batch, of which this process computes its share, in parts.

        `counts`: how many of the whole batch each term covers.
        """
        devices, settings, state = self.devices, self.settings, self.state
        devices.seed(_seed(settings.seed, state.epoch, state.step, devices.rank))
        self._set_rate()
        self.optimizer.zero_grad()
        for place in range(1, settings.gradient_accumulation + 1):
            batch = next(parts)
            with devices.unsynchronised(self.module, alone=place < settings.gradient_accumulation):
                terms = self.objective(self.module(batch["inputs"]), batch, state.epoch + 1)
                sums_T = torch.stack([terms[name] / max(counts[name], 1) for name in counts])
                # Devices average their gradients, and the sum is wanted.
                self.fabric.backward(sums_T.sum() * devices.count)
            self.sums_T += torch.stack([terms[name].detach() for name in counts])
        if settings.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.max_gradient_norm)
        self.optimizer.step()

    def _set_rate(self) -> None:
        """The learning rates of this step, where they change from step to step."""
        settings, num_batches = self.settings, self.learning.num_batches
        if settings.schedule == "constant" and not settings.warmup_share:
            return
        done = self.state.epoch * num_batches + self.state.step
        num_epochs = settings.schedule_epochs or settings.max_epochs
        share = rate_at(settings.schedule, settings.warmup_share, done, num_epochs * num_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * share

    @torch.no_grad()
    def _judge(self, keeper: Keeper) -> dict[str, float]:
        """Loss of each term over all validation examples: sums are pooled before they are divided; {} where told to stop."""
        self.module.eval()
        sums_T = torch.zeros(len(self.judging.terms), device=self.fabric.device)
        confusions: dict[str, Tensor] = {}
        examples = self.judging.examples
        indices = self.judging.split(torch.arange(len(examples), device=examples.index_device))
        for batch in examples.stream(map(self.devices.share, indices)):
            if keeper.stops():
                return {}
            outputs = self.module(batch["inputs"])
            terms = self.objective.validate(outputs, batch)
            sums_T += torch.stack([terms[name] for name in self.judging.terms])
            if self.settings.keep == "best-on-test":
                for name, counts_KK in self.objective.confuse(outputs, batch).items():
                    confusions[name] = confusions[name] + counts_KK if name in confusions else counts_KK
        if confusions:
            return {name: 1 - weighted_f1(self.devices.sum(counts)) for name, counts in confusions.items()}
        return self.judging.losses(self.devices.sum(sums_T))

    def _keep(self, loss: float) -> None:
        """Keep the weights if they are the best so far, or if it is the last that are wanted."""
        state, last = self.state, self.settings.keep == "last"
        if loss < state.best_loss or (last and math.isfinite(loss)):
            state.best_epoch, state.best_loss = state.epoch, loss
            # A copy that stays on the device costs memory there; one on the CPU would cost a pause in every better epoch.
            state.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        elif last or not state.best_weights:
            raise ValueError(f"epoch {state.epoch}: the validation loss is {loss}; check the validation labels")


def weighted_f1(confusion_KK: Tensor) -> float:
    """F1 of every level weighted by its scans (rows: truth, columns: answers), as scikit-learn's `average="weighted"`."""
    hits_K, truth_K, said_K = confusion_KK.diagonal(), confusion_KK.sum(dim=1), confusion_KK.sum(dim=0)
    f1_K = 2 * hits_K / (truth_K + said_K).clamp(min=1)
    return float((f1_K * truth_K).sum() / truth_K.sum().clamp(min=1))


def _schedule(settings: Training) -> dict[str, int | None]:
    """The length of a schedule, which shapes every step; a constant rate has none."""
    changes = settings.schedule != "constant" or settings.warmup_share > 0
    return {"schedule_epochs": settings.schedule_epochs or settings.max_epochs if changes else None}


def rate_at(schedule: str, warmup_share: float, step: int, num_steps: int) -> float:
    """The share of the full learning rate at a step, from 0: a straight rise, then constant or half a cosine down to 0."""
    num_warm = round(warmup_share * num_steps)
    if step < num_warm:
        return (step + 1) / num_warm
    if schedule == "constant":
        return 1.0
    # A run may be longer than its schedule: it stays at 0, where the cosine would rise again.
    done = min(1.0, (step - num_warm) / max(1, num_steps - num_warm))
    return 0.5 * (1 + math.cos(math.pi * done))


def _seed(*place: int) -> int:
    """The seed of one place in a run; hashed, because neighbouring seeds may give streams that are alike."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:4])


def _optimizer(network: Any, settings: Training) -> torch.optim.AdamW:
    """AdamW, fused: one kernel for all weights, on a CPU too (5 times as fast at width 2048)."""
    reading = set(network.embedding_parameters()) if settings.trunk_rate != 1 else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        # Decay of a bias that starts at 50 years would outrun Adam's steps, and a norm has nothing to shrink.
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        rate = settings.learning_rate * (1.0 if name in reading else settings.trunk_rate)
        if parameter.requires_grad:
            groups.setdefault((rate, decay), []).append(parameter)
    kinds = [
        {"params": group, "lr": rate, "full_rate": rate, "weight_decay": decay}
        for (rate, decay), group in groups.items()
    ]
    return torch.optim.AdamW(kinds, betas=(0.9, 0.999), eps=1e-8, fused=True)
