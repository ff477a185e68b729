"""The preprocess stage on a phantom: names, one interpolation, one outcome a run, nothing left behind."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.__main__ import main
from lcm.config import Preprocess
from lcm.imaging.machine_faults import refuse_machine_fault
from lcm.imaging.motion import framewise_displacement
from lcm.imaging.preprocess import _check_written, methods
from lcm.imaging.preprocessed import read_runs
from lcm.imaging.registration import load_template
from lcm.imaging.run_image import RunImage, open_run_writer
from lcm.imaging.scratch import work_folder
from lcm.imaging.workflow import Run, _reason
from lcm.tables import SCANS, read_tsv, write_tsv
from tests.moving_head import TR_S, head, move, moving_run, planted_motion, save

SETTINGS = Preprocess(template="nilearn", registration_mm=4.0, resolution_mm=4.0)
NUM_VOLUMES = 30
NUM_SLICES = head(4.0)[1].shape[2]
SPACE = "MNI152NLin2009aSym"


def _scan_row(root: Path, scan: str, bold: str, t1w: Path | None, outcome: str = "ok") -> dict[str, object]:
    row = dict.fromkeys(SCANS.columns)
    participant = scan.split("_")[0]
    return row | {
        "dataset": "Phantom", "batch": "0000", "participant_id": participant, "scan": scan, "input": "bids",
        "bold": str(root / bold), "t1w": str(t1w) if t1w else None, "tr_s": TR_S, "num_volumes": NUM_VOLUMES,
        "outcome": outcome, "fingerprint": "none",
    }  # fmt: skip


def _write_runs(root: Path) -> Path:
    """Images of sub-01 (T1w; two good runs, one of them with slice times; six bad ones) and their scans table."""
    t1w, bold, affine = head(4.0)
    tilted = move(t1w, affine, np.array([6.0, -5.0, 4.0, 0.05, 0.04, -0.06]))
    anatomy = save(tilted.astype(np.int16), affine, root / "sub-01_T1w.nii.gz")
    good = moving_run(bold, affine, planted_motion(NUM_VOLUMES, seed=7), seed=8)
    save(good, affine, root / "good.nii.gz")
    save(good[..., :6], affine, root / "short.nii.gz")
    save(good[..., 0], affine, root / "flat.nii.gz")
    holes = good.astype(np.float32)
    holes[20, 20, 20, 4] = np.nan
    save(holes, affine, root / "nan.nii.gz")
    save(np.zeros_like(good), affine, root / "empty.nii.gz")
    whole = (root / "good.nii.gz").read_bytes()
    (root / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    for name, timing in (("late", SLICE_TIMES_S), ("wrong", [0, 0.5, 1])):
        _save_late(bold, affine, root / f"sub-01_task-{name}_bold.nii.gz", timing)
    rows = [_scan_row(root, f"sub-01_task-{name}", f"{name}.nii.gz", anatomy) for name in BAD_AND_GOOD]
    rows += [_scan_row(root, f"sub-01_task-{n}", f"sub-01_task-{n}_bold.nii.gz", anatomy) for n in ("late", "wrong")]
    rows.append(_scan_row(root, "sub-01_task-echo", "good.nii.gz", anatomy, "excluded: multi-echo run"))
    frame = pd.DataFrame(rows)[list(SCANS.columns)]
    write_tsv(frame, root / "scans.tsv", SCANS)
    return root / "scans.tsv"


def _save_late(bold: np.ndarray, affine: np.ndarray, path: Path, timing: list[float]) -> None:
    """A still head whose every slice is sampled at its own time of a wave of 3 %, and the inherited JSON that says so."""
    moment_s = TR_S * np.arange(NUM_VOLUMES) + np.array(SLICE_TIMES_S)[:, None]
    wave_ZT = 1 + 0.03 * np.sin(2 * np.pi * WAVE_HZ * moment_s)
    noise = np.random.default_rng(9).normal(0, 2, (*bold.shape, NUM_VOLUMES)) * (bold > 0)[..., None]
    save(np.clip(bold[..., None] * wave_ZT + noise, 0, 32000).astype(np.int16), affine, path)
    sidecar = {"TaskName": "late", "RepetitionTime": TR_S, "SliceTiming": timing}
    path.with_name(path.name.removeprefix("sub-01_").replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


WAVE_HZ = 0.1
SLICE_TIMES_S = [round(1.9 * n / (NUM_SLICES - 1), 4) for n in range(NUM_SLICES)]
BAD_AND_GOOD = ("good", "short", "flat", "nan", "empty", "cut")


def _preprocess(scans: Path, output: Path, settings: Preprocess = SETTINGS, threads: int = 1) -> pd.DataFrame:
    flags = ["--scans", str(scans), "--dataset", "Phantom", "--participant", "sub-01"]
    scratch = output.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    flags += ["--output", str(output / "sub-01"), "--threads", str(threads), "--scratch", str(scratch)]
    assert main(["preprocess", *flags, "--settings", settings.model_dump_json()]) == 0
    assert list(scratch.iterdir()) == []
    return read_runs(output, "sub-01").set_index("scan")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """The output folder and the runs table of sub-01; `nodes.txt` beside it names the nodes that were executed."""
    root = tmp_path_factory.mktemp("phantom")
    handler = logging.FileHandler(root / "nodes.txt")
    handler.addFilter(lambda record: "Executing" in record.getMessage())
    logging.getLogger("nipype.workflow").addHandler(handler)
    runs = _preprocess(_write_runs(root), root / "out")
    logging.getLogger("nipype.workflow").removeHandler(handler)
    return root / "out", runs


def test_every_run_has_one_outcome_and_bad_runs_do_not_stop_the_good_one(done):
    outcome = {scan.removeprefix("sub-01_task-"): text for scan, text in done[1]["outcome"].items()}
    assert outcome["good"] == "ok"
    assert outcome["short"] == "excluded: 6 volumes, fewer than 20"
    assert outcome["flat"] == "failed: the image has 3 dimensions, a run needs 4"
    assert outcome["nan"] == "failed: 1 voxels of volume 4 are NaN or infinite"
    assert outcome["empty"] == "failed: volume 0 is constant"
    assert outcome["cut"].startswith("failed: truncated or corrupt image")
    assert outcome["late"] == "ok"
    assert outcome["wrong"].startswith(f"failed: SliceTiming has 3 values, the image {NUM_SLICES} slices along k")


def test_two_runs_share_one_anatomical_pass(done):
    lines = (done[0].parent / "nodes.txt").read_text().splitlines()
    executed = [line.split('"')[1] for line in lines]
    assert executed.count("anatomy0") == 1
    assert sum(name.startswith("anatomy") for name in executed) == 1
    assert sum(name.endswith("_resample") for name in executed) == (done[1]["outcome"] == "ok").sum() == 2


def test_slices_sampled_at_different_times_show_one_wave_at_the_middle_of_the_acquisition(done):
    row = done[1].loc["sub-01_task-late"]
    assert row["slice_timing"] == "corrected to 0.95 s"
    assert done[1].loc["sub-01_task-good", "slice_timing"] == "none in JSON"
    sidecar = json.loads(Path(row["bold"].replace(".nii.gz", ".json")).read_text())
    assert (sidecar["SliceTimingCorrected"], sidecar["StartTime"]) == (True, 0.95)
    series = nib.load(row["bold"]).get_fdata()
    carrier_T = np.exp(-2j * np.pi * WAVE_HZ * (TR_S * np.arange(NUM_VOLUMES) + 0.95))[3:28]
    phases = []
    for z in range(10, 35):
        mean_T = series[:, :, z].mean(axis=(0, 1))[3:28]
        phases.append(np.angle(((mean_T - mean_T.mean()) * carrier_T).sum() * 1j))
    # Uncorrected, the phase climbs by 2π × 0.1 Hz × 1 s over these slices.
    assert np.abs(phases).max() < 0.05


def test_a_refused_row_keeps_the_outcome_it_came_with(done):
    row = done[1].loc["sub-01_task-echo"]
    assert row["outcome"] == "excluded: multi-echo run"
    assert row[["bold", "mask", "confounds"]].isna().all()


def test_outputs_are_named_as_bids_derivatives_and_nothing_else_is_left(done):
    files = {str(path.relative_to(done[0])) for path in done[0].rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith(("sub-01/func/", "sub-01/anat/"))} == {
        "sub-01/record.json",
        "sub-01/sub-01_runs.tsv",
        "sub-01/figures/sub-01_task-good_desc-registration.png",
        "sub-01/figures/sub-01_task-late_desc-registration.png",
    }
    stems = [f"sub-01/func/sub-01_task-{name}" for name in ("good", "late")]
    assert {name for name in files if name.startswith("sub-01/func/")} == {
        f"{stem}_{ending}"
        for stem in stems
        for ending in (
            "desc-confounds_timeseries.json",
            "desc-confounds_timeseries.tsv",
            f"space-{SPACE}_desc-brain_mask.nii.gz",
            f"space-{SPACE}_desc-preproc_bold.json",
            f"space-{SPACE}_desc-preproc_bold.nii.gz",
        )
    }
    anatomy = {name for name in files if name.startswith("sub-01/anat/")}
    assert anatomy == {
        f"sub-01/anat/sub-01_space-{SPACE}_{kind}"
        for kind in ("desc-preproc_T1w.nii.gz", "desc-brain_mask.nii.gz", "dseg.nii.gz")
    }
    a_run, a_t1w, a_person, two_runs = 6, 3, 2, 2
    assert len(files) == two_runs * a_run + a_t1w + a_person
    # The budget of a person with one run: log, Snakemake's note and its timestamp come with them, and the six of export.
    assert a_run + a_t1w + a_person + 3 + 6 <= 20


def test_bold_lies_on_the_template_with_its_repetition_time(done):
    row = done[1].loc["sub-01_task-good"]
    bold, mask = nib.load(row["bold"]), nib.load(row["mask"])
    template = load_template("nilearn", 4.0)
    assert bold.shape == (*template.mask.shape, NUM_VOLUMES)
    assert bold.header.get_zooms() == (4.0, 4.0, 4.0, TR_S)
    np.testing.assert_allclose(bold.affine, template.affine)
    np.testing.assert_allclose(mask.affine, template.affine)
    sidecar = json.loads(Path(row["bold"].replace(".nii.gz", ".json")).read_text())
    assert sidecar["RepetitionTime"] == TR_S
    assert sidecar["SliceTimingCorrected"] is False
    assert sidecar["SpatialReference"].startswith(f"{SPACE} of nilearn")
    assert row["template"] == SPACE
    assert row["dice_template"] > 0.93
    assert row["dice_t1w"] > 0.95
    mean = bold.get_fdata().mean(axis=3)
    inside = (np.asarray(mask.dataobj) > 0) & template.mask
    assert np.corrcoef(mean[inside], head(4.0)[1][inside])[0, 1] > 0.9


def test_resampling_undoes_the_planted_motion(done):
    row = done[1].loc["sub-01_task-good"]
    inside = np.asarray(nib.load(row["mask"]).dataobj) > 0
    series = nib.load(row["bold"]).get_fdata()[inside]
    raw = nib.load(done[0].parent / "good.nii.gz").get_fdata()
    before = raw[head(4.0)[1] > 600]
    # Noise is 10 everywhere; what motion adds is at the edges of tissue, in the upper tail.
    assert np.percentile(series.std(axis=1), 95) < 0.5 * np.percentile(before.std(axis=1), 95)


def test_fd_in_the_table_follows_the_planted_trace(done):
    row = done[1].loc["sub-01_task-good"]
    table = pd.read_csv(row["confounds"], sep="\t", na_values="n/a")
    planted = framewise_displacement(planted_motion(NUM_VOLUMES, seed=7))
    assert len(table) == NUM_VOLUMES
    assert np.corrcoef(table["framewise_displacement"][1:], planted[1:])[0, 1] > 0.95
    assert row["mean_fd_mm"] == pytest.approx(np.nanmean(planted), rel=0.1)


def test_a_second_run_with_two_threads_gives_identical_tables_and_images(done, tmp_path):
    scans = tmp_path / "scans.tsv"
    frame = read_tsv(done[0].parent / "scans.tsv", SCANS)
    write_tsv(frame[frame["scan"].isin(["sub-01_task-good", "sub-01_task-late"])], scans, SCANS)
    again = _preprocess(scans, tmp_path / "out", threads=2)
    numbers = [name for name in again.columns if name not in ("bold", "mask", "confounds")]
    pd.testing.assert_frame_equal(again[numbers], done[1].loc[again.index, numbers], check_exact=True)
    for scan, row in again.iterrows():
        for kind in ("bold", "mask", "confounds"):
            assert Path(row[kind]).read_bytes() == Path(done[1].loc[scan, kind]).read_bytes(), (scan, kind)


def test_a_broken_t1w_fails_its_runs_and_not_those_without_it(tmp_path):
    _, bold, affine = head(6.0)
    save(moving_run(bold, affine, planted_motion(20, 1), 1), affine, tmp_path / "bold.nii.gz")
    broken = save(np.full((20, 20, 20), np.nan, np.float32), affine, tmp_path / "T1w.nii.gz")
    rows = [_scan_row(tmp_path, "sub-01_task-a", "bold.nii.gz", broken)]
    rows.append(_scan_row(tmp_path, "sub-01_task-b", "bold.nii.gz", None))
    write_tsv(pd.DataFrame(rows)[list(SCANS.columns)], tmp_path / "scans.tsv", SCANS)
    runs = _preprocess(tmp_path / "scans.tsv", tmp_path / "out")
    assert runs.loc["sub-01_task-a", "outcome"].startswith("failed: anatomy: a T1w needs")
    assert runs.loc["sub-01_task-b", "outcome"] == "ok"
    assert runs.loc["sub-01_task-b", "dice_template"] > 0.9


def test_an_unknown_participant_is_named(done, tmp_path, caplog):
    scans = done[0].parent / "scans.tsv"
    flags = ["--scans", str(scans), "--dataset", "Phantom", "--participant", "sub-99"]
    flags += ["--output", str(tmp_path / "sub-99")]
    assert main(["preprocess", *flags]) == 1
    assert "no scan of sub-99 in dataset Phantom" in caplog.text


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("sub-01", "links into a cache"),
        ("sub-01/func", "links into a cache"),
        ("other", "must have the participant's name"),
    ],
)
def test_a_folder_that_is_shared_or_of_another_name_is_left_alone(done, tmp_path, caplog, link, message):
    (tmp_path / "shared").mkdir()
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "shared")
    flags = ["--scans", str(done[0].parent / "scans.tsv"), "--dataset", "Phantom", "--participant", "sub-01"]
    assert main(["preprocess", *flags, "--output", str(tmp_path / Path(link).parts[0])]) == 1
    assert message in caplog.text
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_run_whose_files_read_back_wrong_is_a_fault_of_the_disk(done, tmp_path):
    row = done[1].loc["sub-01_task-good"]
    figure = Path(row["bold"]).parents[1] / "figures" / "sub-01_task-good_desc-registration.png"
    places = {"mask_out": row["mask"], "confounds_out": row["confounds"], "figure_out": str(figure)}
    run = Run("s", "", None, TR_S, "", row["bold"], **places)
    _check_written(run)
    lines = Path(row["confounds"]).read_text().splitlines()
    (tmp_path / "short.tsv").write_text("\n".join(lines[:-1]))
    (tmp_path / "cut.nii.gz").write_bytes(Path(row["bold"]).read_bytes()[:-1000])
    changes = [{"confounds_out": str(tmp_path / "short.tsv")}, {"bold_out": str(tmp_path / "cut.nii.gz")}]
    changes += [{"mask_out": row["confounds"]}, {"figure_out": str(tmp_path / "none.png")}]
    for change in changes:
        with pytest.raises(OSError, match="reads back wrong"):
            _check_written(dataclasses.replace(run, **change))


def test_the_work_folder_is_private_and_what_a_killed_job_left_is_cleared(tmp_path):
    output = tmp_path / "results/preprocess/LAB/sub-01"
    with work_folder(tmp_path, "lcm-preprocess", output) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        name = folder.name
    assert not folder.exists()
    folder.mkdir()
    (folder / "left").touch()
    with work_folder(tmp_path, "lcm-preprocess", output) as again:
        assert again.name == name
        assert list(again.iterdir()) == []
    with work_folder(tmp_path, "lcm-preprocess", output.with_name("sub-02")) as other:
        assert other.name != name
    with (
        pytest.raises(ValueError, match="--scratch: no such folder"),
        work_folder(tmp_path / "no", "lcm-preprocess", output),
    ):
        pass


def test_written_runs_read_back_within_half_a_step_and_clip_beyond_the_limit(tmp_path):
    values = np.linspace(-50, 1200, 4 * 5 * 6 * 3, dtype=np.float32).reshape(4, 5, 6, 3)
    with open_run_writer(tmp_path / "x.nii.gz", values.shape, np.diag([3.0, 3, 3, 1]), 1.5, 1000.0) as writer:
        for index in range(3):
            writer.append(values[..., index])
    image = RunImage(tmp_path / "x.nii.gz")
    read = np.stack([image.volume(index) for index in range(3)], axis=-1)
    np.testing.assert_allclose(read, np.minimum(values, 1000), atol=1000 / 32767)
    assert nib.load(tmp_path / "x.nii.gz").header.get_zooms()[3] == 1.5
    with gzip.open(tmp_path / "x.nii.gz") as stream:
        assert len(stream.read()) == 352 + 2 * values.size


def test_methods_say_what_was_done_and_what_was_not():
    text = methods(SETTINGS)
    assert "MNI152NLin2009aSym" in text
    assert "4 mm" in text
    assert "slice of the raw volumes was then interpolated in time" in text
    assert "Slice timing was not corrected" in methods(SETTINGS.model_copy(update={"slice_timing": False}))


def test_methods_name_the_template_that_auto_took(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    assert f"{SPACE} of nilearn" in methods(Preprocess(download_templates=True))
    assert "MNI152NLin6Asym of TemplateFlow" in methods(Preprocess(template="MNI152NLin6Asym"))


def test_an_annexed_image_keeps_its_sidecar_and_the_folder_of_the_dataset_holds_people_alone(tmp_path, monkeypatch):
    _, bold, affine = head(6.0)
    store = tmp_path / ".git" / "annex"
    store.mkdir(parents=True)
    save(moving_run(bold, affine, planted_motion(20, 1), 1), affine, store / "MD5E-1.nii.gz")
    func = tmp_path / "sub-01" / "func"
    func.mkdir(parents=True)
    (func / "sub-01_task-rest_bold.nii.gz").symlink_to(store / "MD5E-1.nii.gz")
    (func / "sub-01_task-rest_bold.json").write_text(json.dumps({"RepetitionTime": TR_S, "TaskName": "resting"}))
    row = _scan_row(tmp_path, "sub-01_task-rest", "sub-01/func/sub-01_task-rest_bold.nii.gz", None)
    write_tsv(pd.DataFrame([row])[list(SCANS.columns)], tmp_path / "scans.tsv", SCANS)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    settings = SETTINGS.model_copy(update={"template": "auto", "normalization": "Affine"})
    done = _preprocess(tmp_path / "scans.tsv", tmp_path / "out", settings).loc["sub-01_task-rest"]
    assert json.loads(Path(done["bold"].replace(".nii.gz", ".json")).read_text())["TaskName"] == "resting"
    assert done["template"] == SPACE
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sub-01"]


def test_a_nodes_error_names_no_path():
    trace = "Traceback\nFileNotFoundError: No such file or no access: '/data/sub-01/anat/sub-01_T1w.nii.gz'\n"
    node = SimpleNamespace(name="anatomy0", result=SimpleNamespace(runtime=SimpleNamespace(traceback=trace)))
    assert _reason(node) == "anatomy: FileNotFoundError: No such file or no access: (path)"


def test_what_another_user_left_in_scratch_is_not_met(tmp_path, monkeypatch):
    output = tmp_path / "results/preprocess/LAB/sub-01"
    with work_folder(tmp_path, "lcm-preprocess", output) as mine:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with work_folder(tmp_path, "lcm-preprocess", output) as theirs:
            assert theirs != mine
        assert mine.is_dir()


def test_a_faulty_disk_under_a_raw_image_stops_the_job(tmp_path, monkeypatch):
    def refuse(self: RunImage) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "bold.nii.gz")

    monkeypatch.setattr(RunImage, "check_values", refuse)
    monkeypatch.setenv("LCM_TRACEBACK", "1")
    scan = _scan_row(tmp_path, "sub-01_task-rest", "bold.nii.gz", None)
    save(np.ones((4, 4, 4, NUM_VOLUMES), np.int16), np.eye(4), tmp_path / "bold.nii.gz")
    write_tsv(pd.DataFrame([scan])[list(SCANS.columns)], tmp_path / "scans.tsv", SCANS)
    with pytest.raises(OSError, match="and run again"):
        _preprocess(tmp_path / "scans.tsv", tmp_path / "out")
    assert not (tmp_path / "out" / "sub-01" / "sub-01_runs.tsv").exists()


@pytest.mark.parametrize(
    "said",
    [
        "resample: OSError: [Errno 28] cannot be written: the disk is full",
        "motion: MemoryError",
        "motion: numpy._core._exceptions._ArrayMemoryError: Unable to allocate 5.0 GiB",
        "register: RuntimeError: std::bad_alloc",
        "resample: RuntimeError: ITK ERROR: No space left on device",
        "motion: OSError: [Errno 116] Stale file handle",
        "resample: OSError: [Errno 30] Read-only file system",
        "resample: OSError: [Errno 122] written in part",
    ],
)
def test_a_fault_of_the_machine_never_becomes_the_outcome_of_a_run(said: str):
    with pytest.raises(OSError, match="and run again"):
        refuse_machine_fault(said)


def test_a_fault_of_the_image_does():
    refuse_machine_fault("motion: OSError: [Errno 2] No such file or directory")
    refuse_machine_fault("register: the image has 28 slices")
