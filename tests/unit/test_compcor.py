"""CompCor: planted noise comes back, nipype's own numbers, the closed-form cosines, and metadata that nilearn can read."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest
from nipype.algorithms.confounds import TCompCor, compute_noise_components

from lcm.imaging.compcor import MIN_KEPT, VARIANCE_KEPT, compcor, components, cosine_basis, covariance, most_variable

TR_S, NUM_VOLUMES = 2.0, 200
NAME = re.compile(r"cosine\d{2}|[acwt]_comp_cor_\d{2}")


def _run(num_volumes: int = NUM_VOLUMES) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Values P×T of 900 voxels, noise of 1 about 100, and masks: 100 CSF, 300 white, all but the last 50 inside."""
    values_PT = np.random.default_rng(0).normal(100, 1, (900, num_volumes))
    where = np.arange(900)
    return values_PT, {"csf": where < 100, "white_matter": (where >= 100) & (where < 400), "inner": where < 850}


def _wave(seed: int, num_volumes: int = NUM_VOLUMES) -> np.ndarray:
    """A random series without slow parts, of unit length."""
    wave = np.random.default_rng(seed).normal(size=num_volumes)
    slow = np.column_stack([np.ones(num_volumes), cosine_basis(num_volumes, TR_S)])
    wave -= slow @ np.linalg.lstsq(slow, wave)[0]
    return wave / np.linalg.norm(wave)


@pytest.mark.parametrize(("num_volumes", "tr_s"), [(200, 2.0), (156, 2.0), (1000, 0.72)])
def test_cosines_are_the_closed_form_dct_and_orthonormal(num_volumes, tr_s):
    basis_TC = cosine_basis(num_volumes, tr_s)
    assert basis_TC.shape == (num_volumes, int(2 * num_volumes * tr_s / 128) - 1)
    for order, cosine in enumerate(basis_TC.T, start=1):
        expected = np.sqrt(2 / num_volumes) * np.cos(np.pi / num_volumes * order * (np.arange(num_volumes) + 0.5))
        np.testing.assert_allclose(cosine, expected, atol=1e-12)
    np.testing.assert_allclose(basis_TC.T @ basis_TC, np.eye(basis_TC.shape[1]), atol=1e-10)
    np.testing.assert_allclose(basis_TC.sum(axis=0), 0, atol=1e-10)


def test_a_run_shorter_than_the_cutoff_has_no_cosine_and_still_components():
    assert cosine_basis(40, 2.0).shape == (40, 0)
    values_PT, masks = _run(40)
    columns, _ = compcor(values_PT, masks, 2.0, 0)
    assert not [name for name in columns if name.startswith("cosine")]
    assert "w_comp_cor_04" in columns


def test_components_are_nipypes_up_to_their_sign():
    values_PT, _ = _run()
    values_PT[:60] += 20 * _wave(1)
    values_PT[:, :] += np.linspace(0, 3, NUM_VOLUMES)
    values_PT[7] = 5.0
    # A constant voxel of nipype's is rounding noise over its own deviation; ours is zero.
    live_PT = np.delete(values_PT, 7, axis=0)
    image, mask = live_PT[:, None, None, :], nib.Nifti1Image(np.ones((899, 1, 1), np.uint8), np.eye(4))
    expected_TK, basis_TC, about = compute_noise_components(image.copy(), [mask], 0.5, "cosine", 0, 128, TR_S)
    found_TK, metadata = components(covariance(values_PT, cosine_basis(NUM_VOLUMES, TR_S)))
    np.testing.assert_allclose(basis_TC, cosine_basis(NUM_VOLUMES, TR_S))
    assert found_TK.shape == expected_TK.shape
    np.testing.assert_allclose(np.abs((found_TK * expected_TK).sum(axis=0)), 1, atol=1e-6)
    for key, theirs in [("SingularValue", "singular_value"), ("VarianceExplained", "variance_explained")]:
        np.testing.assert_allclose([m[key] for m in metadata], about[theirs][: len(metadata)], rtol=1e-6)


def test_the_most_variable_voxels_are_those_of_nipypes_tcompcor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values_PT, _ = _run()
    values_PT[:10] += np.random.default_rng(5).normal(0, 4, (10, NUM_VOLUMES))
    values_PT[20:60] += np.linspace(0, 100, NUM_VOLUMES)
    image = nib.Nifti1Image(values_PT[:, None, None, :], np.eye(4))
    nib.save(image, tmp_path / "run.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((900, 1, 1), np.uint8), np.eye(4)), tmp_path / "mask.nii.gz")
    interface = TCompCor(realigned_file="run.nii.gz", mask_files="mask.nii.gz", num_components=1, repetition_time=TR_S)
    theirs = interface.run().outputs.high_variance_masks
    expected = np.asarray(nib.load(theirs).dataobj).ravel() > 0
    found = most_variable(values_PT)
    assert found[:10].all()
    assert not found[20:60].any()
    np.testing.assert_array_equal(found, expected)


def test_noise_planted_in_one_tissue_is_its_first_component_and_not_the_others():
    values_PT, masks = _run()
    planted = _wave(2)
    values_PT[masks["white_matter"]] += 100 * planted
    columns, _ = compcor(values_PT, masks, TR_S, 0)
    assert abs(np.corrcoef(columns["w_comp_cor_00"], planted)[0, 1]) > 0.99
    assert abs(np.corrcoef(columns["a_comp_cor_00"], planted)[0, 1]) > 0.99
    csf = np.stack([column for name, column in columns.items() if name.startswith("c_comp")])
    assert np.abs(csf @ planted).max() < 0.5


def test_names_are_fmripreps_and_numbered_without_gaps():
    columns, metadata = compcor(*_run(), TR_S, 0)
    assert all(NAME.fullmatch(name) for name in columns)
    for prefix in ("a_comp_cor", "c_comp_cor", "w_comp_cor", "t_comp_cor"):
        named = [name for name in columns if name.startswith(prefix)]
        assert named == [f"{prefix}_{number:02d}" for number in range(len(named))]
        assert len(named) >= MIN_KEPT
    assert set(metadata) == {name for name in columns if "comp_cor" in name}


def test_columns_are_orthonormal_within_a_mask_and_free_of_the_cosines():
    columns, _ = compcor(*_run(), TR_S, 0)
    basis_TC = np.stack([column for name, column in columns.items() if name.startswith("cosine")], axis=1)
    for prefix in "acwt":
        found_TK = np.stack([c for name, c in columns.items() if name.startswith(f"{prefix}_comp")], axis=1)
        np.testing.assert_allclose(found_TK.T @ found_TK, np.eye(found_TK.shape[1]), atol=1e-6)
        np.testing.assert_allclose(basis_TC.T @ found_TK, 0, atol=1e-6)


def test_volumes_before_the_steady_state_are_zero_and_take_no_part():
    values_PT, masks = _run()
    columns, _ = compcor(values_PT, masks, TR_S, 3)
    values_PT[:, :3] += 1000
    bright, _ = compcor(values_PT, masks, TR_S, 3)
    assert columns.keys() == bright.keys()
    for name, column in columns.items():
        assert len(column) == NUM_VOLUMES
        assert not column[:3].any()
        np.testing.assert_array_equal(bright[name], column)
    np.testing.assert_allclose(columns["cosine00"][3:], cosine_basis(NUM_VOLUMES - 3, TR_S)[:, 0])


def test_metadata_is_complete_and_explains_half_of_the_variance():
    _, metadata = compcor(*_run(), TR_S, 0)
    masks = {"a": "combined", "c": "CSF", "w": "WM", "t": None}
    for letter, mask in masks.items():
        about = [found for name, found in metadata.items() if name.startswith(letter)]
        assert {found["Method"] for found in about} == {"tCompCor" if letter == "t" else "aCompCor"}
        assert {found.get("Mask") for found in about} == {mask}
        assert all(found["Retained"] is True for found in about)
        sizes = np.array([found["SingularValue"] for found in about])
        share = np.array([found["VarianceExplained"] for found in about])
        explained = np.array([found["CumulativeVarianceExplained"] for found in about])
        assert (np.diff(sizes) <= 0).all()
        np.testing.assert_allclose(explained, np.cumsum(share), atol=1e-6)
        assert explained[-1] >= VARIANCE_KEPT
        assert len(about) == MIN_KEPT or explained[-2] < VARIANCE_KEPT


def test_a_dominant_component_does_not_end_before_five():
    values_PT, masks = _run()
    values_PT[masks["csf"]] += 1000 * _wave(3)
    _, metadata = compcor(values_PT, masks, TR_S, 0)
    assert metadata["c_comp_cor_00"]["VarianceExplained"] > 0.9
    assert len([name for name in metadata if name.startswith("c_")]) == MIN_KEPT


def test_constant_voxels_and_empty_masks_give_no_component():
    values_PT, masks = _run()
    values_PT[masks["csf"]] = 1234.5678
    columns, _ = compcor(values_PT, masks | {"inner": np.zeros(900, bool)}, TR_S, 0)
    assert not [name for name in columns if name.startswith(("c_", "t_"))]
    assert "w_comp_cor_00" in columns


def test_the_sign_is_fixed_and_integers_in_file_units_give_the_same_components():
    values_PT, masks = _run()
    stored_PT = np.rint(values_PT * 300).astype(np.int16)
    first, _ = compcor(stored_PT, masks, TR_S, 0)
    again, _ = compcor(stored_PT.copy(), masks, TR_S, 0)
    for name, column in first.items():
        np.testing.assert_array_equal(column, again[name])
        if "comp_cor" in name:
            assert column[np.abs(column).argmax()] > 0
    scaled, _ = compcor(stored_PT * 0.01, masks, TR_S, 0)
    np.testing.assert_allclose(scaled["w_comp_cor_00"], first["w_comp_cor_00"], atol=1e-7)
