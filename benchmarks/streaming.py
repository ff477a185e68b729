"""Training on recordings that stay on disk: memory while a corpus of gigabytes is read, and the speed of the data path.

A corpus of noise is written as `collect` writes it, put out of the page cache, mapped, and learned from at random windows.
Memory is told apart: anonymous pages are the process's own, file pages are the kernel's cache of the corpus, which it takes
back whenever somebody needs the room.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from lcm.array_tables import recordings_schema
from lcm.config import Training
from lcm.imaging.collect import checksum
from lcm.models.series_network import MaskedLoss, Masking, Reconstruction, SeriesNetwork, Windows
from lcm.tables import write_arrow
from lcm.training.devices import Devices
from lcm.training.loop import train
from lcm.training.machine import Machine
from lcm.training.recordings import Recordings, Windowed, join_recordings

# Shapes: N recordings, B windows, T frames, R regions, D width.

NUM_REGIONS, NUM_FRAMES, RUNS_A_FILE = 424, 490, 50
"""A recording of UK Biobank in the A424 atlas (BrainLM's corpus)."""
WINDOW, MASKING = 200, Masking(0.75)
DATASET = "NOISE"
SAMPLE_S = 0.1


class Bottleneck(SeriesNetwork):
    """The smallest thing that learns from whole windows: each frame through a few numbers and back. Data is the cost."""

    def __init__(self, num_regions: int, tokens: Sequence[str], *, num_frames: int = WINDOW, width: int = 8) -> None:
        super().__init__(num_regions, tokens, num_frames=num_frames, width=width)
        self.code, self.back = nn.Linear(num_regions, width), nn.Linear(width, num_regions)

    def reconstruct(self, windows: Windows) -> Reconstruction:
        """All frames, from their own codes; every known one is scored."""
        scaled_BTR, known_BTR = self.scaling(windows.series_BTR)
        return Reconstruction(self.back(self.code(scaled_BTR)), scaled_BTR, known_BTR)

    def embed(self, windows: Windows) -> Tensor:
        """The mean code, (B, D)."""
        return self.code(self.scaling(windows.series_BTR)[0]).mean(dim=1)

    def encoder(self) -> tuple[nn.Module, ...]:
        """All that reads."""
        return (self.code,)

    def embedding_parameters(self) -> list[str]:
        """Names of the weights that read the input."""
        return ["code.weight"]


class Memory(NamedTuple):
    """Resident megabytes of this process."""

    anonymous_mb: float
    file_mb: float

    @classmethod
    def now(cls) -> Memory:
        """As the kernel says."""
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kb = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.startswith("Rss")}
        return cls(kb["RssAnon"] / 1024, kb["RssFile"] / 1024)


class Watched:
    """A step of the benchmark: its seconds, and the most memory that it had at any time."""

    def __init__(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.name, self.rows, self.seen = name, rows, [Memory.now()]
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self.started_s, self.started_cpu_s = time.perf_counter(), time.process_time()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        seconds, cpu_s = time.perf_counter() - self.started_s, time.process_time() - self.started_cpu_s
        self.over.set()
        self.thread.join()
        self.seen.append(Memory.now())
        anonymous, file = (max(memory[i] for memory in self.seen) for i in (0, 1))
        row = {"step": self.name, "seconds": seconds, "cpu_s": cpu_s}
        self.rows.append(row | {"most_anonymous_mb": anonymous, "most_file_mb": file})

    def _watch(self) -> None:
        while not self.over.wait(SAMPLE_S):
            self.seen.append(Memory.now())

    def add(self, **numbers: float) -> None:
        """Further numbers of the step that has ended."""
        self.rows[-1] |= numbers


def write_corpus(folder: Path, num_files: int, seed: int) -> pd.DataFrame:
    """Files of recordings of noise; dataset, scan and batch of each."""
    scans = []
    for batch in range(num_files):
        names = [f"sub-{batch * RUNS_A_FILE + n:06d}" for n in range(RUNS_A_FILE)]
        generator = np.random.default_rng([seed, batch])
        runs = pa.RecordBatchReader.from_batches(SCHEMA, (_run(name, generator) for name in names))
        path = folder / DATASET / f"{batch}.arrow"
        write_arrow(runs, path)
        _forget(path)
        scans += [{"dataset": DATASET, "scan": name, "person_id": name, "batch": str(batch)} for name in names]
    return pd.DataFrame(scans)


SCHEMA = recordings_schema([f"r{i}" for i in range(NUM_REGIONS)], "noise", "none", [[0.0] * 3] * NUM_REGIONS)


def _run(name: str, generator: np.random.Generator) -> pa.RecordBatch:
    frames_TR = generator.standard_normal((NUM_FRAMES, NUM_REGIONS), dtype=np.float32).astype(np.float16)
    row = {"dataset": DATASET, "participant_id": name, "scan": name, "outcome": "ok", "tr_s": 0.735}
    row |= {"num_volumes": NUM_FRAMES, "num_censored": 0, "checksum": checksum(frames_TR)}
    columns = [pa.array([row.get(field.name)], field.type) for field in SCHEMA]
    end = pa.array([0, frames_TR.size], pa.int32())
    columns[SCHEMA.get_field_index("series")] = pa.ListArray.from_arrays(end, pa.array(frames_TR.ravel()))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _forget(path: Path) -> None:
    """Ask the kernel to drop its cache of a written file, so that reading starts from the disk."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def batches(windowed: Windowed, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of all recordings, in a random order."""
    order_N = torch.randperm(len(windowed), generator=torch.Generator().manual_seed(seed))
    yield from order_N.split(size)


def read_all(recordings: Recordings, batch_size: int, epoch: int) -> float:
    """Windows a second of the data path alone, once through the corpus; each batch is summed, so that it is truly read."""
    windowed = Windowed(recordings, WINDOW, {}, MASKING)
    windowed.begin_epoch(epoch)
    started_s, total = time.perf_counter(), 0.0
    for batch in windowed.stream(batches(windowed, batch_size, epoch)):
        inputs: Any = batch["inputs"]
        total += float(inputs.series_BTR[:, ::20].float().sum())
    if not np.isfinite(total):
        raise ValueError("the corpus holds numbers that are none")
    return len(windowed) / (time.perf_counter() - started_s)


def learn(recordings: Recordings, options: argparse.Namespace) -> float:
    """Windows a second of training by THE loop, the small network included."""
    held_out_N = np.arange(len(recordings)) % 50 == 0
    training, validation = (
        Windowed(recordings.keep(mask_N), WINDOW, {}, MASKING) for mask_N in (~held_out_N, held_out_N)
    )
    network = Bottleneck(NUM_REGIONS, ())
    settings = Training(max_epochs=options.epochs, batch_size=options.batch, learning_rate=1e-3)
    state = train(network, MaskedLoss(), training, validation, settings, devices=Devices(Machine(accelerator="cpu")))
    return float(np.mean([row["samples_per_s"] for row in state.history]))


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a step, from the corpus's birth on."""
    rows: list[dict[str, Any]] = []
    run_mb = 2 * NUM_REGIONS * NUM_FRAMES / 1e6
    num_files = max(1, round(1000 * options.gigabytes / run_mb / RUNS_A_FILE))
    with Watched("write the corpus", rows) as step:
        scans = write_corpus(folder, num_files, options.seed)
    step.add(corpus_mb=sum(path.stat().st_size for path in folder.rglob("*.arrow")) / 1e6)
    with Watched("map it", rows) as step:
        recordings = join_recordings(scans, scans, folder).recordings
    if recordings is None:
        raise ValueError("no recordings")
    step.add(num_recordings=len(recordings))
    for name in ("windows alone, cold", "windows alone, warm"):
        with Watched(name, rows) as step:
            speed = read_all(recordings, options.batch, len(rows))
        step.add(windows_per_s=speed, mb_per_s=speed * 2 * WINDOW * NUM_REGIONS / 1e6)
    with Watched("quartiles", rows) as step:
        quartiles_3R = recordings.quartiles()
    # Of standard normal noise they are known.
    step.add(largest_error=float(np.abs(quartiles_3R - [[-0.6745], [0], [0.6745]]).max()))
    with Watched(f"train {options.epochs} epochs", rows) as step:
        speed = learn(recordings, options)
    step.add(windows_per_s=speed)
    return rows


def main() -> None:
    """Measure and print; the corpus is deleted in the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the corpus")
    parser.add_argument("--epochs", type=int, default=2, help="of training: each reads a window of every recording")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the corpus is written for a while; default: TMPDIR")
    parser.add_argument("--json", action="store_true", help="rows as JSON, one a line, instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if shutil.disk_usage(name).free < 1.2e9 * options.gigabytes:
            raise SystemExit(f"{name}: not enough room for {options.gigabytes:g} GB; name another --folder")
        rows = measure(Path(name), options)
    if options.json:
        sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)
        return
    for row in rows:
        more = ", ".join(f"{key} {value:,.3g}" for key, value in list(row.items())[5:])
        sys.stdout.write(
            f"{row['step']:<22}{row['seconds']:8.1f} s {row['cpu_s']:8.1f} s CPU   "
            f"anonymous {row['most_anonymous_mb']:7.0f} MB   file {row['most_file_mb']:7.0f} MB   {more}\n"
        )


if __name__ == "__main__":
    main()
