"""The doctor counts the jobs that Snakemake's dry run announces, without an index and without Snakemake."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lcm.config import read_study
from lcm.doctor.census import take_census
from lcm.doctor.jobs import Expected, expected_jobs
from lcm.tables import SCANS, write_tsv

from .conftest import REPOSITORY, SmallStudy, write_image

BEFORE = ("simulate", "index")
"""What a dry run does not announce once its results lie there."""


def _expected(study: SmallStudy) -> dict[str, int]:
    census = take_census(read_study(study.config), Path("results/index/scans.tsv"))
    jobs = expected_jobs(Expected(study.config, census))
    return {stage: count for stage, count in jobs.items() if stage not in BEFORE}


def _announced(study: SmallStudy) -> dict[str, int]:
    return {stage: count for stage, count in study.planned().items() if stage not in ("all", "total")}


def test_jobs_of_raw_and_ready_data_are_those_of_a_dry_run(small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch):
    folder, config = small_study.folder, small_study.config
    monkeypatch.chdir(folder)
    for number in range(9):
        person = f"sub-{number}"
        write_image(folder / f"bids/{person}/func/{person}_task-rest_bold.nii.gz", num_volumes=30, tr_s=2.0)
        series = folder / f"series/NYU_{50000 + number:07d}_rois_aal.1D"
        series.parent.mkdir(exist_ok=True)
        series.write_text("0 1\n")
    ready = {"path": "series", "input": "series", "cohort": "generic", "pattern": "*.1D", "tr_s": 2.0, "denoised": True}
    config["datasets"]["READY"] = ready
    config["index"]["batch_size"] = 2
    config["strategies"] = ["9P", "24P"]
    config["export"] = {"datasets": ["LAB"], "strategies": ["9P", "24P"]}
    config["protocols"]["loose"] = {"select": "test", "models": ["ridge"]}
    size = {"num_frames": 20, "width": 8}
    config["models"]["brainlm"] = {"architecture": "brainlm", "start": "pretrained", "size": size, "tasks": []}
    config["models"]["lcm"] = {"architecture": "lcm", "start": "pretrained", "size": {"width": 8, "num_layers": 1}}
    config["predict"] = {"bundles": {"one": "results/finetune/honest/lcm/sex/fold-0"}, "datasets": ["READY"]}
    expected = _expected(small_study)
    assert {"preprocess", "parcellate", "export", "pretrain", "predict"} <= expected.keys()
    run = small_study.index()
    assert run.returncode == 0, run.stderr
    assert _announced(small_study) == expected


def test_jobs_of_the_demo_are_those_of_a_dry_run(small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(small_study.folder)
    small_study.config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    study = read_study(small_study.config)
    expected = _expected(small_study)
    # As if simulated and indexed: the images' names are enough for a plan.
    census = take_census(study, Path("results/index/scans.tsv"))
    truth = Path("results/simulate/truth.json")
    truth.parent.mkdir(parents=True)
    truth.write_text(json.dumps({}))
    scans = pd.DataFrame(census.rows).reindex(columns=list(SCANS.columns)).assign(fingerprint="x")
    scans["bold"] = [f"{row.dataset}-{row.scan}.nii.gz" for row in scans.itertuples()]
    scans["num_volumes"] = scans["num_volumes"].astype(int)
    for path in scans["bold"]:
        Path(path).touch()
    for dataset in study.datasets.values():
        Path(str(dataset.phenotypes)).mkdir(parents=True)
    for (dataset, batch), rows in scans.groupby(["dataset", "batch"]):
        write_tsv(rows, Path(f"results/index/batches/{dataset}/{batch}.tsv"), SCANS)
    write_tsv(scans, Path("results/index/scans.tsv"), SCANS)
    assert _announced(small_study) == expected
