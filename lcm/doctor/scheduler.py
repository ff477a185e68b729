"""A cluster as a profile describes it: whether the scheduler is there and knows what the profile names."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lcm.doctor.findings import Finding, duration
from lcm.doctor.jobs import GPU_STAGES
from lcm.doctor.machine import answer

_FILES = ("config.v9+.yaml", "config.v8+.yaml", "config.yaml")
_DEFAULT_JOBS = 100
_OTHERS = {
    "bkill": ("bsub", "bjobs", "bqueues"),
    "qdel": ("qsub", "qstat", "qstat"),
    "scancel": ("sbatch", "squeue", "sinfo"),
}
"""How a job is cancelled under LSF, under SGE or PBS, and under Slurm, and the programs that belong to it."""


@dataclass(frozen=True)
class Profile:
    """What a Snakemake profile says about a cluster."""

    executor: str = "local"
    jobs: int | None = None
    retries: int = 0
    cancel: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)
    by_rule: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Slurm's, with their limits, of the file that `slurm-partition-config` names."""

    @property
    def is_local(self) -> bool:
        """Whether jobs run on this very machine."""
        return self.executor in ("local", "dryrun", "touch")

    def of(self, stage: str, resource: str) -> str | None:
        """What a stage's jobs ask of a resource; None where the profile leaves it to the rule or the site."""
        return self.by_rule.get(stage, {}).get(resource, self.defaults.get(resource))


def read_profile(folder: Path) -> Profile:
    """A profile's folder; raises ValueError where it has no configuration or one that is not YAML."""
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"--profile: no config.yaml in {folder}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"--profile: {path} is not YAML ({type(error).__name__})") from None
    # Of set-resources, `- preprocess:mem_mb=8000` says the same as `preprocess: {mem_mb: 8000}`.
    by_rule: dict[str, dict[str, str]] = {}
    asked = found.get("set-resources") or {}
    for rule, resources in asked.items() if isinstance(asked, dict) else (_rule_and_rest(item) for item in asked):
        by_rule.setdefault(rule, {}).update(_pairs(resources))
    return Profile(
        executor=str(found.get("executor", "local")),
        jobs=found.get("jobs") if isinstance(found.get("jobs"), int) else None,
        retries=found["retries"] if isinstance(found.get("retries"), int) else 0,
        cancel=str(found.get("cluster-generic-cancel-cmd", "")).split(" ")[0],
        defaults=_pairs(found.get("default-resources") or {}),
        by_rule=by_rule,
        partitions=_partition_file(folder, found.get("slurm-partition-config")),
    )


def _partition_file(folder: Path, name: str | None) -> dict[str, dict[str, str]]:
    """Partitions by name, each with its limits as text; raises ValueError for a file that is not there or none."""
    if name is None:
        return {}
    path = folder / name
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["partitions"]
        return {partition: _pairs(limits or {}) for partition, limits in found.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--profile: {path} names no partitions ({type(error).__name__})") from None


def _rule_and_rest(item: str) -> tuple[str, list[str]]:
    rule, _, rest = item.partition(":")
    return rule, [rest]


def _pairs(found: Any) -> dict[str, str]:
    items = found.items() if isinstance(found, dict) else (str(item).split("=", 1) for item in found)
    return {str(key): str(value).strip("'\"") for key, value in items}


def at_once(profile: Profile, cores: int, jobs: int | None) -> int:
    """How many jobs run side by side."""
    return cores if profile.is_local else jobs or profile.jobs or _DEFAULT_JOBS


def scheduler_findings(
    profile: Profile, jobs: Mapping[str, int], memory: Mapping[str, int], minutes: Mapping[str, int]
) -> Iterator[Finding]:
    """Whether the profile's scheduler answers and, for Slurm, knows its partitions, account, GPUs and limits."""
    if profile.executor == "slurm":
        yield from _slurm_findings(profile, jobs, memory, minutes)
    elif profile.executor == "cluster-generic":
        yield from _generic_findings(profile)
    elif not profile.is_local:
        yield Finding("warn", "scheduler", f"executor {profile.executor} is not known here", "try a job by hand")


def _generic_findings(profile: Profile) -> Iterator[Finding]:
    if profile.cancel not in _OTHERS:
        yield Finding("warn", "scheduler", "not told which one by cluster-generic-cancel-cmd", "try a job by hand")
        return
    submit, status, question = _OTHERS[profile.cancel]
    for name in (submit, status):
        if answer(name, "--version")[0] == 127:
            do = "run Snakemake on a login node, with the scheduler's module loaded"
            yield Finding("stop", "scheduler", f"{name} is not on PATH", do)
            return
    code, text = answer(question)
    if code:
        yield Finding(
            "stop", "scheduler", f"{question} fails: {_first(text)}", "ask the admin whether the scheduler is up"
        )
    else:
        yield Finding("ok", "scheduler", f"{question} answers; jobs go through {submit}")


# ── Slurm ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Partition:
    """A line of sinfo, nodes of one kind."""

    is_default: bool
    is_up: bool
    limit_min: float
    memory_mb: int
    gres: str


def _slurm_findings(
    profile: Profile, jobs: Mapping[str, int], memory: Mapping[str, int], minutes: Mapping[str, int]
) -> Iterator[Finding]:
    for program in ("sbatch", "squeue"):
        if answer(program, "--version")[0] == 127:
            do = "run Snakemake on a login node, with the scheduler's module loaded"
            yield Finding("stop", "scheduler", f"{program} is not on PATH", do)
            return
    code, text = answer("sinfo", "--noheader", "--format=%P|%a|%l|%m|%G")
    if code:
        yield Finding("stop", "scheduler", f"sinfo fails: {_first(text)}", "ask the admin whether slurmctld is up")
        return
    partitions = _partitions(text)
    yield Finding("ok", "scheduler", f"Slurm answers; partitions {', '.join(partitions)}")
    for name in sorted(profile.partitions.keys() - partitions.keys()):
        says = f"the profile's partition file has {name!r}, and there is no such partition"
        yield Finding("stop", "partition", says, "edit that file; `sinfo -s` lists them")
    stages: dict[str, list[str]] = {}
    for stage in jobs:
        needs = {
            name: _amount(profile, stage, name, rules) for name, rules in (("mem_mb", memory), ("runtime", minutes))
        }
        asked = profile.of(stage, "slurm_partition") or _best(profile, stage, needs) or _default(partitions)
        for name in asked.split(","):
            if name in partitions or name not in profile.partitions:
                stages.setdefault(name, []).append(stage)
    for name, served in stages.items():
        if name not in partitions:
            says = f"the profile sends {', '.join(served)} to {name!r}, and there is no such partition"
            yield Finding("stop", "partition", says, "edit the profile; `sinfo -s` lists them")
        else:
            yield from _partition_findings(
                name, served, partitions[name], profile, {"mem_mb": memory, "runtime": minutes}
            )
    yield from _account_findings(profile)


def _best(profile: Profile, stage: str, needs: Mapping[str, float]) -> str | None:
    """The partition of the profile's file that a stage's jobs fit into; of several, one without GPUs where none is needed."""
    has_gpu = _asks_gpu(profile, stage)
    fitting = [
        name
        for name, limits in profile.partitions.items()
        if (int(limits.get("max_gpu", 0)) > 0 or not has_gpu)
        and needs["runtime"] <= _minutes(limits.get("max_runtime", "infinite"))
        and needs["mem_mb"] <= float(limits.get("max_mem_mb", "inf"))
    ]
    return min(fitting, key=lambda name: int(profile.partitions[name].get("max_gpu", 0)), default=None)


def _asks_gpu(profile: Profile, stage: str) -> bool:
    return stage in GPU_STAGES and profile.of(stage, "gpu") != "0"


def _default(partitions: Mapping[str, list[_Partition]]) -> str:
    """The partition of jobs that name none; the first where the site has no default."""
    return next((name for name, lines in partitions.items() if lines[0].is_default), next(iter(partitions), ""))


def _partitions(text: str) -> dict[str, list[_Partition]]:
    found: dict[str, list[_Partition]] = {}
    for line in text.splitlines():
        name, state, limit, memory, gres = line.split("|")
        one = _Partition(name.endswith("*"), state == "up", _minutes(limit), int(memory.rstrip("+")), gres)
        found.setdefault(name.rstrip("*"), []).append(one)
    return found


def _minutes(limit: str) -> float:
    """Slurm's `[days-]hours:minutes:seconds`, `minutes:seconds` or `infinite`, or a profile's `2d`, in minutes."""
    short = re.fullmatch(r"(\d+)([dhm]?)", limit)
    if short:
        return int(short[1]) * {"d": 1440, "h": 60, "m": 1, "": 1}[short[2]]
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return float("inf")
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes, seconds = [0, 0, 0, *parts][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _partition_findings(
    name: str,
    stages: list[str],
    lines: list[_Partition],
    profile: Profile,
    asked: Mapping[str, Mapping[str, int]],
) -> Iterator[Finding]:
    """What a partition lacks for the stages that are sent to it."""
    if not any(line.is_up for line in lines):
        yield Finding("warn", "partition", f"{name} is not up", "its jobs will wait; `sinfo -p` says for what")
    largest, longest = max(line.memory_mb for line in lines), max(line.limit_min for line in lines)
    for stage in stages:
        asks = {resource: _Request(stage, resource, profile, rules) for resource, rules in asked.items()}
        # Each attempt goes to the partition of the file that it fits into, and the last may be another's.
        moves = _best(profile, stage, {resource: one.last for resource, one in asks.items()}) not in (None, name)
        memory, time = asks["mem_mb"], asks["runtime"]
        both = f"{memory.first:,.0f} MB, and the nodes of {name} have {largest:,}"
        yield from memory.against(largest, both, moves=moves)
        both = f"{duration(60 * time.first)}, and {name} allows {duration(60 * longest)}"
        yield from time.against(longest, both, moves=moves)
    wants = [stage for stage in stages if _asks_gpu(profile, stage)]
    if wants and not any("gpu" in line.gres for line in lines):
        do = "send them to the partition with GPUs, or set gpu: 0 for them"
        yield Finding("stop", "partition", f"{', '.join(wants)} ask for a GPU, and {name} has none", do)


class _Request:
    """What a stage's jobs ask of one resource, at the first attempt and at the last that the profile's `retries` allow."""

    def __init__(self, stage: str, resource: str, profile: Profile, rules: Mapping[str, int]) -> None:
        self.stage, self.resource = stage, resource
        self.first = _amount(profile, stage, resource, rules)
        # A profile's own number stays; a rule's grows with each attempt.
        grows = resource not in profile.by_rule.get(stage, {})
        self.last = self.first * (1 + profile.retries) if grows else self.first

    def against(self, limit: float, both: str, *, moves: bool) -> Iterator[Finding]:
        """Whether a partition's limit holds; `both` tells the first request and the limit. `moves`: later ones go elsewhere."""
        if self.first > limit:
            more = f"set-resources: {self.stage}: {{{self.resource}: …}}" + " in minutes" * (self.resource == "runtime")
            yield Finding("stop", "partition", f"{self.stage} asks for {both}", f"another partition, or {more}")
        elif self.last > limit and not moves:
            beyond = int(limit // self.first) + 1
            says = (
                f"{self.stage} asks for {both}; each attempt asks for more, and no job of attempt {beyond} will start"
            )
            most = f'"min({limit:.0f}, {self.first:.0f} * attempt)"'
            yield Finding("warn", "partition", says, f"set-resources: {self.stage}: {{{self.resource}: {most}}}")


def _amount(profile: Profile, stage: str, resource: str, rules: Mapping[str, int]) -> float:
    """What a stage asks for at its first attempt; 0 where that is an expression, which only Snakemake can work out."""
    # A rule's own amount comes before the profile's default-resources.
    stated = profile.by_rule.get(stage, {}).get(resource)
    if stated is None:
        return float(rules.get(stage, 0))
    return float(stated) if re.fullmatch(r"\d+(\.\d+)?", stated) else 0.0


def _account_findings(profile: Profile) -> Iterator[Finding]:
    named = {profile.defaults.get("slurm_account"), *(r.get("slurm_account") for r in profile.by_rule.values())} - {
        None
    }
    if not named:
        return
    code, text = answer(
        "sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={getpass.getuser()}", "format=account"
    )
    if code:
        yield Finding(
            "warn", "account", f"not checked: {_first(text)}", "`sacctmgr show assoc` tells at sites with accounting"
        )
        return
    strange = sorted(name for name in map(str, named) if name not in text.split())
    if strange:
        says = f"the profile names {', '.join(strange)}; yours: {', '.join(sorted(set(text.split()))) or 'none'}"
        yield Finding("stop", "account", says, "correct slurm_account")
    else:
        yield Finding("ok", "account", ", ".join(sorted(map(str, named))))


def _first(text: str) -> str:
    return text.splitlines()[0] if text else "no reason given"
