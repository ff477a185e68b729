"""Work is counted, not timed: opened files and listed folders grow with the scans, and jobs with the batches alone."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from benchmarks.scale import Row, exponent, jobs_beyond_preprocess, with_needed
from benchmarks.scale_study import DATASET, Linker, datasets, derivatives, raw, sources
from lcm.config import Dataset, Index
from lcm.imaging.index import assign_batches, index
from lcm.plan import Plan
from lcm.tables import SCANS, write_tsv

from .conftest import REPOSITORY, SmallStudy

MOST_JOBS = 1000
"""Of a study of 10,000 scans, without those of preprocess."""
_LOOKS = ("open", "os.scandir", "os.listdir")
_watched: list[tuple[str, Counter[str]]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    for root, seen in _watched:
        if event in _LOOKS and str(arguments[0]).startswith(root):
            seen[f"{event} {arguments[0]}"] += 1


@pytest.fixture(scope="module")
def auditing() -> None:
    # An audit hook stays as long as the process; without a watched folder it does nothing.
    sys.addaudithook(_note)


class Looks:
    """What is opened and listed below a folder while the block runs, and how often."""

    def __init__(self, root: Path) -> None:
        self.entry = (str(root), Counter[str]())

    def __enter__(self) -> Counter[str]:
        _watched.append(self.entry)
        return self.entry[1]

    def __exit__(self, *_: object) -> None:
        _watched.remove(self.entry)


def _people(count: int) -> list[str]:
    return [f"sub-{number:06d}" for number in range(count)]


def _looks_of_index(folder: Path, kind: str, num_people: int) -> Counter[str]:
    folder.mkdir()
    plant = raw if kind == "bids" else derivatives
    plant(folder / kind, _people(num_people), sources(folder / "sources"), Linker(folder / "linked"))
    dataset = Dataset.model_validate(datasets(kind)[DATASET] | {"path": str(folder / kind), "phenotypes": None})
    with Looks(folder / kind) as seen:
        scans = index({DATASET: dataset}, Index())
    assert list(scans["outcome"]) == ["ok"] * num_people
    return seen


@pytest.mark.usefixtures("auditing")
@pytest.mark.parametrize("kind", ["bids", "fmriprep"])
def test_index_opens_and_lists_as_often_a_person_however_many_there_are(tmp_path: Path, kind: str):
    sizes = (10, 20, 160)
    few, some, many = (sum(_looks_of_index(tmp_path / str(size), kind, size).values()) for size in sizes)
    a_person = (some - few) / 10
    assert a_person > 0
    assert many - some == a_person * 140


@pytest.mark.usefixtures("auditing")
def test_index_opens_no_sidecar_twice(tmp_path: Path):
    seen = _looks_of_index(tmp_path / "study", "bids", 30)
    sidecars = {look: times for look, times in seen.items() if look.endswith("_bold.json")}
    assert len(sidecars) == 30
    assert set(sidecars.values()) == {1}


def _write_index(folder: Path, num_people: int, num_batches: int, kind: str = "derivatives") -> None:
    planted: dict[str, Any] = {
        "dataset": DATASET,
        "batch": [f"{number % num_batches:04d}" for number in range(num_people)],
        "participant_id": _people(num_people),
        "scan": [f"{person}_task-rest" for person in _people(num_people)],
        "input": kind,
        "task": "rest",
        "fingerprint": "planted",
        "outcome": "ok",
    }
    scans = pd.DataFrame({name: planted.get(name) for name in SCANS.columns}, index=range(num_people))
    for batch, rows in scans.groupby("batch"):
        write_tsv(rows, folder / "batches" / DATASET / f"{batch}.tsv", SCANS)
    write_tsv(scans, folder / "scans.tsv", SCANS)


@pytest.mark.usefixtures("auditing")
def test_a_jobs_process_reads_the_index_once_and_never_looks_at_the_data(small_study: SmallStudy, monkeypatch):
    monkeypatch.chdir(small_study.folder)
    (small_study.folder / "bids").mkdir()
    _write_index(small_study.folder / "results/index", 300, 4, "bids")
    with Looks(Path("results/index")) as of_index, Looks(Path("bids")) as of_data:
        plan = Plan(small_study.config | {"datasets": {DATASET: small_study.config["datasets"]["LAB"]}},
                    lambda: "results/index/scans.tsv", walk=False)  # fmt: skip
        for person in _people(300):
            plan.raw_timing(SimpleNamespace(dataset=DATASET, participant=person))
        for batch in range(4):
            made = plan.preprocessed(SimpleNamespace(dataset=DATASET, batch=f"{batch:04d}"))
            assert len(made) == 75
    assert of_index == {"open results/index/scans.tsv": 1}
    assert not of_data


def test_ten_thousand_scans_are_at_most_a_thousand_jobs_beyond_preprocess(small_study: SmallStudy):
    """Two dry runs give the jobs a batch and those of no batch; `assign_batches` says how many batches there would be."""
    demo = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    for task in demo["tasks"].values():
        task["cohorts"] = []
    dataset = {"path": "fmriprep", "input": "derivatives", "cohort": "generic"}
    small_study.config = demo | {"datasets": {DATASET: dataset}, "simulate": None, "export": None}
    (small_study.folder / "fmriprep").mkdir()
    found = []
    for num_batches in (2, 4):
        _write_index(small_study.folder / "results/index", 8, num_batches)
        found.append(small_study.planned()["total"])
    a_batch = (found[1] - found[0]) // 2
    assert a_batch > 3
    num_batches = assign_batches(pd.Series(_people(10_000)), Index().batch_size).nunique()
    assert found[0] + (num_batches - 2) * a_batch <= MOST_JOBS


def test_a_batch_that_is_asked_for_plans_its_own_participants_and_no_other(small_study: SmallStudy):
    """How docs/scale.md takes a study of raw images in parts."""
    small_study.config["datasets"][DATASET]["phenotypes"] = None
    (small_study.folder / "bids").mkdir()
    _write_index(small_study.folder / "results/index", 8, 4, "bids")
    planned = small_study.planned(f"results/parcellate/{DATASET}/0002.arrow")
    assert planned == {"preprocess": 2, "parcellate": 1, "total": 3}


# ── the benchmark's own arithmetic ──────────────────────────────────────────────────────────────


def _rows(cpu_s_of: dict[int, float]) -> list[Row]:
    return [Row("any", scans, seconds=99.0, cpu_s=cpu_s, peak_mb=1.0) for scans, cpu_s in cpu_s_of.items()]


@pytest.mark.parametrize("power", [1.0, 1.3, 2.0])
def test_the_exponent_is_that_of_the_growth_whatever_the_start_costs(power: float):
    grown = {scans: 7.0 + 0.01 * (scans - 20) ** power for scans in (20, 120, 1020, 10_020)}
    assert exponent(_rows(grown)) == pytest.approx(power)


def test_start_up_alone_has_no_exponent():
    assert exponent(_rows({20: 3.0, 100: 3.1, 1000: 3.05})) is None


def test_jobs_beyond_preprocess_are_the_dry_runs_total_without_its_own():
    text = "job           count\n----------  -------\npreprocess    10000\nsplit             2\ntotal         10002\n"
    assert jobs_beyond_preprocess(text) == 2


def test_a_stage_brings_those_whose_files_it_reads_in_running_order():
    assert with_needed(["evaluate"]) == ["harmonize", "split", "finetune", "evaluate"]
