"""The preflight: each check is silent where all is well and speaks where a defect was planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from lcm.__main__ import main as lcm
from lcm.config import Study, read_study
from lcm.doctor import census as doctor_census
from lcm.doctor import doctor
from lcm.doctor import machine as doctor_machine
from lcm.doctor import space as doctor_space
from lcm.doctor.census import Census, take_census
from lcm.doctor.findings import Finding, duration, guarded, size
from lcm.doctor.inputs import phenotype_findings, template_findings
from lcm.doctor.jobs import TYPICAL, Expected, StageCost, expected_jobs, stage_costs, time_findings, wall_seconds
from lcm.doctor.machine import asked_by_rules, gpu_findings, machine_findings, memory_mb
from lcm.doctor.scheduler import Profile, read_profile, scheduler_findings
from lcm.doctor.space import (
    Size,
    estimate,
    file_system,
    folder_findings,
    people_preprocessed,
    scratch_findings,
    space_findings,
)
from lcm.imaging.index import assign_batches, index
from tests.conftest import REPOSITORY
from tests.workflow.conftest import write_derivatives, write_image

Fake = Callable[..., None]
JOBS = {"preprocess": 3, "finetune": 6}
MEMORY, MINUTES = {"preprocess": 4000, "finetune": 8000}, {"preprocess": 240, "finetune": 240}


def _config(**datasets: dict[str, Any]) -> dict[str, Any]:
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"] = datasets
    config["tasks"] = {"sex": {"target": "sex", "levels": ["female", "male"]}}
    config["models"] = {name: {"architecture": name} for name in ("majority", "ridge")}
    config["protocols"], config["forecasters"], config["strategies"] = {"honest": {}}, {}, ["9P"]
    config["simulate"] = config["export"] = config["probe"] = config["forecast"] = None
    config["split"]["num_folds"] = 2
    return config


RAW = {"path": "bids", "input": "bids", "cohort": "generic"}


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three people, four runs of 90 volumes and one echo of a multi-echo run in bids/."""
    for person, task in (("x01", "rest"), ("x01", "nback"), ("x02", "rest"), ("x03", "rest")):
        write_image(tmp_path / f"bids/sub-{person}/func/sub-{person}_task-{task}_bold.nii.gz", num_volumes=90, tr_s=2.0)
    write_image(tmp_path / "bids/sub-x03/func/sub-x03_task-odd_echo-1_bold.nii.gz", num_volumes=90, tr_s=2.0)
    write_image(tmp_path / "bids/sub-x01/anat/sub-x01_T1w.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Programs that print a text; with the first of them, PATH holds no others."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, text: str = "", status: int = 0) -> None:
        script = folder / name
        lines = "".join(f"echo '{line}'\n" for line in text.splitlines())
        script.write_text(f"#!/bin/sh\n{lines}exit {status}\n")
        script.chmod(0o755)

    return write


def _study(config: dict[str, Any]) -> Study:
    return read_study(config)


def _census(config: dict[str, Any]) -> Census:
    return take_census(_study(config), Path("results/index/scans.tsv"))


def _levels(findings: Any) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


def _words(findings: Any) -> str:
    return "\n".join(f"{finding.says} {finding.do}" for finding in findings)


# ── findings ────────────────────────────────────────────────────────────────────────────────────


def test_a_check_that_breaks_becomes_a_warning_and_others_go_on():
    def broken() -> list[Finding]:
        raise RuntimeError("odd machine")

    (found,) = guarded("clock", broken)
    assert (found.level, found.subject) == ("warn", "clock")
    assert "odd machine" in found.says
    assert guarded("clock", list) == []


def test_an_error_of_a_file_is_told_without_its_name(raw: Path, monkeypatch: pytest.MonkeyPatch):
    refused = PermissionError(13, "Permission denied", "bids/sub-x01/func")

    def refuse(*_: object, onerror: Callable[[OSError], None]) -> None:
        onerror(refused)

    def broken() -> list[Finding]:
        raise refused

    monkeypatch.setattr(doctor_census.os, "walk", refuse)
    for text in (guarded("dataset", broken)[0].says, _census(_config(LAB=RAW)).problems["LAB"]):
        assert "Permission denied" in text
        assert "x01" not in text


def test_numbers_are_told_as_people_read_them():
    assert [size(amount) for amount in (12, 1500, 2.5e9, 3e12, 4e15)] == [
        "12 B",
        "1.5 kB",
        "2.5 GB",
        "3 TB",
        "4e+03 TB",
    ]
    assert [duration(seconds) for seconds in (90, 600, 9000)] == ["90 s", "10 min", "2.5 h"]


# ── census ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["bids", "derivatives", "series"])
def test_names_tell_the_runs_people_and_batches_that_the_index_finds(raw: Path, kind: str):
    datasets = {"bids": RAW, "derivatives": RAW | {"path": "prep", "input": "derivatives"}}
    datasets["series"] = RAW | {"path": "series", "input": "series", "pattern": "*_rois_aal.1D", "tr_s": 2.0}
    write_derivatives(raw / "prep", {f"p{i}": "male" for i in range(5)}, num_volumes=3)
    (raw / "series").mkdir()
    for number in range(7):
        (raw / f"series/NYU_{50000 + number:07d}_rois_aal.1D").write_text("0 1\n")
    config = _config(LAB=datasets[kind])
    config["index"]["batch_size"] = 2
    table = index(_study(config).datasets, _study(config).index)
    expected = table[table["outcome"] == "ok"][["participant_id", "scan", "batch"]]
    found = [(row["participant_id"], row["scan"], row["batch"]) for row in _census(config).usable()]
    assert sorted(found) == sorted(expected.itertuples(index=False, name=None))
    assert len({batch for _, _, batch in found}) > 1


def test_folders_of_other_pipelines_are_counted_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for person, run in (("100307", "rfMRI_REST1_LR"), ("100307", "rfMRI_REST1_RL"), ("100408", "rfMRI_REST")):
        write_image(tmp_path / f"hcp/{person}/MNINonLinear/Results/{run}/{run}.nii.gz", num_volumes=2)
    write_image(tmp_path / "ukb/1234567/fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz", num_volumes=2)
    (tmp_path / "ukb/7654321/fMRI/tfMRI.feat").mkdir(parents=True)
    census = _census(_config(HCP=RAW | {"path": "hcp", "input": "hcp"}, UKB=RAW | {"path": "ukb", "input": "ukb"}))
    assert [row["participant_id"] for row in census.usable("HCP")] == ["sub-100307", "sub-100307"]
    assert [row["participant_id"] for row in census.usable("UKB")] == ["sub-1234567"]
    assert len(census.rows) == 5


def test_an_index_that_is_there_is_taken_and_one_of_other_datasets_is_not(raw: Path):
    scans = raw / "results/index/scans.tsv"
    scans.parent.mkdir(parents=True)
    scans.write_text("dataset\tbatch\tparticipant_id\toutcome\nLAB\t0000\tsub-9\tok\n")
    assert [row["participant_id"] for row in _census(_config(LAB=RAW)).usable()] == ["sub-9"]
    assert len(_census(_config(OTHER=RAW)).usable()) == 4


def test_a_name_that_holds_no_participant_is_told_without_it(raw: Path):
    (raw / "series").mkdir()
    (raw / "series/Jane.1D").touch()
    dataset = RAW | {"path": "series", "input": "series", "pattern": "*.1D", "tr_s": 2.0}
    problem = _census(_config(LAB=dataset)).problems["LAB"]
    assert "no participant in this name" in problem
    assert "Jane" not in problem


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────


def _diagnosis(folder: Path, config: dict[str, Any]) -> dict[str, Finding]:
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    return {finding.subject: finding for finding in doctor.diagnose(folder / "study.yaml", folder).findings}


def test_a_dataset_is_counted_and_opened(raw: Path):
    found = _diagnosis(raw, _config(LAB=RAW))["dataset LAB"]
    assert found == Finding("ok", "dataset LAB", "3 people, 4 runs (names of files)")


def test_runs_that_cannot_be_read_are_told(raw: Path):
    for path in sorted(raw.glob("bids/*/func/*rest_bold.nii.gz"))[:2]:
        path.write_bytes(b"no image")
    found = _diagnosis(raw, _config(LAB=RAW))["dataset LAB"]
    assert found.level == "warn"
    assert "2 of 4 opened cannot be read" in found.says
    assert "x01" not in found.says


def test_a_dataset_of_nothing_but_bad_runs_stops(raw: Path):
    for path in raw.glob("bids/*/func/*_bold.nii.gz"):
        path.write_bytes(b"no image")
    assert _diagnosis(raw, _config(LAB=RAW))["dataset LAB"].level == "stop"


def test_links_without_content_are_counted(raw: Path):
    path = raw / "bids/sub-x02/func/sub-x02_task-rest_bold.nii.gz"
    path.unlink()
    path.symlink_to(raw / ".git/annex/objects/none")
    found = _diagnosis(raw, _config(LAB=RAW))["dataset LAB"]
    assert found.level == "warn"
    assert "1 of them are links without content" in found.says


def test_a_folder_without_runs_or_none_at_all_stops(raw: Path):
    (raw / "empty").mkdir()
    config = _config(LAB=RAW, EMPTY=RAW | {"path": "empty"}, GONE=RAW | {"path": "gone"})
    found = _diagnosis(raw, config)
    assert _levels([found["dataset LAB"], found["dataset EMPTY"], found["dataset GONE"]]) == {
        "dataset LAB": "ok",
        "dataset EMPTY": "stop",
        "dataset GONE": "stop",
    }


def test_phenotype_tables_are_read_as_the_check_does(raw: Path):
    (raw / "bids/participants.tsv").write_text("participant_id\tage\tsex\nsub-x01\t20\tmale\n")
    well = _study(_config(LAB=RAW | {"phenotypes": "bids"}))
    assert _levels(phenotype_findings(well)) == {"phenotypes": "ok"}
    assert _levels(phenotype_findings(_study(_config(LAB=RAW)))) == {"phenotypes": "warn"}
    assert _levels(phenotype_findings(_study(_config(LAB=RAW | {"phenotypes": "gone"})))) == {"phenotypes": "stop"}
    (raw / "bids/participants.tsv").write_text("person\tage\tsex\nsub-x01\t20\tmale\n")
    bad = list(phenotype_findings(well))
    assert _levels(bad) == {"phenotypes": "stop"}
    assert "participant_id" in _words(bad)


def test_a_template_that_is_not_there_stops_a_study_with_raw_images(raw: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(raw / "flow"))
    config = _config(LAB=RAW)
    assert _levels(template_findings(_study(config), _census(config))) == {"template": "ok"}
    config["preprocess"]["template"] = "MNI152NLin6Asym"
    assert _levels(template_findings(_study(config), _census(config))) == {"template": "stop"}
    assert list(template_findings(_study(config), Census([], "nothing raw"))) == []
    config["preprocess"]["download_templates"] = True
    assert _levels(template_findings(_study(config), _census(config))) == {"template": "warn"}


def test_the_container_needs_its_engine_and_a_licence(raw: Path, fake: Fake):
    config = _config(LAB=RAW)
    image = "docker://nipreps/fmriprep:25.2.0@sha256:" + "0" * 64
    config["preprocess"] |= {"backend": "fmriprep", "fmriprep": {"image": image, "licence": "licence.txt"}}
    found = list(template_findings(_study(config), _census(config)))
    assert [finding.level for finding in found] == ["stop", "stop"]
    assert "apptainer" in found[0].says
    assert "licence.txt" in found[1].says
    fake("apptainer")
    (raw / "licence.txt").touch()
    assert _levels(template_findings(_study(config), _census(config))) == {"fMRIPrep": "ok"}


def test_configuration_atlas_and_models_are_looked_at(raw: Path):
    config = _config(LAB=RAW)
    assert {finding.level for finding in _diagnosis(raw, config).values()} <= {"ok", "warn"}
    assert _diagnosis(raw, config | {"index": {"batch": 3}})["configuration"].level == "stop"
    unknown = config | {"tasks": {"sex": {"target": "sexx"}}}
    found = _diagnosis(raw, unknown)
    assert (found["configuration"].level, found["dataset LAB"].level) == ("stop", "ok")
    assert "sexx" in found["configuration"].says
    found = _diagnosis(raw, config | {"parcellate": {"atlas": "gone.nii.gz"}})
    assert (found["atlas"].level, found["dataset LAB"].level) == ("stop", "ok")
    large = {"lcm": {"architecture": "lcm", "size": {"widht": 64}}}
    assert _diagnosis(raw, config | {"models": large, "report": {"reference_model": "lcm"}})["models"].level == "stop"


# ── jobs and time ───────────────────────────────────────────────────────────────────────────────


def test_jobs_of_a_small_study_by_hand(raw: Path):
    config = _config(LAB=RAW)
    plan = Expected(config, _census(config))
    # One batch, one strategy; two models on one task in two folds.
    light = dict.fromkeys(("parcellate", "denoise", "correlate", "harmonize", "split", "report", "index"), 1)
    assert expected_jobs(plan) == {"preprocess": 3, "finetune": 4, "evaluate": 2} | light


def test_costs_are_those_of_an_earlier_run_where_there_was_one(raw: Path):
    config = _config(LAB=RAW)
    census = _census(config)
    plan = Expected(config, census)
    for person, seconds in (("x01", 100), ("x02", 300)):
        log = raw / f"logs/preprocess/LAB/sub-{person}.tsv"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:01:40\t900\n")
    (raw / "logs/finetune").mkdir()
    (raw / "logs/finetune/curves.tsv").write_text("epoch\tloss\n1\t0.5\n")
    costs = {cost.stage: cost for cost in stage_costs(plan, expected_jobs(plan), census, raw / "logs")}
    assert costs["preprocess"] == StageCost("preprocess", 3, 600.0, "measured")
    start_s, scan_s = TYPICAL["finetune"]
    assert costs["finetune"] == StageCost("finetune", 4, 4 * (start_s + 4 * scan_s), "typical")
    said = _words(time_findings(list(costs.values()), 2))
    assert "measured" not in said
    assert "an earlier run" in said


def test_places_are_shared_within_a_stage():
    costs = [StageCost("preprocess", 10, 1000.0, "typical"), StageCost("harmonize", 1, 60.0, "typical")]
    assert wall_seconds(costs, 1) == 1060
    assert wall_seconds(costs, 4) == 250 + 60
    assert wall_seconds(costs, 100) == 100 + 60


# ── space ───────────────────────────────────────────────────────────────────────────────────────


def test_sizes_follow_from_runs_volumes_and_regions(raw: Path):
    config = _config(LAB=RAW) | {"export": {}}
    census = _census(config)
    plan = Expected(config, census)
    jobs = expected_jobs(plan)
    sizes = estimate(plan, jobs, census, {"LAB": 100})
    assert sizes["correlate"] == Size(4 * (116 * 115 / 2 * 4), 2)
    assert sizes["denoise"] == Size(4 * 116 * 100 * 4, 2)
    assert sizes["export"].num_files == 4 * 6 + 12 + 2
    assert sizes["preprocess"].num_files == 4 * 6 + 3 * 6
    longer = estimate(plan, jobs, census, {"LAB": 200})
    assert longer["preprocess"].num_bytes - sizes["preprocess"].num_bytes == pytest.approx(
        4 * 100 * (3.24e6 / 27 + 1500)
    )
    assert longer["correlate"] == sizes["correlate"]


def test_people_count_as_preprocessed_once_and_when_their_table_stands(tmp_path: Path):
    for folder in ("LAB/sub-01", "LAB/sub-02", "LAB.fmriprep/sub-01", "LAB.fmriprep/sub-02"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "LAB/sub-01/sub-01_runs.tsv").touch()
    assert people_preprocessed(tmp_path) == 1


def test_ten_thousand_scans_without_preprocess_and_export_make_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prep").mkdir()
    config = _config(LAB={"path": "prep", "input": "derivatives", "cohort": "generic"})
    row = {"dataset": "LAB", "input": "derivatives", "outcome": "ok", "num_volumes": "200", "bold": "n/a"}
    people = [f"sub-{number}" for number in range(10_000)]
    batches = assign_batches(pd.Series(people), _study(config).index.batch_size)
    rows = [row | {"participant_id": p, "scan": p, "batch": b} for p, b in zip(people, batches, strict=True)]
    plan = Expected(config, Census(rows, "planted"))
    jobs = expected_jobs(plan)
    assert sum(jobs.values()) <= 1000
    assert (
        0.05
        < sum(one.num_files for one in estimate(plan, jobs, Census(rows, "planted"), {"LAB": 200}).values()) / 10_000
        < 0.2
    )


@pytest.mark.parametrize(
    ("blocks", "inodes", "expected"),
    [
        (10**6, 10**6, ("ok", "ok")),
        (1500, 1500, ("warn", "warn")),
        (100, 100, ("stop", "stop")),
        (10**6, 100, ("ok", "stop")),
    ],
)
def test_free_bytes_and_inodes_stand_against_the_estimate(
    monkeypatch: pytest.MonkeyPatch, blocks: int, inodes: int, expected: tuple[str, str]
):
    stat = SimpleNamespace(f_bavail=blocks, f_frsize=1000, f_favail=inodes, f_files=10**7)
    monkeypatch.setattr(os, "statvfs", lambda _: stat)
    found = list(space_findings({"preprocess": Size(2e6, 2000), "export": Size(0, 0)}, Path(), 100, 0.5))
    assert [finding.level for finding in found] == list(expected)
    assert "10 a scan" in found[1].says


def test_a_file_system_that_counts_no_inodes_has_no_limit(monkeypatch: pytest.MonkeyPatch):
    stat = SimpleNamespace(f_bavail=10**6, f_frsize=1000, f_favail=0, f_files=0)
    monkeypatch.setattr(os, "statvfs", lambda _: stat)
    found = list(space_findings({"report": Size(1000, 1000)}, Path(), 1, 0.0))
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert "no limit known" in found[1].says


@pytest.mark.parametrize(
    ("free", "kind", "level"), [(10**9, "ext4", "ok"), (1, "ext4", "stop"), (10**9, "tmpfs", "warn")]
)
def test_scratch_holds_the_participants_at_work(
    raw: Path, monkeypatch: pytest.MonkeyPatch, free: int, kind: str, level: str
):
    stat = SimpleNamespace(f_bavail=free, f_frsize=1000)
    monkeypatch.setattr(os, "statvfs", lambda _: stat)
    monkeypatch.setattr(doctor_space, "file_system", lambda _: kind)
    config = _config(LAB=RAW)
    found = scratch_findings(_study(config), _census(config), {"LAB": 100}, 2)
    assert _levels(found) == {"scratch": level}
    assert list(scratch_findings(_study(config), Census([], "nothing raw"), {}, 2)) == []


def _folder_levels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(doctor_space, "_place_findings", lambda *_: iter(()))
    return _levels(folder_findings(folder))


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert _folder_levels(tmp_path, monkeypatch) == {"folder": "ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert _folder_levels(tmp_path / "gone", monkeypatch) == {"folder": "stop"}


def test_a_file_system_without_locks_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(doctor_space.fcntl, "flock", refuse)
    assert _folder_levels(tmp_path, monkeypatch) == {"folder": "ok", "locks": "warn"}


def test_a_server_with_another_clock_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_space, "time", SimpleNamespace(time=lambda: time.time() + 60))
    assert _folder_levels(tmp_path, monkeypatch) == {"folder": "ok", "clock": "warn"}


def test_where_a_study_lies_is_told(monkeypatch: pytest.MonkeyPatch):
    home = Path("/srv/home/someone")
    monkeypatch.setenv("HOME", str(home))
    places = (
        (home / "study", "tmpfs"),
        (home / "study", "nfs4"),
        (home / "study", "ext4"),
        (Path("/tmp/study"), "ext4"),  # noqa: S108
    )
    found = [[f.says for f in doctor_space._place_findings(place, kind)] for place, kind in places]
    assert [len(one) for one in found] == [1, 1, 0, 1]
    assert "temporary" in found[0][0]
    assert "quota" in found[1][0]


def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount(tmp_path: Path):
    mounts = tmp_path / "mounts"
    lines = ["/dev/a / ext4 rw 0 0", f"server:/x {tmp_path} nfs4 rw 0 0", f"none {tmp_path}/a\\040b tmpfs rw 0 0"]
    mounts.write_text("\n".join(lines) + "\n")
    (tmp_path / "a b").mkdir()
    assert file_system(Path("/"), mounts) == "ext4"
    assert file_system(tmp_path, mounts) == "nfs4"
    assert file_system(tmp_path / "a b", mounts) == "tmpfs"
    assert file_system(tmp_path, tmp_path / "gone") == "unknown"


# ── the machine ─────────────────────────────────────────────────────────────────────────────────


def test_every_rule_says_what_it_asks_for():
    for resource in ("mem_mb", "runtime"):
        asked = asked_by_rules(resource)
        assert len(asked) == 17
        assert min(asked.values()) > 0


@pytest.mark.parametrize(("total_mb", "level"), [(16000, "ok"), (5000, "warn")])
def test_memory_is_held_against_the_hungriest_stage_that_has_jobs(
    monkeypatch: pytest.MonkeyPatch, total_mb: int, level: str
):
    monkeypatch.setattr(doctor_machine, "memory_mb", lambda: total_mb)
    found = list(machine_findings({"preprocess": 1, "finetune": 1}, MEMORY, 1))
    assert _levels(found)["memory"] == level
    assert "8,000" in found[0].says
    assert _levels(machine_findings({"preprocess": 1}, MEMORY, 1))["memory"] == "ok"


def test_a_container_may_own_less_memory_than_the_machine(tmp_path: Path):
    limit = tmp_path / "memory.max"
    limit.write_text(f"{300 * 2**20}\n")
    assert memory_mb(limit) == 300
    limit.write_text("max\n")
    assert memory_mb(limit) == memory_mb(tmp_path / "gone") > 300


def test_more_cores_than_there_are_warn():
    assert _levels(machine_findings({}, MEMORY, 1))["cores"] == "ok"
    assert _levels(machine_findings({}, MEMORY, 10_000))["cores"] == "warn"


@pytest.mark.parametrize(
    ("built", "driver", "level"), [("12.8", "12.8", "ok"), ("13.0", "12.4", "warn"), (None, "12.4", "warn")]
)
def test_a_gpu_is_found_and_torch_must_fit_it(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, built: str | None, driver: str, level: str
):
    monkeypatch.setattr(doctor_machine, "torch_cuda", lambda: built)
    assert "none found" in _words(gpu_findings(JOBS))
    fake("nvidia-smi", f"NVIDIA H200, 143771 MiB\n| CUDA Version: {driver} |")
    assert _levels(gpu_findings(JOBS)) == {"GPU": level}
    assert list(gpu_findings({"preprocess": 1})) == []


def test_what_torch_was_built_for_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "torch"
    package.mkdir()
    (package / "version.py").write_text("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n")
    monkeypatch.setattr(doctor_machine, "find_spec", lambda _: SimpleNamespace(origin=str(package / "__init__.py")))
    assert doctor_machine.torch_cuda() == "12.8"
    (package / "version.py").write_text("cuda: Optional[str] = None\n")
    assert doctor_machine.torch_cuda() is None


# ── the scheduler ───────────────────────────────────────────────────────────────────────────────

SLURM = Profile("slurm", 100, defaults={"slurm_partition": "cpu"}, by_rule={"finetune": {"slurm_partition": "gpu"}})
PARTITIONS = "cpu*|up|1-00:00:00|64000+|(null)\ngpu|up|infinite|256000|gpu:a100:4"


def _slurm(fake: Fake, profile: Profile = SLURM, partitions: str = PARTITIONS, status: int = 0) -> list[Finding]:
    for program in ("sbatch", "squeue"):
        fake(program)
    fake("sinfo", partitions, status)
    return list(scheduler_findings(profile, JOBS, MEMORY, MINUTES))


def test_a_cluster_that_has_what_the_profile_names(fake: Fake):
    assert _levels(_slurm(fake)) == {"scheduler": "ok"}


@pytest.mark.parametrize(
    ("partitions", "word"),
    [
        ("cpu*|up|infinite|64000|(null)", "sends finetune to 'gpu'"),
        (PARTITIONS.replace("gpu:a100:4", "(null)"), "gpu has none"),
        (PARTITIONS.replace("64000+", "3000"), "preprocess asks for 4,000 MB"),
        (PARTITIONS.replace("1-00:00:00", "1:30:00"), "preprocess asks for 4 h, and cpu allows 90 min"),
    ],
)
def test_what_a_partition_lacks_stops(fake: Fake, partitions: str, word: str):
    found = [finding for finding in _slurm(fake, partitions=partitions) if finding.level == "stop"]
    assert len(found) == 1
    assert word in found[0].says


def test_a_partition_that_is_down_warns(fake: Fake):
    found = _slurm(fake, partitions=PARTITIONS.replace("cpu*|up", "cpu*|down"))
    assert [finding.says for finding in found if finding.level == "warn"] == ["cpu is not up"]


def test_a_profile_may_lift_what_a_rule_asks_and_forgo_the_gpu(fake: Fake):
    partitions = "cpu*|up|infinite|3000|(null)"
    small = Profile("slurm", by_rule={"preprocess": {"mem_mb": "2500"}, "finetune": {"gpu": "0", "mem_mb": "2500"}})
    assert _levels(_slurm(fake, small, partitions)) == {"scheduler": "ok"}


def test_an_attempt_that_would_outgrow_its_partition_warns(fake: Fake):
    """Slurm leaves such a job in the queue for ever."""
    partitions = PARTITIONS.replace("1-00:00:00", "8:00:00")
    assert _levels(_slurm(fake, SLURM, partitions)) == {"scheduler": "ok"}
    patient = replace(SLURM, retries=2)
    [found] = [finding for finding in _slurm(fake, patient, partitions) if finding.level == "warn"]
    assert found.says.startswith(
        "preprocess asks for 4 h, and cpu allows 8 h; each attempt asks for more, and no job of attempt 3"
    )
    assert found.do == 'set-resources: preprocess: {runtime: "min(480, 240 * attempt)"}'
    # What the profile states does not grow; and where a file of partitions has room, the last attempt goes there.
    stated = replace(patient, by_rule={**SLURM.by_rule, "preprocess": {"runtime": "240"}})
    assert _levels(_slurm(fake, stated, partitions)) == {"scheduler": "ok"}
    several = {"cpu": {"max_runtime": "8h"}, "gpu": {"max_runtime": "2d", "max_gpu": "8"}}
    assert _levels(_slurm(fake, Profile("slurm", retries=2, partitions=several), partitions)) == {"scheduler": "ok"}


FILE = {"cpu": {"max_runtime": "7d"}, "gpu": {"max_runtime": "2-00:00:00", "max_gpu": "8"}}


def test_jobs_go_to_the_partition_of_the_file_that_they_fit(fake: Fake):
    profile = Profile("slurm", partitions=FILE)
    assert _levels(_slurm(fake, profile)) == {"scheduler": "ok"}
    # Only cpu has nodes that are too small, and only preprocess is sent there.
    stops = [finding.says for finding in _slurm(fake, profile, PARTITIONS.replace("64000+", "3000")) if finding.do]
    assert stops == ["preprocess asks for 4,000 MB, and the nodes of cpu have 3,000"]
    short = Profile("slurm", partitions=FILE | {"cpu": {"max_runtime": "90m"}})
    assert _levels(_slurm(fake, short, PARTITIONS.replace("64000+", "3000"))) == {"scheduler": "ok"}


def test_a_partition_of_the_file_that_the_cluster_lacks_stops_once(fake: Fake):
    found = _slurm(fake, Profile("slurm", partitions=FILE), "cpu*|up|infinite|64000|(null)")
    assert [finding.says for finding in found if finding.level == "stop"] == [
        "the profile's partition file has 'gpu', and there is no such partition"
    ]


def test_a_profile_whose_partition_file_is_not_there_is_a_wrong_call(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("executor: slurm\nslurm-partition-config: partitions.yaml\n")
    with pytest.raises(ValueError, match=r"partitions\.yaml names no partitions"):
        read_profile(tmp_path)
    (tmp_path / "partitions.yaml").write_text("partitions:\n  cpu: {max_runtime: 7d}\n  old:\n")
    assert read_profile(tmp_path).partitions == {"cpu": {"max_runtime": "7d"}, "old": {}}


def test_a_scheduler_that_is_not_there_or_silent_stops(fake: Fake):
    found = list(scheduler_findings(SLURM, JOBS, MEMORY, MINUTES))
    assert _levels(found) == {"scheduler": "stop"}
    assert "not on PATH" in found[0].says
    found = _slurm(fake, partitions="Unable to contact slurm controller", status=1)
    assert "Unable to contact" in found[0].says
    assert _levels(found) == {"scheduler": "stop"}


def test_a_program_that_hangs_is_given_up(fake: Fake, monkeypatch: pytest.MonkeyPatch):
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("sinfo", 10)

    for program in ("sbatch", "squeue", "sinfo"):
        fake(program)
    assert doctor_machine.answer("sinfo") == (0, "")
    monkeypatch.setattr(doctor_machine.subprocess, "run", hang)
    assert _levels(scheduler_findings(SLURM, JOBS, MEMORY, MINUTES)) == {"scheduler": "stop"}


@pytest.mark.parametrize(
    ("text", "status", "level"), [("lab\nother", 0, "ok"), ("other", 0, "stop"), ("no accounting", 1, "warn")]
)
def test_the_account_is_looked_up(fake: Fake, text: str, status: int, level: str):
    profile = Profile("slurm", defaults={"slurm_partition": "gpu", "slurm_account": "lab"})
    fake("sacctmgr", text, status)
    assert _levels(_slurm(fake, profile)) == {"scheduler": "ok", "account": level}


@pytest.mark.parametrize(("cancel", "programs"), [("bkill", "bsub bjobs bqueues"), ("qdel", "qsub qstat")])
def test_other_schedulers_are_asked_with_their_own_programs(fake: Fake, cancel: str, programs: str):
    profile = Profile("cluster-generic", cancel=cancel)
    assert _levels(scheduler_findings(profile, JOBS, MEMORY, MINUTES)) == {"scheduler": "stop"}
    for program in programs.split():
        fake(program)
    assert _levels(scheduler_findings(profile, JOBS, MEMORY, MINUTES)) == {"scheduler": "ok"}
    fake(programs.split()[-1], "batch daemon not responding", 255)
    assert _levels(scheduler_findings(profile, JOBS, MEMORY, MINUTES)) == {"scheduler": "stop"}


@pytest.mark.parametrize(
    "path", sorted(path.parent for path in (REPOSITORY / "profiles").glob("*/config.yaml")), ids=lambda path: path.name
)
def test_every_shipped_profile_is_understood(path: Path):
    profile = read_profile(path)
    assert profile.is_local == (path.name == "default")
    assert profile.executor in ("local", "slurm", "cluster-generic")
    assert (profile.executor == "cluster-generic") == bool(profile.cancel)


def test_both_spellings_of_a_profiles_resources_say_the_same(tmp_path: Path):
    lists = {
        "default-resources": ["slurm_partition='cpu'"],
        "set-resources": ["finetune:gpu=0", "finetune:mem_mb=9000"],
    }
    blocks = {
        "default-resources": {"slurm_partition": "cpu"},
        "set-resources": {"finetune": {"gpu": 0, "mem_mb": 9000}},
    }
    found = []
    for name, content in (("lists", lists), ("blocks", blocks)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"executor": "slurm", "jobs": 7} | content))
        found.append(read_profile(tmp_path / name))
    assert found[0] == found[1]
    assert (found[0].of("finetune", "mem_mb"), found[0].of("split", "slurm_partition")) == ("9000", "cpu")
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        read_profile(tmp_path)


# ── through the door ────────────────────────────────────────────────────────────────────────────


def _tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_the_page_names_nobody_and_nothing_is_written(raw: Path, capsys: pytest.CaptureFixture[str]):
    (raw / "study.yaml").write_text(yaml.safe_dump(_config(LAB=RAW)))
    before = _tree(raw)
    assert lcm(["doctor", "--config", "study.yaml"]) == 0
    text = capsys.readouterr().out
    assert _tree(raw) == before
    assert "x01" not in text
    assert "preprocess          3" in text


def test_json_for_programs_and_the_status_of_a_study_that_would_stop(raw: Path, capsys: pytest.CaptureFixture[str]):
    (raw / "study.yaml").write_text(yaml.safe_dump(_config(LAB=RAW | {"path": "gone"})))
    assert lcm(["doctor", "--config", "study.yaml", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "stop"
    assert {"level": "stop", "subject": "dataset LAB"}.items() <= found["findings"][1 + 1].items()


def test_a_folder_that_is_not_there_is_the_only_finding(raw: Path, capsys: pytest.CaptureFixture[str]):
    (raw / "study.yaml").write_text(yaml.safe_dump(_config(LAB=RAW)))
    assert lcm(["doctor", "--config", "study.yaml", "--directory", "gone"]) == 1
    assert "mkdir -p gone" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--config", "gone.yaml"], ["--config", "study.yaml", "--cores", "0"]])
def test_a_wrong_call_is_an_error(raw: Path, flags: list[str]):
    (raw / "study.yaml").write_text(yaml.safe_dump(_config(LAB=RAW)))
    assert lcm(["doctor", *flags]) == 1


HIDING = """
import sys
finders = list(sys.meta_path)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "lightning"):
            return None
        return next((spec for f in finders if (spec := f.find_spec(name, path, target))), None)
sys.meta_path[:] = [Hide()]
from lcm.__main__ import main
sys.exit(main(["doctor", "--config", "config.yaml", "--json"]))
"""


def test_the_demo_is_examined_where_torch_is_not_installed():
    run = subprocess.run([sys.executable, "-c", HIDING], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    assert {stage["stage"]: stage["jobs"] for stage in found["stages"]}["finetune"] > 0
    assert not [finding for finding in found["findings"] if "could not be checked" in finding["says"]]
