"""Denoising: planted regressors vanish, the order of operations holds, and every refusal has its reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.config import Denoise
from lcm.imaging.connectivity import connectivity
from lcm.imaging.denoise import Refused, _methods, denoise
from lcm.imaging.strategy import Confounds, ConfoundsError, read_strategy, strategy_path

NINE = read_strategy(strategy_path("9P"))
NONE = read_strategy(strategy_path("none"))
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
    settings = Denoise(low_hz=0.01, high_hz=0.08, fd_mm=None, min_minutes=0)
    series_TR = np.column_stack([_bump(0.04), _bump(0.2), _bump(0.0015)])
    done = denoise(series_TR, TR_S, _confounds(_frame(np.random.default_rng(0)), tmp_path), NONE, settings)
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


SHIPPED = sorted((Path(strategy_path("9P")).parent).glob("*.yaml"))
COMPONENTS = [f"{letter}_comp_cor_{number:02d}" for letter in "wc" for number in range(7)]
EVERY_COLUMN = [*sorted({column for path in SHIPPED for column in read_strategy(path).columns}), *COMPONENTS]


def _fmriprep_frame(rng: np.random.Generator) -> pd.DataFrame:
    """Every column that a shipped strategy asks for, cosines, and a few volumes that moved."""
    frame = pd.DataFrame(rng.standard_normal((NUM_VOLUMES, len(EVERY_COLUMN))), columns=EVERY_COLUMN)
    frame.loc[0, [name for name in frame if "derivative1" in name]] = np.nan
    times = np.arange(NUM_VOLUMES) + 0.5
    for order in range(1, 6):
        frame[f"cosine{order - 1:02d}"] = np.cos(np.pi * order * times / NUM_VOLUMES)
    frame["framewise_displacement"] = np.where(np.isin(np.arange(NUM_VOLUMES), (60, 61, 120)), 2.0, 0.1)
    frame["std_dvars"] = np.where(np.isin(np.arange(NUM_VOLUMES), (30, 33)), 2.0, 1.0)
    frame.loc[0, ["framewise_displacement", "std_dvars"]] = np.nan
    return frame


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_denoising_a_region_mean_equals_the_mean_of_voxels_denoised_by_nilearn(tmp_path, path):
    """The reason why `denoise` stands after `parcellate`: all of it is linear in time, under every strategy."""
    from nilearn.image import clean_img
    from nilearn.signal import clean

    rng = np.random.default_rng(3)
    strategy = read_strategy(path)
    settings = strategy.applied_to(Denoise(min_minutes=0))
    confounds = _confounds(_fmriprep_frame(rng), tmp_path)
    voxels = rng.standard_normal((4, 4, 4, NUM_VOLUMES)).cumsum(axis=-1) + 1000
    labels = rng.integers(0, NUM_REGIONS, (4, 4, 4))
    means_TR = np.column_stack([voxels[labels == r].mean(axis=0) for r in range(NUM_REGIONS)])
    done = denoise(means_TR, TR_S, confounds, strategy, settings)
    design_TK = confounds.design(strategy)
    filtering = bool(settings.low_hz or settings.high_hz)
    same = {"detrend": settings.detrend, "low_pass": settings.high_hz, "high_pass": settings.low_hz, "t_r": TR_S}
    same |= {"confounds": design_TK if design_TK.shape[1] else None, "ensure_finite": False}
    further = {"sample_mask": np.flatnonzero(done.kept_T), "filter": "butterworth" if filtering else False}
    further |= {"butterworth__order": 2, "butterworth__padtype": "constant", "butterworth__padlen": NUM_VOLUMES - 1}
    further["standardize_confounds"] = True
    cleaned = clean_img(
        nib.Nifti1Image(voxels, np.eye(4)), standardize=None, **same, **{f"clean__{k}": v for k, v in further.items()}
    ).get_fdata()
    expected_TR = np.column_stack([cleaned[labels == r].mean(axis=0) for r in range(NUM_REGIONS)])
    scale = np.abs(expected_TR).max()
    np.testing.assert_allclose(done.series_TR[done.kept_T], expected_TR, rtol=0, atol=1e-6 * scale)
    by_signal_TR = clean(means_TR, standardize=None, extrapolate=False, **same, **further)
    np.testing.assert_allclose(done.series_TR[done.kept_T], by_signal_TR, rtol=0, atol=1e-10 * scale)


def test_planted_correlations_are_recovered_and_not_without_denoising(tmp_path):
    """Twenty regions with a known correlation, under motion, a global signal and a drift that swamp it."""
    rng = np.random.default_rng(12)
    num_volumes, num_regions = 600, 20
    frame = pd.DataFrame(rng.standard_normal((num_volumes, 9)), columns=list(NINE.columns))
    frame["framewise_displacement"] = np.where(rng.random(num_volumes) < 0.03, 1.5, 0.1)
    loadings = rng.standard_normal((num_regions, 4))
    truth_RR = loadings @ loadings.T + np.eye(num_regions)
    truth_E = (truth_RR / np.sqrt(np.outer(np.diag(truth_RR), np.diag(truth_RR))))[np.triu_indices(num_regions, k=1)]
    neural_TR = rng.standard_normal((num_volumes, num_regions)) @ np.linalg.cholesky(truth_RR).T
    nuisance_TR = frame[list(NINE.columns)].to_numpy() @ rng.normal(1, 1, (9, num_regions)) * 2
    spikes_TR = np.outer(frame["framewise_displacement"] > 1, rng.normal(30, 5, num_regions))
    drift_TR = np.outer(np.linspace(-5, 5, num_volumes), rng.standard_normal(num_regions))
    series_TR = 1000 + neural_TR + nuisance_TR + spikes_TR + drift_TR
    path = tmp_path / "confounds.tsv"
    frame.to_csv(path, sep="\t", index=False)
    settings = Denoise(low_hz=None, high_hz=None, fd_mm=0.5, min_minutes=0)
    done = denoise(series_TR, TR_S, Confounds(path, num_volumes), NINE, settings)
    recovered = np.corrcoef(connectivity(done.series_TR[done.kept_T], "correlation"), truth_E)[0, 1]
    undenoised = np.corrcoef(connectivity(series_TR, "correlation"), truth_E)[0, 1]
    assert recovered > 0.95
    assert undenoised < 0.6


def test_dvars_and_short_segments_censor_too(tmp_path):
    frame, series_TR = _frame(np.random.default_rng(4)), np.random.default_rng(5).standard_normal((NUM_VOLUMES, 2))
    frame["std_dvars"] = [np.nan, *np.ones(NUM_VOLUMES - 1)]
    frame.loc[[20, 24, 100], "std_dvars"] = 1.7
    frame.loc[[103], "framewise_displacement"] = 0.8
    confounds = _confounds(frame, tmp_path)
    settings = Denoise(std_dvars=1.5, fd_mm=0.5, min_minutes=0)
    done = denoise(series_TR, TR_S, confounds, NINE, settings)
    assert list(np.flatnonzero(~done.kept_T)) == [20, 24, 100, 103]
    done = denoise(series_TR, TR_S, confounds, NINE, settings.model_copy(update={"min_segment_volumes": 3}))
    assert list(np.flatnonzero(~done.kept_T)) == [20, 24, 100, 101, 102, 103]


def test_residual_degrees_of_freedom_are_what_filter_and_regressors_leave(tmp_path):
    frame, series_TR = _frame(np.random.default_rng(4)), np.random.default_rng(5).standard_normal((NUM_VOLUMES, 2))
    frame.loc[10:19, "framewise_displacement"] = 0.8
    confounds = _confounds(frame, tmp_path)
    # mean and line are fitted, too
    assert denoise(series_TR, TR_S, confounds, NINE, OPEN).residual_dof == NUM_VOLUMES - 9 - 2
    banded = Denoise(low_hz=0.01, high_hz=0.08, fd_mm=0.5, min_minutes=0)
    # 190 kept volumes; 0.07 Hz of the 0.25 Hz that a TR of 2 s can hold
    assert denoise(series_TR, TR_S, confounds, NINE, banded).residual_dof == pytest.approx(190 * 0.28 - 9)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_strategy_says_what_it_is_and_whose(path):
    strategy = read_strategy(path)
    assert len(strategy.description) > 80
    assert re.search(r"\d{4}", strategy.citation)
    assert len(set(strategy.columns)) == len(strategy.columns)


def test_the_strategies_have_the_regressors_of_their_names():
    sizes = {path.stem: len(read_strategy(path).columns) for path in SHIPPED}
    assert {name: sizes[name] for name in ("none", "2P", "9P", "24P", "36P", "xu9p")} == {
        "none": 0, "2P": 2, "9P": 9, "24P": 24, "36P": 36, "xu9p": 9,
    }  # fmt: skip
    acompcor = read_strategy(strategy_path("acompcor"))
    assert (sizes["acompcor"], acompcor.patterns) == (12, ("w_comp_cor_0[0-4]", "c_comp_cor_0[0-4]", r"cosine\d+"))
    assert not any(name.startswith(("csf", "white_matter", "global")) for name in acompcor.columns)


def _raw_scales(num_volumes: int, level: float) -> pd.DataFrame:
    """36P as a scanner gives it: tissue signals at `level`, rotations of milliradians, differences and squares of both."""
    rng = np.random.default_rng(20)
    columns = {}
    for name in NINE.columns:
        scale, mean = (
            (1e-3, 0) if name.startswith("rot") else (0.1, 0) if name.startswith("trans") else (0.01 * level, level)
        )
        values_T = mean + scale * rng.standard_normal(num_volumes)
        slope_T = np.diff(values_T, prepend=values_T[0])
        columns |= {name: values_T, f"{name}_derivative1": slope_T}
        columns |= {f"{name}_power2": values_T**2, f"{name}_derivative1_power2": slope_T**2}
    return pd.DataFrame(columns).assign(framewise_displacement=0.1)


@pytest.mark.parametrize("level", [1.0, 1e4, 1e6])
def test_degrees_of_freedom_do_not_depend_on_the_scanners_units(tmp_path, level):
    """Squares of a signal of 10⁴ beside squares of milliradians: all 36 are regressed out and all 36 must count."""
    series_TR = np.random.default_rng(5).standard_normal((NUM_VOLUMES, 2))
    confounds = _confounds(_raw_scales(NUM_VOLUMES, level), tmp_path)
    strategy = read_strategy(strategy_path("36P"))
    assert denoise(series_TR, TR_S, confounds, strategy, OPEN).residual_dof == NUM_VOLUMES - 36 - 2


def test_a_line_vanishes_where_nothing_is_filtered_and_much_is_censored(tmp_path):
    frame = _frame(np.random.default_rng(4))
    frame.loc[40:79, "framewise_displacement"] = 3.0
    line_TR = np.outer(np.arange(NUM_VOLUMES), [1.0, -2.0]) + 50
    settings = Denoise(low_hz=None, high_hz=None, fd_mm=0.5, min_minutes=0)
    for strategy in (NONE, NINE):
        done = denoise(line_TR, TR_S, _confounds(frame, tmp_path), strategy, settings)
        assert np.nanmax(np.abs(done.series_TR)) < 1e-9


def test_components_of_fmriprep_before_21_get_the_names_of_their_tissues(tmp_path):
    """Version 20.2 calls every anatomical component a_comp_cor_XX and says in the JSON alone whose it is."""
    frame = _fmriprep_frame(np.random.default_rng(6)).drop(columns=COMPONENTS)
    rng, masks = np.random.default_rng(7), ["combined"] * 3 + ["CSF"] * 6 + ["WM"] * 4
    old = {f"a_comp_cor_{number:02d}": rng.standard_normal(NUM_VOLUMES) for number in range(len(masks))}
    path = tmp_path / "confounds.tsv"
    frame.assign(**old).to_csv(path, sep="\t", na_rep="n/a", index=False)
    acompcor = read_strategy(strategy_path("acompcor"))
    with pytest.raises(ConfoundsError, match="no column like w_comp_cor"):
        Confounds(path, NUM_VOLUMES).design(acompcor)
    about = {name: {"Method": "aCompCor", "Mask": mask} for name, mask in zip(old, masks, strict=True)}
    path.with_suffix(".json").write_text(json.dumps(about))
    design_TK = Confounds(path, NUM_VOLUMES).design(acompcor)
    # 12 motion columns, the four of white matter, the first five of CSF, five cosines
    assert design_TK.shape[1] == 12 + 4 + 5 + 5
    np.testing.assert_allclose(design_TK[:, 12], old["a_comp_cor_09"], rtol=1e-6)
    np.testing.assert_allclose(design_TK[:, 16], old["a_comp_cor_03"], rtol=1e-6)


def test_a_pattern_takes_every_column_it_matches_wholly(tmp_path):
    frame = _frame(np.random.default_rng(0)).assign(cosine00=_bump(0.001), cosine01=_bump(0.003), my_cosine00=1.0)
    strategy = NONE.model_copy(update={"patterns": (r"cosine\d+",)})
    assert _confounds(frame, tmp_path).design(strategy).shape == (NUM_VOLUMES, 2)
    with pytest.raises(ConfoundsError, match=r"no column like cosine.d\+, which strategy none needs"):
        _confounds(_frame(np.random.default_rng(0)), tmp_path).design(strategy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name: other", "name is 'other'; it must equal the file's name"),
        ("settings: {fd: 1}", "fd: Extra inputs"),
        ("settings: {low_hz: 0.2}", "must be below high_hz"),
        ("patterns: ['(']", "missing \\)"),
        ("colums: [csf]", "colums: Extra inputs"),
        ("name: [", "while parsing"),
    ],
)
def test_a_labs_own_strategy_is_checked_before_anything_runs(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndescription: d\ncitation: c\n")
    assert read_strategy(path).name == "mine"
    lines = [line for line in path.read_text().splitlines() if line.split(":")[0] != change.split(":")[0]]
    path.write_text("\n".join([*lines, change]) + "\n")
    with pytest.raises(ValueError, match=message):
        read_strategy(path)


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


def test_the_methods_text_says_what_the_strategy_left_in_force():
    def said(name: str) -> str:
        strategy = read_strategy(strategy_path(name))
        return _methods(strategy.applied_to(Denoise()), strategy)

    assert "detrended and filtered (0.01–0.08 Hz, Butterworth order 2" in said("9P")
    assert "volumes with framewise displacement over 0.5 mm were interpolated before the filter" in said("9P")
    assert "filtered (0–0.08 Hz" in said("acompcor")
    assert "segments shorter than 5 volumes" in said("36P-scrub02")
    assert "Nothing was filtered; no volume was censored." in said("xu9p")
