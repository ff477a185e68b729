"""The shipped atlas is AAL-116, whole, in order, and lands where it should on any grid."""

from __future__ import annotations

import numpy as np
import pytest

from lcm.atlas import load_atlas

AAL = load_atlas("AAL")


def test_aal_has_its_116_regions_with_unique_names():
    assert AAL.num_regions == 116
    assert len(set(AAL.names)) == len(set(AAL.ids)) == 116
    assert (AAL.names[0], AAL.ids[0], AAL.names[-1], AAL.ids[-1]) == ("Precentral_L", 2001, "Vermis_10", 9170)


def test_every_region_is_in_the_image_and_homologues_mirror_each_other():
    import nibabel as nib

    values = np.unique(np.asarray(nib.load(AAL.image).dataobj))
    assert set(values) == {0, *AAL.ids}
    assert len(AAL.pairs()) == 54
    for left, right in AAL.pairs():
        (xl, yl, zl), (xr, yr, zr) = AAL.coordinates_mm[left], AAL.coordinates_mm[right]
        assert xl < 0 < xr
        assert max(abs(yl - yr), abs(zl - zr), abs(xl + xr)) < 12


def test_a_grid_with_flipped_axes_gets_the_same_labels_at_the_same_millimetres():
    affine = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    labels = AAL.on_grid((91, 109, 91), affine)
    flipped = affine @ np.array([[-1, 0, 0, 90], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(AAL.on_grid((91, 109, 91), flipped), labels[::-1])
    for region in range(116):
        centre = np.argwhere(labels == region + 1).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
        np.testing.assert_allclose(centre, AAL.coordinates_mm[region], atol=0.06)


def test_an_unknown_atlas_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"neither shipped \(AAL\) nor a folder"):
        load_atlas("Schaefer")
