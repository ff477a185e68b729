"""The fMRIPrep backend against a stub of Apptainer: the command, the mounts, and outputs that count only when verified."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from lcm.config import Fmriprep, Preprocess
from lcm.imaging.fmriprep import methods, run_fmriprep
from lcm.imaging.preprocessed import read_runs, write_runs
from lcm.tables import SCANS, write_tsv
from tests.apptainer_stub import Stub
from tests.conftest import REPOSITORY

IMAGE = "docker://nipreps/fmriprep@sha256:" + "0123456789abcdef" * 4
NUM_VOLUMES = 30
SPACE = "MNI152NLin2009cAsym"
KEPT = "; its work files are kept, so that another attempt goes on from there"


class Study:
    """A raw dataset of one participant with two runs, a stub on PATH, a licence and a scratch folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.output = root, root / "results" / "preprocess" / "LAB" / "sub-01"
        self.made = root / "results" / "preprocess" / "LAB.fmriprep" / "sub-01"
        self.stub = Stub(root / "bin")
        self.scratch = root / "scratch"
        self.scratch.mkdir()
        (root / "licence.txt").write_text("key")
        self._save("anat/sub-01_T1w.nii.gz", (4, 4, 4))
        self.scans = pd.DataFrame([self._scan(f"sub-01_task-rest_run-{run}") for run in (1, 2)])

    def _save(self, name: str, shape: tuple[int, ...]) -> str:
        path = self.root / "bids" / "sub-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones(shape, "int16"), np.eye(4)), path)
        return str(path.relative_to(self.root))

    def _scan(self, scan: str) -> dict[str, object]:
        row = dict.fromkeys(SCANS.columns)
        return row | {
            "dataset": "LAB", "batch": "0000", "participant_id": "sub-01", "scan": scan, "input": "bids",
            "bold": self._save(f"func/{scan}_bold.nii.gz", (2, 2, 2, NUM_VOLUMES)),
            "t1w": "bids/sub-01/anat/sub-01_T1w.nii.gz", "tr_s": 2.0, "num_volumes": NUM_VOLUMES,
            "fingerprint": scan, "outcome": "ok",
        }  # fmt: skip

    def settings(self, **more: object) -> Preprocess:
        own = {"image": IMAGE, "licence": "licence.txt"}
        own |= {name: more.pop(name) for name in tuple(more) if name in Fmriprep.model_fields}
        return Preprocess(backend="fmriprep", template="auto", resolution_mm=2.0, fmriprep=Fmriprep(**own), **more)

    def run(self, settings: Preprocess | None = None) -> pd.DataFrame:
        settings = settings or self.settings()
        # Snakemake deletes the folder before a job.
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir(parents=True)
        write_runs(run_fmriprep(self.scans, settings, self.output, self.scratch, threads=4, mem_mb=16000), self.output)
        return read_runs(self.output.parent, "sub-01").set_index("scan")

    def work(self) -> list[Path]:
        return sorted(self.scratch.glob("lcm-fmriprep-LAB-sub-01-*"))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    made = Study(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", made.stub.on_path)
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    return made


def _bound(call: list[str]) -> dict[str, str]:
    """Place in the container → place on this machine."""
    pairs = [call[i + 1].split(":", 1) for i, part in enumerate(call) if part == "--bind"]
    return {inside: outside for outside, inside in pairs}


# ── the command ─────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_is_exactly_this(study: Study):
    study.stub.behave(**{"01": "crash"})  # leaves the work folder, whose name has the hash
    study.run(study.settings(arguments=("--use-syn-sdc", "warn")))
    work = str(study.work()[0])
    assert study.stub.calls == [
        [
            "run", "--cleanenv", "--containall", "--workdir", work,
            "--bind", f"{study.root}/bids:/data:ro",
            "--bind", f"{study.root}/results/preprocess/LAB.fmriprep:/out",
            "--bind", f"{work}:/work",
            "--bind", f"{study.root}/licence.txt:/licence.txt:ro",
            "--env", "TEMPLATEFLOW_HOME=" + "/".join(("", "home", "fmriprep", ".cache", "templateflow")),
            "--env", "TEMPLATEFLOW_AUTOUPDATE=off",
            IMAGE, "/data", "/out", "participant",
            "--use-syn-sdc", "warn",
            "--participant-label", "01", "--fs-license-file", "/licence.txt", "--work-dir", "/work",
            "--output-spaces", f"{SPACE}:res-2", "--nprocs", "4", "--omp-nthreads", "3", "--mem-mb", "16000",
            "--random-seed", "1", "--skip-bids-validation", "--notrack", "--fs-no-reconall",
        ]
    ]  # fmt: skip


def test_a_template_folder_of_this_machine_is_bound_read_only(study: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(study.root / "templateflow"))
    study.run()
    (call,) = study.stub.calls
    assert _bound(call)["/templateflow:ro"] == str(study.root / "templateflow")
    assert "TEMPLATEFLOW_HOME=/templateflow" in call


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["--ignore", "slicetiming"]),
        (("--ignore", "fieldmaps"), ["--ignore", "slicetiming", "fieldmaps"]),
        (("--ignore=fieldmaps",), ["--ignore", "slicetiming", "fieldmaps"]),
        (
            ("--ignore", "fieldmaps", "--bids-filter-file=/data/f.json", "--ignore=sbref", "--use-syn-sdc", "warn"),
            [
                "--bids-filter-file=/data/f.json",
                "--use-syn-sdc",
                "warn",
                "--ignore",
                "slicetiming",
                "fieldmaps",
                "sbref",
            ],
        ),
    ],
)
def test_slice_timing_off_joins_what_the_user_ignores(study: Study, arguments: tuple[str, ...], expected: list[str]):
    study.run(study.settings(slice_timing=False, arguments=arguments))
    (call,) = study.stub.calls
    assert call[call.index("participant") + 1 :][: len(expected)] == expected
    assert sum(part.startswith("--ignore") for part in call) == 1


def test_singularity_serves_where_apptainer_is_missing(study: Study, monkeypatch: pytest.MonkeyPatch):
    study.stub.path.unlink()
    stub = Stub(study.root / "other", "singularity")
    monkeypatch.setenv("PATH", str(stub.folder))
    assert list(study.run()["outcome"]) == ["ok", "ok"]
    assert len(stub.calls) == 1


def test_without_a_container_engine_the_error_says_what_to_install(study: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(study.root))
    with pytest.raises(ValueError, match="neither apptainer nor singularity is on PATH: install Apptainer"):
        study.run()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"licence": "nowhere.txt"}, r"preprocess\.fmriprep\.licence: no such file"),
        ({"resolution_mm": 3.0}, r"preprocess\.resolution_mm is 3; fMRIPrep writes .* at 1 or 2 mm"),
        ({"template": "nilearn"}, r"preprocess\.template is nilearn, which fMRIPrep does not know"),
    ],
)
def test_a_setting_that_cannot_be_met_is_named_before_anything_runs(study: Study, changed: dict, message: str):
    settings = study.settings(**{name: value for name, value in changed.items() if name in Fmriprep.model_fields})
    rest = {name: value for name, value in changed.items() if name in Preprocess.model_fields}
    with pytest.raises(ValueError, match=message):
        study.run(settings.model_copy(update=rest))
    assert study.stub.calls == []
    assert study.work() == []


@pytest.mark.parametrize("image", ["docker://nipreps/fmriprep:25.2.5", IMAGE.removeprefix("docker://"), IMAGE[:-1]])
def test_an_image_without_a_source_and_a_whole_digest_is_refused(image: str):
    with pytest.raises(ValidationError, match="image"):
        Fmriprep(image=image, licence="licence.txt")


def test_no_scratch_means_tmpdir(study: Study, monkeypatch: pytest.MonkeyPatch):
    import tempfile

    other = study.root / "tmp"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(other))
    study.scratch = None
    study.run()
    (call,) = study.stub.calls
    assert Path(_bound(call)["/work"]).parent == other


def test_a_path_that_cannot_be_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "a,b"
    root.mkdir()
    study = Study(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PATH", study.stub.on_path)
    with pytest.raises(ValueError, match="a colon or a comma"):
        study.run()


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────


def test_runs_fmriprep_cannot_take_get_a_reason_and_no_container_starts(study: Study):
    study.scans["t1w"] = None
    study.scans.loc[1, ["num_volumes", "t1w"]] = [12, "bids/sub-01/anat/sub-01_T1w.nii.gz"]
    assert list(study.run()["outcome"]) == [
        "failed: no T1w image, which fMRIPrep needs; the builtin backend does without",
        "excluded: 12 volumes, fewer than 20",
    ]
    assert study.stub.calls == []
    assert study.work() == []


def test_a_refused_row_keeps_the_outcome_it_came_with(study: Study):
    study.scans.loc[0, "outcome"] = "excluded: multi-echo run"
    table = study.run()
    assert list(table["outcome"]) == ["excluded: multi-echo run", "ok"]
    assert pd.isna(table["bold"].iloc[0])


@pytest.mark.parametrize("kind", ["annexed", "outside", "absolute"])
def test_a_link_is_taken_when_the_container_can_follow_it(study: Study, kind: str):
    bold = study.root / study.scans.loc[0, "bold"]
    place = study.root / ("elsewhere" if kind == "outside" else "bids/.git/annex")
    place.mkdir(parents=True)
    shutil.move(bold, place / "content.nii.gz")
    target = place / "content.nii.gz"
    bold.symlink_to(target if kind == "absolute" else os.path.relpath(target, bold.parent))
    first = study.run()["outcome"].iloc[0]
    if kind == "annexed":
        assert first == "ok"
    else:
        assert first.startswith("failed: an image is a link that leads out of its dataset")


@pytest.mark.parametrize("target", ["../store", "absolute"])
def test_a_folder_may_be_a_link_too(study: Study, target: str):
    func, store = study.root / "bids" / "sub-01" / "func", study.root / "bids" / "store"
    func.rename(store)
    func.symlink_to(store if target == "absolute" else target)
    refused = study.run()["outcome"].str.startswith("failed: an image is a link that leads out of its dataset")
    assert list(refused) == [target == "absolute"] * 2
    assert len(study.stub.calls) == (target != "absolute")


def test_a_dataset_that_is_itself_a_link_is_bound_where_it_really_is(study: Study):
    (study.root / "bids").rename(study.root / "store")
    (study.root / "bids").symlink_to(study.root / "store")
    assert list(study.run()["outcome"]) == ["ok", "ok"]
    assert _bound(study.stub.calls[0])["/data:ro"] == str(study.root / "store")


# ── outputs ─────────────────────────────────────────────────────────────────────────────────────


def test_complete_outputs_fill_the_runs_table_and_the_work_folder_goes(study: Study):
    row = study.run().loc["sub-01_task-rest_run-2"]
    stem = "results/preprocess/LAB/sub-01/func/sub-01_task-rest_run-2"
    assert row["outcome"] == "ok"
    assert row["bold"] == f"{stem}_space-{SPACE}_res-2_desc-preproc_bold.nii.gz"
    assert row["mask"] == f"{stem}_space-{SPACE}_res-2_desc-brain_mask.nii.gz"
    assert row["confounds"] == f"{stem}_desc-confounds_timeseries.tsv"
    assert (row["tr_s"], row["num_volumes"], row["template"]) == (2.0, NUM_VOLUMES, SPACE)
    assert row["mean_fd_mm"] == pytest.approx(0.2)
    assert (row["slice_timing"], row["num_non_steady"]) == ("corrected to 0.95 s", 1)
    assert study.work() == []


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("short", "preprocessed BOLD has 29 volumes, the raw run 30"),
        ("truncated", "truncated image: the file ends before its last voxel"),
        ("no mask", "no brain mask beside the preprocessed BOLD"),
        ("empty mask", "the brain mask is empty"),
        ("small mask", "brain mask and BOLD are on different grids"),
        ("few rows", "confounds table has 27 rows for 30 volumes"),
    ],
)
def test_outputs_that_are_not_whole_are_refused_and_the_work_folder_stays(study: Study, behaviour: str, reason: str):
    study.stub.behave(**{"01": behaviour})
    assert list(study.run()["outcome"]) == [f"failed: {reason}{KEPT}"] * 2
    assert len(study.work()) == 1


def test_a_run_without_outputs_fails_alone(study: Study):
    study.stub.behave(**{"01": "one run"})
    outcome = study.run()["outcome"]
    assert list(outcome) == ["ok", f"failed: no preprocessed BOLD in {SPACE} at res-2{KEPT}"]
    assert len(study.work()) == 1


def test_another_resolution_is_not_taken_for_the_one_asked(study: Study):
    study.run()
    for path in study.made.rglob("*_res-2_*"):
        path.rename(path.with_name(path.name.replace("_res-2_", "_res-1_")))
    study.stub.behave(**{"01": "crash"})
    assert study.run()["outcome"].str.startswith(f"failed: no preprocessed BOLD in {SPACE} at res-2").all()


def test_a_crash_is_the_runs_reason_and_the_next_attempt_goes_on_from_its_work_folder(study: Study):
    study.stub.behave(**{"01": "crash"})
    reason = f"failed: no preprocessed BOLD in {SPACE} at res-2; fMRIPrep ended with status 1{KEPT}"
    assert list(study.run()["outcome"]) == [reason] * 2
    (work,) = study.work()
    assert (work / "node").exists()
    study.stub.behave()
    assert list(study.run()["outcome"]) == ["ok", "ok"]
    assert _bound(study.stub.calls[1])["/work"] == str(work)
    assert study.work() == []


def test_a_killed_container_is_no_fault_of_the_images_and_the_next_attempt_goes_on(study: Study):
    study.stub.behave(**{"01": "killed"})
    with pytest.raises(OSError, match=r"killed \(status 137\), mostly for memory"):
        study.run()
    assert not (study.output / "sub-01_runs.tsv").exists()
    (work,) = study.work()
    study.stub.behave()
    assert list(study.run()["outcome"]) == ["ok", "ok"]
    assert _bound(study.stub.calls[1])["/work"] == str(work)


def test_a_work_folder_that_another_may_have_made_is_refused(study: Study):
    """It may hold steps that somebody prepared, and would show them a person's head."""
    study.stub.behave(**{"01": "crash"})
    study.run()
    (work,) = study.work()
    work.rename(study.root / "elsewhere")
    work.symlink_to(study.root / "elsewhere")
    with pytest.raises(OSError, match="a link, or another user's"):
        study.run()
    assert len(study.stub.calls) == 1


def test_valid_outputs_stand_although_fmriprep_ended_with_an_error(study: Study, caplog: pytest.LogCaptureFixture):
    study.stub.behave(**{"01": "complete but crashed"})
    assert list(study.run()["outcome"]) == ["ok", "ok"]
    assert "fMRIPrep ended with status 1, but the outputs of all 2 runs are valid" in caplog.text
    assert study.work() == []


@pytest.mark.parametrize(("old", "new"), [("confounds_timeseries", "confounds_regressors"), ("_res-2_", "_res-02_")])
def test_the_names_of_other_releases_are_known(study: Study, old: str, new: str):
    study.run()
    for path in study.made.rglob(f"*{old}*"):
        path.rename(path.with_name(path.name.replace(old, new)))
    assert list(study.run()["outcome"]) == ["ok", "ok"]
    assert len(study.stub.calls) == 1


@pytest.mark.parametrize(
    ("suffix", "reason"), [("bold.json", "unreadable JSON"), ("mask.nii.gz", "unreadable brain mask")]
)
def test_a_file_cut_short_is_refused(study: Study, suffix: str, reason: str):
    study.run()
    for path in study.made.rglob(f"*{suffix}"):
        path.write_bytes(path.read_bytes()[:40])
    study.stub.behave(**{"01": "crash"})
    assert study.run()["outcome"].str.startswith(f"failed: {reason}").all()


def test_valid_outputs_of_the_same_inputs_and_settings_are_not_made_again(study: Study):
    first = study.run()
    assert study.run().equals(first)
    assert len(study.stub.calls) == 1
    assert study.work() == []


@pytest.mark.parametrize("changed", ["arguments", "seed", "fingerprint"])
def test_outputs_of_other_inputs_or_settings_never_pass_for_new_ones(study: Study, changed: str):
    study.run()
    study.stub.behave(**{"01": "crash"})
    more = {"arguments": {"arguments": ("--use-syn-sdc",)}, "seed": {"seed": 2}}.get(changed, {})
    if changed == "fingerprint":
        study.scans["fingerprint"] = "another"
    assert study.run(study.settings(**more))["outcome"].str.startswith("failed: no preprocessed BOLD").all()


# ── ending early ────────────────────────────────────────────────────────────────────────────────


def _running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_container_and_its_children_end_with_the_job(study: Study, number: signal.Signals):
    study.stub.behave(**{"01": "hang"})
    write_tsv(study.scans[list(SCANS.columns)], study.root / "scans.tsv", SCANS)
    flags = ["--scans", "scans.tsv", "--dataset", "LAB", "--participant", "sub-01"]
    flags += ["--output", "results/preprocess/LAB/sub-01", "--scratch", "scratch"]
    flags += ["--settings", study.settings().model_dump_json()]
    job = subprocess.Popen(
        [sys.executable, "-m", "lcm", "preprocess", *flags],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
        # Whoever starts the tests in the background leaves SIGINT ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(300):
        pids = [int(path.name.removeprefix("pid-")) for path in study.stub.folder.glob("pid-*")]
        if len(pids) == 2:
            break
        time.sleep(0.1)
    assert len(pids) == 2
    assert all(map(_running, pids))
    job.send_signal(number)
    assert job.wait(timeout=30) != 0
    assert not any(map(_running, pids))
    assert not (study.output / "sub-01_runs.tsv").exists()
    assert len(study.work()) == 1


def test_the_methods_text_names_the_container_and_the_space(study: Study):
    text = methods(study.settings())
    assert IMAGE in text
    assert f"{SPACE}:res-2" in text
    assert json.dumps(text).isascii()
