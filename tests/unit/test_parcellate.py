"""Parcellation: equal to the plain per-label mean, streamed, and honest about coverage."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.__main__ import main
from lcm.atlas import load_atlas
from lcm.config import Parcellate
from lcm.imaging import parcellate as stage
from lcm.imaging.header import ImageError
from lcm.imaging.parcellate import parcellate, with_preprocessed
from lcm.imaging.preprocessed import write_runs
from lcm.tables import RUNS, SCANS, read_arrow, read_tsv, write_arrow, write_tsv

AFFINE = np.array([[-4.0, 0, 0, 90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
SHAPE = (46, 55, 46)


def _write(folder: Path, data: np.ndarray, *, dtype: str = "int16", name: str = "bold.nii.gz") -> Path:
    image = nib.Nifti1Image(data.astype(dtype), AFFINE)
    image.header.set_zooms((4, 4, 4, 2.0)[: data.ndim])
    path = folder / name
    nib.save(image, path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    data = rng.integers(1, 20000, (*SHAPE, 12))
    mask = np.ones(SHAPE)
    mask[:, :, :10] = 0
    return _write(tmp_path, data), _write(tmp_path, mask, dtype="uint8", name="mask.nii.gz"), data, mask


def test_series_equal_the_mean_over_each_label_to_1e_10(run):
    bold, mask, data, inside = run
    atlas = load_atlas("AAL")
    series_TR, coverage_R = parcellate(bold, mask, atlas, Parcellate(min_coverage=0), {})
    labels = atlas.on_grid(SHAPE, AFFINE)
    for region in range(atlas.num_regions):
        voxels = (labels == region + 1) & (inside > 0)
        if not voxels.any():
            assert np.isnan(series_TR[:, region]).all()
            assert coverage_R[region] == 0
            continue
        np.testing.assert_allclose(series_TR[:, region], data[voxels].mean(axis=0), rtol=1e-10)
        assert coverage_R[region] == pytest.approx(voxels.sum() / (labels == region + 1).sum(), rel=1e-6)


def test_a_region_under_the_gate_is_nan_and_its_coverage_is_kept(run):
    bold, mask, *_ = run
    gated_TR, coverage_R = parcellate(bold, mask, load_atlas("AAL"), Parcellate(min_coverage=0.5), {})
    assert gated_TR.shape[1] == 116
    np.testing.assert_array_equal(np.isnan(gated_TR).all(axis=0), coverage_R < 0.5)
    assert ((coverage_R > 0) & (coverage_R < 0.5)).any()


def test_scaling_byte_order_and_plain_nii_give_the_same_series(tmp_path, run):
    bold, mask, data, _ = run
    atlas, settings = load_atlas("AAL"), Parcellate(min_coverage=0)
    reference, _ = parcellate(bold, mask, atlas, settings, {})
    scaled = nib.Nifti1Image(data.astype(">i2"), AFFINE, nib.Nifti1Header(endianness=">"))
    scaled.header.set_slope_inter(0.5, 3)
    scaled.header.set_data_dtype(">i2")
    path = tmp_path / "big.nii"
    with path.open("wb") as stream:
        scaled.header.write_to(stream)
        stream.write(b"\0" * (352 - stream.tell()))
        stream.write(data.astype(">i2").tobytes(order="F"))
    series, _ = parcellate(path, mask, atlas, settings, {})
    loaded = nib.load(path)
    expected = reference * loaded.dataobj.slope + loaded.dataobj.inter
    np.testing.assert_allclose(series, expected, rtol=1e-9)


def test_an_all_zero_region_counts_as_uncovered(tmp_path, run):
    _, mask, data, _ = run
    atlas = load_atlas("AAL")
    hole = atlas.names.index("Precentral_L")
    data = data.copy()
    data[atlas.on_grid(SHAPE, AFFINE) == hole + 1] = 0
    series_TR, coverage_R = parcellate(_write(tmp_path, data), mask, atlas, Parcellate(), {})
    assert coverage_R[hole] == 0
    assert np.isnan(series_TR[:, hole]).all()


def test_a_truncated_image_is_refused_by_name(tmp_path, run):
    bold, mask, *_ = run
    whole = bold.read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="truncated"):
        parcellate(cut, mask, load_atlas("AAL"), Parcellate(), {})


def test_nan_voxels_are_refused(tmp_path, run):
    _, mask, data, _ = run
    data = data.astype("float32")
    data[20:25, 20:25, 20:25, 3] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        parcellate(_write(tmp_path, data, dtype="float32"), mask, load_atlas("AAL"), Parcellate(), {})


def test_a_mask_on_another_grid_is_refused(tmp_path, run):
    bold, *_ = run
    mask = _write(tmp_path, np.ones((10, 10, 10)), dtype="uint8", name="small.nii.gz")
    with pytest.raises(ImageError, match="different grids"):
        parcellate(bold, mask, load_atlas("AAL"), Parcellate(), {})


def test_a_long_fine_run_needs_less_than_300_mb(tmp_path):
    """97×115×97×200 int16 (433 MB inflated) in a process of its own, so that the peak is that of the stage alone."""
    affine = np.array([[-2.0, 0, 0, 96], [0, 2, 0, -132], [0, 0, 2, -78], [0, 0, 0, 1]])
    volume = np.random.default_rng(1).integers(0, 1000, 97 * 115 * 97).astype("<i2").tobytes()
    image = nib.Nifti1Image(np.zeros((97, 115, 97, 1), "int16"), affine)
    header = image.header.copy()
    header["dim"][4] = 200
    header["vox_offset"] = 352
    with gzip.open(tmp_path / "bold.nii.gz", "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + b"\0" * 4)
        for t in range(200):
            stream.write(volume[t * 2 :] + volume[: t * 2])
    nib.save(nib.Nifti1Image(np.ones((97, 115, 97), "uint8"), affine), tmp_path / "mask.nii.gz")
    code = (
        "import sys; from pathlib import Path; from lcm.atlas import load_atlas; from lcm.config import Parcellate\n"
        "from lcm.imaging.parcellate import parcellate\n"
        "s, c = parcellate(Path(sys.argv[1]), Path(sys.argv[2]), load_atlas('AAL'), Parcellate(), {})\n"
        "assert s.shape == (200, 116)\n"
        # Not ru_maxrss: a child inherits its parent's there.
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "bold.nii.gz"), str(tmp_path / "mask.nii.gz")]
    peak_mb = int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout) // 1024
    assert peak_mb < 300


def test_images_deleted_after_preprocess_fail_their_scan_with_a_reason(run, tmp_path):
    _, mask, *_ = run
    runs, gone = tmp_path / "runs", tmp_path / "gone_bold.nii.gz"
    scan = {"dataset": "D", "participant_id": "sub-1", "scan": "sub-1_task-rest", "outcome": "ok"}
    row = scan | {"batch": "0", "input": "bids", "fingerprint": "f", "bold": str(gone)}
    write_tsv(pd.DataFrame([dict.fromkeys(SCANS.columns) | row]), tmp_path / "scans.tsv", SCANS)
    (runs / "sub-1").mkdir(parents=True)
    shutil.copy(mask, runs / "sub-1")
    made = {name: str(runs / "sub-1" / name) for name in ("gone_bold.nii.gz", Path(mask).name, "c")}
    done = scan | dict(zip(("bold", "mask", "confounds"), made.values(), strict=True))
    write_runs(pd.DataFrame([dict.fromkeys(RUNS.columns) | done | {"tr_s": 2.0, "num_volumes": 12}]), runs / "sub-1")
    flags = ["--scans", str(tmp_path / "scans.tsv"), "--runs", str(runs), "--output", str(tmp_path / "x.arrow")]
    assert main(["parcellate", *flags]) == 0
    assert read_arrow(tmp_path / "x.arrow")["outcome"].to_pylist() == [
        "failed: the image is missing, or a link whose content was not fetched"
    ]


def test_a_damaged_mask_is_the_outcome_of_its_scan(run):
    bold, mask, *_ = run
    content = bytearray(mask.read_bytes())
    # The first block of the deflate stream behind gzip's header (10 bytes and the name) becomes one of an unknown kind.
    start = content.index(b"\0", 10) + 1 if content[3] & 8 else 10
    content[start] = 0xFF
    mask.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="unreadable brain mask"):
        parcellate(bold, mask, load_atlas("AAL"), Parcellate(), {})


def test_a_wrong_checksum_of_the_bold_is_seen(run):
    bold, mask, *_ = run
    content = bytearray(bold.read_bytes())
    content[-8] ^= 0xFF
    bold.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="truncated"):
        parcellate(bold, mask, load_atlas("AAL"), Parcellate(), {})


# ── a batch that runs again ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Folder with three derivative runs, their masks and scans.tsv."""
    rows = []
    for number in range(3):
        data = np.random.default_rng(number).integers(1, 20000, (*SHAPE, 5))
        bold = _write(tmp_path, data, name=f"{number}_bold.nii.gz")
        mask = _write(tmp_path, np.ones(SHAPE), dtype="uint8", name=f"{number}_mask.nii.gz")
        rows.append(dict.fromkeys(SCANS.columns) | {
            "dataset": "D", "batch": "0", "participant_id": f"sub-{number}", "scan": f"sub-{number}_task-rest",
            "input": "derivatives", "bold": str(bold), "mask": str(mask), "confounds": "c", "tr_s": 2.0,
            "fingerprint": "f", "outcome": "ok",
        })  # fmt: skip
    write_tsv(pd.DataFrame(rows), tmp_path / "scans.tsv", SCANS)
    return tmp_path


def _run(batch: Path, output: str = "x.arrow", settings: str = "{}") -> Path:
    flags = ["--scans", str(batch / "scans.tsv"), "--runs", str(batch), "--output", str(batch / output)]
    assert main(["parcellate", *flags, "--settings", settings]) == 0
    return batch / output


def _reused(batch: Path, caplog: pytest.LogCaptureFixture, settings: str = "{}") -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="lcm.imaging.parcellate"):
        _run(batch, settings=settings)
    return next(text for text in caplog.messages if "reused" in text)


def test_after_one_image_changes_the_other_scans_keep_their_rows_and_the_table_is_that_of_a_fresh_run(
    batch, caplog, monkeypatch
):
    assert _reused(batch, caplog) == "0 of 3 scans reused"
    _write(batch, np.random.default_rng(9).integers(1, 20000, (*SHAPE, 6)), name="1_bold.nii.gz")
    opened = []
    monkeypatch.setattr(stage, "parcellate", lambda bold, *rest: opened.append(bold.name) or parcellate(bold, *rest))
    assert _reused(batch, caplog) == "2 of 3 scans reused"
    assert opened == ["1_bold.nii.gz"]
    assert (batch / "x.arrow").read_bytes() == _run(batch, "fresh.arrow").read_bytes()


def test_names_and_times_of_a_reused_row_are_those_of_today(batch, caplog):
    _run(batch)
    scans = read_tsv(batch / "scans.tsv", SCANS)
    write_tsv(scans.assign(tr_s=1.5, confounds="elsewhere"), batch / "scans.tsv", SCANS)
    assert _reused(batch, caplog) == "3 of 3 scans reused"
    table = read_arrow(batch / "x.arrow")
    assert table["tr_s"].to_pylist() == [1.5] * 3
    assert table["confounds"].to_pylist() == ["elsewhere"] * 3


def test_changed_settings_code_or_masks_reuse_nothing(batch, caplog, monkeypatch):
    _run(batch)
    assert _reused(batch, caplog) == "3 of 3 scans reused"
    assert _reused(batch, caplog, '{"min_coverage": 0.4}') == "0 of 3 scans reused"
    for number in range(3):
        os.utime(batch / f"{number}_mask.nii.gz", (1, number))
    assert _reused(batch, caplog, '{"min_coverage": 0.4}') == "0 of 3 scans reused"
    monkeypatch.setattr(stage, "code_hash", lambda stage: f"other code of {stage}")
    assert _reused(batch, caplog, '{"min_coverage": 0.4}') == "0 of 3 scans reused"


def test_a_failed_scan_is_tried_again(batch, caplog, monkeypatch):
    def broken(bold: Path, *rest: object) -> None:
        raise ImageError("the disk was away")

    with monkeypatch.context() as away:
        away.setattr(stage, "parcellate", broken)
        assert read_arrow(_run(batch))["outcome"].to_pylist() == ["failed: the disk was away"] * 3
    assert _reused(batch, caplog) == "0 of 3 scans reused"
    assert read_arrow(batch / "x.arrow")["outcome"].to_pylist() == ["ok"] * 3


def test_a_former_table_of_another_form_or_a_broken_one_is_replaced(batch, caplog):
    whole = _run(batch).read_bytes()
    write_arrow(read_arrow(batch / "x.arrow").drop_columns(["inputs"]), batch / "x.arrow")
    assert _reused(batch, caplog) == "0 of 3 scans reused"
    for spoiled in (whole[:5000], b"", b"no table"):
        (batch / "x.arrow").write_bytes(spoiled)
        assert _reused(batch, caplog) == "0 of 3 scans reused"
    assert (batch / "x.arrow").read_bytes() == whole


def test_a_batch_holds_one_scans_series_at_a_time(batch, monkeypatch):
    alive: list[weakref.ref] = []

    def planted(*rest: object) -> tuple[np.ndarray, np.ndarray]:
        assert sum(series() is not None for series in alive) <= 1
        series_TR = np.ones((5, 116))
        alive.append(weakref.ref(series_TR))
        return series_TR, np.ones(116, dtype=np.float32)

    monkeypatch.setattr(stage, "parcellate", planted)
    assert read_arrow(_run(batch)).num_rows == len(alive) == 3


def test_people_of_a_batch_in_two_spaces_stop_it(tmp_path):
    """`template: auto` on a node, or for a study that shares the cache, without TemplateFlow."""
    rows = []
    for person, template, outcome in (("sub-1", "A", "ok"), ("sub-2", "B", "ok"), ("sub-3", "C", "failed: cut")):
        scan = {"dataset": "D", "participant_id": person, "scan": f"{person}_task-rest", "tr_s": 2.0, "num_volumes": 9}
        made = {name: str(tmp_path / person / name) for name in ("bold", "mask", "confounds")} | {"template": template}
        runs = pd.DataFrame([dict.fromkeys(RUNS.columns) | scan | made | {"outcome": outcome}])
        write_runs(runs, tmp_path / person)
        rows.append(dict.fromkeys(SCANS.columns) | scan | {"input": "bids", "bold": "found", "outcome": "ok"})
    scans = pd.DataFrame(rows)
    with pytest.raises(ValueError, match=r"people in the spaces A, B; name one in preprocess.template"):
        with_preprocessed(scans, tmp_path)
    assert len(with_preprocessed(scans[scans["participant_id"] != "sub-2"], tmp_path)) == 2


def test_only_fmriprep_images_are_read_where_index_found_them(tmp_path):
    folder = tmp_path / "sub-1"
    made = {name: str(folder / f"made_{name}") for name in ("bold", "mask", "confounds")}
    made |= {"tr_s": 2.0, "num_volumes": 9}
    kinds = {"bids": made["bold"], "hcp": "found", "ukb": made["bold"], "derivatives": "found"}
    for kind, expected in kinds.items():
        # An HCP image is taken as it came, and the index knows where it is.
        written = made | ({"bold": "/somewhere/else"} if kind == "hcp" else {})
        scan = {"dataset": "D", "participant_id": "sub-1", "scan": "sub-1_task-rest", "outcome": "ok"}
        write_runs(pd.DataFrame([dict.fromkeys(RUNS.columns) | scan | written]), folder)
        scans = pd.DataFrame([dict.fromkeys(SCANS.columns) | scan | {"input": kind, "bold": "found"}])
        assert with_preprocessed(scans, tmp_path)["bold"].to_list() == [expected], kind


def test_grids_do_not_gather_over_a_batch_in_which_every_scan_has_its_own(tmp_path):
    grids: dict[bytes, np.ndarray] = {}
    for size in (40, 41, 42):
        data = np.random.default_rng(size).integers(1, 99, (size, size, size, 3))
        bold, mask = _write(tmp_path, data), _write(tmp_path, np.ones(data.shape[:3]), dtype="uint8", name="m.nii.gz")
        parcellate(bold, mask, load_atlas("AAL"), Parcellate(), grids)
        assert [labels.shape for labels in grids.values()] == [(size, size, size)]
