"""A small training run in processes of its own, which tests kill, stop and share among devices."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lcm.config import Training
from lcm.learning_settings import Precision
from lcm.models.brainlm import BrainLM
from lcm.models.large_connectome_model import LargeConnectomeModel
from lcm.models.series_network import MaskedLoss, Masking
from lcm.models.token_network import Target
from lcm.training.checkpoint import Run
from lcm.training.devices import Devices
from lcm.training.loop import InMemory, State, seed_everything, train
from lcm.training.machine import FIRST_PORT, NUM_PORTS, Machine
from lcm.training.recordings import Recordings, Windowed

SETTINGS: dict[str, Any] = {
    "batch_size": 8,
    "learning_rate": 3e-3,
    "max_epochs": 5,
    "patience": 5,
    "first_stage_epochs": 2,
    "gradient_accumulation": 2,
    "max_gradient_norm": 1.0,
    "average_decay": 0.9,
}
MACHINE: dict[str, Any] = {"accelerator": "cpu", "checkpoint_minutes": 1e-4}
SPEED = ("seconds", "samples_per_s")
NUM_FRAMES = 12


def on_cpu(precision: Precision = "32-true", **machine: Any) -> Devices:
    """The CPU, whatever else the machine has; `machine`: fields of Machine."""
    return Devices(Machine(**MACHINE | machine), precision)


def sorted_out(changed: dict[str, Any]) -> tuple[Training, Devices]:
    """What settings and what the machine is made of, of fields of both."""
    machine = {name: changed.pop(name) for name in Machine.__dataclass_fields__ if name in changed}
    settings = Training(**SETTINGS | changed)
    return settings, on_cpu(settings.precision, **machine)


def examples(num_scans: int, seed: int, dtype: torch.dtype = torch.float32) -> InMemory:
    """Random connectomes of twelve regions; one scan in four lacks a level and one in four an age."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(num_scans, 12, 12, generator=generator)
    columns = {"inputs": half + half.mT}
    columns["label:q"] = torch.randint(0, 2, (num_scans,), generator=generator).float()
    columns["label:age"] = torch.rand(num_scans, generator=generator)
    for name in ("q", "age"):
        columns[f"weight:{name}"] = (torch.rand(num_scans, generator=generator) > 0.25).float()
    return InMemory({name: column.to(dtype) for name, column in columns.items()})


def network_of(dropout: float) -> LargeConnectomeModel:
    """Three layers, always the same weights."""
    seed_everything(0)
    tokens = ("q=no", "q=yes", "age")
    return LargeConnectomeModel(12, tokens, num_layers=3, width=32, num_heads=4, feedforward=64, dropout=dropout)


def learn(
    folder: Path, checkpoint: Path | None, changed: dict[str, Any], dtype: torch.dtype, environment: dict[str, str]
) -> None:
    """Train; the first process writes the losses and the best weights into `folder`.

    In float64 there is no dropout; with `fixed_norm` each scan's output does not depend on the others of its part.
    """
    os.environ.update(environment)
    network = network_of(0.1 if dtype == torch.float32 else 0.0).to(dtype)
    network.region_norm.requires_grad_(not changed.pop("fixed_norm", False))
    settings, devices = sorted_out(changed)
    targets = [Target("q", ("no", "yes")), Target("age", ())]
    objective = network.objective(targets, settings.first_stage_epochs, settings.stages)
    run = Run(checkpoint, log_folder=folder / "logs")
    _leave(train(network, objective, examples(115, 1, dtype), examples(41, 2, dtype), settings, run, devices), folder)


def windows(num_recordings: int, seed: int) -> Windowed:
    """Noise of six regions in runs of 6 to 35 frames: some are shorter than a window, and in one of five a region lacks."""
    generator = np.random.default_rng(seed)
    runs = [generator.normal(size=(6 + n % 30, 6)).astype(np.float16) for n in range(num_recordings)]
    for run_TR in runs[::5]:
        run_TR[:, 2] = np.nan
    checksum_N = generator.integers(2**31, size=num_recordings)
    tr_s_N, regions = np.full(num_recordings, 2.0), tuple("abcdef")
    places_R3 = generator.normal(0, 40, (6, 3))
    return Windowed(Recordings(tuple(runs), checksum_N, tr_s_N, regions, places_R3), NUM_FRAMES, {}, Masking(0.5))


def autoencoder(dropout: float) -> BrainLM:
    """Two layers and a decoder, always the same weights."""
    seed_everything(0)
    size = {"patch_frames": 4, "width": 16, "feedforward": 32, "num_layers": 2, "num_heads": 2}
    network = BrainLM(6, (), num_frames=NUM_FRAMES, decoder_layers=1, conv_kernel=3, dropout=dropout, **size)
    recordings = windows(115, 1).recordings
    network.fit_series(recordings.quartiles(), recordings.places_R3)
    return network


def fill_in(
    folder: Path, checkpoint: Path | None, changed: dict[str, Any], dtype: torch.dtype, environment: dict[str, str]
) -> None:
    """The same as `learn` of a network that fills in what is hidden of windows, which are drawn anew in every epoch."""
    os.environ.update(environment)
    network = autoencoder(0.1 if dtype == torch.float32 else 0.0).to(dtype)
    run = Run(checkpoint, log_folder=folder / "logs")
    settings, devices = sorted_out(changed)
    _leave(train(network, MaskedLoss(), windows(115, 1), windows(41, 2), settings, run, devices), folder)


def _leave(state: State, folder: Path) -> None:
    """The first process writes the losses and the best weights."""
    if state.first_process:
        torch.save(state.network.state_dict(), folder / "weights.pt")
        losses = [{name: value for name, value in row.items() if name not in SPEED} for row in state.history]
        (folder / "losses.json").write_text(json.dumps(losses))


def deal_out(
    folder: Path, _: Path | None, changed: dict[str, Any], __: torch.dtype, environment: dict[str, str]
) -> None:
    """Set the network up on its devices; each process writes the share of every weight that it holds."""
    os.environ.update(environment)
    network = network_of(0.0)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    _, devices = sorted_out(changed)
    devices.fabric.setup_module(network)
    held = {name: getattr(p, "_local_tensor", p).numel() / sizes[name] for name, p in network.named_parameters()}
    (folder / f"held-{devices.rank}.json").write_text(json.dumps(held))


def result(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Losses of the epochs and the best weights."""
    return json.loads((folder / "losses.json").read_text()), torch.load(folder / "weights.pt", weights_only=True)


def fresh_processes() -> ForkServerContext:
    """Processes that start anew but need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lightning.fabric", "torch.utils.tensorboard"])
    return context


def start(
    processes: ForkServerContext,
    folder: Path,
    checkpoint: Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    count: int = 1,
    launcher: Literal["torchrun", "srun"] = "torchrun",
    target: Callable[..., None] = learn,
    **changed: Any,
) -> list[BaseProcess]:
    """Begin `target` in `count` processes, with the environment that the launcher would give each."""
    folder.mkdir(exist_ok=True)
    environments = {"torchrun": as_torchrun, "srun": as_srun}[launcher](count) if count > 1 else [{}]
    started = []
    for environment in environments:
        arguments = (folder, checkpoint, changed, dtype, environment)
        started.append(processes.Process(target=target, args=arguments))
        started[-1].start()
    return started


def as_torchrun(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of `count` processes on one node."""
    port = str(free_port(range(1)))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def as_srun(count: int) -> list[dict[str, str]]:
    """What srun tells each of `count` tasks on one node, of a job in whose number lies the port where they meet."""
    job = str(free_port(range(FIRST_PORT, FIRST_PORT + NUM_PORTS)) - FIRST_PORT)
    shared = {"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_NODEID": "0"}
    shared |= {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_NTASKS": str(count), "SLURM_JOB_NAME": "pretrain"}
    return [shared | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(count)]


def free_port(ports: range) -> int:
    """One of them that nobody listens to; of range(1), 0: any."""
    for port in ports:
        with socket.socket() as free, suppress(OSError):
            free.bind(("", port))
            return int(free.getsockname()[1])
    raise OSError(f"no free port in {ports}")


def finish(started: list[BaseProcess]) -> list[int | None]:
    """Wait for all and return their exit codes."""
    for process in started:
        process.join()
    return [process.exitcode for process in started]
