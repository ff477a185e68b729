"""Slurm stops a training (signal, cancelled or pre-empted, queued again): it saves itself, goes on, ends with the same bits."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.workflow.conftest import SmallStudy

from .cluster import Cluster, content, until
from .conftest import LOG, STARTED, Submitted, end, ended, fingerprints, trains

pytestmark = pytest.mark.slurm

CHECKPOINT = f"{STARTED}.checkpoint/checkpoint.pt"
STOPS = {
    "signal": ("scancel", "--signal=TERM"),
    "cancel": ("scancel",),
    "requeue": ("scontrol", "requeue"),
}
# What workflow/rules/pretrain.smk asks for, and what its second attempt does; a job queued again stays as it was.
FIRST, SECOND = ("4000M", "12:00:00"), ("8000M", "1-00:00:00")
ASKED = {"signal": [FIRST, SECOND], "cancel": [FIRST, SECOND], "requeue": [FIRST]}


def running_job(cluster: Cluster, study: Submitted) -> str:
    [job] = [job["JobId"] for job in cluster.alive(study.folder) if job["JobState"] == "RUNNING"]
    return job


def assert_gone_on(study: Submitted, local: SmallStudy) -> None:
    """The last attempt began where the one before had stopped, and ended as if nothing had been."""
    assert "going on after epoch" in (study.folder / LOG).read_text()
    assert fingerprints(study.folder, STARTED) == fingerprints(local.folder, STARTED)
    assert not (study.folder / CHECKPOINT).exists()


@pytest.mark.parametrize("how", STOPS)
def test_a_stopped_training_goes_on_and_ends_with_the_same_bits(cluster, local, untrained, how):
    head = untrained.begin(STARTED)
    try:
        until(lambda: trains(untrained), "training", 300)
        cluster.ask(*STOPS[how], running_job(cluster, untrained))
        until((untrained.folder / CHECKPOINT).exists, "a checkpoint", 60)
        until(lambda: ended(head, cluster, untrained), "Snakemake's end", 600)
        assert head.returncode == 0, untrained.said()
    finally:
        end(head)
    assert_gone_on(untrained, local)
    jobs = cluster.jobs(untrained.folder)
    assert [(job["MinMemoryNode"], job["TimeLimit"]) for job in jobs] == ASKED[how]


def is_asked_to_stop(process: int) -> bool:
    """Whether a process that was made to sleep has a SIGTERM waiting."""
    waiting = re.search(r"^ShdPnd:\s*(\w+)", content(Path(f"/proc/{process}/status")).decode(), re.MULTILINE)
    return bool(waiting) and bool(int(waiting[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
def test_a_training_that_reaches_its_time_limit_goes_on_in_the_next_job(cluster, local, untrained):
    # On the command line it takes the place of the profile's whole `set-resources`, so the early signal is gone, too.
    limits = "pretrain:runtime=1 if attempt == 1 else 20"
    head = untrained.begin(STARTED, "--set-resources", limits)
    try:
        until(lambda: trains(untrained), "training", 300)
        [process] = [process for process, command, _ in untrained.stages() if command.startswith("pretrain ")]
        # Asleep it does not finish before its minute is over.
        os.kill(process, signal.SIGSTOP)
        until(lambda: is_asked_to_stop(process), "Slurm's SIGTERM", 180)
        os.kill(process, signal.SIGCONT)
        until((untrained.folder / CHECKPOINT).exists, "a checkpoint", 60)
        until(lambda: ended(head, cluster, untrained), "Snakemake's end", 600)
        assert head.returncode == 0, untrained.said()
    finally:
        end(head)
    jobs = cluster.jobs(untrained.folder)
    assert [job["JobState"] for job in jobs] == ["TIMEOUT", "COMPLETED"]
    assert_gone_on(untrained, local)
