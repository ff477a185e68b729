"""The demo as a user runs it: raw images to the report, planted effects found, permuted labels not, nothing run twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lcm.config import read_study
from lcm.doctor.census import take_census
from lcm.doctor.jobs import Expected, expected_jobs
from lcm.doctor.space import estimate, volumes_of
from lcm.evaluation.moments import pooled
from lcm.probe_tables import read_moments
from lcm.result_tables import SCORES
from lcm.tables import BEI, FOLDS, OUTCOMES, read_tsv, write_tsv

from .conftest import OFFLINE, REPOSITORY, SmallStudy

CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))


def _snakemake(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "2"]
    command += ["--workflow-profile", str(REPOSITORY / "profiles/default"), "--directory", str(folder), "--nocolor"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | OFFLINE | {"PATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of one whole run of the shipped configuration."""
    folder = tmp_path_factory.mktemp("demo")
    run = _snakemake(folder)
    logs = "\n".join(f"{p}: {p.read_text()[-400:]}" for p in (folder / "logs").rglob("*.log"))
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:] + logs
    return folder / "results"


def _score(demo: Path, model: str, task: str, metric: str) -> float:
    keys = ["protocol", "subset", "model", "task", "cohort", "metric"]
    scores = read_tsv(demo / "report" / "benchmark.tsv", SCORES).set_index(keys)
    return float(scores.loc[("honest", "all", model, task, "all", metric), "value"])


def test_a_second_run_does_nothing_and_says_so(demo: Path):
    run = _snakemake(demo.parent)
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout + run.stderr


def test_every_scan_has_one_outcome_and_the_short_run_is_excluded(demo: Path):
    counts = read_tsv(demo / "report" / "outcomes.tsv", OUTCOMES)
    assert counts["count"].sum() == len((demo / "index" / "scans.tsv").read_text().splitlines()) - 1
    not_ok = counts[counts["outcome"] != "ok"]
    assert not_ok["outcome"].tolist() == ["excluded: fewer than 30 volumes kept"]
    assert set(counts["dataset"]) == set(CONFIG["datasets"])
    study = SmallStudy(demo.parent)
    verdict = study.lcm("report", "--verdict", "--output", "results/report")
    assert verdict.returncode == 0
    assert verdict.stdout.endswith("\nresults/report/index.html\n")


@pytest.mark.parametrize("model", ["ridge", "lcm-scratch", "lcm"])
def test_the_planted_effects_are_found(demo: Path, model: str):
    for task, least in {"sex": 0.85, "autism": 0.7, "parkinsons": 0.7}.items():
        assert _score(demo, model, task, "auroc") > least, task
    assert _score(demo, "majority", "sex", "auroc") == 0.5


def test_a_disease_that_pretraining_never_saw_is_found_from_scratch(demo: Path):
    assert _score(demo, "ridge", "schizophrenia", "auroc") > 0.7
    assert _score(demo, "lcm-scratch", "schizophrenia", "auroc") > 0.6


def test_brainlm_fills_in_hidden_frames_of_people_it_never_saw_better_than_mean_and_line(demo: Path):
    sums = read_moments(demo / "probe" / "honest" / "brainlm" / "reconstruction.parquet")
    held_out = sums[(sums["part"] == "held-out") & (sums["mask_ratio"] == 0.75)]
    found = {method: pooled(rows).r2 for method, rows in held_out.groupby("method")}
    assert found["network"] > 0.01
    assert found["network"] > max(found["mean"], found["interpolation"])
    assert held_out["person_id"].nunique() > 200


def test_forecasters_are_asked_about_the_same_frames(demo: Path):
    names = ("persistence", "ar1", "brainlm")
    tables = {
        name: pd.concat(
            read_moments(path) for path in sorted((demo / "forecast" / "honest" / name).glob("*/*.parquet"))
        )
        for name in names
    }
    asked = {name: table[table["method"] == "network"] for name, table in tables.items()}
    assert len({(table["num_points"].sum(), round(table["sum_target2"].sum(), 3)) for table in asked.values()}) == 1
    r2 = {name: pooled(table).r2 for name, table in asked.items()}
    assert r2["ar1"] > r2["persistence"]
    assert r2["brainlm"] > r2["persistence"]


def test_age_is_found_across_cohorts(demo: Path):
    assert _score(demo, "ridge", "age", "r") > 0.5


def test_permuted_labels_are_not_found(demo: Path, tmp_path: Path):
    """The same folds, connectomes and code, with sex dealt anew among people: nothing may be left to find."""
    bei = read_tsv(demo / "harmonize" / "bei.tsv", BEI)
    people = bei.drop_duplicates("person_id").set_index("person_id")["sex"]
    dealt = pd.Series(np.random.default_rng(0).permutation(people.to_numpy()), index=people.index)
    write_tsv(bei.assign(sex=bei["person_id"].map(dealt)), tmp_path / "bei.tsv", BEI)
    tables = ["--bei", str(tmp_path / "bei.tsv"), "--folds", str(demo / "split" / "honest" / "folds.tsv")]
    tables += ["--scans", str(demo / "index" / "scans.tsv"), "--connectomes", str(demo / "correlate" / "9P")]
    task = ["--model", "ridge", "--task", "sex", "--definition", json.dumps(CONFIG["tasks"]["sex"])]
    study = SmallStudy(tmp_path)
    for fold in range(CONFIG["split"]["num_folds"]):
        more = ["--model-definition", json.dumps(CONFIG["models"]["ridge"]), "--fold", str(fold)]
        run = study.lcm("finetune", *task, *more, *tables, "--output", f"weights/fold-{fold}")
        assert run.returncode == 0, run.stderr
    rule = [
        "--protocol",
        "honest",
        "--select",
        "validation",
        "--model-definition",
        json.dumps(CONFIG["models"]["ridge"]),
    ]
    run = study.lcm("evaluate", *rule, *task, *tables, "--weights", "weights", "--output", "scores")
    assert run.returncode == 0, run.stderr
    scores = read_tsv(tmp_path / "scores" / "scores.tsv", SCORES)
    of_all = scores[(scores["subset"] == "all") & (scores["cohort"] == "all")].set_index("metric")["value"]
    # 296 people: a chance AUROC has a standard error of 0.034
    assert 0.4 < of_all["auroc"] < 0.6
    assert of_all["permutation_p"] > 0.05


def test_the_known_motion_is_found(demo: Path):
    """Framewise displacement of every raw run against its simulated trace."""
    traces = sorted((demo / "simulate" / "HCPA" / "motion").glob("*_motion.tsv"))
    assert len(traces) >= 3
    for trace in traces:
        scan = trace.name.removesuffix("_motion.tsv")
        confounds = next((demo / "preprocess" / "HCPA").rglob(f"{scan}_desc-confounds_timeseries.tsv"))
        estimated = pd.read_csv(confounds, sep="\t", na_values="n/a")["framewise_displacement"].to_numpy()[1:]
        motion = pd.read_csv(trace, sep="\t")[["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]].to_numpy()
        true = np.abs(np.diff(motion, axis=0) * [1, 1, 1, 50, 50, 50]).sum(axis=1)
        assert np.corrcoef(true, estimated)[0, 1] > 0.95


def test_no_person_is_in_two_folds(demo: Path):
    folds = read_tsv(demo / "split" / "honest" / "folds.tsv", FOLDS)
    assert (folds[folds["role"] == "test"]["person_id"].value_counts() == 1).all()
    bei = read_tsv(demo / "harmonize" / "bei.tsv", BEI)
    assert set(folds["person_id"]) == set(bei["person_id"])


def test_the_page_is_self_contained_and_names_no_one(demo: Path):
    page = (demo / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"sub-[A-Za-z]*\d", page)
    for heading in ("Benchmark", "Cohort flow", "Outcomes", "Quality", "Methods"):
        assert heading in page
    assert page.count("Registration, scan") >= 3
    assert page.count("<b>Carpet plot.</b>") == 2


def test_the_doctor_had_said_how_many_jobs_bytes_and_files(demo: Path, monkeypatch: pytest.MonkeyPatch):
    study, logs = read_study(CONFIG), demo.parent / "logs"
    monkeypatch.chdir(logs)
    # Where no results lie, names and settings are all there is.
    census = take_census(study, Path("results/index/scans.tsv"))
    plan = Expected(CONFIG, census)
    jobs = expected_jobs(plan)
    assert {stage: len(list((logs / stage).rglob("*.log"))) for stage in jobs} == jobs
    sizes = estimate(plan, jobs, census, volumes_of(study, census, {}))
    files = {stage: [path for path in (demo / stage).rglob("*") if path.is_file()] for stage in jobs}
    real = {stage: sum(path.stat().st_size for path in paths) for stage, paths in files.items()}
    for stage in [stage for stage in jobs if real[stage] > 3_000_000]:
        assert 0.5 < sizes[stage].num_bytes / real[stage] < 2, stage
    folders = [path for name in ("logs", ".snakemake") for path in (demo.parent / name).rglob("*") if path.is_file()]
    count = sum(map(len, files.values())) + len(folders)
    assert 0.5 < sum(one.num_bytes for one in sizes.values()) / sum(real.values()) < 2
    assert 0.5 < sum(one.num_files for one in sizes.values()) / count < 2
