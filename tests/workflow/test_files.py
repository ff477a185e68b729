"""How many files a study makes: counted by batch on a small one, which is all that grows with the number of scans."""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd

from lcm.config import Index
from lcm.imaging.index import assign_batches

from .conftest import SmallStudy

BUDGET_A_SCAN = 0.2
NUM_SCANS = 10_000


def made(folder: Path) -> list[str]:
    """Every file that a study and Snakemake leave, named after the output where it is Snakemake's note of one."""
    places = [
        path for name in ("results", "logs", ".snakemake") for path in (folder / name).rglob("*") if path.is_file()
    ]
    return [
        base64.b64decode(path.name, validate=True).decode()
        if "metadata" in path.parts
        else str(path.relative_to(folder))
        for path in places
    ]


def of_batch(paths: list[str], batch: str) -> int:
    """Files of one batch of the dataset LAB, in whatever stage."""
    return sum(f"/LAB/{batch}." in path for path in paths)


def test_ten_thousand_scans_make_a_file_for_every_five_at_most(derivative_study: SmallStudy):
    derivative_study.config |= {"tasks": {}, "models": {}}
    derivative_study.config["index"]["batch_size"] = 4
    run = derivative_study.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    paths = made(derivative_study.folder)
    batches = [path.stem for path in (derivative_study.folder / "results/index/batches/LAB").glob("*.tsv")]
    counts = {of_batch(paths, batch) for batch in batches}
    # The batch's own table; of parcellate, denoise and correlate a table, a record, a log, a benchmark and a note each.
    assert counts == {1 + 3 * 5}
    fixed = len(paths) - sum(of_batch(paths, batch) for batch in batches)
    labels = pd.Series([f"sub-{number:05d}" for number in range(NUM_SCANS)])
    num_batches = assign_batches(labels, Index().batch_size).nunique()
    assert num_batches == 64
    # A scan of its own makes none: neither the index nor a stage writes one file a person.
    assert (fixed + num_batches * 16) / NUM_SCANS <= BUDGET_A_SCAN
    assert not [path for path in paths if "sub-" in path]
