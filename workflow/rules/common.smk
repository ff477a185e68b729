"""What rules share: the checked configuration, a stage's settings and code hash, and who is in which batch."""

import csv
import functools
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from lcm.config import read_study
from lcm.provenance import code_hash as code

STUDY = read_study(config)


wildcard_constraints:
    dataset="[A-Za-z0-9-]+",
    batch="[0-9]+",
    participant="sub-[A-Za-z0-9+]+",
    model="[A-Za-z0-9-]+",
    task="[A-Za-z0-9-]+",
    fold="[0-9]+",


def settings(stage):
    """A stage's section of the configuration, as JSON."""
    return getattr(STUDY, stage).model_dump_json()


def block(name):
    """A what-to-make block (datasets, tasks, models), as JSON."""
    return STUDY.block_json(name)


def definition(name, entry):
    """One entry of a what-to-make block, as JSON."""
    return getattr(STUDY, name)[entry].model_dump_json()


@functools.cache
def scan_rows(path, modified):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def scans():
    """Rows of the index; Snakemake waits for the checkpoint when it is not there yet."""
    path = Path(checkpoints.index.get().output.scans)
    return scan_rows(path, path.stat().st_mtime_ns)


def batches(stage):
    """Every batch's table of a stage."""
    names = sorted({(row["dataset"], row["batch"]) for row in scans()})
    return [f"results/{stage}/{dataset}/{batch}.arrow" for dataset, batch in names]
