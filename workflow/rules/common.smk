"""What rules share: the plan of the study, which knows every input, the hash of a stage's code, and room that grows."""

import sys

sys.path.insert(0, workflow.basedir)

from lcm.plan import Plan
from lcm.provenance import code_hash as code


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


def indexed():
    """Path of the scans table; Snakemake waits here for the checkpoint when it has not run yet."""
    return checkpoints.index.get().output.scans


def grows(base):
    """Memory (MB) or time (minutes) of a first attempt; where a profile sets `retries`, each further one asks for more."""

    def amount(wildcards, attempt):
        return base * attempt

    return amount


PLAN = Plan(config, indexed, walk=workflow.is_main_process)
settings = PLAN.settings
