"""Scans a second of the Large Connectome Model, against a decoder of plain torch layers, and of BrainLM's models.

One run, one device, the same scans; BrainLM's rows are those of benchmarks/series_training.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import series_training
from benchmarks.timing import device_name, medians
from lcm.config import Training
from lcm.models.large_connectome_model import LargeConnectomeModel
from lcm.models.token_network import Target, token_names
from lcm.training.devices import Devices
from lcm.training.examples import InMemory
from lcm.training.loop import train
from lcm.training.machine import Machine

# Shapes: B scans, N regions, P tokens, D width, L layers.

NUM_REGIONS = 116
NUM_LEVELS = {"hcpa": 5, "hcpya": 8, "alzheimers": 3, "parkinsons": 5, "autism": 3, "sex": 2, "age": 0}
"""Levels of the paper's pretraining, the class n/a among them: 27 tokens."""
SCANS_OF_PAPER, EPOCHS_OF_PAPER = 9_609, 200
LAYERS_OF_PAPER = (8, 20, 32)

Pass = Literal["train", "forward"]


class Size(NamedTuple):
    """Layers, width and scans a batch."""

    num_layers: int
    width: int
    batch: int

    def __str__(self) -> str:
        return f"layers {self.num_layers}, width {self.width}, batch {self.batch}"


class Case(NamedTuple):
    """One row: `form` is plain for the reference, else the model's own; precision is Fabric's flag."""

    form: Literal["plain", "standard", "absorbed"]
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compiled: bool = False

    @property
    def row(self) -> dict[str, str]:
        """What the row is called."""
        form = f"{self.form}, compiled" if self.compiled else self.form
        return {"model": "plain decoder" if self.form == "plain" else "lcm", "form": form, "precision": self.precision}


CPU_CASES = (Case("plain"), Case("standard"), Case("absorbed"))
CUDA_CASES = (Case("plain"), *(Case("absorbed", "bf16-mixed", compiled) for compiled in (False, True)))


class PlainLayer(nn.Module):
    """A layer as the paper's reader would write it: torch's attention, which keeps its weights, and three norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, 8, dropout=0.1, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, 8, dropout=0.1, batch_first=True)
        self.expand, self.contract = nn.Linear(width, 768), nn.Linear(768, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x_BPD: Tensor, tokens_BPD: Tensor, memory_BND: Tensor) -> Tensor:
        """The next target stream, (B, P, D)."""
        placed_BPD = x_BPD + tokens_BPD
        attended_BPD, _ = self.self_attention(placed_BPD, placed_BPD, x_BPD, need_weights=True)
        x_BPD = self.norm1(x_BPD + self.dropout(attended_BPD))
        attended_BPD, _ = self.cross_attention(x_BPD + tokens_BPD, memory_BND, memory_BND, need_weights=True)
        x_BPD = self.norm2(x_BPD + self.dropout(attended_BPD))
        hidden_BPF = self.dropout(functional.relu(self.expand(x_BPD)))
        return self.norm3(x_BPD + self.dropout(self.contract(hidden_BPF)))


class PlainDecoder(nn.Module):
    """The reference, after the paper's text: every layer projects the regions anew and returns its attention."""

    def __init__(self, num_regions: int, num_tokens: int, num_layers: int, width: int) -> None:
        super().__init__()
        self.region_embedding, self.region_norm = nn.Linear(num_regions, width), nn.BatchNorm1d(width)
        self.token_embedding = nn.Embedding(num_tokens, width)
        self.layers = nn.ModuleList(PlainLayer(width) for _ in range(num_layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, fc_BNN: Tensor) -> Tensor:
        """Logits of every layer, (L, B, P)."""
        rows_BDN = self.region_norm(self.region_embedding(fc_BNN).transpose(1, 2))
        memory_BND = functional.leaky_relu(rows_BDN).transpose(1, 2)
        tokens_BPD = self.token_embedding.weight.expand(len(fc_BNN), -1, -1)
        x_BPD, logits_BP = torch.zeros_like(tokens_BPD), []
        for layer in self.layers:
            x_BPD = layer(x_BPD, tokens_BPD, memory_BND)
            logits_BP.append(self.head(self.norm(x_BPD)).squeeze(-1))
        return torch.stack(logits_BP)


TARGETS = tuple(
    Target(name, tuple(map(str, range(num_levels))), 1.0 if num_levels else 1e-4)
    for name, num_levels in NUM_LEVELS.items()
)
TOKENS = tuple(token for target in TARGETS for token in token_names(target.name, target.levels))


def build(case: Case, size: Size) -> nn.Module:
    """The network of a row, on torch's default device."""
    if case.form == "plain":
        return PlainDecoder(NUM_REGIONS, len(TOKENS), size.num_layers, size.width)
    return LargeConnectomeModel(NUM_REGIONS, TOKENS, num_layers=size.num_layers, width=size.width, form=case.form)


def scans(num_scans: int) -> dict[str, Tensor]:
    """Random connectomes with a label of every BEI."""
    half_BNN = torch.rand(num_scans, NUM_REGIONS, NUM_REGIONS) - 0.5
    columns = {"inputs": half_BNN + half_BNN.mT}
    for target in TARGETS:
        columns[f"label:{target.name}"] = torch.arange(num_scans) % max(2, len(target.levels)) * 1.0
        columns[f"weight:{target.name}"] = torch.ones(num_scans)
    return columns


class Run:
    """A row at work: its network, optimiser and one batch."""

    def __init__(self, case: Case, size: Size, device: torch.device) -> None:
        torch.manual_seed(0)
        with device:
            self.network, self.batch = build(case, size), scans(size.batch)
        self.called = torch.compile(self.network, dynamic=False) if case.compiled else self.network
        # The reference has the optimiser that a user gets; ours is the loop's.
        fused = {} if case.form == "plain" else {"fused": True}
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.0, **fused)
        self.objective = tiny_model().objective(TARGETS, first_stage_epochs=0)
        mixed = case.precision == "bf16-mixed"
        self.precision = torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()

    def train(self) -> None:
        """One step: forward, loss of the second stage, backward, update."""
        self.network.train()
        with self.precision:
            terms = self.objective(self.called(self.batch["inputs"]), self.batch, epoch=1)
            loss = torch.stack(list(terms.values())).sum() / len(self.batch["inputs"])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def forward(self) -> None:
        """One batch of predictions."""
        self.network.eval()
        with self.precision:
            self.called(self.batch["inputs"])


def tiny_model() -> LargeConnectomeModel:
    """The smallest model of these tokens; its loss knows the columns of all."""
    return LargeConnectomeModel(NUM_REGIONS, TOKENS, num_layers=1, width=8)


def flops(case: Case, size: Size, which: Pass) -> int:
    """Floating-point operations that the row's form needs for one batch, counted by torch on tensors without data."""
    run = Run(case._replace(precision="32-true", compiled=False), size, torch.device("meta"))
    # torch's counter wants a graph or none at all; the update holds no matrix product, and is left out.
    run.network.requires_grad_(which == "train")
    run.optimizer.step = lambda: None
    with FlopCounterMode(display=False) as counter:
        getattr(run, which)()
    return counter.get_total_flops()


def matmul(device: torch.device, precision: str) -> tuple[Callable[[], object], int]:
    """A large square matrix product in the row's precision, and its operations: what the device can do at best."""
    side = 2048 if device.type == "cpu" else 8192
    kind = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    matrix = torch.randn(side, side, device=device, dtype=kind)
    return lambda: matrix @ matrix, 2 * side**3


def peak_mb(case: Case, size: Size, device: torch.device) -> float:
    """Peak memory of two training steps: of the device, or of a process of its own."""
    if device.type == "cpu":
        command = [
            sys.executable,
            __file__,
            "--threads",
            str(torch.get_num_threads()),
            "--peak",
            json.dumps([case, size]),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return int(done.stdout) / 1024
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run = Run(case, size, device)
    run.train()
    run.train()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def print_own_peak(case: Case, size: Size) -> None:
    """Two steps in this process, then its peak resident memory in KiB."""
    run = Run(case, size, torch.device("cpu"))
    run.train()
    run.train()
    # Not ru_maxrss: a child inherits its parent's there.
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sys.stdout.write(next(line for line in status if line.startswith("VmHWM")).split()[1])


def measure(size: Size, cases: Sequence[Case], device: torch.device, repeats: int) -> list[dict]:
    """The rows of one size: training steps, then predictions; cases and bare matrix products take turns.

    `mfu` is the share of the products' speed that a row reaches, counting the operations its own form needs.
    """
    torch.compiler.reset()
    peaks_mb = [peak_mb(case, size, device) for case in cases]
    runs = [Run(case, size, device) for case in cases]
    products = [matmul(device, case.precision) for case in cases]
    rows = []
    for which in ("train", "forward"):
        actions = [*(getattr(run, which) for run in runs), *(product for product, _ in products)]
        times = medians(actions, device, repeats)
        bests = [count / duration for (_, count), duration in zip(products, times[len(cases) :], strict=True)]
        for case, duration, best, memory in zip(cases, times[: len(cases)], bests, peaks_mb, strict=True):
            rows.append(
                case.row
                | {"size": str(size), "pass": which, "device": device_name(device)}
                | {"samples_per_s": size.batch / duration, "mfu": flops(case, size, which) / duration / best}
                | {"peak_mb": memory if which == "train" else None}
            )
    return rows


def not_run(size: Size, cases: Sequence[Case], reason: str) -> list[dict]:
    """Rows without numbers."""
    empty = {"samples_per_s": None, "mfu": None, "peak_mb": None, "not_run": reason}
    return [case.row | {"size": str(size), "pass": "train", "device": "cuda"} | empty for case in cases]


def loop_overhead(size: Size, device: torch.device, num_steps: int = 8) -> tuple[float, float]:
    """Seconds of a step of the loop, its validation and its records included, and of the same step alone."""
    case = Case("absorbed")
    columns = scans(num_steps * size.batch)
    training, validation = InMemory(columns), InMemory({name: column[:2] for name, column in columns.items()})

    devices = Devices(Machine(accelerator="gpu" if device.type == "cuda" else "cpu"))

    def looped(num_epochs: int) -> None:
        network = build(case, size)
        settings = Training(
            max_epochs=num_epochs,
            patience=num_epochs,
            batch_size=size.batch,
        )
        objective = network.objective(TARGETS, settings.first_stage_epochs)
        train(network, objective, training, validation, settings, devices=devices)

    short, long = medians([lambda: looped(1), lambda: looped(5)], device, 3)
    (alone,) = medians([Run(case, size, device).train], device, 4 * num_steps)
    # What a run costs once, its start and its last copy, goes out with the difference.
    return (long - short) / (4 * num_steps), alone


def print_table(rows: Sequence[dict], overhead: tuple[Size, float, float]) -> None:
    """Rows for people: speed beside the plain decoder's of the same size and pass, then what follows from them."""
    plain = {(row["size"], row["pass"]): row["samples_per_s"] for row in rows if row["model"] == "plain decoder"}
    for row in rows:
        name = f"{row['size']:<34}{row['pass']:<8}{row['form']:<19}{row['precision']:<11}"
        if "not_run" in row:
            sys.stdout.write(f"{name} not run: {row['not_run']}\n")
            continue
        speed = row["samples_per_s"]
        memory = f"{row['peak_mb']:8.0f} MB" if row["peak_mb"] else ""
        ratio = speed / plain[row["size"], row["pass"]]
        sys.stdout.write(f"{name}{speed:9.1f} scans/s {ratio:6.2f} × plain {row['mfu']:5.0%} of peak {memory}\n")
    size, looped, alone = overhead
    sys.stdout.write(
        f"the loop, {size}: {1e3 * looped:.2f} ms a step, {1e3 * alone:.2f} ms the step alone\n{extrapolated(rows)}\n"
    )


def extrapolated(rows: Sequence[dict]) -> str:
    """Hours of the paper's pretraining at 32 layers, from the fastest training row."""
    deepest = Size(LAYERS_OF_PAPER[-1], 2048, 128)
    speeds = [row["samples_per_s"] for row in rows if row["size"] == str(deepest) and row["samples_per_s"]]
    what = f"{deepest.num_layers} layers, {SCANS_OF_PAPER:,} scans × {EPOCHS_OF_PAPER} epochs"
    if not speeds:
        return f"{what}: not run: no CUDA device"
    return f"{what}: {SCANS_OF_PAPER * EPOCHS_OF_PAPER / max(speeds) / 3600:.2f} h, extrapolated"


def main() -> None:
    """Measure and print; without a GPU, what would need one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4], help="on a CPU, at width 2048")
    parser.add_argument("--batch", type=int, default=16, help="on a CPU")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU; with more than one, seconds are wall time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--runs", type=int, default=64, help="recordings of 490 frames and 424 regions to read windows from"
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON, one a line, instead of a table")
    parser.add_argument("--peak", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        case, size = options.peak
        print_own_peak(Case(*case), Size(*size))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tiny, paper = Size(2, 64, 32), [Size(num_layers, 2048, 128) for num_layers in LAYERS_OF_PAPER]
    on_cpu = [tiny, *(Size(num_layers, 2048, options.batch) for num_layers in options.layers)]
    rows = []
    for size in paper if device.type == "cuda" else on_cpu:
        sys.stderr.write(f"{size} …\n")
        rows += measure(size, CUDA_CASES if device.type == "cuda" else CPU_CASES, device, options.repeats)
    if device.type == "cpu":
        rows += [row for size in paper for row in not_run(size, CUDA_CASES, "no CUDA device")]
    sys.stderr.write("BrainLM …\n")
    series, paths = series_training.measure(device, options.repeats), [series_training.data_path(device, options.runs)]
    if options.json:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows + series + paths)
        return
    sys.stdout.write(f"{device_name(device)}, torch {torch.__version__}, {len(TOKENS)} tokens, {NUM_REGIONS} regions\n")
    print_table(rows, (tiny, *loop_overhead(tiny, device)))
    series_training.print_table(series, *paths)


if __name__ == "__main__":
    main()
