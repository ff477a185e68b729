"""A small study through Slurm: the same bytes as without it; what trains gets a GPU, what does not gets none."""

from __future__ import annotations

import pytest

from .conftest import copied, fingerprints

pytestmark = pytest.mark.slurm


def test_a_study_through_slurm_ends_with_the_same_bytes(cluster, local, tmp_path):
    study = copied(local, tmp_path / "study", results=False)
    seen = {}

    def look():
        for _, stage, environment in study.stages():
            seen.setdefault(stage, set()).add(environment.get("CUDA_VISIBLE_DEVICES", ""))

    before = {job["JobId"] for job in cluster.jobs()}
    study.submit(watch=look)
    assert fingerprints(study.folder) == fingerprints(local.folder)
    jobs = [job for job in cluster.jobs() if job["JobId"] not in before]
    assert all(job["JobState"] == "COMPLETED" for job in jobs)
    learn = tuple(f"rule_{name}_wildcards_honest_lcm" for name in ("pretrain", "finetune"))
    for job in jobs:
        wants_gpu = job["Comment"].startswith(learn)
        assert job.get("TresPerJob") == ("gres:gpu:1" if wants_gpu else None), job
        assert job["Partition"] == ("gpu" if wants_gpu else "cpu"), job
    # No CUDA is here: a network that got a GPU trains on the CPU all the same.
    assert seen["pretrain"]
    assert seen["pretrain"] <= {"0", "1"}
    assert seen["parcellate"] == {""}
