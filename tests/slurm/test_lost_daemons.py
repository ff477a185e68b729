"""A node that is lost and a scheduler that is restarted while a network trains: the same bytes in the end."""

from __future__ import annotations

import signal

import pytest

from .cluster import until
from .conftest import STARTED, end, ended, fingerprints, trains

pytestmark = pytest.mark.slurm


def test_a_scheduler_that_is_restarted_loses_no_job(cluster, local, untrained):
    head = untrained.begin(STARTED)
    try:
        until(lambda: trains(untrained), "training", 300)
        cluster.stop("slurmctld", signal.SIGKILL)
        until(lambda: not cluster.ask("sinfo", "--noheader"), "a scheduler that is gone", 60)
        cluster.start("slurmctld")
        until(lambda: ended(head, cluster, untrained), "Snakemake's end", 600)
        assert head.returncode == 0, untrained.said()
    finally:
        end(head)
        if "slurmctld" not in cluster.daemons:
            cluster.start("slurmctld")
    assert untrained.said().count("has been submitted") == 1
    assert fingerprints(untrained.folder, STARTED) == fingerprints(local.folder, STARTED)


def test_a_lost_node_costs_the_job_and_not_the_study(cluster, local, untrained):
    head = untrained.begin(STARTED)
    try:
        until(lambda: trains(untrained), "training", 300)
        [job] = cluster.alive(untrained.folder)
        cluster.stop("slurmd", signal.SIGKILL)
        cluster.kill(job["JobId"])
        until(lambda: not cluster.is_idle(), "a node that is down", 60)
        cluster.start("slurmd")
        until(lambda: ended(head, cluster, untrained), "Snakemake's end", 600)
        assert head.returncode == 0, untrained.said()
    finally:
        end(head)
        if "slurmd" not in cluster.daemons:
            cluster.start("slurmd")
    assert fingerprints(untrained.folder, STARTED) == fingerprints(local.folder, STARTED)
