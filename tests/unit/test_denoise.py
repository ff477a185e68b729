"""Denoising: planted regressors vanish, the order of operations holds, and every refusal has its reason."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.config import Denoise
from lcm.imaging.denoise import Refused, denoise
from lcm.imaging.strategy import Confounds, ConfoundsError, Strategy, read_strategy, strategy_path

NINE = read_strategy(strategy_path("9P"))
NONE = Strategy(name="none", description="nothing", citation="none", columns=())
TR_S, NUM_VOLUMES, NUM_REGIONS = 2.0, 200, 5
OPEN = Denoise(low_hz=None, high_hz=None, fd_mm=None, min_minutes=0)


def _frame(rng: np.random.Generator) -> pd.DataFrame:
    frame = pd.DataFrame(rng.standard_normal((NUM_VOLUMES, 9)), columns=list(NINE.columns))
    frame["framewise_displacement"] = [np.nan, *np.full(NUM_VOLUMES - 1, 0.1)]
    return frame


def _confounds(frame: pd.DataFrame, folder: Path) -> Confounds:
    path = folder / "confounds.tsv"
    frame.to_csv(path, sep="\t", na_rep="n/a", index=False)
    return Confounds(path, NUM_VOLUMES)


def _bump(hz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz * TR_S * np.arange(NUM_VOLUMES))


def test_a_series_made_of_confounds_vanishes(tmp_path):
    rng = np.random.default_rng(0)
    frame = _frame(rng)
    series_TR = frame[list(NINE.columns)].to_numpy() @ rng.standard_normal((9, NUM_REGIONS)) + 100
    done = denoise(series_TR, TR_S, _confounds(frame, tmp_path), NINE, OPEN)
    assert np.abs(done.series_TR).max() < 1e-8 * np.abs(series_TR).max()


def test_the_filter_keeps_its_band_and_stops_the_rest(tmp_path):
    none = Strategy(name="none", description="", citation="", columns=())
    settings = Denoise(low_hz=0.01, high_hz=0.08, fd_mm=None, min_minutes=0)
    series_TR = np.column_stack([_bump(0.04), _bump(0.2), _bump(0.0015)])
    done = denoise(series_TR, TR_S, _confounds(_frame(np.random.default_rng(0)), tmp_path), none, settings)
    gain = done.series_TR[40:-40].std(axis=0) / series_TR[40:-40].std(axis=0)
    assert gain[0] == pytest.approx(1, abs=0.05)
    assert gain[1] < 0.02
    assert gain[2] < 0.2


def test_the_filtered_residual_holds_no_trace_of_filtered_confounds(tmp_path):
    """Filtering only the series would let the confounds' band back in (Lindquist et al. 2019)."""
    from nilearn.signal import butterworth

    rng = np.random.default_rng(1)
    frame = _frame(rng)
    series_TR = rng.standard_normal((NUM_VOLUMES, NUM_REGIONS)) + frame[["csf"]].to_numpy() * 5
    settings = Denoise(low_hz=0.01, high_hz=0.08, fd_mm=None, min_minutes=0, detrend=False)
    done = denoise(series_TR, TR_S, _confounds(frame, tmp_path), NINE, settings)
    filtered = butterworth(
        frame[list(NINE.columns)].to_numpy(),
        1 / TR_S,
        0.08,
        0.01,
        order=2,
        padtype="constant",
        padlen=NUM_VOLUMES - 1,
        copy=True,
    )
    filtered -= filtered.mean(axis=0)
    overlap = np.abs(filtered.T @ done.series_TR) / np.linalg.norm(filtered, axis=0)[:, None]
    assert overlap.max() < 1e-8 * np.linalg.norm(series_TR)


def test_censored_volumes_are_dropped_and_do_not_touch_the_rest(tmp_path):
    rng = np.random.default_rng(2)
    frame = _frame(rng)
    frame.loc[[0, 50, 51, 199], "framewise_displacement"] = 3.0
    clean_TR = rng.standard_normal((NUM_VOLUMES, NUM_REGIONS)).cumsum(axis=0)
    spiked_TR = clean_TR.copy()
    spiked_TR[[0, 50, 51, 199]] += 1e6
    settings = Denoise(fd_mm=0.5, min_minutes=0)
    confounds = _confounds(frame, tmp_path)
    done = denoise(spiked_TR, TR_S, confounds, NINE, settings)
    expected = denoise(clean_TR, TR_S, confounds, NINE, settings)
    assert list(np.flatnonzero(~done.kept_T)) == [0, 50, 51, 199]
    assert np.isnan(done.series_TR[~done.kept_T]).all()
    np.testing.assert_allclose(done.series_TR[done.kept_T], expected.series_TR[done.kept_T], atol=1e-6)


def test_denoising_a_region_mean_equals_the_mean_of_voxels_denoised_by_nilearn(tmp_path):
    """The reason why `denoise` stands after `parcellate`: all of it is linear in time."""
    from nilearn.image import clean_img

    rng = np.random.default_rng(3)
    frame = _frame(rng)
    frame.loc[[60, 61, 120], "framewise_displacement"] = 2.0
    voxels = rng.standard_normal((4, 4, 4, NUM_VOLUMES)).cumsum(axis=-1) + 1000
    labels = rng.integers(0, NUM_REGIONS, (4, 4, 4))
    means_TR = np.column_stack([voxels[labels == r].mean(axis=0) for r in range(NUM_REGIONS)])
    done = denoise(means_TR, TR_S, _confounds(frame, tmp_path), NINE, Denoise(fd_mm=0.5, min_minutes=0))
    cleaned = clean_img(
        nib.Nifti1Image(voxels, np.eye(4)),
        detrend=True,
        standardize=False,
        confounds=frame[list(NINE.columns)].to_numpy(),
        low_pass=0.08,
        high_pass=0.01,
        t_r=TR_S,
        ensure_finite=False,
        clean__sample_mask=np.flatnonzero(done.kept_T),
        clean__butterworth__order=2,
        clean__butterworth__padtype="constant",
        clean__butterworth__padlen=NUM_VOLUMES - 1,
    ).get_fdata()
    expected = np.column_stack([cleaned[labels == r].mean(axis=0) for r in range(NUM_REGIONS)])
    np.testing.assert_allclose(done.series_TR[done.kept_T], expected, atol=1e-6 * np.abs(expected).max())


def test_dummy_volumes_are_removed_before_anything_else(tmp_path):
    frame = _frame(np.random.default_rng(4))
    for i in range(3):
        frame[f"non_steady_state_outlier_{i:02d}"] = np.eye(NUM_VOLUMES)[i]
    series_TR = np.random.default_rng(5).standard_normal((NUM_VOLUMES, NUM_REGIONS))
    series_TR[:3] += 1e5
    done = denoise(series_TR, TR_S, _confounds(frame, tmp_path), NINE, Denoise(min_minutes=0))
    assert list(np.flatnonzero(~done.kept_T)) == [0, 1, 2]
    assert np.nanmax(np.abs(done.series_TR)) < 10


def test_motion_is_reported_where_nothing_is_censored(tmp_path):
    frame, series_TR = _frame(np.random.default_rng(10)), np.random.default_rng(11).standard_normal((NUM_VOLUMES, 2))
    settings = Denoise(fd_mm=None, min_minutes=0)
    assert denoise(series_TR, TR_S, _confounds(frame, tmp_path), NINE, settings).fd_mm_T.max() == 0.1
    without = _confounds(frame.drop(columns="framewise_displacement"), tmp_path)
    assert denoise(series_TR, TR_S, without, NINE, settings).fd_mm_T is None


def test_an_uncovered_region_stays_nan_and_harms_no_other(tmp_path):
    rng = np.random.default_rng(6)
    frame, series_TR = _frame(rng), rng.standard_normal((NUM_VOLUMES, NUM_REGIONS))
    confounds = _confounds(frame, tmp_path)
    whole = denoise(series_TR, TR_S, confounds, NINE, Denoise(min_minutes=0))
    series_TR[:, 2] = np.nan
    done = denoise(series_TR, TR_S, confounds, NINE, Denoise(min_minutes=0))
    assert np.isnan(done.series_TR[:, 2]).all()
    np.testing.assert_allclose(done.series_TR[:, [0, 1, 3, 4]], whole.series_TR[:, [0, 1, 3, 4]])


def test_too_little_data_is_refused(tmp_path):
    frame, series_TR = _frame(np.random.default_rng(7)), np.random.default_rng(8).standard_normal((NUM_VOLUMES, 2))
    with pytest.raises(Refused, match="minutes"):
        denoise(series_TR, TR_S, _confounds(frame, tmp_path), NINE, Denoise(min_minutes=10))
    frame["framewise_displacement"] = np.where(np.arange(NUM_VOLUMES) < 30, 0.1, 9.0)
    with pytest.raises(Refused, match="degree of freedom"):
        denoise(series_TR, TR_S, _confounds(frame, tmp_path), NINE, Denoise(min_minutes=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[:-1], "199 rows, the run 200 volumes"),
        (lambda f: f.drop(columns="csf"), "lack the column csf"),
        (lambda f: f.assign(csf=3.0), "csf is constant"),
        (lambda f: f.assign(csf=[*f["csf"][:9], np.nan, *f["csf"][10:]]), "csf is missing or infinite"),
        (lambda f: f.assign(csf=["x"] * len(f)), "csf holds text"),
    ],
)
def test_confounds_that_do_not_fit_are_refused_by_name(tmp_path, change, message):
    series_TR = np.random.default_rng(9).standard_normal((NUM_VOLUMES, 2))
    with pytest.raises(ConfoundsError, match=message):
        denoise(series_TR, TR_S, _confounds(change(_frame(np.random.default_rng(0))), tmp_path), NINE, OPEN)


def test_a_run_without_a_covered_region_is_refused_and_not_an_error():
    with pytest.raises(Refused, match="no region is covered"):
        denoise(np.full((NUM_VOLUMES, NUM_REGIONS), np.nan), TR_S, None, NONE, OPEN)


def test_a_high_pass_at_zero_is_no_high_pass():
    series_TR = np.random.default_rng(0).standard_normal((NUM_VOLUMES, NUM_REGIONS))
    edges = {"high_hz": 0.08, "fd_mm": None, "min_minutes": 0}
    at_zero = denoise(series_TR, TR_S, None, NONE, Denoise(low_hz=0, **edges))
    none = denoise(series_TR, TR_S, None, NONE, Denoise(low_hz=None, **edges))
    np.testing.assert_array_equal(at_zero.series_TR, none.series_TR)
