"""A job over its memory is killed by Slurm, asked for again with more, and the study ends with the same bytes."""

from __future__ import annotations

import pytest

from .conftest import STARTED, fingerprints

pytestmark = pytest.mark.slurm


def test_a_job_over_its_memory_is_killed_and_comes_back_with_more(cluster, local, untrained):
    # The first attempt's 250 MB are less than PyTorch itself takes, the second's 2,000 MB are enough.
    untrained.submit(STARTED, "--set-resources", "pretrain:mem_mb=250 if attempt == 1 else 1000 * attempt")
    jobs = cluster.jobs(untrained.folder)
    assert [job["MinMemoryNode"] for job in jobs] == ["250M", "2000M"]
    assert [job["JobState"] for job in jobs] == ["FAILED", "COMPLETED"]
    assert fingerprints(untrained.folder, STARTED) == fingerprints(local.folder, STARTED)
