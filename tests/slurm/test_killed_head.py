"""Snakemake itself is killed while its jobs run: the next one ends with the same bytes, and takes nothing half-written."""

from __future__ import annotations

import pytest

from .cluster import until
from .conftest import STARTED, end, fingerprints, trains

pytestmark = pytest.mark.slurm


def test_snakemake_again_finishes_what_a_killed_one_began(cluster, local, untrained):
    head = untrained.begin(STARTED)
    try:
        until(lambda: trains(untrained), "training", 300)
        head.kill()
        head.wait()
        # Its job goes on without it and would write the same results as the next one's: here it dies in the midst of that.
        [job] = cluster.alive(untrained.folder)
        cluster.kill(job["JobId"])
        (untrained.folder / STARTED).mkdir()
        (untrained.folder / STARTED / "weights.safetensors").write_bytes(b"half of them")
        cluster.ask("scancel", job["JobId"])
        until(lambda: not cluster.alive(untrained.folder), "end of the job", 120)
    finally:
        end(head)
    untrained.submit("--unlock")
    untrained.submit(STARTED)
    assert fingerprints(untrained.folder, STARTED) == fingerprints(local.folder, STARTED)
