"""What rules share: the plan of the study, which knows every input, the hash of a stage's code, and room that grows."""

import functools
import sys

sys.path.insert(0, workflow.basedir)

from lcm.plan import Plan
from lcm.provenance import code_hash


wildcard_constraints:
    dataset="[A-Za-z0-9-]+",
    batch="[0-9]+",
    strategy="[A-Za-z0-9-]+",
    protocol="[A-Za-z0-9-]+",
    participant="sub-[^/_]+",
    model="[A-Za-z0-9-]+",
    task="[A-Za-z0-9-]+",
    fold="[0-9]+",
    bundle="[A-Za-z0-9-]+",
    forecaster="[A-Za-z0-9-]+",


@functools.cache
def indexed():
    """Path of the scans table; Snakemake waits here until the checkpoint has run. What it made stays."""
    return checkpoints.index.get().output.scans


def code(stage):
    """Hash of the stage's code, for params; a job's own process asks when it plans, and reads its own stage alone."""
    if workflow.is_main_process:
        # A function would be called for each of many thousand jobs.
        return code_hash(stage)

    def hashed(wildcards):
        return code_hash(stage)

    return hashed


def grows(base):
    """Memory (MB) or time (minutes) of a first attempt; where a profile sets `retries`, each further one asks for more."""

    def amount(wildcards, attempt):
        return base * attempt

    return amount


PLAN = Plan(config, indexed, walk=workflow.is_main_process)
settings = PLAN.settings
