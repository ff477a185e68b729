"""Slice timing: what a scanner saw late is brought back to one moment, and times that cannot be true are refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lcm.imaging.run_image import RunImage, in_order
from lcm.imaging.slice_timing import SliceTimes, correct, read_slice_times, shift_in_time

TR_S = 2.0
SHAPE = (3, 4, 6)
TIMES_S = (0.0, 1.0, 0.3, 1.3, 0.65, 1.65)
NUM_VOLUMES = 200


def _sampled(frequency_hz: float, times: SliceTimes) -> np.ndarray:
    """X×Y×Z×T: a wave seen by every slice at its own moment."""
    slices = [300 * np.sin(2 * np.pi * frequency_hz * (TR_S * np.arange(NUM_VOLUMES) + s)) for s in times.times_s]
    wave_ST = 1000 + np.stack(slices)
    shape = [1, 1, 1, NUM_VOLUMES]
    shape[times.axis] = len(times.times_s)
    grid = [3, 4, 5]
    grid[times.axis] = len(times.times_s)
    return np.broadcast_to(wave_ST.reshape(shape), (*grid, NUM_VOLUMES)).astype(np.float32)


def _run(data: np.ndarray, folder: Path) -> RunImage:
    nib.save(nib.Nifti1Image(data, np.diag([3.0, 3, 3.5, 1])), folder / "bold.nii.gz")
    return RunImage(folder / "bold.nii.gz")


def _corrected(
    data: np.ndarray, times: SliceTimes, folder: Path, num_non_steady: int = 0, threads: int = 1
) -> np.ndarray:
    path = folder / f"corrected{threads}.nii"
    image, text = correct(_run(data, folder), times, TR_S, num_non_steady, path, threads)
    assert text == f"corrected to {times.reference_s} s"
    return np.stack([image.volume(index) for index in range(image.num_volumes)], axis=-1)


@pytest.mark.parametrize("frequency_hz", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_wave_is_found_at_the_reference_time_in_every_slice(tmp_path, frequency_hz, axis):
    times = SliceTimes(axis, TIMES_S)
    data = _sampled(frequency_hz, times)
    moment_s = TR_S * np.arange(NUM_VOLUMES) + times.reference_s
    truth_T = 1000 + 300 * np.sin(2 * np.pi * frequency_hz * moment_s)
    inner = slice(10, -10)
    before = np.abs(data - truth_T)[..., inner].max()
    after = np.abs(_corrected(data, times, tmp_path) - truth_T)[..., inner].max()
    # A slice 0.825 s off is wrong by 300 × 2π f × 0.825 at the steepest point.
    assert before == pytest.approx(300 * 2 * np.sin(np.pi * frequency_hz * 0.825), rel=0.05)
    assert after < 0.02 * before
    assert after < 3.0


def test_volumes_at_the_ends_stay_in_the_range_of_their_neighbours(tmp_path):
    times = SliceTimes(2, TIMES_S)
    data = _sampled(0.05, times)
    ends = _corrected(data, times, tmp_path)[..., [0, -1]]
    assert np.abs(ends - data[..., [0, -1]]).max() <= np.abs(np.diff(data, axis=-1)).max()


def test_a_constant_series_stays_as_it_is(tmp_path):
    data = np.full((*SHAPE, 30), 731.0, np.float32)
    np.testing.assert_allclose(_corrected(data, SliceTimes(2, TIMES_S), tmp_path), data, rtol=1e-6)


def test_non_steady_volumes_are_copied_and_reach_no_other(tmp_path):
    data = _sampled(0.05, SliceTimes(2, TIMES_S))
    bright = data.copy()
    bright[..., :3] *= 4
    found = _corrected(bright, SliceTimes(2, TIMES_S), tmp_path, num_non_steady=3)
    np.testing.assert_array_equal(found[..., :3], bright[..., :3])
    alone = _corrected(data[..., 3:].copy(), SliceTimes(2, TIMES_S), tmp_path)
    np.testing.assert_array_equal(found[..., 3:], alone)


def test_a_shift_by_half_a_volume_is_that_of_scipys_spline():
    from scipy.ndimage import map_coordinates

    series_T = np.random.default_rng(0).normal(0, 1, 40).astype(np.float32)
    expected = map_coordinates(series_T.astype(np.float64), [np.arange(40) + 0.5], order=3, mode="mirror")
    np.testing.assert_allclose(shift_in_time(series_T[None], 0.5)[0], expected, atol=1e-5)


def test_threads_change_no_bit(tmp_path):
    times = SliceTimes(2, TIMES_S)
    data = np.random.default_rng(1).normal(800, 30, (*SHAPE, 40)).astype(np.float32)
    np.testing.assert_array_equal(_corrected(data, times, tmp_path, 0, 1), _corrected(data, times, tmp_path, 0, 3))


def test_results_of_threads_come_in_order():
    assert list(in_order(lambda n: n * n, range(50), 3)) == [n * n for n in range(50)]


def test_the_corrected_file_is_mapped_and_keeps_grid_and_repetition_time(tmp_path):
    run = _run(_sampled(0.05, SliceTimes(2, TIMES_S)), tmp_path)
    image, _ = correct(run, SliceTimes(2, TIMES_S), TR_S, 0, tmp_path / "x.nii", 1)
    assert isinstance(image.stored, np.memmap)
    assert (image.shape, image.num_volumes) == (run.shape, run.num_volumes)
    np.testing.assert_array_equal(image.affine, run.affine)
    whole = nib.load(tmp_path / "x.nii")
    assert whole.header.get_zooms() == (3.0, 3.0, 3.5, TR_S)
    np.testing.assert_array_equal(whole.get_fdata()[..., 7], image.volume(7))


# ── reading the times ───────────────────────────────────────────────────────────────────────────


def test_too_few_steady_volumes_are_left_as_they_are(tmp_path):
    run = _run(np.random.default_rng(2).normal(800, 30, (*SHAPE, 8)).astype(np.float32), tmp_path)
    assert correct(run, SliceTimes(2, TIMES_S), TR_S, 4, tmp_path / "x.nii", 1) == (run, "fewer than 5 volumes")
    assert not (tmp_path / "x.nii").exists()
    assert correct(run, SliceTimes(2, TIMES_S), TR_S, 3, tmp_path / "x.nii", 1)[0] is not run


def _read(**metadata: object) -> SliceTimes | str:
    return read_slice_times(metadata, SHAPE, TR_S, wanted=True)


def test_times_are_read_along_k_unless_told_otherwise():
    times = _read(SliceTiming=list(TIMES_S))
    assert times == SliceTimes(2, TIMES_S)
    assert times.reference_s == 0.825


@pytest.mark.parametrize(("direction", "axis"), [("i", 0), ("j", 1), ("k", 2)])
def test_a_minus_sign_counts_slices_from_the_other_end(direction, axis):
    times_s = tuple(0.1 * n for n in range(SHAPE[axis]))
    assert _read(SliceTiming=list(times_s), SliceEncodingDirection=direction) == SliceTimes(axis, times_s)
    reverse = _read(SliceTiming=list(times_s), SliceEncodingDirection=f"{direction}-")
    assert reverse == SliceTimes(axis, times_s[::-1])


def test_a_run_that_needs_no_correction_says_why():
    assert _read() == "none in JSON"
    assert _read(SliceTiming=[0.5] * 6) == "all slices at once"
    assert read_slice_times({"SliceTiming": [9.0]}, SHAPE, TR_S, wanted=False) == "off"


@pytest.mark.parametrize(
    ("timing", "reason"),
    [
        ([0.0, 1.0], "SliceTiming has 2 values, the image 6 slices along k"),
        ([-0.1, 0, 0.3, 0.6, 0.9, 1.2], "SliceTiming holds -0.1"),
        ([0, 300, 600, 900, 1200, 1500], r"SliceTiming holds 1500, more than .* 2 s \(milliseconds\?\)"),
        ([0, 0.3, None, 0.9, 1.2, 1.5], "SliceTiming is no list of numbers"),
        ([0, 0.3, float("nan"), 0.9, 1.2, 1.5], "SliceTiming is no list of numbers"),
        (["0", "1", "2", "3", "4", "5"], "SliceTiming is no list of numbers"),
        ("012345", "SliceTiming is no list of numbers"),
        (0.3, "SliceTiming is no list of numbers"),
        ([], "SliceTiming has 0 values"),
    ],
)
def test_times_that_cannot_be_true_are_refused_with_the_remedy(timing, reason):
    with pytest.raises(ValueError, match=f"{reason}.*preprocess.slice_timing"):
        _read(SliceTiming=timing)


def test_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="SliceEncodingDirection is 'z'"):
        _read(SliceTiming=list(TIMES_S), SliceEncodingDirection="z")
