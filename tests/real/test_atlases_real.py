"""Atlases as their authors give them: AAL of SPM12 with its own table, BrainLM's A424 with its coordinates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lcm.atlas import load_atlas

pytestmark = pytest.mark.real
MNI_2MM = ((91, 109, 91), np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]))


def test_the_authors_aal_files_give_the_shipped_atlas(shared_data: Path):
    authors, shipped = load_atlas(str(shared_data / "atlases/AAL/ROI_MNI_V4.nii.gz")), load_atlas("AAL")
    assert authors.table.name == "ROI_MNI_V4.txt"
    assert (authors.names, authors.ids) == (shipped.names, shipped.ids)
    np.testing.assert_array_equal(authors.on_grid(*MNI_2MM), shipped.on_grid(*MNI_2MM))
    np.testing.assert_allclose(authors.centres_mm(), shipped.centres_mm(), atol=0.06)


def test_a424_takes_its_places_from_its_coordinates_and_they_fit_its_image(shared_data: Path):
    atlas = load_atlas(str(shared_data / "atlases/A424/A424+2mm.nii.gz"))
    atlas.check()
    assert (atlas.name, atlas.num_regions, atlas.table.name) == ("A424", 424, "A424_Coordinates.dat")
    assert (atlas.names[0], atlas.names[423], atlas.ids) == ("A424_001", "A424_424", tuple(range(1, 425)))
    unplaced = dataclasses.replace(atlas, coordinates_mm=((np.nan,) * 3,) * 424)
    distance_RR = np.linalg.norm(atlas.centres_mm()[:, None] - unplaced.centres_mm()[None], axis=-1)
    assert np.median(np.diag(distance_RR)) < 4
    # Were rows and labels a row apart, hardly any region would be the nearest to its own coordinate.
    assert (distance_RR.argmin(axis=1) == np.arange(424)).mean() > 0.9
