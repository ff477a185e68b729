"""A small study through Slurm: the same bytes as without it; what trains gets a GPU, what does not gets none."""

from __future__ import annotations

import re

import pytest

from .conftest import copied, fingerprints

pytestmark = pytest.mark.slurm


def test_a_study_through_slurm_ends_with_the_same_bytes(cluster, local, tmp_path):
    study = copied(local, tmp_path / "study", results=False)
    seen = {}

    def look():
        for _, command, environment in study.stages():
            stage = re.match(r"\w+( --model \S+)?", command)[0]
            seen.setdefault(stage, set()).add(environment.get("CUDA_VISIBLE_DEVICES", ""))

    study.submit(watch=look)
    assert fingerprints(study.folder) == fingerprints(local.folder)
    jobs = cluster.jobs(study.folder)
    assert all(job["JobState"] == "COMPLETED" for job in jobs)
    learn = tuple(f"rule_{name}_wildcards_honest_lcm" for name in ("pretrain", "finetune"))
    for job in jobs:
        wants_gpu = job["Comment"].startswith(learn)
        assert job.get("TresPerJob") == ("gres:gpu:1" if wants_gpu else None), job
        assert job["Partition"] == ("gpu" if wants_gpu else "cpu"), job
    # No CUDA is here: a network that got a GPU trains on the CPU all the same.
    for stage in ("pretrain", "finetune"):
        assert seen[f"{stage} --model lcm"]
        assert seen[f"{stage} --model lcm"] <= {"0", "1"}
    assert seen["finetune --model ridge"] == {""}
    assert seen["parcellate"] == {""}
