"""Tissue masks: each in its tissue, of the T1w where it has enough voxels, and the T1w's derivatives on the template."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lcm.imaging.registration import load_template, to_ants
from lcm.imaging.tissues import (
    anatomy_stem,
    masks_of_run,
    pure_tissues,
    segment,
    tissue_masks,
    to_template,
    write_anatomy,
)

SPACING_MM = (4.0, 4.0, 4.0)
RADII_MM = {"csf": 24.0, "white_matter": 58.0, "grey_matter": 70.0}


def _shells() -> dict[str, np.ndarray]:
    """A ball of CSF in a shell of white matter in a shell of grey matter, 40×40×40."""
    index = (np.indices((40, 40, 40)) - 19.5) * 4.0
    radius = np.sqrt((index**2).sum(axis=0))
    inner = dict(zip(RADII_MM, [0.0, *RADII_MM.values()], strict=False))
    return {name: (radius >= inner[name]) & (radius < outer) for name, outer in RADII_MM.items()}


@pytest.fixture(scope="module")
def segmented(tmp_path_factory) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Probabilities of the synthetic head (T1w contrast, noise, a bias of a tenth) and its true tissues."""
    shells = _shells()
    values = 250.0 * shells["csf"] + 1000.0 * shells["white_matter"] + 600.0 * shells["grey_matter"]
    values = values * np.linspace(0.95, 1.05, 40)[:, None, None]
    brain = values > 0
    values[brain] += np.random.default_rng(0).normal(0, 25, brain.sum())
    images = to_ants(values, np.diag([*SPACING_MM, 1.0])), to_ants(brain, np.diag([*SPACING_MM, 1.0]))
    return segment(*images, tmp_path_factory.mktemp("atropos")), shells


def test_three_intensities_are_three_tissues_in_their_order(segmented):
    probabilities, shells = segmented
    for share, name in zip(probabilities, ("csf", "grey_matter", "white_matter"), strict=True):
        assert share[shells[name]].mean() > 0.98
        assert share[~shells[name]].mean() < 0.01


def test_a_repeated_segmentation_is_identical_and_leaves_no_file_elsewhere(segmented, tmp_path, monkeypatch):
    usual = tmp_path / "usual"
    usual.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(usual))
    rng = np.random.default_rng(1)
    values = np.repeat([200.0, 600.0, 1000.0], 9000).reshape(30, 30, 30) + rng.normal(0, 20, (30, 30, 30))
    image, mask = to_ants(values, np.eye(4)), to_ants(np.ones((30, 30, 30)), np.eye(4))
    folder = tmp_path / "node"
    folder.mkdir()
    first, again = segment(image, mask, folder), segment(image, mask, folder)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not list(usual.iterdir())


def test_pure_tissues_keep_away_from_grey_matter_and_from_the_surface(segmented):
    probabilities, shells = segmented
    brain = np.logical_or.reduce(list(shells.values()))
    # A sulcus: CSF inside grey matter, near the surface.
    sulcal = [share.copy() for share in probabilities]
    sulcal[0][3:6, 20, 20], sulcal[1][3:6, 20, 20] = 1.0, 0.0
    found = pure_tissues(sulcal, to_ants(brain, np.diag([*SPACING_MM, 1.0])))
    assert not found["csf"][3:6, 20, 20].any()
    for name in ("csf", "white_matter"):
        assert found[name].sum() > 0.5 * shells[name].sum()
        assert not (found[name] & ~shells[name]).any()
    fine = pure_tissues(sulcal, to_ants(brain, np.eye(4)))
    # At 1 mm the same arrays are a smaller head: two voxels of white matter go, and no CSF is deep enough.
    assert fine["white_matter"].sum() < found["white_matter"].sum()
    assert not fine["csf"].any()


def test_masks_reach_the_grid_of_the_bold_through_the_transforms():
    template = load_template("nilearn", 4.0)
    masks = tissue_masks(template.mask, template.affine)
    moved = template.affine.copy()
    moved[0, 3] += 8.0
    there = to_template(masks, to_ants(np.zeros(template.mask.shape), moved), [], template)
    for name, mask in masks.items():
        np.testing.assert_array_equal(there[name], np.roll(mask, 2, axis=0))


@pytest.mark.parametrize("grid_mm", [3.0, 4.0])
def test_template_masks_lie_in_their_tissue(grid_mm):
    template = load_template("nilearn", grid_mm)
    masks = tissue_masks(template.mask, template.affine)
    assert not (masks["csf"] & masks["white_matter"]).any()
    assert masks["csf"].sum() * grid_mm**3 > 1500
    assert masks["white_matter"].sum() * grid_mm**3 > 50_000
    # On a T1w, ventricles are dark and white matter is the brightest tissue.
    dark, bright, mean = (template.brain[m].mean() for m in (masks["csf"], masks["white_matter"], template.mask))
    assert dark < 0.6 * mean < mean < bright


def test_a_t1w_mask_with_too_few_voxels_gives_way_to_the_templates():
    template = load_template("nilearn", 4.0)
    of_template = tissue_masks(template.mask, template.affine)
    few = np.zeros_like(template.mask)
    few[tuple(np.argwhere(of_template["csf"])[:5].T)] = True
    of_t1w = {"csf": few, "white_matter": np.roll(of_template["white_matter"], 1, axis=2) & template.mask}
    found = masks_of_run(template.mask, template.affine, of_t1w)
    assert [found[name][1] for name in ("csf", "white_matter")] == ["template", "T1w"]
    np.testing.assert_array_equal(found["csf"][0], of_template["csf"])
    np.testing.assert_array_equal(found["white_matter"][0], of_t1w["white_matter"] & ~of_template["csf"])
    assert {origin for _, origin in masks_of_run(template.mask, template.affine, {}).values()} == {"template"}


def test_a_run_that_sees_no_ventricle_is_refused():
    template = load_template("nilearn", 4.0)
    slab = template.mask.copy()
    slab[:, :, : slab.shape[2] * 3 // 4] = False
    with pytest.raises(ValueError, match="no voxel of csf inside the run's brain mask"):
        masks_of_run(slab, template.affine, {})


def test_the_t1ws_derivatives_lie_on_the_template_with_bids_labels(tmp_path):
    template = load_template("nilearn", 4.0)
    white = tissue_masks(template.mask, template.affine)["white_matter"]
    shares = [template.mask & (template.brain < 0.2), template.mask & ~white & (template.brain >= 0.2), white]
    head = to_ants(template.brain, template.affine)
    stem = str(tmp_path / "anat" / "sub-01")
    probabilities = [share.astype(np.float32) for share in shares]
    write_anatomy(head, probabilities, template.mask, [], template, stem)
    named = {path.name.removeprefix(f"sub-01_space-{template.name}_") for path in Path(stem).parent.iterdir()}
    assert named == {f"{name}.nii.gz" for name in ("desc-preproc_T1w", "desc-brain_mask", "dseg")}
    labels, t1w = (nib.load(f"{stem}_space-{template.name}_{n}.nii.gz") for n in ("dseg", "desc-preproc_T1w"))
    found = np.asarray(labels.dataobj)
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_allclose(labels.affine, template.affine)
    np.testing.assert_allclose(t1w.get_fdata(), template.brain, atol=1e-4)
    assert set(np.unique(found)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(found == 2, white)


def test_a_t1ws_derivatives_are_named_after_it_or_after_a_run_where_it_has_no_name():
    out = Path("out")
    assert anatomy_stem("/in/sub-1_ses-a_run-2_T1w.nii.gz", "sub-1_ses-b_task-rest", out) == (
        "out/sub-1/ses-a/anat/sub-1_ses-a_run-2"
    )
    assert anatomy_stem("/in/T1w.nii", "sub-1_task-rest", out) == "out/sub-1/anat/sub-1_task-rest"
