"""The confounds table: fMRIPrep's names, n/a only in first rows, closed-form DVARS, tissue masks in their tissue."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.imaging.registration import load_template
from lcm.imaging.regressors import confounds_table, count_non_steady, dvars, tissue_masks, write_confounds
from tests.moving_head import planted_motion


def _table(num_volumes: int = 30, num_non_steady: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tissues = {name: rng.normal(100, 1, num_volumes) for name in ("csf", "white_matter", "global_signal")}
    plain = np.concatenate([[np.nan], rng.uniform(20, 22, num_volumes - 1)])
    standard = np.concatenate([[np.nan], np.ones(num_volumes - 1)])
    return confounds_table(planted_motion(num_volumes, 1), tissues, plain, standard, num_non_steady)


def test_columns_are_those_of_the_36_parameter_model():
    columns = set(_table().columns)
    base = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"] + ["csf", "white_matter", "global_signal"]
    expected = {f"{b}{s}" for b in base for s in ("", "_derivative1", "_power2", "_derivative1_power2")}
    assert len(expected) == 36
    assert expected | {"framewise_displacement", "dvars", "std_dvars"} <= columns


def test_values_are_missing_in_the_first_row_only_and_only_where_there_is_a_difference():
    table = _table()
    assert not table.iloc[1:].isna().any().any()
    missing = set(table.columns[table.iloc[0].isna()])
    assert missing == {c for c in table.columns if "derivative1" in c} | {
        "framewise_displacement",
        "dvars",
        "std_dvars",
    }


def test_derivative_is_the_backward_difference():
    table = _table()
    np.testing.assert_allclose(table["csf_derivative1"][1:], np.diff(table["csf"]))
    np.testing.assert_allclose(table["csf_derivative1_power2"][1:], np.diff(table["csf"]) ** 2)


def test_every_spike_is_one_column_with_a_single_one():
    table = _table(num_non_steady=2)
    moved = table["framewise_displacement"] > 0.5
    spikes = table.filter(like="motion_outlier_")
    assert moved.sum() == spikes.shape[1] > 0
    assert (spikes.sum() == 1).all()
    np.testing.assert_array_equal(spikes.sum(axis=1) == 1, moved)
    assert table["non_steady_state_outlier_01"].idxmax() == 1


def test_standardised_dvars_of_white_noise_is_one():
    noise = np.random.default_rng(1).normal(1000, 20, (4000, 200))
    plain, standard = dvars(noise)
    assert np.isnan([plain[0], standard[0]]).all()
    assert np.nanmean(standard) == pytest.approx(1, abs=0.02)
    assert np.nanmean(plain) == pytest.approx(20 * np.sqrt(2), rel=0.02)


def test_dvars_does_not_depend_on_the_unit():
    noise = np.random.default_rng(2).normal(500, 20, (300, 50))
    np.testing.assert_allclose(dvars(noise)[0], dvars(noise * 7)[0])


def test_bright_first_volumes_are_not_steady():
    signal = np.random.default_rng(3).normal(1000, 1, 60)
    signal[:3] += [300, 200, 90]
    assert count_non_steady(signal) == 3
    assert count_non_steady(np.full(40, 7.0)) == 0


@pytest.mark.parametrize("grid_mm", [3.0, 4.0])
def test_tissue_masks_lie_in_their_tissue(grid_mm):
    template = load_template("nilearn", grid_mm)
    masks = tissue_masks(template.mask, template.affine)
    assert not (masks["csf"] & masks["white_matter"]).any()
    assert masks["csf"].sum() * grid_mm**3 > 1500
    assert masks["white_matter"].sum() * grid_mm**3 > 50_000
    # On a T1w, ventricles are dark and white matter is the brightest tissue.
    dark, bright, mean = (template.brain[m].mean() for m in (masks["csf"], masks["white_matter"], template.mask))
    assert dark < 0.6 * mean < mean < bright


def test_table_of_a_planted_run_holds_the_planted_tissue_signals(tmp_path):
    template = load_template("nilearn", 4.0)
    masks = tissue_masks(template.mask, template.affine)
    rng = np.random.default_rng(4)
    wave = 50 * np.sin(np.arange(40) / 3)
    data = rng.normal(1000, 5, (*template.mask.shape, 40))
    data[masks["csf"]] += wave
    image = nib.Nifti1Image(data.astype(np.float32), template.affine)
    nib.save(image, tmp_path / "bold.nii.gz")
    path = tmp_path / "x_desc-confounds_timeseries.tsv"
    write_confounds(nib.load(tmp_path / "bold.nii.gz"), template.mask, planted_motion(40, 1), 0, path)
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    assert path.read_text().splitlines()[1].count("n/a") == 21
    assert np.corrcoef(table["csf"], wave)[0, 1] > 0.99
    assert abs(np.corrcoef(table["white_matter"], wave)[0, 1]) < 0.5
    assert json.loads(path.with_suffix(".json").read_text())["csf"]["NumberOfVoxels"] == int(masks["csf"].sum())
