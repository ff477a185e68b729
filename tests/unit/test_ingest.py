"""Ingest: planted fields and motion come back exactly, and what another pipeline left out is written."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from scipy.ndimage import binary_erosion
from scipy.spatial.transform import Rotation

from lcm.config import Dataset, Index, Preprocess
from lcm.imaging.fnirt import source_points
from lcm.imaging.index import index
from lcm.imaging.ingest import ingest, read_hcp_motion, read_mcflirt_motion
from lcm.imaging.motion import framewise_displacement
from lcm.imaging.registration import sample
from lcm.tables import RUNS, write_tsv

NUM_VOLUMES = 24
MNI_4MM = np.array([[-4.0, 0, 0, 90], [0, 4, 0, -126], [0, 0, 4, -72], [0, 0, 0, 1]])
MNI_SHAPE = (46, 55, 46)
SETTINGS = Preprocess(resolution_mm=4.0, min_volumes=20)
PARAMETERS = np.random.default_rng(3).normal(0, 0.01, (NUM_VOLUMES, 6)).cumsum(axis=0)


def _points(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]


def _brain_at(points_3P: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Intensities of the template's brain, 0 outside it, at points of MNI."""
    template, mask = load_mni152_template(resolution=2), load_mni152_brain_mask(resolution=2)
    values = sample(template.get_fdata() * 900 + 100, template.affine, points_3P, 1)
    return (values * (sample(mask.get_fdata(), mask.affine, points_3P, 1) > 0.5)).reshape(shape)


def _save(values: np.ndarray, affine: np.ndarray, path: Path, *, tr_s: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 4)
    image.set_qform(affine, 4)
    if values.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def _run_of(brain: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 5, (*brain.shape, NUM_VOLUMES))
    return (brain[..., None] + noise * (brain[..., None] > 0)).astype("float32")


def _rows(root: Path, kind: str) -> pd.DataFrame:
    return index({"D": Dataset(path=str(root), input=kind, cohort="generic")}, Index())


# ── motion parameters ───────────────────────────────────────────────────────────────────────────


def _write_hcp_motion(path: Path, num_columns: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    degrees = np.hstack([PARAMETERS[:, :3], np.rad2deg(PARAMETERS[:, 3:])])
    both = np.hstack([degrees, np.diff(degrees, axis=0, prepend=degrees[:1])])
    np.savetxt(path, both[:, :num_columns], fmt="%12.9f")


def test_hcp_degrees_become_radians_and_the_derivatives_are_left_out(tmp_path):
    _write_hcp_motion(tmp_path / "Movement_Regressors.txt")
    np.testing.assert_allclose(read_hcp_motion(tmp_path / "Movement_Regressors.txt"), PARAMETERS, atol=1e-9)


def test_mcflirts_rotations_come_first_and_ours_last(tmp_path):
    np.savetxt(tmp_path / "mcf.par", np.hstack([PARAMETERS[:, 3:], PARAMETERS[:, :3]]), fmt="%.9f")
    np.testing.assert_allclose(read_mcflirt_motion(tmp_path / "mcf.par"), PARAMETERS, atol=1e-9)


def test_another_number_of_columns_is_refused_with_the_files_name(tmp_path):
    path = tmp_path / "Movement_Regressors.txt"
    _write_hcp_motion(path, 6)
    with pytest.raises(ValueError, match=r"Movement_Regressors.txt has 6 columns; 12 are expected"):
        read_hcp_motion(path)
    _write_hcp_motion(path, 12)
    with pytest.raises(ValueError, match=r"Movement_Regressors.txt has 12 columns; 6 are expected"):
        read_mcflirt_motion(path)
    path.write_text("trans_x\n1\n")
    with pytest.raises(ValueError, match="no table of numbers with 12 columns"):
        read_hcp_motion(path)


# ── FNIRT's field ───────────────────────────────────────────────────────────────────────────────


def _fsl(points_3P: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """FSL's coordinates of world points, from the definition: scaled voxels, x from the other side where det > 0."""
    voxel = np.linalg.inv(affine) @ np.vstack([points_3P, np.ones(points_3P.shape[1])])
    if np.linalg.det(affine) > 0:
        voxel[0] = shape[0] - 1 - voxel[0]
    return voxel[:3] * np.linalg.norm(affine[:3, :3], axis=0)[:, None]


def _write_field(path: Path, to_source: np.ndarray, source: nib.Nifti1Image, *, absolute: bool, flip: bool) -> None:
    """The field of an affine from MNI world to the source's world, on FSL's 4 mm grid or on its mirror image."""
    affine = MNI_4MM.copy()
    if flip:
        affine[0] = [4, 0, 0, -90]
    grid_3P = _points(affine, MNI_SHAPE)
    found = _fsl(to_source[:3, :3] @ grid_3P + to_source[:3, 3:], source.affine, source.shape)
    found = found if absolute else found - _fsl(grid_3P, affine, MNI_SHAPE)
    _save(found.T.reshape(*MNI_SHAPE, 3).astype("float32"), affine, path)
    image = nib.load(path)
    image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    image.header["intent_code"] = 2006
    nib.save(image, path)


TO_SOURCE = np.eye(4)
TO_SOURCE[:3, :3] = Rotation.from_euler("xyz", [0.1, -0.15, 0.2]).as_matrix() @ np.diag([0.92, 0.95, 0.9])
TO_SOURCE[:3, 3] = [6.0, -11.0, 17.0]


def _native_affine(first: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", 0.12).as_matrix() @ np.diag([first * 4.0, 4.0, 4.0])
    affine[:3, 3] = [-first * 95.0, -118.0, -75.0]
    return affine


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("first", [1.0, -1.0])
def test_a_planted_affine_is_read_from_fsls_field_to_a_tenth_of_a_millimetre(tmp_path, absolute, flip, first):
    source = nib.Nifti1Image(np.zeros((48, 56, 44), "int16"), _native_affine(first))
    _write_field(tmp_path / "warp.nii.gz", TO_SOURCE, source, absolute=absolute, flip=flip)
    points_3P = np.random.default_rng(1).uniform(-60, 60, (3, 500))
    found = source_points(tmp_path / "warp.nii.gz", points_3P, source)
    assert np.abs(found - (TO_SOURCE[:3, :3] @ points_3P + TO_SOURCE[:3, 3:])).max() < 0.1


def test_a_point_beyond_the_field_is_in_no_image(tmp_path):
    source = nib.Nifti1Image(np.zeros((48, 56, 44), "int16"), _native_affine(1.0))
    _write_field(tmp_path / "warp.nii.gz", TO_SOURCE, source, absolute=False, flip=False)
    assert (np.abs(source_points(tmp_path / "warp.nii.gz", np.array([[0.0], [500.0], [0.0]]), source)) > 1e5).all()


@pytest.mark.parametrize(
    ("intent", "shape", "message"),
    [
        (
            2007,
            (4, 4, 4, 3),
            "cubic spline coefficients, not a displacement field: convert it with FSL's fnirtfileutils",
        ),
        (2009, (4, 4, 4, 3), "quadratic spline coefficients"),
        (2006, (4, 4, 4, 2), "shape 4×4×4×2"),
        (0, (4, 4, 4, 3), "intent code 0"),
    ],
)
def test_what_is_no_displacement_field_is_refused_by_name(tmp_path, intent, shape, message):
    image = nib.Nifti1Image(np.zeros(shape, "float32"), np.eye(4))
    image.header["intent_code"] = intent
    nib.save(image, tmp_path / "warp.nii.gz")
    source = nib.Nifti1Image(np.zeros((4, 4, 4), "int16"), np.eye(4))
    with pytest.raises(ValueError, match=message):
        source_points(tmp_path / "warp.nii.gz", np.zeros((3, 1)), source)


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def hcp_rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """An HCP person: one sound run, one without a field of view below, one with motion of another length."""
    folder = tmp_path_factory.mktemp("hcp")
    brain = _brain_at(_points(MNI_4MM, MNI_SHAPE), MNI_SHAPE)
    for run in ("rfMRI_REST1_LR", "rfMRI_REST1_RL", "tfMRI_WM_LR"):
        place = folder / "data" / "100307" / "MNINonLinear" / "Results" / run
        bold = _run_of(brain)
        if run.endswith("RL"):
            bold[:, :, :12] = 0
        _save(bold, MNI_4MM, place / f"{run}.nii.gz", tr_s=0.72)
        _save((brain > 0).astype("uint8"), MNI_4MM, place / "brainmask_fs.2.0.nii.gz")
        _write_hcp_motion(place / "Movement_Regressors.txt")
    motion = place / "Movement_Regressors.txt"
    motion.write_text("\n".join(motion.read_text().splitlines()[:-1]) + "\n")
    rows = ingest(_rows(folder / "data", "hcp"), SETTINGS, folder / "out")
    write_tsv(rows, folder / "runs.tsv", RUNS)
    return rows.set_index("scan"), folder


def test_an_hcp_run_gets_fmripreps_confounds_and_stays_where_it_is(hcp_rows):
    rows, folder = hcp_rows
    row = rows.loc["sub-100307_task-rest_dir-LR_run-1"]
    place = folder / "data/100307/MNINonLinear/Results/rfMRI_REST1_LR"
    assert (row["outcome"], row["tr_s"], row["template"]) == ("ok", pytest.approx(0.72), "MNI152NLin6Asym")
    assert row["bold"] == str(place / "rfMRI_REST1_LR.nii.gz")
    table = pd.read_csv(row["confounds"], sep="\t", na_values="n/a")
    np.testing.assert_allclose(table[["trans_x", "trans_y", "trans_z"]], PARAMETERS[:, :3], atol=1e-8)
    np.testing.assert_allclose(table[["rot_x", "rot_y", "rot_z"]], PARAMETERS[:, 3:], atol=1e-8)
    fd_mm = framewise_displacement(PARAMETERS)
    np.testing.assert_allclose(table["framewise_displacement"], fd_mm, atol=1e-5)
    assert row["mean_fd_mm"] == pytest.approx(np.nanmean(fd_mm), abs=1e-5)
    assert {"csf", "white_matter", "global_signal", "std_dvars", "a_comp_cor_00"} <= set(table.columns)
    bold, mask = nib.load(row["bold"]), nib.load(row["mask"])
    inside = np.asarray(mask.dataobj) > 0
    np.testing.assert_allclose(table["global_signal"], bold.get_fdata()[inside].mean(axis=0), rtol=1e-5)
    assert row["dice_template"] > 0.9
    assert (folder / "out/sub-100307/figures/sub-100307_task-rest_dir-LR_run-1_desc-registration.png").is_file()


def test_where_an_hcp_run_has_no_signal_its_mask_has_none_either(hcp_rows):
    rows, _ = hcp_rows
    whole, cut = (
        np.asarray(nib.load(rows.loc[f"sub-100307_task-rest_dir-{d}_run-1", "mask"]).dataobj) for d in ("LR", "RL")
    )
    assert whole[:, :, :12].any()
    np.testing.assert_array_equal(cut[:, :, 12:], whole[:, :, 12:])
    assert not cut[:, :, :12].any()


def test_motion_of_another_length_fails_its_run_alone(hcp_rows):
    rows, _ = hcp_rows
    assert rows.loc["sub-100307_task-wm_dir-LR", "outcome"] == "failed: 23 rows of motion parameters for 24 volumes"
    assert list(rows["outcome"]).count("ok") == 2


def _write_ukb(root: Path) -> Path:
    """A UK Biobank person whose brain is the template moved by TO_SOURCE, with the field that says so."""
    run, affine, shape = root / "1234567_20227_2_0/fMRI/rfMRI.ica", _native_affine(-1.0), (48, 56, 44)
    back = np.linalg.inv(TO_SOURCE)
    brain = _brain_at(back[:3, :3] @ _points(affine, shape) + back[:3, 3:], shape)
    _save(_run_of(brain), affine, run / "filtered_func_data_clean.nii.gz", tr_s=0.735)
    mask = _save((brain > 0).astype("uint8"), affine, run / "mask.nii.gz")
    (run / "reg").mkdir()
    _write_field(run / "reg/example_func2standard_warp.nii.gz", TO_SOURCE, nib.load(mask), absolute=False, flip=False)
    (run / "mc").mkdir()
    np.savetxt(run / "mc/prefiltered_func_data_mcf.par", np.hstack([PARAMETERS[:, 3:], PARAMETERS[:, :3]]), fmt="%.9f")
    run.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 0.735}))
    return run


def test_a_ukb_run_comes_to_mni_by_its_own_field(tmp_path):
    _write_ukb(tmp_path / "data")
    scans = _rows(tmp_path / "data", "ukb")
    assert scans["note"].to_list() == ["FIX-cleaned: motion is already regressed out"]
    row = ingest(scans, SETTINGS, tmp_path / "out").iloc[0]
    assert (row["outcome"], row["scan"]) == ("ok", "sub-1234567_ses-2_task-rest")
    assert Path(row["bold"]).relative_to(tmp_path / "out") == Path(
        "sub-1234567/ses-2/func/sub-1234567_ses-2_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    )
    bold, mask = nib.load(row["bold"]), np.asarray(nib.load(row["mask"]).dataobj) > 0
    assert bold.header.get_zooms()[3] == pytest.approx(0.735)
    expected = _brain_at(_points(bold.affine, bold.shape[:3]), bold.shape[:3])
    mean = bold.get_fdata().mean(axis=3)
    inner = binary_erosion(mask, iterations=2)
    assert np.corrcoef(mean[inner], expected[inner])[0, 1] > 0.9
    assert row["dice_template"] > 0.95
    world_3P = _points(bold.affine, bold.shape[:3])[:, mask.ravel()]
    centres = [world_3P @ values[mask] / values[mask].sum() for values in (mean, expected)]
    assert np.abs(centres[0] - centres[1]).max() < 0.1
    table = pd.read_csv(row["confounds"], sep="\t", na_values="n/a")
    np.testing.assert_allclose(table[["rot_x", "rot_y", "rot_z"]], PARAMETERS[:, 3:], atol=1e-8)


def test_a_ukb_image_in_standard_space_is_used_as_it_is(tmp_path):
    run = _write_ukb(tmp_path / "data")
    brain = _brain_at(_points(MNI_4MM, MNI_SHAPE), MNI_SHAPE)
    ready = _save(_run_of(brain), MNI_4MM, run / "filtered_func_data_clean_standard.nii.gz", tr_s=0.735)
    row = ingest(_rows(tmp_path / "data", "ukb"), SETTINGS, tmp_path / "out").iloc[0]
    assert (row["outcome"], row["bold"]) == ("ok", str(ready))
    np.testing.assert_array_equal(np.asarray(nib.load(row["mask"]).dataobj), brain > 0)


def test_a_damaged_mask_or_a_short_run_is_the_outcome_of_its_run(tmp_path):
    run = _write_ukb(tmp_path / "data")
    scans = _rows(tmp_path / "data", "ukb")
    long = SETTINGS.model_copy(update={"min_volumes": 30})
    assert ingest(scans, long, tmp_path / "out")["outcome"].item() == "excluded: 24 volumes, fewer than 30"
    (run / "mask.nii.gz").write_bytes((run / "mask.nii.gz").read_bytes()[:100])
    outcome = ingest(scans, SETTINGS, tmp_path / "out")["outcome"].item()
    assert outcome.startswith("failed: unreadable brain mask (")
    _save(np.ones((4, 4, 4), "uint8"), np.eye(4), run / "mask.nii.gz")
    assert (
        ingest(scans, SETTINGS, tmp_path / "out")["outcome"].item()
        == "failed: brain mask and BOLD are on different grids"
    )


def test_an_image_stored_with_an_intercept_is_refused_for_its_confounds_would_be_wrong(tmp_path):
    run = _write_ukb(tmp_path / "data")
    bold = nib.load(run / "filtered_func_data_clean.nii.gz")
    shifted = nib.Nifti1Image(bold.get_fdata() - 300, bold.affine, bold.header)
    shifted.set_data_dtype("int16")
    nib.save(shifted, run / "filtered_func_data_clean.nii.gz")
    outcome = ingest(_rows(tmp_path / "data", "ukb"), SETTINGS, tmp_path / "out")["outcome"].item()
    assert outcome == "failed: the image is stored with an intercept (scl_inter): save it as float32"
