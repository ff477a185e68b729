"""Images as scanners, copies and other programs spoil them: each ends in one clear outcome, or does no harm at all."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.__main__ import main
from lcm.atlas import load_atlas
from lcm.config import Parcellate
from lcm.imaging.header import ImageError, read_header
from lcm.imaging.layouts import pipeline_row
from lcm.imaging.parcellate import parcellate
from lcm.tables import RUNS, SCANS, read_arrow, read_tsv, write_tsv

AFFINE = np.array([[-4.0, 0, 0, 90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
SHAPE = (46, 55, 46)
NUM_VOLUMES = 6
STEM = "sub-1_task-rest_space-MNI152NLin6Asym_desc-"


@dataclass(frozen=True)
class Run:
    """A sound fMRIPrep run of one participant, to be spoiled."""

    folder: Path

    @property
    def bold(self) -> Path:
        """4D, int16, no scaling, values from 1 to 20,000."""
        return self.folder / f"sub-1/func/{STEM}preproc_bold.nii.gz"

    @property
    def mask(self) -> Path:
        """The upper three quarters of the grid."""
        return self.folder / f"sub-1/func/{STEM}brain_mask.nii.gz"

    @property
    def sidecar(self) -> Path:
        """States a TR of 2 s."""
        return Path(str(self.bold).replace(".nii.gz", ".json"))

    def row(self) -> dict[str, object]:
        """What `index` and then `parcellate`, run by the door, make of it."""
        datasets = {"D": {"path": str(self.folder), "input": "derivatives", "cohort": "generic"}}
        index, output = self.folder / "index", self.folder / "series.arrow"
        assert main(["index", "--datasets", json.dumps(datasets), "--output", str(index)]) == 0
        flags = ["--scans", str(index / "scans.tsv"), "--runs", str(self.folder), "--output", str(output)]
        assert main(["parcellate", *flags]) == 0
        return read_arrow(output).to_pylist()[0]

    def series(self) -> tuple[np.ndarray, np.ndarray]:
        """Series T×R and coverage R by `parcellate` itself."""
        return parcellate(self.bold, self.mask, load_atlas("AAL"), Parcellate(), {})


def _data() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 20000, (*SHAPE, NUM_VOLUMES)).astype("int16")


def _inside() -> np.ndarray:
    return np.broadcast_to(np.arange(SHAPE[2]) >= 10, SHAPE)


def _save(data: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> None:
    image = nib.Nifti1Image(data, affine)
    image.header.set_zooms((4, 4, 4, 2.0)[: data.ndim])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    sound = Run(tmp_path)
    sound.bold.parent.mkdir(parents=True)
    _save(_data(), sound.bold)
    _save(_inside().astype("uint8"), sound.mask)
    sound.sidecar.write_text('{"RepetitionTime": 2.0}')
    (sound.bold.parent / "sub-1_task-rest_desc-confounds_timeseries.tsv").write_text("csf\n" + "1\n" * NUM_VOLUMES)
    return sound


def _overwrite(path: Path, start: int, content: bytes) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[start : start + len(content)] = content
    path.write_bytes(gzip.compress(bytes(raw), compresslevel=1))


def _voxels(run: Run, place: tuple[object, ...], value: float) -> None:
    data = _data().astype("float32")
    data[place] = value
    _save(data, run.bold)


REGION = (load_atlas("AAL").on_grid(SHAPE, AFFINE) == 1) & _inside()
"""Voxels of the first region inside the mask."""


def _cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _scramble(path: Path) -> None:
    """Spoil the middle of the stream, and leave header and trailer as they are."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(content))


def _no_codes(path: Path) -> None:
    _overwrite(path, 252, bytes(4))


def _cifti(path: Path) -> None:
    """A dense series under the name of a NIfTI."""
    brain = nib.cifti2.BrainModelAxis.from_mask(np.ones((3, 3, 3), bool), name="CORTEX_LEFT", affine=np.eye(4))
    axes = (nib.cifti2.SeriesAxis(0, 2, NUM_VOLUMES), brain)
    plain = path.with_name("dense.dtseries.nii")
    nib.save(nib.Cifti2Image(np.ones((NUM_VOLUMES, 27), "float32"), axes), plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


OUTCOMES: dict[str, tuple[Callable[[Run], object], str]] = {
    "a header of zeros": (lambda r: _overwrite(r.bold, 0, bytes(348)), "failed: unreadable image (ImageFileError)"),
    "an unknown data type": (
        lambda r: _overwrite(r.bold, 70, b"\x0f\x27"),
        "failed: unreadable image (HeaderDataError)",
    ),
    "a text file": (lambda r: r.bold.write_text("404 not found"), "failed: unreadable image (ImageFileError)"),
    "half a gzip": (lambda r: _cut(r.bold), "failed: truncated image: the file ends before its last voxel"),
    "a hole in the gzip": (lambda r: _scramble(r.bold), "failed: truncated or corrupt image (IsalError)"),
    "NaN in a region": (
        lambda r: _voxels(r, (REGION, 3), np.nan),
        "failed: NaN or infinite voxels inside the brain mask",
    ),
    "infinity in a region": (
        lambda r: _voxels(r, (REGION, 3), np.inf),
        "failed: NaN or infinite voxels inside the brain mask",
    ),
    "three dimensions": (
        lambda r: _save(_data()[..., 0], r.bold),
        "failed: image has shape 46×55×46; a run needs four dimensions",
    ),
    "complex numbers": (
        lambda r: _save(_data().astype("complex64"), r.bold),
        "failed: voxels of type complex64 are no real numbers",
    ),
    "a TR of 0 in JSON": (
        lambda r: r.sidecar.write_text('{"RepetitionTime": 0}'),
        "failed: RepetitionTime 0 s is not a repetition time; it is given in seconds",
    ),
    "neither sform nor qform": (lambda r: _no_codes(r.bold), "failed: no orientation: sform and qform codes are 0"),
    "a flat affine": (
        lambda r: _overwrite(r.bold, 280, bytes(16)),
        "failed: the affine is not finite or flattens the image: voxels have no place in space",
    ),
    "CIFTI by the name of a NIfTI": (
        lambda r: _cifti(r.bold),
        "failed: CIFTI, which holds no volumes: hand in the image in MNI space",
    ),
    "a mask of another shape": (
        lambda r: _save(np.ones((10, 10, 10), "uint8"), r.mask),
        "failed: brain mask and BOLD are on different grids",
    ),
    "a mask shifted by a voxel": (
        lambda r: _save(_inside().astype("uint8"), r.mask, AFFINE + np.eye(4, k=3) * 4),
        "failed: brain mask and BOLD are on different grids",
    ),
    "an empty mask": (
        lambda r: _save(np.zeros(SHAPE, "uint8"), r.mask),
        "failed: no atlas region inside the brain mask; is the image in MNI space?",
    ),
    "a mask with a broken header": (
        lambda r: _overwrite(r.mask, 70, b"\x0f\x27"),
        "failed: unreadable brain mask (HeaderDataError)",
    ),
    "half a mask": (lambda r: _cut(r.mask), "failed: unreadable brain mask (EOFError)"),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_a_spoiled_image_is_the_outcome_of_its_scan(run: Run, case: str):
    spoil, expected = OUTCOMES[case]
    spoil(run)
    row = run.row()
    assert row["outcome"] == expected
    assert row["series"] is None


def test_a_sound_image_is_ok(run: Run):
    row = run.row()
    assert (row["outcome"], row["tr_s"], row["num_volumes"]) == ("ok", 2.0, NUM_VOLUMES)


def test_an_uncompressed_image_without_its_last_voxel_is_truncated(run: Run):
    plain = run.bold.with_suffix("")
    plain.write_bytes(gzip.decompress(run.bold.read_bytes())[:-2])
    with pytest.raises(ImageError, match="truncated"):
        parcellate(plain, run.mask, load_atlas("AAL"), Parcellate(), {})


def test_cifti_under_its_own_extension_is_refused_by_name_too(run: Run):
    _cifti(run.bold)
    plain = run.bold.with_suffix("")
    plain.write_bytes(gzip.decompress(run.bold.read_bytes()))
    assert isinstance(nib.load(plain), nib.Cifti2Image)
    with pytest.raises(ImageError, match="CIFTI"):
        read_header(plain)


def test_whatever_field_of_the_header_is_lost_the_batch_goes_on(run: Run):
    fields = nib.Nifti1Header.template_dtype.fields
    assert fields is not None
    whole = gzip.decompress(run.bold.read_bytes())
    plain, atlas, refused = run.bold.with_suffix(""), load_atlas("AAL"), []
    for name, (kind, start, *_) in fields.items():
        for byte in (b"\xff", b"\x7f", b"\x00"):
            plain.write_bytes(whole[:start] + byte * kind.itemsize + whole[start + kind.itemsize :])
            try:
                read_header(plain)
                if name in ("vox_offset", "scl_slope", "scl_inter", "magic", "datatype", "bitpix", "dim"):
                    parcellate(plain, run.mask, atlas, Parcellate(), {})
            except ImageError:
                refused.append(name)
    assert {"dim", "datatype", "srow_x", "magic"} <= set(refused)
    assert not {"descrip", "cal_max", "slice_code"} & set(refused)


# ── what does no harm ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_outside_the_mask_have_no_say(run: Run, value: float):
    expected_TR, expected_R = run.series()
    _voxels(run, (~_inside(),), value)
    series_TR, coverage_R = run.series()
    np.testing.assert_array_equal(coverage_R, expected_R)
    np.testing.assert_allclose(series_TR, expected_TR, rtol=1e-10)


def test_a_tr_of_0_in_the_header_gives_way_to_json_and_fails_without_one(run: Run):
    _overwrite(run.bold, 92, bytes(4))
    assert run.row()["tr_s"] == 2.0
    row = pipeline_row(run.bold, {"sub": "1", "task": "rest"}, run.sidecar)
    assert (row["outcome"], row["tr_s"]) == ("ok", 2.0)
    run.sidecar.unlink()
    row = pipeline_row(run.bold, {"sub": "1", "task": "rest"}, run.sidecar)
    assert row["outcome"] == "failed: no repetition time in the header, and no JSON sidecar with one"


def _stored(path: Path, dtype: str, slope: float = 1.0, inter: float = 0.0) -> None:
    """The run's values divided into slope and intercept, in a type and byte order, header and voxels written by hand."""
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(np.dtype(dtype))
    header.set_data_shape((*SHAPE, NUM_VOLUMES))
    header.set_zooms((4, 4, 4, 2.0))
    header.set_sform(AFFINE, code="mni")
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, slope, inter
    header["magic"] = b"n+1"
    stored = ((_data().astype(np.float64) - inter) / slope).astype(dtype)
    content = header.binaryblock + bytes(4) + stored.tobytes(order="F")
    path.write_bytes(gzip.compress(content, compresslevel=1) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "slope", "inter"),
    [
        ("<i2", 1, 0),
        (">i2", 1, 0),
        ("<i4", 0.5, 100),
        (">i2", 1, 300),
        ("<f4", 0.25, -64),
        (">f4", 1, 0),
        ("<f8", 1, 0),
        ("<u2", 1, 0),
    ],
)
def test_type_byte_order_scaling_and_compression_change_no_series(
    run: Run, extension: str, dtype: str, slope: float, inter: float
):
    expected_TR, _ = run.series()
    path = run.folder / f"other{extension}"
    _stored(path, dtype, slope, inter)
    series_TR, _ = parcellate(path, run.mask, load_atlas("AAL"), Parcellate(), {})
    np.testing.assert_allclose(series_TR, expected_TR, rtol=1e-10)


def _places(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """An image whose three volumes hold x, y and z of each voxel in mm, so that means are centres."""
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def test_an_oblique_image_gives_the_answer_of_the_upright_one(tmp_path: Path):
    """The image's values are places, so every region's series is its centre, however the grid lies in space."""
    atlas, centres = load_atlas("AAL"), []
    turn = nib.eulerangles.euler2mat(z=0.3, y=-0.2, x=0.4)
    middle = nib.affines.apply_affine(AFFINE, (np.array(SHAPE) - 1) / 2)
    oblique = nib.affines.from_matvec(
        turn @ AFFINE[:3, :3], middle - turn @ AFFINE[:3, :3] @ (np.array((63, 63, 63)) / 2)
    )
    for name, shape, affine in (("upright", SHAPE, AFFINE), ("oblique", (64, 64, 64), oblique)):
        bold, mask = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_mask.nii.gz"
        _save(_places(shape, affine).astype("float32"), bold, affine)
        _save(np.ones(shape, "uint8"), mask, affine)
        centres.append(parcellate(bold, mask, atlas, Parcellate(), {})[0])
    # Voxels of 4 mm round a small region's centre, and a rotation that was ignored would move most by centimetres.
    for found_3R in centres:
        distance_R = np.linalg.norm(found_3R.T - atlas.centres_mm(), axis=1)
        assert distance_R.max() < 4
        assert distance_R.mean() < 1
    assert np.linalg.norm(centres[0] - centres[1], axis=0).mean() < 1


# ── raw runs ────────────────────────────────────────────────────────────────────────────────────


def test_four_volumes_are_excluded_before_anything_is_registered(tmp_path: Path):
    _save(_data()[..., :4], tmp_path / "short.nii.gz")
    row = dict.fromkeys(SCANS.columns) | {
        "dataset": "D", "batch": "0", "participant_id": "sub-1", "scan": "sub-1_task-rest", "input": "bids",
        "bold": str(tmp_path / "short.nii.gz"), "tr_s": 2.0, "num_volumes": 4, "fingerprint": "f", "outcome": "ok",
    }  # fmt: skip
    write_tsv(pd.DataFrame([row]), tmp_path / "scans.tsv", SCANS)
    flags = ["--scans", str(tmp_path / "scans.tsv"), "--dataset", "D", "--participant", "sub-1"]
    output = tmp_path / "out/sub-1"
    assert main(["preprocess", *flags, "--output", str(output), "--settings", '{"template": "nilearn"}']) == 0
    assert read_tsv(output / "sub-1_runs.tsv", RUNS)["outcome"].to_list() == ["excluded: 4 volumes, fewer than 20"]
