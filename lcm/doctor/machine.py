"""The machine a study runs on: memory, cores and GPUs, without importing torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from lcm.doctor.findings import Finding
from lcm.doctor.jobs import GPU_STAGES

_WORKFLOW = Path(__file__).parents[2] / "workflow" / "rules"
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_ASKED = {"mem_mb": re.compile(r"\bmem_mb=grows\((\d+)\)"), "runtime": re.compile(r"\bruntime=grows\((\d+)\)")}
_PATIENCE_S = 10


def asked_by_rules(resource: str, rules: Path = _WORKFLOW) -> dict[str, int]:
    """What each stage's rule asks for at its first attempt: `mem_mb` or `runtime` (minutes)."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(rules.glob("*.smk"))}
    found = {stage: _ASKED[resource].search(text) for stage, text in texts.items()}
    return {stage: int(match[1]) for stage, match in found.items() if match}


def answer(*command: str) -> tuple[int, str]:
    """Exit status and what a program printed; status 127 where it is not on PATH, 124 where it did not answer in time."""
    if shutil.which(command[0]) is None:
        return 127, f"{command[0]} is not on PATH"
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer in {_PATIENCE_S} s"
    return run.returncode, run.stdout.strip() or run.stderr.strip()


def memory_mb(cgroup: Path = _CGROUP) -> int:
    """Memory (MB) of this machine, or what its container or interactive job may use of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = cgroup.read_text(encoding="utf-8").strip() if cgroup.is_file() else "max"
    return min(physical, int(text) if text.isdigit() else physical) // 2**20


def machine_findings(jobs: Mapping[str, int], wanted: Mapping[str, int], cores: int) -> Iterator[Finding]:
    """Memory against the hungriest rule that has jobs, and cores against those asked for."""
    total = memory_mb()
    needs = {stage: wanted[stage] for stage in jobs if stage in wanted}
    hungriest = max(needs, key=lambda stage: needs[stage], default=None)
    if hungriest is None:
        yield Finding("ok", "memory", f"{total:,} MB")
    elif needs[hungriest] > total:
        says = f"{total:,} MB, and {hungriest} asks for {needs[hungriest]:,}"
        do = "it may run in less; if it is killed, use a larger machine or a cluster's profile"
        yield Finding("warn", "memory", says, do)
    else:
        yield Finding("ok", "memory", f"{total:,} MB; {hungriest} asks for most, {needs[hungriest]:,}")
    here = len(os.sched_getaffinity(0))
    if cores > here:
        says = f"{cores} asked for, and this machine lends {here}"
        yield Finding("warn", "cores", says, f"use --cores {here}: more jobs than cores wait for each other")
    else:
        yield Finding("ok", "cores", f"{cores} of {here}")


def gpu_findings(jobs: Mapping[str, int]) -> Iterator[Finding]:
    """GPUs by nvidia-smi, and whether the installed torch can use them; silent where nothing trains."""
    training = sum(jobs.get(stage, 0) for stage in GPU_STAGES)
    if not training:
        return
    status, text = answer("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if status:
        # No error: every stage runs on a CPU, too.
        yield Finding("ok", "GPU", f"none found; {training:,} jobs train or apply models on the CPU")
        return
    cards = text.splitlines()
    said = f"{len(cards)} × {cards[0].strip()}"
    built = torch_cuda()
    driver = re.search(r"CUDA Version:\s*(\d+)\.", answer("nvidia-smi")[1])
    if built is None:
        yield Finding(
            "warn",
            "GPU",
            f"{said}; the installed torch is built without CUDA",
            "install torch from envs/requirements.lock without an index of CPU wheels",
        )
    elif driver and int(built.split(".")[0]) > int(driver[1]):
        says = f"{said}; torch is built for CUDA {built}, and the driver knows CUDA {driver[1]} at most"
        yield Finding("warn", "GPU", says, "ask for a newer driver, or install torch for the older CUDA")
    else:
        yield Finding("ok", "GPU", f"{said}; torch is built for CUDA {built}")


def torch_cuda() -> str | None:
    """CUDA version torch was built for, read from its version.py; None for a build without CUDA or no torch at all."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b.*?=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else None
