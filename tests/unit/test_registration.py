"""Registration: templates are named or refused, transforms compose in the right order, and a known deformation is found."""

from __future__ import annotations

import ants
import numpy as np
import pytest
from scipy.ndimage import affine_transform

from lcm.config import Preprocess
from lcm.imaging.motion import image_centre, rigid_matrix
from lcm.imaging.registration import (
    brain_of_bold,
    dice,
    load_template,
    match_bold_to_t1w,
    match_to_template,
    resample_to_grid,
    sample,
    sampling_points,
    to_ants,
)
from tests.moving_head import head, move

OPTIONS = Preprocess(registration_mm=4.0, resolution_mm=4.0)


def test_nilearn_template_is_named_by_its_bids_space():
    template = load_template("nilearn", 4.0)
    assert template.name == "MNI152NLin2009aSym"
    np.testing.assert_allclose(np.diag(template.affine)[:3], 4.0)
    assert template.mask.sum() * 4.0**3 == pytest.approx(1.9e6, rel=0.1)
    assert not template.brain[~template.mask].any()


def test_ants_and_nibabel_agree_where_a_voxel_is():
    affine = np.array([[-3.0, 0.2, 0.1, 60], [0.2, 3.0, -0.4, -90], [0.1, 0.4, 3.2, -50], [0, 0, 0, 1]])
    image = to_ants(np.zeros((10, 12, 14)), affine)
    expected = affine @ np.array([3, 5, 7, 1])
    found = np.array(ants.transform_index_to_physical_point(image, (3, 5, 7))) * [-1, -1, 1]
    np.testing.assert_allclose(found, expected[:3], atol=0.5)


def test_dice_of_halves_is_a_half():
    first, second = np.zeros(8, bool), np.zeros(8, bool)
    first[:4], second[2:6] = True, True
    assert dice(first, second) == 0.5
    assert np.isnan(dice(np.zeros(3, bool), np.zeros(3, bool)))


def test_one_field_samples_as_ants_applies_the_chain(tmp_path):
    _, bold, affine = head(4.0)
    centre = image_centre(affine, bold.shape)
    files = []
    for number, parameters in enumerate(([6, 0, 0, 0.0, 0, 0.2], [0, -8, 3, 0.1, 0, 0])):
        lps = np.diag([-1.0, -1, 1, 1])
        matrix = lps @ rigid_matrix(np.array(parameters, float), centre) @ lps
        transform = ants.create_ants_transform(transform_type="AffineTransform", precision="float", dimension=3)
        transform.set_parameters(np.concatenate([matrix[:3, :3].ravel(), matrix[:3, 3]]))
        files.append(str(tmp_path / f"{number}.mat"))
        ants.write_transform(transform, files[-1])
    points = sampling_points(bold.shape, affine, files, tmp_path)
    ours = sample(bold, affine, points, 1).reshape(bold.shape)
    image = to_ants(bold, affine)
    theirs = ants.apply_transforms(image, image, files, interpolator="linear").numpy()
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=2.0)


def test_a_mask_keeps_its_volume_on_a_coarser_grid():
    fine, coarse = load_template("nilearn", 1.0), load_template("nilearn", 4.0)
    share = resample_to_grid(fine.mask, fine.affine, coarse.mask.shape, coarse.affine)
    assert share.sum() * 64 == pytest.approx(fine.mask.sum(), rel=0.02)


def test_bold_is_brought_to_its_t1w_within_a_millimetre(tmp_path):
    t1w, bold, affine = head(4.0)
    planted = np.array([5.0, -7.0, 4.0, 0.06, -0.05, 0.08])
    moved, _ = brain_of_bold(move(bold, affine, planted).astype(np.float32), affine)
    files = match_bold_to_t1w(to_ants(moved, affine), to_ants(t1w, affine), 1, tmp_path)
    points = sampling_points(t1w.shape, affine, files, tmp_path)
    index = np.stack(np.nonzero(t1w > 0))
    matrix = rigid_matrix(planted, image_centre(affine, t1w.shape))
    world = affine[:3, :3] @ index + affine[:3, 3:]
    expected = matrix[:3, :3] @ world + matrix[:3, 3:]
    found = points.reshape(3, *t1w.shape)[:, *index]
    assert np.linalg.norm(found - expected, axis=0).mean() < 1.0


@pytest.mark.parametrize("same_contrast", [True, False])
def test_a_stretched_brain_is_normalised_to_the_template(tmp_path, same_contrast):
    t1w, bold, affine = head(4.0)
    template = load_template("nilearn", 4.0)
    stretch = np.diag([1.1, 0.92, 1.06])
    offset = (np.eye(3) - stretch) @ (np.array(t1w.shape) / 2)
    native = affine_transform(t1w if same_contrast else bold, stretch, offset, order=1)
    before = dice(native > 200, template.mask)
    files = match_to_template(to_ants(native, affine), template, OPTIONS, tmp_path, same_contrast=same_contrast)
    points = sampling_points(t1w.shape, affine, files, tmp_path)
    after = dice(sample(native > 200, affine, points, 1).reshape(t1w.shape) > 0.5, template.mask)
    assert before < 0.94 < 0.95 < after


@pytest.mark.parametrize("grid_mm", [2.0, 3.0, 4.0])
def test_a_coarser_template_stays_where_it_was(grid_mm):
    def centre_mm(template):
        index = np.stack(np.nonzero(template.brain > 0))
        weights = template.brain[template.brain > 0]
        world = template.affine[:3, :3] @ index + template.affine[:3, 3:]
        return (world * weights).sum(axis=1) / weights.sum()

    fine, coarse = load_template("nilearn", 1.0), load_template("nilearn", grid_mm)
    np.testing.assert_allclose(centre_mm(coarse), centre_mm(fine), atol=0.1)
