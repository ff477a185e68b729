"""Slurm for the tests of this folder, and studies that run through it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import OFFLINE, REPOSITORY, SmallStudy, write_derivatives

from .cluster import Cluster, content, running, why_not

# Records say when, where and of how many seconds; they are no results.
TIMED = ("costs.tsv", "costs.csv", "costs.html", "costs.tex", "index.html", ".snakemake_timestamp")
STARTED = "results/pretrain/honest/lcm/fold-0"
"""A network's training, which the tests disturb."""
# Rules say the first; Fabric the second, to the processes that it starts itself.
STARTED_AS = (["-m", "lcm"], ["-m", "lcm.__main__"])
LOG = "logs/pretrain/honest/lcm/fold-0.log"
METRICS = "logs/pretrain/honest/lcm/fold-0/metrics.csv"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The machine as a Slurm cluster of one node; LCM_SLURM=require makes its absence an error."""
    reason = why_not()
    if reason and os.environ.get("LCM_SLURM") == "require":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("slurm")) as one:
        yield one


@dataclass
class Submitted(SmallStudy):
    """A study whose jobs go to Slurm."""

    def command(self, *arguments: str) -> list[str]:
        """Snakemake with the profile for Slurm, as on a cluster that keeps no accounts and is in a hurry."""
        (self.folder / "study.yaml").write_text(yaml.safe_dump(self.config))
        command = [sys.executable, "-m", "snakemake", *arguments, "--snakefile", str(REPOSITORY / "Snakefile")]
        command += ["--workflow-profile", str(REPOSITORY / "profiles/slurm"), "--configfile", "study.yaml", "--nocolor"]
        command += ["--slurm-no-account", "--slurm-status-command", "squeue", "--latency-wait", "10"]
        # Each look at the queue that finds nothing finished makes the plugin wait ten seconds longer.
        return [*command, "--slurm-init-seconds-before-status-checks", "7", "--max-jobs-per-timespan", "20/1s"]

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake; what it says goes to snakemake.out."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with (self.folder / "snakemake.out").open("ab") as out:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=os.environ | OFFLINE | {"PATH": path},
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )

    def submit(self, *arguments: str, watch: Callable[[], object] | None = None) -> str:
        """Run to the end and return what Snakemake said; the test fails where it failed."""
        head = self.begin(*arguments)
        try:
            while head.poll() is None:
                if watch:
                    watch()
                time.sleep(0.2)
        finally:
            end(head)
        assert head.returncode == 0, self.said()
        return self.said()

    def said(self) -> str:
        """What Snakemake has said so far, in all its runs."""
        return (self.folder / "snakemake.out").read_text()

    def stages(self) -> Iterator[tuple[int, str, dict[str, str]]]:
        """Id, command line from the stage's name on, and environment of each stage that runs in the study's folder now."""
        for place in Path("/proc").glob("[0-9]*"):
            command = content(place / "cmdline").decode().split("\0")
            with suppress(OSError):
                if command[1:3] in STARTED_AS and (place / "cwd").readlink() == self.folder:
                    pairs = content(place / "environ").decode().split("\0")
                    yield (
                        int(place.name),
                        " ".join(command[3:]),
                        dict(pair.split("=", 1) for pair in pairs if "=" in pair),
                    )


def trains(study: SmallStudy) -> bool:
    """Whether the network has some epochs behind it and many to come."""
    metrics = study.folder / METRICS
    return metrics.exists() and len(metrics.read_text().splitlines()) > 5


def ended(head: subprocess.Popen[bytes], cluster: Cluster, study: SmallStudy) -> bool:
    """Whether Snakemake is done; until then no job waits longer than it must."""
    cluster.hurry(study.folder)
    return head.poll() is not None


def end(head: subprocess.Popen[bytes]) -> None:
    """Kill a Snakemake that a failed test left behind; its jobs end with the cluster."""
    if head.poll() is None:
        head.kill()
        head.wait()


def fingerprints(folder: Path, under: str = "results") -> dict[str, str]:
    """SHA-256 of each result below `under`."""
    files = [p for p in (folder / under).rglob("*") if p.is_file() and p.name not in TIMED and p.suffix != ".json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def copied(original: SmallStudy, folder: Path, *, results: bool = True) -> Submitted:
    """The same study elsewhere, with the same times of its files, so that nothing in it is out of date."""
    left_out = () if results else ("results", "logs", ".snakemake")
    shutil.copytree(original.folder, folder, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)
    return Submitted(folder, original.config)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """Twelve people of an fMRIPrep dataset, a ridge regression and a small network: run without Slurm."""
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config |= {"simulate": None, "export": None, "probe": None, "forecast": None, "forecasters": {}}
    config |= {"strategies": ["9P"], "protocols": {"honest": {}}}
    config["datasets"] = {
        "LAB": {"path": "fmriprep", "input": "derivatives", "cohort": "generic", "phenotypes": "fmriprep"}
    }
    config["tasks"] = {"sex": {"target": "sex", "levels": ["female", "male"]}}
    config["models"] = {
        "ridge": {"architecture": "ridge"},
        "lcm": {"architecture": "lcm", "start": "pretrained", "size": {"num_layers": 2, "width": 16, "num_heads": 2}},
    }
    config["denoise"]["min_minutes"] = 1.0
    config["split"]["num_folds"] = 2
    config["pretrain"] |= {"max_epochs": 400, "patience": 400}
    config["finetune"] |= {"max_epochs": 3, "first_stage_epochs": 1}
    config["evaluate"] |= {"num_bootstraps": 100, "num_permutations": 100}
    study = SmallStudy(tmp_path_factory.mktemp("local"), config)
    write_derivatives(study.folder / "fmriprep", {f"p{i:02d}": ("female", "male")[i % 2] for i in range(12)})
    run = study.snakemake("--scheduler", "greedy", "--quiet", "rules", "host")
    assert run.returncode == 0, run.stdout + run.stderr
    return study


@pytest.fixture
def untrained(local: SmallStudy, tmp_path: Path) -> Submitted:
    """The local run of which the training of one network is to be done again."""
    study = copied(local, tmp_path / "study")
    shutil.rmtree(study.folder / STARTED)
    shutil.rmtree((study.folder / METRICS).parent)
    (study.folder / LOG).unlink()
    return study
