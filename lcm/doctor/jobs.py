"""How many jobs a study has and how long they take: the plan's own formulas, and costs measured or typical."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lcm.config import STAGE_ROOMS
from lcm.doctor.census import Census, Row
from lcm.doctor.findings import Finding, duration
from lcm.plan import Plan

GPU_STAGES = ("pretrain", "finetune", "forecast", "probe", "predict")
"""Stages whose rules ask for a GPU."""

_OUTPUTS = {
    "preprocess": "results/preprocess/{dataset}/{participant}",
    "parcellate": "results/parcellate/{dataset}/{batch}.arrow",
    "denoise": "results/denoise/{strategy}/{dataset}/{batch}.arrow",
    "correlate": "results/correlate/{strategy}/{dataset}/{batch}.arrow",
    "collect": "results/collect/{strategy}/{dataset}/{batch}.arrow",
    "export": "results/export/{dataset}.batches/{strategy}/{batch}.tsv",
    "pretrain": "results/pretrain/{protocol}/{model}/fold-{fold}",
    "finetune": "results/finetune/{protocol}/{model}/{task}/fold-{fold}",
    "evaluate": "results/evaluate/{protocol}/{model}/{task}/scores.tsv",
    "probe": "results/probe/{protocol}/{model}",
    "forecast": "results/forecast/{protocol}/{forecaster}/fold-{fold}",
    "predict": "results/predict/{bundle}/predictions.tsv",
}
"""What names a job of each stage, as the rule files have it."""

_INPUTS = {
    "preprocess": (),
    "parcellate": ("preprocessed",),
    "denoise": ("parcellated",),
    "correlate": ("denoised",),
    "collect": ("denoised",),
    "export": ("preprocessed", "denoised"),
    "pretrain": ("read_by", "begun_from"),
    "finetune": ("read_by", "pretrained"),
    "evaluate": ("read_by", "finetuned", "pretraining"),
    "probe": ("recordings", "pretrained_all"),
    "forecast": ("recordings", "forecast_start"),
    "predict": ("bundle", "asked_scans"),
}
"""The plan's input functions behind each stage; a test compares the counts with Snakemake's dry run."""

_BY_BATCH = ("parcellate", "denoise", "correlate", "collect", "export")
_SPREAD = {"measured": 1.5, "typical": 3.0}
"""How far off an estimate may be, as a factor each way."""

TYPICAL: dict[str, tuple[float, float]] = {
    "simulate": (35, 0.0),
    "index": (3, 0.01),
    "preprocess": (10, 60.0),
    "parcellate": (3, 0.5),
    "denoise": (4, 0.05),
    "correlate": (3, 0.1),
    "collect": (3, 0.05),
    "export": (3, 0.1),
    "harmonize": (3, 0.0005),
    "split": (2, 0.0005),
    "pretrain": (5, 0.06),
    "finetune": (3, 0.035),
    "evaluate": (3, 0.016),
    "probe": (5, 0.06),
    "forecast": (5, 0.06),
    "predict": (5, 0.02),
    "report": (8, 0.005),
}
"""Seconds of one core a job takes to start, and more for each scan it handles.

From the `benchmark` files of the demo and of config/abide.yaml on two CPU cores, and for preprocess and parcellate from
docs/results.md. Probe, forecast and predict are taken to cost what pretraining and reading do. Networks are of a laptop's size;
those of the LCM paper take tens of times as long on a CPU."""

FMRIPREP_S = 2 * 3600.0
"""Core seconds of a scan in fMRIPrep's container: not measured here, an order of magnitude."""


class Expected(Plan):
    """The plan of a study whose index is the census, so that no table has to be written for it."""

    def __init__(self, config: dict[str, object], census: Census) -> None:
        self._census = census.rows
        self._grouping: dict[str, dict[tuple[str, str], list[Row]]] = {}
        super().__init__(config, lambda: "", walk=False)

    def scans(self) -> list[Row]:
        """Rows of the census."""
        return self._census

    def _batches(self) -> list[tuple[str, str]]:
        return sorted({(row["dataset"], row["batch"]) for row in self._census})

    def _grouped(self, column: str) -> dict[tuple[str, str], list[Row]]:
        if column not in self._grouping:
            groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
            for row in self._census:
                groups[row["dataset"], row[column]].append(row)
            self._grouping[column] = groups
        return self._grouping[column]


def expected_jobs(plan: Plan) -> dict[str, int]:
    """Jobs a stage of the whole study, from nothing; stages without any are left out."""
    counts = Counter({"index": 1, "harmonize": 1, "report": 1})
    counts["simulate"] = int(plan.study.simulate is not None)
    protocols = set()
    for stage, wildcards in _reached(plan):
        counts[stage] += 1
        if "protocol" in wildcards:
            protocols.add(wildcards["protocol"])
    counts["split"] = len(protocols)
    return {stage: counts[stage] for stage in STAGE_ROOMS if counts[stage]}


def bundles(plan: Plan) -> Counter[tuple[str, str]]:
    """How many bundles each stage writes of each model or forecaster."""
    named = ((stage, parts.get("model") or parts.get("forecaster")) for stage, parts in _reached(plan))
    return Counter((stage, name) for stage, name in named if name and stage in ("pretrain", "finetune", "forecast"))


def _reached(plan: Plan) -> Iterator[tuple[str, dict[str, str]]]:
    """Stage and wildcards of every job behind the targets, each once."""
    nothing: Any = SimpleNamespace()
    waiting = [*plan.exported(nothing), *plan.predicted, *plan.all_connectomes(nothing)]
    waiting += [*plan.scores(nothing), *plan.probed, *plan.forecasts]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        stage, wildcards = _job(path)
        if stage is None or path in seen:
            continue
        seen.add(path)
        yield stage, wildcards
        parts: Any = SimpleNamespace(**wildcards)
        for name in _INPUTS[stage]:
            paths = getattr(plan, name)(parts)
            waiting += [paths] if isinstance(paths, str) else paths
        if stage == "export":
            waiting.append(_OUTPUTS["correlate"].format(**wildcards))


def _compiled() -> dict[str, re.Pattern[str]]:
    pieces = {stage: re.escape(path).replace(r"\{", "{").replace(r"\}", "}") for stage, path in _OUTPUTS.items()}
    return {stage: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+?)", text)) for stage, text in pieces.items()}


_PATTERNS = _compiled()


def _job(path: str) -> tuple[str | None, dict[str, str]]:
    """Stage and wildcards that make a path; no stage for one that lies outside `results`."""
    parts = path.rstrip("/").split("/")
    pattern = _PATTERNS.get(parts[1]) if parts[0] == "results" and len(parts) > 2 else None
    match = pattern.fullmatch(path.rstrip("/")) if pattern else None
    return (parts[1], match.groupdict()) if match else (None, {})


# ── time ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class StageCost:
    """What a stage will take."""

    stage: str
    jobs: int
    seconds: float
    """Of one core, all jobs together."""
    basis: str
    """measured: benchmark files of an earlier run in this folder; typical: TYPICAL."""


def stage_costs(plan: Plan, jobs: Mapping[str, int], census: Census, logs: Path) -> list[StageCost]:
    """Cost of every stage, by an earlier run in the same folder where it left benchmark files."""
    measured = {stage: _mean_seconds(logs / stage) for stage in jobs}
    costs = []
    for stage, count in jobs.items():
        mean = measured[stage]
        if mean is not None:
            costs.append(StageCost(stage, count, mean * count, "measured"))
        else:
            costs.append(StageCost(stage, count, _typical(plan, stage, count, census), "typical"))
    return costs


def _mean_seconds(folder: Path) -> float | None:
    """Mean seconds of the jobs whose benchmark files lie below a folder; None where there are none."""
    seconds = []
    for path in folder.rglob("*.tsv"):
        with path.open(encoding="utf-8", newline="") as stream:
            row = next(csv.DictReader(stream, delimiter="\t"), {})
        try:
            seconds.append(float(row["s"]))
        except (KeyError, ValueError):
            # No benchmark file: training's own curves lie beside them.
            continue
    return sum(seconds) / len(seconds) if seconds else None


def _typical(plan: Plan, stage: str, count: int, census: Census) -> float:
    start_s, scan_s = TYPICAL[stage]
    usable = census.usable()
    if stage == "preprocess":
        raw = sum(row["input"] == "bids" for row in usable)
        each = FMRIPREP_S if plan.study.preprocess.backend == "fmriprep" else scan_s
        return count * start_s + raw * each
    if stage in _BY_BATCH:
        batches = len({(row["dataset"], row["batch"]) for row in census.rows}) or 1
        return count * (start_s + scan_s * len(usable) / batches)
    return count * (start_s + scan_s * len(usable))


def wall_seconds(costs: list[StageCost], at_once: int) -> float:
    """Wall time where the jobs of a stage share `at_once` places, and a stage waits for the one before."""
    return sum(cost.seconds / min(cost.jobs, at_once) for cost in costs)


def time_findings(costs: list[StageCost], at_once: int) -> Iterator[Finding]:
    """One line of jobs and one of hours, with how sure they are."""
    total = sum(cost.jobs for cost in costs)
    light = total - sum(cost.jobs for cost in costs if cost.stage == "preprocess")
    yield Finding("ok", "jobs", f"{total:,} of the whole study, {light:,} of them beside preprocess")
    core = sum(cost.seconds for cost in costs)
    learning = sum(cost.seconds for cost in costs if cost.stage in GPU_STAGES)
    typical = sum(cost.seconds for cost in costs if cost.basis == "typical")
    basis = "typical" if typical > core / 2 else "measured"
    spread, wall = _SPREAD[basis], wall_seconds(costs, at_once)
    source = {
        "typical": "typical costs of lcm/doctor/jobs.py, for networks of a laptop's size",
        "measured": "benchmark files of an earlier run in this folder",
    }[basis]
    yield Finding(
        "ok",
        "time",
        f"{duration(core)} of one core in all, {duration(learning)} of it in jobs that take a GPU where there is one; with "
        f"{at_once} at once {duration(wall / spread)} to {duration(wall * spread)} ({source})",
    )
