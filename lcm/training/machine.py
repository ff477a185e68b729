"""The machine that a network learns or answers on: flags beside the settings, so that another machine makes nothing anew."""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, Self, get_args

from lcm.training.gpu_claims import claim_gpus

log = logging.getLogger(__name__)

Accelerator = Literal["auto", "cpu", "gpu"]
Parallel = Literal["auto", "ddp", "fsdp"]

FIRST_PORT, NUM_PORTS = 20_000, 12_768
"""Ports below those that Linux hands to connections of its own (32768 to 60999)."""


@dataclass(frozen=True)
class Machine:
    """What is there to compute with; the numbers that come out are the same up to rounding and draws of dropout."""

    accelerator: Accelerator = "auto"
    """auto: GPUs where there are some, else the CPU."""
    devices: int = 1
    """Devices that share one network's training, on all nodes together; 0: none was given, the CPU computes."""
    nodes: int = 1
    parallel: Parallel = "auto"
    """How several devices share: ddp copies the network to each, fsdp deals its weights out; auto: ddp."""
    compile: bool = False
    """torch.compile: minutes once, then faster steps on a GPU."""
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.devices < 0 or self.nodes < 1 or not self.checkpoint_minutes > 0:
            raise ValueError(
                f"--devices {self.devices} --nodes {self.nodes} --checkpoint-minutes {self.checkpoint_minutes:g}: devices "
                "are 0 or more, nodes 1 or more, minutes above 0"
            )
        if self.devices % self.nodes:
            raise ValueError(
                f"--devices {self.devices} --nodes {self.nodes}: as many on each node, so a multiple of nodes"
            )
        if self.accelerator == "gpu" and not self.devices:
            raise ValueError("--accelerator gpu --devices 0: give it a GPU (resource gpu), or use auto or cpu")

    @property
    def count(self) -> int:
        """Processes that share a training, one a device."""
        return max(self.devices, self.nodes)

    @property
    def per_node(self) -> int:
        """Of them on each node."""
        return self.count // self.nodes

    def kind(self, num_gpus: int) -> Literal["cpu", "cuda"]:
        """Where it computes with so many GPUs on the node; ValueError where a GPU is asked for and none is there."""
        if self.accelerator == "cpu" or not self.devices:
            return "cpu"
        if num_gpus:
            return "cuda"
        if self.accelerator == "gpu":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            raise ValueError(
                f"--accelerator gpu: torch sees no GPU (CUDA_VISIBLE_DEVICES is {'unset' if visible is None else repr(visible)}"
                "); ask the scheduler for one, or use auto or cpu"
            )
        return "cpu"

    def place(self) -> Literal["cpu", "cuda"]:
        """Where one process that does not train computes; a GPU of its own where no scheduler gave one."""
        import torch

        num_gpus = torch.cuda.device_count()
        place = self.kind(num_gpus)
        if place == "cuda":
            claim_gpus(1, num_gpus)
        return place


STANDARD = Machine()
"""One device, a GPU where there is one."""


@dataclass(frozen=True)
class World:
    """The processes that torchrun or srun started for one training, and which of them this one is."""

    rank: int
    local_rank: int
    node: int
    count: int
    address: str
    port: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """As the variables of torchrun tell, or those of an srun of several tasks; None where there is one process.

        The allocation's own SLURM_NTASKS says nothing: Snakemake's job is one task of it, whatever was asked for.
        """
        if "RANK" in environment and "WORLD_SIZE" in environment:
            rank, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local, node = int(environment.get("LOCAL_RANK", "0")), int(environment.get("GROUP_RANK", "0"))
        elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
            rank, count = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
            local, node = int(environment.get("SLURM_LOCALID", "0")), int(environment.get("SLURM_NODEID", "0"))
        else:
            return None
        address = environment.get("MASTER_ADDR") or _first_host(environment)
        port = int(environment.get("MASTER_PORT") or _port_of_step(environment))
        return cls(rank, local, node, count, address, port)

    def as_torchrun_says(self) -> dict[str, str]:
        """The variables that torchrun would have set."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "GROUP_RANK": str(self.node),
            "WORLD_SIZE": str(self.count),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def rank_of(environment: Mapping[str, str]) -> int:
    """Which process of one training this is, before torch is there to say it; 0 where it is alone."""
    world = World.of(environment)
    return world.rank if world else int(environment.get("LOCAL_RANK", "0"))


def settle(machine: Machine, num_gpus: int, world: World | None) -> Machine:
    """The machine as it is here: accelerator `cpu` or `gpu`, and no more devices than processes can serve.

    `num_gpus`: those that this process sees. Raises ValueError where processes, nodes or GPUs are not those asked for.
    """
    started = world.count if world else None
    if started is not None and started != machine.count:
        raise ValueError(
            f"{started} processes were started, and {machine.count} are wanted (--devices {machine.devices} --nodes "
            f"{machine.nodes}); make them alike"
        )
    if started is None and machine.nodes > 1:
        raise ValueError(
            f"--nodes {machine.nodes}: nobody started a process on each; set the resource launcher to srun or torchrun"
        )
    kind = machine.kind(num_gpus)
    if kind == "cuda" and machine.per_node > num_gpus:
        raise ValueError(
            f"--devices {machine.devices} --nodes {machine.nodes}: torch sees {num_gpus} GPUs here; ask for as many, and let "
            "every process see all of its node's (srun --gpu-bind=none)"
        )
    devices = machine.count
    if kind == "cpu" and machine.accelerator == "auto" and machine.count > 1:
        if started is None:
            log.warning("no GPU here: one process on the CPU in place of %d devices", machine.count)
            devices = 1
        else:
            log.warning("no GPU here: the %d processes compute on the CPU", machine.count)
    return replace(machine, accelerator="gpu" if kind == "cuda" else "cpu", devices=devices)


def add_place_flags(parser: ArgumentParser) -> None:
    """The flags of every stage that runs a network."""
    parser.add_argument(
        "--accelerator",
        choices=get_args(Accelerator),
        default=STANDARD.accelerator,
        help="auto: a GPU where there is one, else the CPU; gpu: an error where there is none",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=STANDARD.devices,
        help="devices, on all nodes together, that share one network's training; one that only answers takes one; 0: the CPU",
    )


def add_machine_flags(parser: ArgumentParser) -> None:
    """The flags of a stage that trains."""
    add_place_flags(parser)
    parser.add_argument(
        "--nodes", type=int, default=STANDARD.nodes, help="nodes that share it, with processes of torchrun or srun"
    )
    parser.add_argument(
        "--parallel",
        choices=get_args(Parallel),
        default=STANDARD.parallel,
        help="several devices: ddp copies the network to each, fsdp deals its weights out; auto: ddp",
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile: minutes once, then faster steps on a GPU"
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=STANDARD.checkpoint_minutes,
        help="how often a run that may be killed writes what it needs to go on",
    )


def machine_of(options: Namespace) -> Machine:
    """The machine that the flags describe; what a stage has no flag for stays at its default."""
    return Machine(**{field.name: vars(options)[field.name] for field in fields(Machine) if field.name in options})


def _first_host(environment: Mapping[str, str]) -> str:
    """The first of Slurm's node list, where the process with rank 0 is: `a[07-09,12],b` is a07."""
    first, _, ranges = environment.get("SLURM_STEP_NODELIST", "127.0.0.1").partition("[")
    if "," in first or not ranges:
        return first.split(",")[0]
    inside, _, after = ranges.partition("]")
    return first + inside.replace("-", ",").split(",")[0] + after.split(",")[0]


def _port_of_step(environment: Mapping[str, str]) -> int:
    """A port that all tasks of a Slurm step come to by themselves, and the steps and jobs beside it do not.

    Two steps have the same one where job + 4099 × step is the same modulo NUM_PORTS: of jobs that follow each other, none.
    """
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return FIRST_PORT + (job + 4099 * step) % NUM_PORTS
