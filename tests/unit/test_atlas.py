"""The shipped atlas is AAL-116, whole and in order; any other comes in by its table; both land where they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lcm.atlas import Atlas, load_atlas

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


# ── atlases of one's own ────────────────────────────────────────────────────────────────────────

AFFINE = np.array([[-2.0, 0, 0, 8], [0, 2, 0, -10], [0, 0, 2, -6], [0, 0, 0, 1]])


def _label_image(path: Path, *, dtype: str = "int16", change: float = 0) -> Path:
    """Labels 5, 17 and 300 in a 9×10×7 image whose first axis runs to the left; 17 touches the border."""
    import nibabel as nib

    data = np.zeros((9, 10, 7), dtype)
    data[1:3, 2:5, 1:4], data[5:9, 6:10, 3:7], data[4, 4, 4] = 5, 17, 300
    data[0, 0, 0] = change
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


def _atlas(folder: Path, table: str, name: str = "mine+2mm.txt") -> Atlas:
    (folder / name).write_text(table, encoding="utf-8")
    return load_atlas(str(_label_image(folder / "mine+2mm.nii.gz")))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("mine+2mm.tsv", "index\tname\tcolour\n5\tLeft hall\tred\n17\tRight hall\tblue\n300\tDoor\t\n"),
        ("mine+2mm.csv", "name,index\nLeft hall,5\nRight hall,17\nDoor,300\n"),
        ("mine+2mm.csv", "5,Left hall,1\n17,Right hall,1\n300,Door,1\n"),
        ("mine+2mm.txt", "# by hand\n0 Background\n5 Left hall\n17   Right hall\n\n300 Door\n"),
        ("mine_names.dat", "LH\tLeft hall\t5\r\nRH\tRight hall\t17\r\nDO\tDoor\t300\r\n"),
        ("mine+2mm.tsv", "\ufeffindex\tname\n5\tLeft hall\n17\tRight hall\n300\tDoor\n"),
    ],
)
def test_a_label_image_finds_the_table_beside_it_in_any_of_its_forms(tmp_path: Path, name: str, table: str):
    atlas = _atlas(tmp_path, table, name)
    atlas.check()
    assert (atlas.name, atlas.ids, atlas.names) == ("mine", (5, 17, 300), ("Left hall", "Right hall", "Door"))
    assert atlas.table.name == name


def test_a_freesurfer_look_up_table_keeps_its_colours_out_of_the_names(tmp_path: Path):
    atlas = _atlas(tmp_path, "5 Left-hall 70 130 180 0\n17 Right-hall 205 62 78 0\n300 Door 0 0 0 0\n")
    assert atlas.names == ("Left-hall", "Right-hall", "Door")


def test_a_table_of_coordinates_gives_regions_their_places_and_numbered_names(tmp_path: Path):
    atlas = _atlas(tmp_path, "5\t14\t-78\t4\r\n17\t-0.5\t1\t2\r\n300\t0\t-2\t2", "mine_Coordinates.dat")
    assert atlas.names == ("mine_005", "mine_017", "mine_300")
    np.testing.assert_array_equal(atlas.centres_mm(), [[14, -78, 4], [-0.5, 1, 2], [0, -2, 2]])


def test_a_missing_coordinate_is_the_centre_of_mass_of_the_region(tmp_path: Path):
    table = "index\tname\tx_mm\ty_mm\tz_mm\n5\ta\tn/a\tn/a\tn/a\n17\tb\t1\t2\t3\n300\tc\t\t\t\n"
    atlas = _atlas(tmp_path, table, "mine+2mm.tsv")
    # Voxel centres: 5 at (1.5, 3, 2), 300 at (4, 4, 4), through AFFINE by hand.
    np.testing.assert_allclose(atlas.centres_mm(), [[5, -4, -2], [1, 2, 3], [0, -2, 2]])
    assert np.isnan(atlas.coordinates_mm[0]).all()


def test_an_atlas_entity_in_the_name_of_the_image_names_the_atlas(tmp_path: Path):
    image = _label_image(tmp_path / "tpl-X_atlas-Halls_res-2_dseg.nii.gz")
    (tmp_path / "tpl-X_atlas-Halls_res-2_dseg.tsv").write_text("index\tname\n5\ta\n17\tb\n300\tc\n")
    assert load_atlas(str(image)).name == "Halls"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("5 a\n17 b\n", r"1 regions are in the image only \(first 300\)"),
        ("5 a\n17 b\n18 e\n19 f\n300 c\n", r"2 regions are in the table, not in the image \(first 18, 19\)"),
    ],
)
def test_image_and_table_must_hold_the_same_regions(tmp_path: Path, table: str, message: str):
    atlas = _atlas(tmp_path, table)
    for use in (atlas.check, lambda: atlas.on_grid((2, 2, 2), np.eye(4)), atlas.centres_mm):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("5 a\n17 a\n300 c\n", r"region names are not unique.*\(a twice\)"),
        ("5 a\n5 b\n300 c\n", r"region ids are not unique.*\(5 twice\)"),
        ("5 a\nfive\n", r"mine\+2mm.txt, line 2: neither `index name`"),
        ("5 a\n17\n", r"line 2: neither"),
        ("# nothing\n", "an empty label table"),
        ("0 Background\n", "needs regions with an index from 1"),
        ("-5 a\n17 b\n", "needs regions with an index from 1"),
    ],
)
def test_a_table_that_names_no_regions_is_refused_with_its_place(tmp_path: Path, table: str, message: str):
    with pytest.raises(ValueError, match=message):
        _atlas(tmp_path, table)


def test_a_tsv_without_its_columns_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="needs the columns index and name"):
        _atlas(tmp_path, "5\ta\n17\tb\n300\tc\n", "mine+2mm.tsv")


def test_an_image_without_a_table_says_what_was_looked_for(tmp_path: Path):
    image = _label_image(tmp_path / "mine+2mm.nii.gz")
    with pytest.raises(
        ValueError, match=r"looked for mine\+2mm\(\.tsv\|\.csv\|\.txt\|\.dat\), then for one mine\*.*found 0"
    ):
        load_atlas(str(image))
    for name in ("mine_a.txt", "mine_b.txt"):
        (tmp_path / name).write_text("5 a\n")
    with pytest.raises(ValueError, match="found 2"):
        load_atlas(str(image))


@pytest.mark.parametrize(
    ("dtype", "change"), [("float32", 0.5), ("float32", np.nan), ("float32", np.inf), ("int16", -1)]
)
def test_an_image_of_other_values_than_labels_is_refused(tmp_path: Path, dtype: str, change: float):
    atlas = _atlas(tmp_path, "5 a\n17 b\n300 c\n")
    _label_image(atlas.image, dtype=dtype, change=change)
    with pytest.raises(ValueError, match="not a label image"):
        atlas.check()


def test_a_probabilistic_4d_atlas_is_refused(tmp_path: Path):
    import nibabel as nib

    atlas = _atlas(tmp_path, "5 a\n17 b\n300 c\n")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), "float32"), AFFINE), atlas.image)
    with pytest.raises(ValueError, match=r"3D, this one has shape \(3, 3, 3, 2\)"):
        atlas.check()


def test_a_folder_with_two_realisations_says_how_to_name_one(tmp_path: Path):
    (tmp_path / "atlas-Halls_description.json").write_text("{}")
    (tmp_path / "tpl-X").mkdir()
    for res in ("1", "2"):
        (tmp_path / "tpl-X" / f"tpl-X_atlas-Halls_res-{res}_dseg.tsv").write_text("index\tname\n5\ta\n")
    with pytest.raises(ValueError, match="found 2; of several, name the image itself"):
        load_atlas(str(tmp_path))


@pytest.mark.parametrize("name", ["tpl-M_atlas-X_res-{}_dseg", "tpl-M_res-{}_atlas-X_dseg"])
def test_images_of_several_resolutions_share_the_table_without_one(tmp_path: Path, name: str):
    (tmp_path / "tpl-M_atlas-X_dseg.tsv").write_text("index\tname\n5\ta\n17\tb\n300\tc\n")
    # A table of tissues, of another scale and of other tissues' images: none is the atlas's.
    for other in ("tpl-M_dseg", "tpl-M_atlas-X_scale-2_dseg", "tpl-M_atlas-XY_dseg", "tpl-M_atlas-X_probseg"):
        (tmp_path / f"{other}.tsv").write_text("index\tname\n1\twhite matter\n")
    for resolution in ("1", "2"):
        atlas = load_atlas(str(_label_image(tmp_path / f"{name.format(resolution)}.nii.gz")))
        atlas.check()
        assert (atlas.name, atlas.names, atlas.table.name) == ("X", ("a", "b", "c"), "tpl-M_atlas-X_dseg.tsv")


def test_the_table_with_the_most_entities_of_the_image_is_inherited(tmp_path: Path):
    for stem, label in (("tpl-M_atlas-X_dseg", "any"), ("tpl-M_atlas-X_desc-3_dseg", "three")):
        (tmp_path / f"{stem}.tsv").write_text(f"index\tname\n5\t{label}\n17\tb\n300\tc\n")
    image = _label_image(tmp_path / "tpl-M_atlas-X_res-1_desc-3_dseg.nii.gz")
    assert load_atlas(str(image)).names[0] == "three"


def test_a_table_of_the_template_is_not_the_atlass(tmp_path: Path):
    (tmp_path / "tpl-M_dseg.tsv").write_text("index\tname\n5\ta\n17\tb\n300\tc\n")
    with pytest.raises(ValueError, match="needs its label table beside it"):
        load_atlas(str(_label_image(tmp_path / "tpl-M_atlas-X_res-1_dseg.nii.gz")))


def _brute_force(atlas: Atlas, labels: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """The label of the atlas voxel whose box holds each voxel's centre, one voxel at a time."""
    found = np.zeros(shape, dtype=np.int32)
    for voxel in np.ndindex(*shape):
        mm = affine @ [*voxel, 1]
        own = (np.linalg.inv(AFFINE) @ mm)[:3]
        distance = [np.abs(np.arange(length) - place) for length, place in zip(labels.shape, own, strict=True)]
        if all(d.min() <= 0.5 for d in distance):
            label = labels[tuple(int(d.argmin()) for d in distance)]
            found[voxel] = 0 if label == 0 else atlas.ids.index(int(label)) + 1
    return found


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_a_flipped_or_oblique_grid_gets_the_label_of_the_nearest_voxel(
    tmp_path: Path, flip: tuple[int, ...], angle: float
):
    import nibabel as nib
    from scipy.spatial.transform import Rotation

    atlas = _atlas(tmp_path, "300 c\n5 a\n17 b\n")
    grid = np.eye(4)
    # 1.3 mm voxels and odd offsets: no centre lies half-way between two labels.
    grid[:3, :3] = Rotation.from_euler("xyz", [angle, -angle / 2, angle / 3]).as_matrix() @ np.diag(flip) * 1.3
    grid[:3, 3] = np.array([0.17, 0.05, 0.11]) - grid[:3, :3] @ [8, 9, 7]
    labels = np.asarray(nib.load(atlas.image).dataobj)
    expected = _brute_force(atlas, labels, (17, 19, 15), grid)
    np.testing.assert_array_equal(atlas.on_grid((17, 19, 15), grid), expected)
    assert set(np.unique(expected)) == {0, 1, 2, 3}


def test_a_label_reaches_to_the_outer_face_of_the_image(tmp_path: Path):
    atlas = _atlas(tmp_path, "5 a\n17 b\n300 c\n")
    # One voxel 0.9 mm beyond the centre of the atlas's last voxel (8, 9, 6), inside its box; one 1.1 mm beyond, outside.
    for beyond, expected in ((0.9, 2), (1.1, 0)):
        grid = np.eye(4)
        grid[:3, 3] = AFFINE[:3] @ [8, 9, 6, 1] + [-beyond, 0, 0]
        assert atlas.on_grid((1, 1, 1), grid)[0, 0, 0] == expected


def test_a_table_alone_is_an_atlas_of_ready_series(tmp_path: Path):
    table = tmp_path / "atlas-Two_dseg.tsv"
    table.write_text("index\tname\n10\tleft\n20\tright\n")
    atlas = load_atlas(str(table))
    assert (atlas.name, atlas.ids, atlas.names, atlas.files) == ("Two", (10, 20), ("left", "right"), [str(table)])
    atlas.check()
    with pytest.raises(ValueError, match="a label table without an image, which serves ready series alone"):
        atlas.on_grid((2, 2, 2), np.eye(4))
    with pytest.raises(ValueError, match="without an image"):
        atlas.centres_mm()


def test_a_table_alone_knows_places_where_it_has_coordinates(tmp_path: Path):
    table = tmp_path / "atlas-Two_dseg.tsv"
    table.write_text("index\tname\tx_mm\ty_mm\tz_mm\n10\tleft\t-1\t2\t3\n20\tright\t1\t2\t3\n")
    np.testing.assert_array_equal(load_atlas(str(table)).centres_mm(), [[-1, 2, 3], [1, 2, 3]])
