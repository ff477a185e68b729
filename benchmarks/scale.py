"""How seconds and memory of every stage grow with the number of scans.

A study is planted at each size (benchmarks/scale_study.py) and each stage runs on it in a process of its own, whose CPU time
and peak memory the kernel tells. CPU time, so that a busy machine spoils little. Start-up costs the same at every size:
the same stage at 20 scans is taken off, and the exponent is the slope of the logarithm of what is left against that of the
further scans. 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
SMALLEST = 20
"""Scans of the run that stands for start-up; the cheaper of two."""
LEAST_S = 0.2
"""CPU seconds above start-up that tell growth from noise."""
WANTED = 1.1
NUM_FOLDS = 2
MODEL = '{"architecture": "majority"}'
TASK = '{"target": "sex", "levels": ["female", "male"]}'
SPLIT = json.dumps({"num_folds": NUM_FOLDS})
PLANTED = ("--scans", "planted/scans.tsv")
JOINED = ("--bei", "harmonize/bei.tsv", "--folds", "split/folds.tsv", *PLANTED)
CONNECTOMES = ("--connectomes", "planted/correlate")
READ = (
    "from pathlib import Path; from lcm.training.data import Tables, read_cohort;"
    "tables = Tables(*map(Path, ('harmonize/bei.tsv', 'split/folds.tsv', 'planted/scans.tsv', 'planted/correlate')));"
    "print(read_cohort(tables, fold=0, roles=('train', 'validation')).edges_NE.shape)"
)


class Stage(NamedTuple):
    """What is measured: commands, run one after another in the study's folder; the stages whose files they read."""

    commands: Callable[[], Sequence[Sequence[str]]]
    after: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Row:
    """One stage at one size."""

    stage: str
    scans: int
    seconds: float
    cpu_s: float
    peak_mb: float
    jobs: int | None = None


def _lcm(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lcm", *arguments]


def _index(kind: str) -> list[list[str]]:
    entry = "bids" if kind == "bids" else "derivatives"
    block = {"LAB": {"path": kind, "input": entry, "cohort": "generic", "phenotypes": "phenotypes"}}
    return [_lcm("index", "--datasets", json.dumps(block), "--output", f"{kind}-study/results/index")]


def _plan(kind: str) -> list[list[str]]:
    options = ["--configfile", f"{kind}.yaml", "--directory", f"{kind}-study", "--cores", "2"]
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    return [[*snakemake, "--dry-run", "--quiet", "rules", *options]]


def _harmonize() -> list[list[str]]:
    block = {"LAB": {"path": "bids", "input": "bids", "cohort": "generic", "phenotypes": "phenotypes"}}
    return [_lcm("harmonize", *PLANTED, "--output", "harmonize", "--datasets", json.dumps(block))]


def _finetune(model: str, settings: str = "{}") -> list[list[str]]:
    question = ("--task", "sex", "--definition", TASK, "--model", "any", "--model-definition", model)
    place = ("--accelerator", "cpu", "--settings", settings)
    return [
        _lcm(
            "finetune",
            *question,
            "--fold",
            str(fold),
            *JOINED,
            *CONNECTOMES,
            "--output",
            f"finetune/fold-{fold}",
            *place,
        )
        for fold in range(NUM_FOLDS)
    ]


def _evaluate() -> list[list[str]]:
    question = ("--task", "sex", "--definition", TASK, "--model", "any", "--model-definition", MODEL)
    names = ("--protocol", "honest", "--select", "validation", "--weights", "finetune", "--output", "evaluate")
    return [_lcm("evaluate", *names, *question, *JOINED, *CONNECTOMES)]


TINY = '{"architecture": "lcm", "start": "scratch", "size": {"num_layers": 1, "width": 16}}'
EPOCH = '{"max_epochs": 1, "first_stage_epochs": 1, "patience": 1}'

STAGES = {
    "index": Stage(lambda: _index("bids"), about="raw BIDS: T1w, BOLD, sidecars"),
    "index-fmriprep": Stage(lambda: _index("fmriprep"), about="fMRIPrep output"),
    "plan": Stage(lambda: _plan("bids"), ("index",), "dry run of the demo's study on raw BIDS"),
    "plan-fmriprep": Stage(lambda: _plan("fmriprep"), ("index-fmriprep",), "the same on fMRIPrep output"),
    "parcellate": Stage(
        lambda: [
            _lcm("parcellate", "--scans", "planted/scans.tsv", "--runs", "none", "--output", "parcellate/all.arrow")
        ],
        about="images of 24×28×24 voxels and 4 volumes, one job for all",
    ),
    "collect": Stage(
        lambda: [_lcm("collect", *PLANTED, "--series", "planted/denoised.arrow", "--output", "collect/all.arrow")],
        about="series of 100 volumes and 116 regions, one job for all",
    ),
    "harmonize": Stage(_harmonize, about="one phenotype table of age, sex, site"),
    "split": Stage(
        lambda: [_lcm("split", "--bei", "harmonize/bei.tsv", "--output", "split/folds.tsv", "--settings", SPLIT)],
        ("harmonize",),
        "two stratified folds",
    ),
    "read": Stage(
        lambda: [[sys.executable, "-c", READ]], ("split",), "connectomes of a training job, 6,670 edges a scan"
    ),
    "finetune": Stage(lambda: _finetune(MODEL), ("split",), "majority, both folds: the tables and nothing else"),
    "evaluate": Stage(_evaluate, ("finetune",), "both folds, 1,000 bootstraps and permutations"),
    "train": Stage(lambda: _finetune(TINY, EPOCH), ("split",), "a network of one narrow layer, one epoch, both folds"),
}


def measure(stage: str, size: int, folder: Path) -> Row:
    """Run a stage's commands; the sum of their times and the most memory of one. Raises SystemExit where one fails."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    seconds, cpu_s, peak_mb, jobs = 0.0, 0.0, 0.0, None
    for command in STAGES[stage].commands():
        with tempfile.TemporaryFile("w+") as told:
            started = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=told, stderr=told)
            # wait4 alone tells the memory of one child.
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds += time.perf_counter() - started
            told.seek(0)
            text = told.read()
        if process.returncode:
            raise SystemExit(f"{stage} at {size} scans failed:\n{text[-3000:]}")
        cpu_s += used.ru_utime + used.ru_stime
        # Kilobytes on Linux, bytes on macOS.
        peak_mb = max(peak_mb, used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2))
        jobs = jobs_beyond_preprocess(text) if stage.startswith("plan") else None
    return Row(stage, size, seconds, cpu_s, peak_mb, jobs)


def jobs_beyond_preprocess(text: str) -> int:
    """Jobs that a dry run announces, without those a participant has."""
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)}
    return counts["total"] - counts.get("preprocess", 0)


def exponent(rows: Sequence[Row]) -> float | None:
    """Slope of log CPU seconds above start-up against log scans; None where fewer than two sizes rise above noise."""
    smallest = min(rows, key=lambda row: row.scans)
    points = [
        (math.log(row.scans - smallest.scans), math.log(row.cpu_s - smallest.cpu_s))
        for row in rows
        if row.scans > smallest.scans and row.cpu_s - smallest.cpu_s >= LEAST_S
    ]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def with_needed(asked: Sequence[str]) -> list[str]:
    """The stages asked for and those they read, in running order."""
    needed = set(asked)
    for name in reversed(STAGES):
        if name in needed:
            needed |= set(STAGES[name].after)
    return [name for name in STAGES if name in needed]


def machine() -> str:
    """The machine as a reader knows it."""
    model = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        found = re.search(r"^model name\s*: (.+)$", about.read_text(encoding="utf-8"), re.MULTILINE)
        model = found[1] if found else model
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, {memory_gb:.0f} GB, Python {platform.python_version()}, load {load:.1f}"


def run(sizes: Sequence[int], asked: Sequence[str], folder: Path) -> list[Row]:
    """Every stage at every size, smallest first."""
    rows = []
    for size in sorted({SMALLEST, *sizes}):
        study = folder / str(size)
        # In a process of its own: a child's peak memory counts what its parent had when it was born.
        command = [sys.executable, str(REPOSITORY / "benchmarks" / "scale_study.py"), str(study), str(size)]
        subprocess.run(command, check=True)
        for kind in ("bids", "fmriprep"):
            (study / f"{kind}-study").mkdir()
            for name in ("bids", "fmriprep", "phenotypes"):
                (study / f"{kind}-study" / name).symlink_to(study / name)
        for stage in with_needed(asked):
            row = measure(stage, size, study)
            if size == SMALLEST:
                # The first run of all reads libraries from the disk: that start-up would be taken off every other size.
                row = min(row, measure(stage, size, study), key=lambda one: one.cpu_s)
            if stage in asked:
                rows.append(row)
                sys.stderr.write(f"{row.stage:<15}{row.scans:>7} {row.seconds:8.1f} s {row.peak_mb:7.0f} MB\n")
    return rows


def table(rows: Sequence[Row], *, markdown: bool) -> str:
    """A line a stage: wall seconds and peak megabytes at each size, and the exponent."""
    sizes = sorted({row.scans for row in rows})
    lines = [["stage", *(f"{size:,} scans" for size in sizes), "exponent"]]
    for stage in dict.fromkeys(row.stage for row in rows):
        own = sorted((row for row in rows if row.stage == stage), key=lambda row: row.scans)
        slope = exponent(own)
        cells = [f"{row.seconds:.1f} s, {row.peak_mb:,.0f} MB" for row in own]
        lines.append([stage, *cells, "start-up only" if slope is None else f"{slope:.2f}"])
    if markdown:
        lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    return "\n".join("".join(f"{cell:<22}" for cell in line).rstrip() for line in lines) + "\n"


def main() -> None:
    """Measure and print; the planted studies are deleted in the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000], help="numbers of scans")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--folder", type=Path, help="where the studies are planted for a while; default: TMPDIR")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="rows as JSON, one a line, instead of a table")
    form.add_argument("--markdown", action="store_true", help="the table as docs/scale.md has it")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        rows = run(options.sizes, options.stages, Path(name).resolve())
    if options.json:
        sys.stdout.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
        return
    sys.stdout.write(f"{machine()}\n\n{table(rows, markdown=options.markdown)}")
    for row in rows:
        if row.jobs is not None and row.scans == max(options.sizes):
            sys.stdout.write(f"\n{row.stage} at {row.scans:,} scans: {row.jobs:,} jobs beyond preprocess\n")
    for stage in dict.fromkeys(row.stage for row in rows):
        slope = exponent([row for row in rows if row.stage == stage])
        if slope is not None and slope > WANTED:
            sys.stdout.write(
                f"\n{stage}: grows faster than its scans (exponent {slope:.2f}, wanted at most {WANTED})\n"
            )


if __name__ == "__main__":
    main()
