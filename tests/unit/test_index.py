"""Index: what is found, what is refused and why, and that a new participant moves no other."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.__main__ import main
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


def test_changed_slice_times_change_the_fingerprint_and_a_comment_does_not(tmp_path):
    image = _bold(tmp_path / "image/sub-1_task-rest_bold.nii.gz", tr_s=None)
    found = []
    for number, more in enumerate(({}, {"Comment": "x"}, {"SliceTiming": [0, 1]}, {"SliceTiming": [1, 0]})):
        # A tree each: the reader of metadata keeps what it has read for as long as the process lives.
        folder = tmp_path / str(number) / "sub-1" / "func"
        folder.mkdir(parents=True)
        (folder / image.name).hardlink_to(image)
        (folder / image.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": 2.0} | more))
        found.append(_index(tmp_path / str(number)).loc["sub-1_task-rest", "fingerprint"])
    assert found[0] == found[1]
    assert len(set(found)) == 3


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
    advice = "narrow `pattern` to one atlas, space and strategy"
    assert found["outcome"].to_dict() == {"sub-0050272": f"failed: several files for one run: {advice}"}


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


# ── fMRIPrep ────────────────────────────────────────────────────────────────────────────────────


def _fmriprep(root: Path, *spaces: str, name: str = "sub-1_task-rest") -> None:
    for space in spaces:
        path = _bold(root / f"sub-1/func/{name}_space-{space}_desc-preproc_bold.nii.gz")
        _bold(Path(str(path).replace("desc-preproc_bold", "desc-brain_mask")), tr_s=None)
    (root / "sub-1/func" / f"{name}_desc-confounds_timeseries.tsv").write_text("csf\n1\n")


def test_2009c_at_2_mm_is_preferred_then_the_bolds_own_resolution(tmp_path):
    spaces = ["MNI152NLin6Asym_res-2", "MNI152NLin2009cAsym_res-1", "MNI152NLin2009cAsym", "MNI152NLin2009cAsym_res-2"]
    for number in range(1, 5):
        _fmriprep(tmp_path / str(number), *spaces[:number])
    taken = [Path(_index(tmp_path / str(n), "derivatives")["bold"].item()).name for n in range(1, 5)]
    assert [name.split("space-")[1].split("_desc")[0] for name in taken] == spaces


def test_a_derivatives_own_sidecar_gives_its_tr_where_no_raw_one_is_inherited(tmp_path):
    _fmriprep(tmp_path, "MNI152NLin6Asym")
    bold = tmp_path / "sub-1/func/sub-1_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    _bold(bold, tr_s=0.8, header_tr_s=1.0)
    row = _index(tmp_path, "derivatives").iloc[0]
    assert (row["tr_s"], row["note"], row["outcome"]) == (0.8, "header says TR 1 s", "ok")


def test_an_echo_beside_the_combined_run_is_left_out(tmp_path):
    _fmriprep(tmp_path, "MNI152NLin6Asym")
    _bold(tmp_path / "sub-1/func/sub-1_task-rest_echo-2_desc-preproc_bold.nii.gz")
    outcomes = _index(tmp_path, "derivatives")["outcome"]
    assert outcomes["sub-1_task-rest"] == "ok"
    assert outcomes["sub-1_task-rest_echo-2"].startswith("excluded: one echo of a multi-echo run")


def test_cifti_alone_is_refused_by_name_and_beside_a_volume_it_does_not_matter(tmp_path):
    _fmriprep(tmp_path, "MNI152NLin6Asym")
    for run in ("task-rest", "task-nback"):
        (tmp_path / f"sub-1/func/sub-1_{run}_space-fsLR_den-91k_bold.dtseries.nii").write_bytes(b"")
    outcomes = _index(tmp_path, "derivatives")["outcome"]
    assert outcomes["sub-1_task-rest"] == "ok"
    assert outcomes["sub-1_task-nback"].startswith("excluded: CIFTI only")


# ── HCP ─────────────────────────────────────────────────────────────────────────────────────────


def _hcp(root: Path, person: str, run: str, *endings: str, tr_s: float | None = None) -> Path:
    place = root / person / "MNINonLinear" / "Results" / run
    for ending in endings or ("",):
        _bold(place / f"{run}{ending}.nii.gz", tr_s=None, header_tr_s=0.72)
    (place / "Movement_Regressors.txt").write_text("0 " * 12 + "\n")
    _bold(place / "brainmask_fs.2.0.nii.gz", tr_s=None)
    if tr_s is not None:
        (place / f"{run}.json").write_text(json.dumps({"RepetitionTime": tr_s}))
    return place


def test_an_hcp_runs_name_becomes_its_entities(tmp_path):
    place = _hcp(tmp_path, "100307", "rfMRI_REST1_LR")
    for run in ("tfMRI_EMOTION_RL", "rfMRI_REST2_7T_PA"):
        _hcp(tmp_path, "100307", run)
    _hcp(tmp_path, "HCA6000030_V1_MR", "rfMRI_REST2_AP")
    found = _index(tmp_path, "hcp")
    assert sorted(found.index) == [
        "sub-100307_task-emotion_dir-RL",
        "sub-100307_task-rest_acq-7T_dir-PA_run-2",
        "sub-100307_task-rest_dir-LR_run-1",
        "sub-HCA6000030_ses-V1_task-rest_dir-AP_run-2",
    ]
    row = found.loc["sub-100307_task-rest_dir-LR_run-1"]
    assert (row["participant_id"], row["task"], row["run"], row["outcome"]) == ("sub-100307", "rest", "1", "ok")
    assert (row["space"], row["tr_s"]) == ("MNI152NLin6Asym", 0.72)
    assert row["mask"] == str(place / "brainmask_fs.2.0.nii.gz")
    assert row["confounds"] == str(place / "Movement_Regressors.txt")
    assert found.loc["sub-HCA6000030_ses-V1_task-rest_dir-AP_run-2", "session_id"] == "ses-V1"


def test_hcps_json_wins_over_its_header_where_there_is_one(tmp_path):
    _hcp(tmp_path, "100307", "rfMRI_REST1_LR", tr_s=0.8)
    row = _index(tmp_path, "hcp").iloc[0]
    assert (row["tr_s"], row["note"]) == (0.8, "header says TR 0.72 s")


def test_hcps_cleaned_and_uncleaned_images_are_never_mixed(tmp_path):
    _hcp(tmp_path / "both", "1", "rfMRI_REST1_LR", "", "_hp2000_clean")
    _hcp(tmp_path / "both", "2", "rfMRI_REST1_LR", "_hp2000_clean")
    found = _index(tmp_path / "both", "hcp")
    assert Path(found["bold"].iloc[0]).name == "rfMRI_REST1_LR.nii.gz"
    assert found["note"].iloc[0] == "taken without ICA-FIX"
    assert found["outcome"].iloc[1].startswith("excluded: only FIX-cleaned")
    _hcp(tmp_path / "clean", "2", "rfMRI_REST1_LR", "_hp2000_clean")
    row = _index(tmp_path / "clean", "hcp").iloc[0]
    assert (row["outcome"], row["note"]) == ("ok", "FIX-cleaned: motion is already regressed out")


def test_what_an_hcp_run_lacks_and_what_is_no_run_is_named(tmp_path):
    (_hcp(tmp_path, "1", "rfMRI_REST1_LR") / "Movement_Regressors.txt").unlink()
    (_hcp(tmp_path, "2", "rfMRI_REST1_LR") / "brainmask_fs.2.0.nii.gz").unlink()
    _hcp(tmp_path, "3", "rfMRI_REST")
    assert list(_index(tmp_path, "hcp")["outcome"]) == [
        "failed: no Movement_Regressors.txt beside the BOLD",
        "failed: no brainmask_fs.2.0.nii.gz beside the BOLD or in MNINonLinear",
        "excluded: not the name of an HCP run, such as rfMRI_REST1_LR: a concatenation of runs?",
    ]


# ── UK Biobank ──────────────────────────────────────────────────────────────────────────────────


def _ukb(root: Path, folder: str, run: str = "rfMRI.ica", *, tr_s: float | None = 0.735) -> Path:
    place = root / folder / run
    bold = "filtered_func_data_clean.nii.gz" if run.endswith(".ica") else "filtered_func_data.nii.gz"
    _bold(place / bold, tr_s=None, header_tr_s=0.735)
    _bold(place / "mask.nii.gz", tr_s=None)
    for name in ("mc/prefiltered_func_data_mcf.par", "reg/example_func2standard_warp.nii.gz"):
        (place / name).parent.mkdir()
        (place / name).write_text("x")
    if tr_s is not None:
        place.with_suffix(".json").write_text(json.dumps({"RepetitionTime": tr_s}))
    return place


def test_ukb_folders_of_every_form_are_found_and_the_instance_is_the_session(tmp_path):
    _ukb(tmp_path, "1000001_20227_2_0/fMRI")
    _ukb(tmp_path, "1000001_20249_2_0", "tfMRI.feat")
    _ukb(tmp_path, "1000002_20227_3_0/fMRI")
    _ukb(tmp_path, "1000003/fMRI", tr_s=None)
    (tmp_path / "of another kind").mkdir()
    found = _index(tmp_path, "ukb")
    assert found["outcome"].to_dict() == dict.fromkeys(
        [
            "sub-1000001_ses-2_task-emotion",
            "sub-1000001_ses-2_task-rest",
            "sub-1000002_ses-3_task-rest",
            "sub-1000003_task-rest",
        ],
        "ok",
    )
    assert found["space"].isna().all()
    assert list(found["note"].notna()) == [False, True, True, True]
    assert set(found["tr_s"]) == {0.735}


@pytest.mark.parametrize(("kind", "make"), [("hcp", _hcp), ("ukb", _ukb)])
def test_a_folder_whose_name_holds_no_person_is_named(tmp_path, kind, make):
    make(tmp_path, "copy of 100307", "rfMRI_REST1_LR" if kind == "hcp" else "rfMRI.ica")
    with pytest.raises(
        ValueError, match="copy of 100307: no participant in this folder's name; expected <id> or <id>_"
    ):
        _index(tmp_path, kind)


def test_a_ukb_image_in_standard_space_needs_no_field_and_the_other_does(tmp_path):
    for person in ("1", "2"):
        (_ukb(tmp_path, f"{person}/fMRI") / "reg/example_func2standard_warp.nii.gz").unlink()
    ready = _bold(tmp_path / "1/fMRI/rfMRI.ica/filtered_func_data_clean_standard.nii.gz", tr_s=None, header_tr_s=0.735)
    found = _index(tmp_path, "ukb")
    assert (found["bold"].iloc[0], found["space"].iloc[0]) == (str(ready), "MNI152NLin6Asym")
    assert list(found["outcome"]) == ["ok", "failed: no reg/example_func2standard_warp.nii.gz in rfMRI.ica"]


def test_a_ukb_folder_without_cleaned_data_fails(tmp_path):
    (_ukb(tmp_path, "1/fMRI") / "filtered_func_data_clean.nii.gz").unlink()
    assert _index(tmp_path, "ukb")["outcome"].item() == "failed: no filtered_func_data_clean.nii.gz in rfMRI.ica"


# ── series tables ───────────────────────────────────────────────────────────────────────────────

_XCPD = "sub-{}/ses-1/func/sub-{}_ses-1_task-rest_dir-{}_space-MNI152NLin2009cAsym_{}_stat-mean_timeseries.tsv"


def _series(path: Path, sidecar: dict[str, object] | None = None, sidecar_name: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a\n1\n2\n")
    if sidecar is not None:
        (path.with_name(sidecar_name) if sidecar_name else path.with_suffix(".json")).write_text(json.dumps(sidecar))
    return path


def test_runs_of_xcpd_keep_their_entities_whatever_the_label(tmp_path):
    for direction in ("AP", "PA"):
        _series(tmp_path / _XCPD.format("A+b", "A+b", direction, "seg-AAL"), {"RepetitionTime": 0.8})
    found = _index(tmp_path, "series", pattern="sub-*/**/*seg-AAL*timeseries.tsv", denoised=True)
    assert sorted(found.index) == [f"sub-A+b_ses-1_task-rest_dir-{d}" for d in ("AP", "PA")]
    assert set(found["participant_id"]) == {"sub-A+b"}
    assert list(found["tr_s"]) == [0.8, 0.8]
    assert set(found["outcome"]) == {"ok"}


def test_several_atlases_of_one_run_are_refused_with_an_advice(tmp_path):
    for atlas in ("seg-AAL", "atlas-Gordon"):
        _series(tmp_path / _XCPD.format("1", "1", "AP", atlas))
    found = _index(tmp_path, "series", pattern="sub-*/**/*timeseries.tsv", denoised=True)
    assert len(found) == 1
    assert found["outcome"].item().startswith("failed: several files for one run: narrow `pattern`")


def test_a_series_sidecar_wins_over_the_configured_tr_and_the_difference_is_noted(tmp_path):
    name = "sub-{0}/func/sub-{0}_task-rest_seg-AAL_desc-denoiseSimple+gsr_timeseries.tsv"
    _series(tmp_path / name.format("1"), {"RepetitionTime": 2.0, "SamplingFrequency": 9})
    # giga_connectome writes one sidecar for all atlases of a run.
    shared = "sub-2_task-rest_desc-denoiseSimple+gsr_timeseries.json"
    _series(tmp_path / name.format("2"), {"SamplingFrequency": 0.5}, shared)
    _series(tmp_path / name.format("3"))
    _series(tmp_path / name.format("4"), {"RepetitionTime": 2000})
    found = _index(tmp_path, "series", pattern="sub-*/func/*.tsv", denoised=True, tr_s=1.5)
    assert list(found["tr_s"]) == [2.0, 2.0, 1.5, 1.5]
    assert list(found["note"].fillna("")) == ["configuration says TR 1.5 s"] * 2 + [""] * 2
    assert list(found["outcome"])[3].startswith("failed: RepetitionTime 2000 s is not")


def test_xcpds_tr_is_read_beside_the_denoised_bold(tmp_path):
    path = _series(tmp_path / _XCPD.format("1", "1", "AP", "seg-AAL"), {"SamplingFrequency": "TR"})
    beside = "sub-1_ses-1_task-rest_dir-AP_space-MNI152NLin2009cAsym_desc-denoised_bold.json"
    path.with_name(beside).write_text('{"RepetitionTime": 1.1}')
    found = _index(tmp_path, "series", pattern="sub-*/**/*timeseries.tsv", denoised=True)
    assert found["tr_s"].item() == 1.1


def test_a_series_without_any_tr_stays_without_one(tmp_path):
    _series(tmp_path / _XCPD.format("1", "1", "AP", "seg-AAL"), {"SamplingFrequency": "TR"})
    assert _index(tmp_path, "series", pattern="sub-*/**/*.tsv", denoised=True)["tr_s"].isna().item()


def test_denoised_series_declared_as_raw_are_left_out(tmp_path):
    _series(tmp_path / _XCPD.format("1", "1", "AP", "seg-AAL"))
    outcome = _index(tmp_path, "series", pattern="sub-*/**/*.tsv")["outcome"].item()
    assert outcome.endswith("write denoised series: set `denoised: true` for the dataset")


def test_a_large_dataset_makes_few_files_and_a_small_one_keeps_cores_busy():
    people = pd.Series([f"sub-{number:05d}" for number in range(10_000)])
    counts = {n: assign_batches(people[:n], 200).nunique() for n in (1, 50, 51, 100, 400, 1600, 1601, 10_000)}
    assert counts == {1: 1, 50: 1, 51: 2, 100: 2, 400: 8, 1600: 8, 1601: 16, 10_000: 64}


def test_what_preprocess_will_fill_is_described_as_a_bids_derivative(tmp_path):
    _bold(tmp_path / "raw/sub-1/func/sub-1_task-rest_bold.nii.gz")
    datasets = json.dumps({"D": {"path": str(tmp_path / "raw"), "input": "bids", "cohort": "generic"}})
    assert main(["index", "--datasets", datasets, "--output", str(tmp_path / "results/index")]) == 0
    described = json.loads((tmp_path / "results/preprocess/D/dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    # Every participant's T1w inherits it.
    assert json.loads((tmp_path / "results/preprocess/D/desc-preproc_T1w.json").read_text()) == {"SkullStripped": False}
