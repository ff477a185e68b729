"""The confounds table: fMRIPrep's names, n/a only in first rows, closed-form DVARS and RMSD, read by nilearn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds

from lcm.imaging.motion import rigid_matrix
from lcm.imaging.registration import load_template
from lcm.imaging.regressors import confounds_table, count_non_steady, dvars, relative_rms, write_confounds
from lcm.imaging.tissues import tissue_masks
from tests.moving_head import planted_motion

TR_S = 2.0
NAMES = re.compile(
    r"(trans_[xyz]|rot_[xyz]|csf|white_matter|global_signal)(_derivative1)?(_power2)?|framewise_displacement|rmsd|dvars"
    r"|std_dvars|cosine\d{2}|[acwt]_comp_cor_\d{2}|(non_steady_state|motion)_outlier\d{2}"
)


def _table(num_volumes: int = 30, num_non_steady: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tissues = {name: rng.normal(100, 1, num_volumes) for name in ("csf", "white_matter", "global_signal")}
    plain = np.concatenate([[np.nan], rng.uniform(20, 22, num_volumes - 1)])
    standard = np.concatenate([[np.nan], np.ones(num_volumes - 1)])
    return confounds_table(planted_motion(num_volumes, 1), tissues, plain, standard, num_non_steady, {})


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
        "rmsd",
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
    spikes = table.filter(like="motion_outlier")
    assert moved.sum() == spikes.shape[1] > 0
    assert (spikes.sum() == 1).all()
    np.testing.assert_array_equal(spikes.sum(axis=1) == 1, moved)
    assert table["non_steady_state_outlier01"].idxmax() == 1


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


def test_relative_rms_is_that_of_the_closed_forms():
    parameters = np.zeros((4, 6))
    parameters[1:, 3] = 0.1
    parameters[2:, :3] = [3.0, 0.0, 4.0]
    parameters[3, :3] = [3.0, 1.0, 4.0]
    found = relative_rms(parameters)
    # tr(AᵀA) of a turn by θ is 4 (1 − cos θ); small turns move the sphere's points by √(2/5) R θ.
    turn = 80 * np.sqrt(4 * (1 - np.cos(0.1)) / 5)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], [turn, 5.0, 1.0])
    assert turn == pytest.approx(np.sqrt(2 / 5) * 80 * 0.1, rel=1e-3)


def test_relative_rms_is_the_distance_averaged_over_the_sphere():
    parameters = np.array([[0.2, 0.0, -0.1, 0.01, 0.0, 0.0], [1.0, -2.0, 0.5, 0.05, -0.02, 0.03]])
    points = np.random.default_rng(6).normal(size=(200_000, 3))
    points *= (
        80 * np.random.default_rng(7).random((200_000, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    )
    before, after = (points @ rigid_matrix(p, np.zeros(3))[:3, :3].T + p[:3] for p in parameters)
    assert relative_rms(parameters)[1] == pytest.approx(np.sqrt(((after - before) ** 2).sum(axis=1).mean()), rel=0.01)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray], np.ndarray]:
    """Table of a run of noise with a wave planted in CSF and another in white matter; the template's masks; the waves."""
    folder = tmp_path_factory.mktemp("run")
    template = load_template("nilearn", 4.0)
    masks = tissue_masks(template.mask, template.affine)
    rng = np.random.default_rng(4)
    waves = rng.normal(0, 50, (2, 90))
    data = rng.normal(1000, 5, (*template.mask.shape, 90)).astype(np.float32)
    data[masks["csf"]] += waves[0]
    data[masks["white_matter"]] += waves[1]
    bold = folder / "sub-01_task-rest_space-MNI152NLin2009aSym_desc-preproc_bold.nii.gz"
    nib.save(nib.Nifti1Image(data, template.affine), bold)
    path = folder / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    write_confounds(nib.load(bold), template.mask, (planted_motion(90, 1), 2), TR_S, {}, path)
    return path, masks, waves


def test_every_column_has_a_name_of_fmriprep_and_only_first_rows_are_missing(written):
    path, _, _ = written
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    assert all(NAMES.fullmatch(name) for name in table.columns)
    assert path.read_text().splitlines()[1].count("n/a") == 22
    assert not table.iloc[1:].isna().any().any()
    assert table.filter(regex="_comp_cor_|cosine").iloc[:2].abs().to_numpy().max() == 0


def test_table_of_a_planted_run_holds_the_planted_tissue_signals(written):
    path, masks, waves = written
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    about = json.loads(path.with_suffix(".json").read_text())
    for name, component, wave in [("csf", "c_comp_cor_00", waves[0]), ("white_matter", "w_comp_cor_00", waves[1])]:
        assert np.corrcoef(table[name], wave)[0, 1] > 0.99
        assert abs(np.corrcoef(table[component][2:], wave[2:])[0, 1]) > 0.95
        assert about[name]["NumberOfVoxels"] == int(masks[name].sum())
        assert about[name]["Mask"] == "template"
    assert abs(np.corrcoef(table["csf"], waves[1])[0, 1]) < 0.5


def test_nilearn_reads_table_and_sidecar_as_those_of_fmriprep(written):
    image = next(written[0].parent.glob("*_bold.nii.gz"))
    found, kept = load_confounds(
        str(image),
        strategy=("motion", "high_pass", "compcor", "scrub"),
        motion="full",
        compcor="anat_combined",
        n_compcor=5,
        scrub=0,
        fd_threshold=0.5,
        std_dvars_threshold=1.5,
        demean=False,
    )
    table = pd.read_csv(written[0], sep="\t", na_values="n/a")
    assert {f"a_comp_cor_{number:02d}" for number in range(5)} | {"cosine00"} <= set(found.columns)
    moved = (table["framewise_displacement"] > 0.5) | (table["std_dvars"] > 1.5)
    assert set(kept) == set(np.flatnonzero(~moved)) - {0, 1}
