"""Doctor: whether a study will run here, said in seconds, before a night is lost; it writes nothing and fetches nothing."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lcm.config import Study, read_study
from lcm.doctor.census import Census, take_census
from lcm.doctor.findings import Finding, Level, duration, guarded
from lcm.doctor.inputs import dataset_findings, phenotype_findings, setting_findings, template_findings
from lcm.doctor.jobs import Expected, StageCost, expected_jobs, stage_costs, time_findings
from lcm.doctor.machine import asked_by_rules, gpu_findings, machine_findings
from lcm.doctor.scheduler import Profile, at_once, read_profile, scheduler_findings
from lcm.doctor.space import (
    estimate,
    folder_findings,
    people_preprocessed,
    scratch_findings,
    space_findings,
    volumes_of,
)

_SCANS = Path("results/index/scans.tsv")


@dataclass(frozen=True)
class Asked:
    """What the doctor was asked to look at."""

    config: dict[str, object]
    study: Study
    profile: Profile
    cores: int
    jobs: int | None

    @property
    def at_once(self) -> int:
        """Jobs side by side."""
        return at_once(self.profile, self.cores, self.jobs)


@dataclass
class Diagnosis:
    """What was found, and what the study will cost."""

    findings: list[Finding] = field(default_factory=list)
    costs: list[StageCost] = field(default_factory=list)

    @property
    def verdict(self) -> Level:
        """The worst level of all findings."""
        levels = {finding.level for finding in self.findings}
        return "stop" if "stop" in levels else "warn" if "warn" in levels else "ok"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--config", type=Path, required=True, help="the study's configuration, e.g. config.yaml")
    parser.add_argument(
        "--directory", type=Path, default=Path(), help="folder of the study, as Snakemake's --directory"
    )
    parser.add_argument(
        "--profile", type=Path, help="folder of a profile, e.g. profiles/slurm; absent: this machine alone"
    )
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)), help="cores to be used; default: all"
    )
    parser.add_argument("--jobs", type=int, help="jobs in the queue at once; default: what the profile says")
    parser.add_argument("--json", action="store_true", help="print JSON for programs instead of the page")


def main(options: argparse.Namespace) -> int:
    """Print what was found; 1 where something would stop the study, else 0."""
    diagnosis = diagnose(options.config, options.directory, options.profile, options.cores, options.jobs)
    sys.stdout.write(as_json(diagnosis) if options.json else page(diagnosis))
    return 1 if diagnosis.verdict == "stop" else 0


def diagnose(
    config: Path, directory: Path, profile: Path | None = None, cores: int = 1, jobs: int | None = None
) -> Diagnosis:
    """Look at a study as Snakemake would find it in `directory`; raises ValueError for a wrong call."""
    if cores < 1 or (jobs is not None and jobs < 1):
        raise ValueError(f"--cores {cores}, --jobs {jobs}: give 1 or more")
    text = _mapping(config)
    chosen = read_profile(profile) if profile else Profile()
    if not directory.is_dir():
        do = f"mkdir -p {directory}: paths in the configuration are relative to it"
        return Diagnosis([Finding("stop", "folder", f"no such folder: {directory}", do)])
    with contextlib.chdir(directory):
        try:
            study = read_study(text)
        except ValueError as error:
            return Diagnosis([Finding("stop", "configuration", str(error), "correct the keys it names")])
        return _examine(Asked(text, study, chosen, cores, jobs))


def _mapping(config: Path) -> dict[str, object]:
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"--config: {config} is not YAML: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"--config: {config} holds no settings")
    return found


def _examine(asked: Asked) -> Diagnosis:
    """Every check, in the order in which a study meets its trouble."""
    found, study = Diagnosis(), asked.study
    census = take_census(study, _SCANS)
    plan = _plan(asked, census, found)
    lengths: dict[str, int] = {}
    found.findings += guarded("settings", lambda: setting_findings(study))
    found.findings += guarded("datasets", lambda: dataset_findings(study, census, lengths))
    found.findings += guarded("phenotypes", lambda: phenotype_findings(study))
    found.findings += guarded("template", lambda: template_findings(study, census))
    found.findings += guarded("folder", lambda: folder_findings(Path.cwd()))
    jobs: dict[str, int] = {}
    if plan is not None:
        whole = plan
        found.findings += guarded("jobs", lambda: _costs(asked, whole, census, found, jobs))
        found.findings += guarded("space", lambda: _space(asked, whole, census, lengths, jobs))
    found.findings += guarded("machine", lambda: _places(asked, jobs))
    return found


def _plan(asked: Asked, census: Census, found: Diagnosis) -> Expected | None:
    """The plan, whose names were looked up; None where one of them has nothing behind it."""
    try:
        plan = Expected(asked.config, census)
    except (OSError, ValueError) as error:
        found.findings.append(
            Finding("stop", "configuration", str(error), "correct it; jobs and space are not counted")
        )
        return None
    says = f"{len(asked.study.datasets)} datasets, {len(asked.study.tasks)} tasks, {len(asked.study.models)} models"
    found.findings.append(Finding("ok", "configuration", says))
    return plan


def _costs(asked: Asked, plan: Expected, census: Census, found: Diagnosis, jobs: dict[str, int]) -> Iterator[Finding]:
    jobs |= expected_jobs(plan)
    found.costs += stage_costs(plan, jobs, census, Path("logs"))
    yield from time_findings(found.costs, asked.at_once)


def _space(
    asked: Asked, plan: Expected, census: Census, lengths: dict[str, int], jobs: dict[str, int]
) -> Iterator[Finding]:
    volumes = volumes_of(asked.study, census, lengths)
    sizes = estimate(plan, jobs, census, volumes)
    done = people_preprocessed(Path("results/preprocess")) / max(1, jobs.get("preprocess", 1))
    yield from space_findings(sizes, Path.cwd(), len(census.usable()), min(1.0, done))
    if asked.profile.is_local:
        yield from scratch_findings(asked.study, census, volumes, asked.at_once)


def _places(asked: Asked, jobs: dict[str, int]) -> Iterator[Finding]:
    """The machine's own resources, or the cluster's: a login node's say nothing about the jobs."""
    memory, minutes = asked_by_rules("mem_mb"), asked_by_rules("runtime")
    if asked.profile.is_local:
        yield from machine_findings(jobs, memory, asked.cores)
        yield from gpu_findings(jobs)
    else:
        yield from scheduler_findings(asked.profile, jobs, memory, minutes)


# ── what is printed ─────────────────────────────────────────────────────────────────────────────

_VERDICTS = {
    "ok": "Nothing speaks against starting the study.",
    "warn": "The study can be started; look at the warnings first.",
    "stop": "The study would not run to its end: see the lines marked stop.",
}


def page(diagnosis: Diagnosis) -> str:
    """The findings and the stages' costs as aligned text."""
    width = max(len(finding.subject) for finding in diagnosis.findings)
    lines = []
    for finding in diagnosis.findings:
        first, *more = finding.says.splitlines() or [""]
        lines.append(f"{finding.level:<6}{finding.subject:<{width + 2}}{first}")
        lines += [" " * (width + 8) + line for line in more]
        lines += [" " * (width + 8) + f"→ {finding.do}"] if finding.do else []
    if diagnosis.costs:
        lines += ["", f"{'stage':<12}{'jobs':>9}{'of one core':>14}  basis"]
        lines += [
            f"{cost.stage:<12}{cost.jobs:>9,}{duration(cost.seconds):>14}  {cost.basis}" for cost in diagnosis.costs
        ]
    return "\n".join([*lines, "", _VERDICTS[diagnosis.verdict], ""])


def as_json(diagnosis: Diagnosis) -> str:
    """The same for programs: verdict, findings, and jobs and core seconds of every stage."""
    found: dict[str, Any] = {"verdict": diagnosis.verdict}
    found["findings"] = [asdict(finding) for finding in diagnosis.findings]
    found["stages"] = [asdict(cost) for cost in diagnosis.costs]
    return json.dumps(found, indent=2) + "\n"
