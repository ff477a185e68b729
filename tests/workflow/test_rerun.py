"""What runs again: exactly the jobs behind a changed setting, file, task or line of code, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from . import conftest
from .conftest import SmallStudy, write_derivatives

AFTER_DENOISE = {"denoise": 1, "correlate": 1, "finetune": 4, "evaluate": 2, "report": 1}


def _finish(study: SmallStudy) -> subprocess.CompletedProcess[str]:
    run = study.snakemake()
    logs = "\n".join(p.read_text() for p in (study.folder / "logs").rglob("*.log"))
    assert run.returncode == 0, run.stdout + run.stderr + logs
    return run


def _planned(study: SmallStudy) -> dict[str, int]:
    return {stage: count for stage, count in study.planned().items() if stage not in ("all", "total")}


def _jobs(study: SmallStudy, *arguments: str) -> set[str]:
    """First outputs of the jobs that a run, or a dry run, tells of."""
    # Blocks of rules are what is read here, whatever the profile says.
    run = study.snakemake(*arguments, "--quiet", "host")
    assert run.returncode == 0, run.stdout + run.stderr
    return {
        place.removeprefix("results/")
        for place in re.findall(r"^    output: ([^,\s]+)", run.stdout + run.stderr, re.MULTILINE)
    }


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the program that a test may edit."""
    copy = tmp_path / "program"
    for name in ("lcm", "workflow", "envs"):
        shutil.copytree(conftest.REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(conftest.REPOSITORY / "Snakefile", copy)
    monkeypatch.setattr(conftest, "REPOSITORY", copy)
    return copy


def test_exactly_what_depends_on_a_change_runs_again(derivative_study: SmallStudy, program: Path):
    study = derivative_study
    _finish(study)
    assert "Nothing to be done" in (run := study.snakemake()).stdout + run.stderr

    room = program / "lcm" / "imaging"
    _edit(room / "denoise.py", "def denoise(", "# A comment changes nothing.\ndef denoise(")
    assert _planned(study) == {}
    _edit(room / "strategy.py", "class Confounds:", "SPIKE_MM = 1.0\n\n\nclass Confounds:")
    expected = AFTER_DENOISE | {"index": 1, "preprocess": 0, "parcellate": 0}
    assert _planned(study) == {s: n for s, n in expected.items() if n and s != "index"}
    _edit(room / "strategy.py", "SPIKE_MM = 1.0\n\n\n", "")
    assert _planned(study) == {}

    strategy = room / "confounds" / "9P.yaml"
    _edit(strategy, "description:", "# another file\ndescription:")
    assert _planned(study) == AFTER_DENOISE
    _edit(strategy, "# another file\n", "")
    _edit(program / "lcm/training/finetune.py", "import annotations\n", "import annotations\n\n_CHANGED = 1\n")
    assert _planned(study) == {"finetune": 4, "evaluate": 2, "report": 1}
    _edit(program / "lcm/training/finetune.py", "\n_CHANGED = 1\n", "")
    _edit(program / "lcm/evaluation/quality_page.py", "import annotations\n", "import annotations\n\n_CHANGED = 1\n")
    assert _planned(study) == {"report": 1}
    _edit(program / "lcm/evaluation/quality_page.py", "\n_CHANGED = 1\n", "")

    study.config["correlate"]["min_volumes"] = 31
    assert _planned(study) == {s: n for s, n in AFTER_DENOISE.items() if s != "denoise"}
    study.config["correlate"]["min_volumes"] = 30
    study.config["strategies"].append("2P")
    assert _planned(study) == {"denoise": 1, "correlate": 1, "report": 1}
    study.config["strategies"].pop()
    study.config["evaluate"]["num_bootstraps"] = 200
    assert _planned(study) == {"evaluate": 2, "report": 1}
    study.config["evaluate"]["num_bootstraps"] = 1000
    study.config["tasks"]["autism"] = {"target": "autism", "levels": ["control", "autism"]}
    learnt = {f"finetune/honest/{model}/autism/fold-{fold}" for model in ("majority", "ridge") for fold in range(2)}
    asked = {f"evaluate/honest/{model}/autism/predictions.parquet" for model in ("majority", "ridge")}
    assert _jobs(study, "--dry-run") == learnt | asked | {"report/index.html"}
    del study.config["tasks"]["autism"]
    study.config["protocols"]["paper"] = {"split": {"design": "kfold"}, "select": "test", "models": ["ridge"]}
    assert _planned(study) == {"split": 1, "finetune": 2, "evaluate": 1, "report": 1}

    # Snakemake's own report holds the page and the tables.
    study.config["protocols"].pop("paper")
    assert (run := study.snakemake("--report", "study.html")).returncode == 0, run.stderr
    text = (study.folder / "study.html").read_text(encoding="utf-8")
    assert all(name in text for name in ("report/index.html", "benchmark.tsv", "comparisons.tsv", "every number"))


def test_a_new_participant_enters_without_touching_the_other_batches(derivative_study: SmallStudy):
    study = derivative_study
    study.config["index"]["batch_size"] = 4
    _finish(study)
    tables = sorted((study.folder / "results/parcellate/LAB").glob("*.arrow"))
    before = {path.name: path.stat().st_mtime_ns for path in tables}
    assert len(before) == 4
    people = {f"p{i:02d}": ("female", "male")[i % 2] for i in range(13)}
    write_derivatives(study.folder / "new", people)
    shutil.copytree(study.folder / "new" / "sub-p12", study.folder / "fmriprep" / "sub-p12")
    shutil.copy(study.folder / "new" / "participants.tsv", study.folder / "fmriprep")
    jobs = _jobs(study)
    after = {path.name: path.stat().st_mtime_ns for path in tables}
    changed = [name for name in before if before[name] != after[name]]
    assert len(changed) == 1
    batch = changed[0]
    # Imaging: the newcomer's batch. Behind it everything, for people and folds are others.
    expected = {"index/scans.tsv", "harmonize/bei.tsv", "split/honest/folds.tsv", "report/index.html"}
    expected |= {f"{stage}/LAB/{batch}" for stage in ("parcellate", "denoise/9P", "correlate/9P")}
    for model in ("majority", "ridge"):
        expected.add(f"evaluate/honest/{model}/sex/predictions.parquet")
        expected |= {f"finetune/honest/{model}/sex/fold-{fold}" for fold in range(2)}
    assert jobs == expected
    # and in its batch only the newcomer's image is read
    log = (study.folder / "logs/parcellate/LAB" / changed[0].replace(".arrow", ".log")).read_text()
    reused, scans_of_batch = map(int, re.search(r"(\d+) of (\d+) scans reused", log).groups())
    assert reused == scans_of_batch - 1 > 0
    scans = (study.folder / "results/index/scans.tsv").read_text()
    assert "sub-p12" in scans

    # A file that changes no row repeats the index and nothing behind it.
    (study.folder / "fmriprep" / "notes.txt").write_text("a stray file")
    assert _jobs(study) == {"index/scans.tsv"}


def test_a_study_without_tasks_ends_in_connectomes_and_a_quality_report(derivative_study: SmallStudy):
    derivative_study.config |= {"tasks": {}, "models": {}}
    _finish(derivative_study)
    page = (derivative_study.folder / "results/report/index.html").read_text(encoding="utf-8")
    assert "Mean connectome" in page
    assert not (derivative_study.folder / "results/finetune").exists()


def test_a_task_without_a_labelled_person_is_reported_as_not_run(derivative_study: SmallStudy):
    derivative_study.config["tasks"] = {"autism": {"target": "autism", "levels": ["control", "autism"]}}
    _finish(derivative_study)
    page = (derivative_study.folder / "results/report/index.html").read_text(encoding="utf-8")
    assert "autism was not run for" in page
