"""A small study in which every stage has a job, its jobs as Snakemake would run them, and one that Snakemake runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lcm.config import STAGE_ROOMS
from tests.conftest import REPOSITORY
from tests.workflow.conftest import write_derivatives

from .stage_process import contents, moved_files, timed

KILLS = int(os.environ.get("LCM_KILLS", "2"))
"""How often each stage is killed; `make test-faults` kills fifty times."""
ALL = "LCM_KILLS" in os.environ
"""Whether all stages are harmed; raw images, forecasts and the report cost the most and are left out without it."""
STAGES = tuple(STAGE_ROOMS) if ALL else ("simulate", "correlate", "harmonize", "finetune")
"""Stages that are harmed: by default of each kind of output one."""


@dataclass(frozen=True)
class Job:
    """One call of a stage, as its rule makes it: the arguments of `python -m lcm`, and what a run of it was like."""

    command: list[str]
    seconds: float
    num_moved: int
    """Files it moved to their final path."""

    @property
    def output(self) -> Path:
        """What --output names, relative to the study."""
        return Path(self.command[self.command.index("--output") + 1])


@dataclass(frozen=True)
class Finished:
    """A study that has run to its end: its folder, the first job of each stage, and what every file in results holds."""

    folder: Path
    jobs: dict[str, Job]
    whole: dict[str, str]

    def copy(self, folder: Path) -> Path:
        """The study once more, to be harmed."""
        return Path(shutil.copytree(self.folder, folder, symlinks=True))


def small_config() -> dict[str, Any]:
    """The demo's configuration cut down: one raw scan, three cohorts, tiny networks; every stage where all are harmed."""
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"] = {name: config["datasets"][name] for name in ("HCPA", "HCPYA", "ABIDE")}
    config["simulate"] |= {"raw_people": 1, "derivative_people": 4, "series_people": 24}
    config["simulate"] |= {"num_volumes": 60, "voxel_mm": 8.0}
    config["harmonize"]["pseudo_labels"] = {}
    config["strategies"], config["protocols"] = ["9P"], {"honest": {}}
    config["tasks"] = {"sex": {"target": "sex", "levels": ["female", "male"], "cohorts": ["abide"]}}
    connectome = {"num_layers": 1, "width": 16, "num_heads": 2, "feedforward": 16}
    windows = {"num_frames": 24, "patch_frames": 8, "conv_kernel": 3, "dropout": 0.0, "decoder_layers": 1, **connectome}
    config["models"] = {
        "ridge": {"architecture": "ridge"},
        "lcm": {"architecture": "lcm", "start": "pretrained", "size": connectome},
        "brainlm": {"architecture": "brainlm", "start": "pretrained", "size": windows, "tasks": []},
    }
    config["forecasters"] = {"brainlm": {"architecture": "brainlm", "start": "brainlm", "size": windows}}
    config["preprocess"] |= {"normalization": "Affine", "registration_mm": 6.0, "resolution_mm": 6.0}
    config["split"]["num_folds"] = 2
    for stage in ("pretrain", "finetune", "forecast"):
        config[stage] |= {"max_epochs": 3, "first_stage_epochs": 1}
    config["collect"]["min_volumes"], config["denoise"]["min_minutes"] = 24, 1.0
    config["forecast"]["horizon_volumes"] = 8
    config["evaluate"] |= {"num_bootstraps": 100, "num_permutations": 100}
    config["probe"]["num_bootstraps"] = 100
    bundle = "results/finetune/honest/lcm/sex/fold-0"
    config["predict"] = {"bundles": {"sex": bundle}, "datasets": ["ABIDE"], "allow": []}
    if not ALL:
        del config["datasets"]["HCPA"], config["models"]["brainlm"]
        config |= dict.fromkeys(("export", "probe", "forecast", "predict")) | {"forecasters": {}}
    return config


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Snakemake on the study in `folder`, in a process group of its own."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), *arguments]
    command += ["--cores", "2", "--nocolor", "--workflow-profile", "none", "--configfile", "study.yaml"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    """Wait for Snakemake and return what it wrote."""
    return process.communicate()[0]


def planned(folder: Path, *arguments: str) -> list[list[str]]:
    """Arguments of each `python -m lcm` that a dry run announces."""
    run = snakemake(folder, *arguments, "--dry-run", "--printshellcmds")
    text = said(run)
    assert run.returncode == 0, text
    found = []
    for part in (part for line in text.splitlines() if "-m lcm " in line for part in line.split(" && ")):
        words = shlex.split(part)
        words = words[words.index("lcm") + 1 :]
        # What goes to the log is no argument.
        found.append(words[: next(place for place, word in enumerate(words) if word.startswith((">", "2>")))])
    return found


def derivative_config() -> dict[str, Any]:
    """Eight people of ready derivatives in ../people, one task and a row that sees no brain: Snakemake ends in seconds."""
    config = small_config()
    paths = {"path": "../people", "phenotypes": "../people"}
    config["datasets"] = {"LAB": {"input": "derivatives", "cohort": "generic", **paths}}
    config["tasks"] = {"sex": {"target": "sex", "levels": ["female", "male"]}}
    config["models"] = {"majority": {"architecture": "majority"}}
    config["report"]["reference_model"] = "majority"
    config["denoise"]["min_minutes"] = 0.5
    config |= dict.fromkeys(("simulate", "export", "probe", "forecast", "predict")) | {"forecasters": {}}
    return config


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of ready derivatives that one Snakemake ran from its start to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    people = {f"p{number}": ("female", "male")[number % 2] for number in range(8)}
    write_derivatives(folder / "people", people, num_volumes=40)
    study = another_study(folder, "study")
    run = snakemake(study)
    text = said(run)
    assert run.returncode == 0, text
    return study


def another_study(folder: Path, name: str) -> Path:
    """One more study folder over the same people."""
    study = folder / name
    study.mkdir()
    (study / "study.yaml").write_text(yaml.safe_dump(derivative_config()))
    return study


def results(study: Path) -> dict[str, str]:
    """What the study's results hold, but the pages that tell how long the stages took, and Snakemake's own marks."""
    timed_too = ("report/index.html", ".snakemake_timestamp")
    return {name: held for name, held in contents(study / "results").items() if not name.endswith(timed_too)}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The study, run stage by stage with the commands of its rules."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(yaml.safe_dump(small_config()))
    # Behind the checkpoint Snakemake knows the jobs of the study only when the index is there.
    jobs = _run(folder, planned(folder, "index")) | _run(folder, planned(folder))
    return Finished(folder, jobs, contents(folder / "results"))


def _run(folder: Path, commands: list[list[str]]) -> dict[str, Job]:
    """Run them in the order of their stages up to the last that is harmed; the first of each stage.

    The check writes nothing and is left out.
    """
    stages, log, jobs = list(STAGE_ROOMS), folder.with_name("finished.log"), dict[str, Job]()
    needed = stages[: max(map(stages.index, STAGES)) + 1]
    wanted = (command for command in commands if "--check" not in command and command[0] in needed)
    for command in sorted(wanted, key=lambda command: stages.index(command[0])):
        seconds = timed(folder, command, log)
        jobs.setdefault(command[0], Job(command, seconds, moved_files(log)))
    return jobs
