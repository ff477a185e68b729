"""The devices that share one network's training: Fabric with DDP or FSDP, and what their processes tell each other."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from lcm.learning_settings import Precision
from lcm.training.gpu_claims import claim_gpus
from lcm.training.machine import Machine, World, settle

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import Strategy
    from torch.distributed.device_mesh import DeviceMesh

FIRST_PROCESS = "LCM_FIRST_PROCESS"
"""The process id of the one that started the others, for those."""


class Devices:
    """One process a device; `rank` is this one, of `count`. Where there is one device nothing is sent."""

    def __init__(self, machine: Machine, precision: Precision = "32-true") -> None:
        """Start the other processes, or join those that torchrun, srun or Fabric itself started.

        Fabric starts them by the command line of this process: each runs the stage from its beginning.
        Raises ValueError for devices that are not there, and for more or fewer processes than the machine has devices.
        """
        world, num_gpus = World.of(os.environ), torch.cuda.device_count()
        self.machine = settle(machine, num_gpus, world)
        if world:
            os.environ.update(world.as_torchrun_says())
        elif self.machine.accelerator == "gpu":
            claim_gpus(self.machine.per_node, num_gpus)
        self.fabric = _fabric(self.machine, precision, started=world is not None)
        if not world and self.machine.count > 1:
            _end_with_the_first()
        self.fabric.launch()
        self.rank, self.count = self.fabric.global_rank, self.fabric.world_size
        # A flag that crosses between GPUs would wait for all that they still compute.
        self._talk = distributed.new_group(backend="gloo") if self.count > 1 else None
        # A process that is done early would cut connections that another still makes.
        self.barrier()

    @property
    def name(self) -> str:
        """What a device of this kind is called, and how many there are of it where there are several."""
        device = self.fabric.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return name if self.count == 1 else f"{self.count} × {name}"

    @property
    def place(self) -> str:
        """The device of this process."""
        return str(self.fabric.device)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def seed(self, value: int) -> None:
        """Seed the generators from which this process draws, on the CPU and on its device.

        torch.manual_seed seeds those of every kind of device, and takes 2 ms where none was used.
        """
        torch.default_generator.manual_seed(value)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(value)

    def share(self, index_B: Tensor) -> Tensor:
        """The part of a batch that this process computes."""
        return index_B.tensor_split(self.count)[self.rank]

    def agree(self, *flags: bool) -> list[bool]:
        """Each flag, raised for all where one process raised it."""
        if self.count == 1:
            return list(flags)
        said = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(said, op=distributed.ReduceOp.MAX, group=self._talk)
        return said.bool().tolist()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, for each of them."""
        summed = values.clone()
        if self.count > 1:
            distributed.all_reduce(summed)
        return summed

    def unsynchronised(self, module: Any, *, alone: bool) -> AbstractContextManager[None]:
        """Where `alone`, gradients stay in this process until a later part of the batch."""
        return self.fabric.no_backward_sync(module) if alone and self.count > 1 else nullcontext()

    def barrier(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            distributed.barrier(group=self._talk)


def _fabric(machine: Machine, precision: Precision, *, started: bool) -> Fabric:
    """`started`: the other processes are there, and the variables of torchrun tell of them."""
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # Fabric announces every process through handlers of its own, beside those of the program's log.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    strategy: str | Strategy = "auto"
    if machine.count > 1:
        strategy = _fsdp(machine.count) if machine.parallel == "fsdp" else "ddp"
    try:
        return Fabric(
            accelerator="cuda" if machine.accelerator == "gpu" else "cpu",
            devices=machine.per_node,
            num_nodes=machine.nodes,
            strategy=strategy,
            precision=precision,
            # Left to itself Fabric takes the tasks of a Slurm allocation for processes, and waits for them.
            plugins=TorchElasticEnvironment() if started else LightningEnvironment(),
        )
    except (RuntimeError, MisconfigurationException) as error:
        raise ValueError(f"accelerator {machine.accelerator}, devices {machine.devices}: {error}") from None


def _end_with_the_first() -> None:
    """Let the processes that Fabric starts end when the one that started them does: it may be killed while they wait."""
    if "LOCAL_RANK" not in os.environ:
        os.environ[FIRST_PROCESS] = str(os.getpid())
        return
    threading.Thread(target=_watch, args=(int(os.environ[FIRST_PROCESS]),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(128 + signal.SIGTERM)


def _fsdp(count: int) -> Strategy:
    """FSDP2 (torch's fully_shard): unlike FSDP1 it runs on a CPU too, and so it is tested."""
    from lightning.fabric.strategies import ModelParallelStrategy

    return ModelParallelStrategy(_deal_out, data_parallel_size=count, tensor_parallel_size=1)


def _deal_out(network: nn.Module, mesh: DeviceMesh) -> Any:
    """Shard each block of every ModuleList by itself, so that one block's weights are whole at a time, then the rest."""
    from torch.distributed.fsdp import fully_shard

    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    # Inner lists come after outer ones, and fully_shard wants them first.
    for block in (block for blocks in reversed(lists) for block in blocks):
        fully_shard(block, mesh=mesh["data_parallel"])
    # Or the rest would stay whole after validation, with the weights it had then.
    return fully_shard(network, mesh=mesh["data_parallel"], reshard_after_forward=True)


def whole(tensors: Mapping[Any, Any]) -> dict[Any, Any]:
    """Copies on the CPU, nested dicts included, of tensors that may be dealt out; every process must call it."""
    return {name: _whole(value) for name, value in tensors.items()}


def _whole(value: Any) -> Any:
    from torch.distributed.tensor import DTensor

    if isinstance(value, Mapping):
        return whole(value)
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def dealt_as(like: Tensor, value: Tensor) -> Tensor:
    """A copy of a whole tensor, on the device of another of its shape and dealt out as that one is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(like.device, like.dtype, copy=True)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process holds, which is the tensor itself unless it is dealt out."""
    from torch.distributed.tensor import DTensor

    return (value.to_local() if isinstance(value, DTensor) else value).detach()


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put a state that `whole` copied into an optimizer, dealt out as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        # A step count has no shape of a weight, and every process has its own.
        place: {
            name: dealt_as(parameters[place], value) if value.shape == parameters[place].shape else value
            for name, value in values.items()
        }
        for place, values in saved["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
