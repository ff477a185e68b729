"""Index: what is found, what is refused and why, and that a new participant moves no other."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.config import Dataset, Index
from lcm.imaging.header import ImageError, read_header
from lcm.imaging.index import assign_batches, index


def _bold(path: Path, *, tr_s: float | None = 2.0, header_tr_s: float = 2.0, num_volumes: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (4, 4, 4, num_volumes)).astype("int16"), np.eye(4))
    image.header.set_zooms((3, 3, 3, header_tr_s))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    if tr_s is not None:
        Path(str(path).replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": tr_s}))
    return path


def _index(root: Path, kind: str = "bids", **more: object) -> pd.DataFrame:
    return index({"D": Dataset(path=str(root), input=kind, cohort="generic", **more)}, Index()).set_index("scan")


def test_the_json_tr_wins_over_the_header_and_the_difference_is_noted(tmp_path):
    _bold(tmp_path / "sub-1/func/sub-1_task-rest_bold.nii.gz", tr_s=1.5, header_tr_s=1.0)
    row = _index(tmp_path).loc["sub-1_task-rest"]
    assert (row["tr_s"], row["note"], row["outcome"], row["num_volumes"]) == (1.5, "header says TR 1 s", "ok", 30)


def test_a_tr_is_inherited_from_the_datasets_sidecar(tmp_path):
    _bold(tmp_path / "sub-1/func/sub-1_task-rest_bold.nii.gz", tr_s=None)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    (tmp_path / "task-rest_bold.json").write_text('{"RepetitionTime": 2.2}')
    assert _index(tmp_path).loc["sub-1_task-rest", "tr_s"] == 2.2


def test_each_defect_is_the_outcome_of_its_run_alone(tmp_path):
    _bold(tmp_path / "sub-ok/func/sub-ok_task-rest_bold.nii.gz")
    _bold(tmp_path / "sub-notr/func/sub-notr_task-rest_bold.nii.gz", tr_s=None)
    _bold(tmp_path / "sub-ms/func/sub-ms_task-rest_bold.nii.gz", tr_s=2000)
    _bold(tmp_path / "sub-echo/func/sub-echo_task-rest_echo-1_bold.nii.gz")
    cut = _bold(tmp_path / "sub-cut/func/sub-cut_task-rest_bold.nii.gz")
    cut.write_bytes(cut.read_bytes()[:-200])
    empty = _bold(tmp_path / "sub-empty/func/sub-empty_task-rest_bold.nii.gz")
    empty.write_bytes(b"")
    flat = tmp_path / "sub-3d/func/sub-3d_task-rest_bold.nii.gz"
    _bold(flat)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), "int16"), np.eye(4)), flat)
    outcomes = _index(tmp_path)["outcome"].to_dict()
    expected = {
        "sub-ok_task-rest": "ok",
        "sub-notr_task-rest": "failed: no RepetitionTime in the JSON sidecars",
        "sub-ms_task-rest": "failed: RepetitionTime 2000 s is not a repetition time; it is given in seconds",
        "sub-echo_task-rest_echo-1": "excluded: multi-echo run: combine the echoes first or use fMRIPrep derivatives",
        "sub-cut_task-rest": "failed: truncated image: the file ends before its last voxel",
        "sub-empty_task-rest": "failed: unreadable image (ImageFileError)",
        "sub-3d_task-rest": "failed: image has shape 4×4×4; a run needs four dimensions",
    }
    assert outcomes == expected


def test_a_sound_image_is_judged_by_its_trailer_and_never_inflated(tmp_path, monkeypatch):
    def inflated(path: Path) -> int:
        raise AssertionError(f"{path} was inflated")

    monkeypatch.setattr("lcm.imaging.header._count_inflated", inflated)
    assert read_header(_bold(tmp_path / "sub-1/func/sub-1_task-rest_bold.nii.gz")).num_volumes == 30


def test_an_image_that_lacks_its_last_voxel_is_truncated(tmp_path):
    path = _bold(tmp_path / "sub-1/func/sub-1_task-rest_bold.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-2]))
    with pytest.raises(ImageError, match="truncated"):
        read_header(path)


def test_a_gzip_of_several_members_is_whole(tmp_path):
    path = _bold(tmp_path / "sub-1/func/sub-1_task-rest_bold.nii.gz")
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:3000]) + gzip.compress(raw[3000:]))
    assert read_header(path).num_volumes == 30
    path.write_bytes(gzip.compress(raw[:2000]) + gzip.compress(raw[2000:3000]))
    with pytest.raises(ImageError, match="truncated"):
        read_header(path)


def test_a_t1w_of_the_same_session_is_preferred_and_another_is_used_where_it_has_none(tmp_path):
    for session in "12":
        _bold(tmp_path / f"sub-1/ses-{session}/func/sub-1_ses-{session}_task-rest_bold.nii.gz")
    t1w = tmp_path / "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz"
    _bold(t1w, tr_s=None)
    found = _index(tmp_path)["t1w"]
    assert found.to_list() == [str(t1w), str(t1w)]


def test_derivatives_without_confounds_mask_or_mni_space_are_refused_by_name(tmp_path):
    def preproc(person: str, space: str) -> Path:
        return tmp_path / f"sub-{person}/func/sub-{person}_task-rest_space-{space}_desc-preproc_bold.nii.gz"

    for person in ("full", "nomask", "noconf"):
        _bold(preproc(person, "MNI152NLin2009cAsym"))
        if person != "nomask":
            mask = str(preproc(person, "MNI152NLin2009cAsym")).replace("desc-preproc_bold", "desc-brain_mask")
            _bold(Path(mask), tr_s=None)
        if person != "noconf":
            (tmp_path / f"sub-{person}/func/sub-{person}_task-rest_desc-confounds_regressors.tsv").write_text(
                "csf\n1\n"
            )
    _bold(preproc("native", "T1w"))
    found = _index(tmp_path, "derivatives")["outcome"].to_dict()
    assert found == {
        "sub-full_task-rest": "ok",
        "sub-nomask_task-rest": "failed: no brain mask beside the BOLD",
        "sub-noconf_task-rest": "failed: no confounds table beside the BOLD",
        "sub-native_task-rest": "excluded: no BOLD in an adult MNI space",
    }


def test_two_files_for_one_run_are_used_neither(tmp_path):
    for site in ("UM_1", "UM_2"):
        (tmp_path / f"{site}_0050272_rois_aal.1D").write_text("#2001\n1\n2\n")
    found = _index(tmp_path, "series", pattern="*.1D")
    assert found["outcome"].to_dict() == {"sub-0050272": "failed: several files for one run"}


def test_a_new_participant_moves_no_other_to_another_batch():
    people = pd.Series([f"sub-{i}" for i in range(100)])
    before = assign_batches(people[:90], 50)
    after = assign_batches(people, 50)
    assert (before == after[:90]).all()
    assert before.value_counts().between(30, 60).all()


def test_a_link_without_content_is_the_outcome_of_its_run_alone(tmp_path):
    _bold(tmp_path / "sub-ok/func/sub-ok_task-rest_bold.nii.gz")
    _bold(tmp_path / "sub-t1/func/sub-t1_task-rest_bold.nii.gz")
    gone = _bold(tmp_path / "sub-gone/func/sub-gone_task-rest_bold.nii.gz")
    gone.unlink()
    anatomy = tmp_path / "sub-t1/anat/sub-t1_T1w.nii.gz"
    anatomy.parent.mkdir()
    for link in (gone, anatomy):
        link.symlink_to(tmp_path / ".git/annex/objects/absent.nii.gz")
    outcomes = _index(tmp_path)["outcome"]
    assert outcomes["sub-ok_task-rest"] == "ok"
    assert outcomes["sub-gone_task-rest"] == "failed: the image is missing, or a link whose content was not fetched"
    assert outcomes["sub-t1_task-rest"] == "failed: the T1w is a link whose content was not fetched"


def test_a_phase_image_is_no_run_to_process(tmp_path):
    for part in ("mag", "phase"):
        _bold(tmp_path / f"sub-1/func/sub-1_task-rest_part-{part}_bold.nii.gz")
    outcomes = _index(tmp_path)["outcome"]
    assert outcomes["sub-1_task-rest_part-mag"] == "ok"
    assert outcomes["sub-1_task-rest_part-phase"] == "excluded: not a magnitude image"


def test_an_infants_template_is_no_space_for_an_adult_atlas(tmp_path):
    _bold(tmp_path / "sub-1/func/sub-1_task-rest_space-MNIInfant_cohort-1_desc-preproc_bold.nii.gz")
    outcome = _index(tmp_path, "derivatives").loc["sub-1_task-rest", "outcome"]
    assert outcome == "excluded: no BOLD in an adult MNI space"
