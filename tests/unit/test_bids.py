"""Names: what is built can be parsed, whatever entities a lab uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcm.bids import SCAN_ENTITIES, derivative_path, entities, scan_name, series_person

LABEL = st.text("abcXYZ0123456789+", min_size=1, max_size=6)


@given(st.dictionaries(st.sampled_from(SCAN_ENTITIES[1:]), LABEL), LABEL)
def test_parsing_a_built_name_gives_its_entities_back(optional, sub):
    found = {"sub": sub} | optional
    path = derivative_path(Path("d"), scan_name(found), "bold.nii.gz", space="MNI152NLin6Asym", desc="preproc")
    assert entities(path) == found | {"space": "MNI152NLin6Asym", "desc": "preproc", "suffix": "bold", "ext": ".nii.gz"}
    assert scan_name(entities(path)) == scan_name(found)


def test_a_derivative_lies_in_its_sessions_folder_with_desc_last():
    path = derivative_path(Path("d"), "sub-1_ses-2_task-rest", "bold.nii.gz", desc="preproc", res="3", space="MNI")
    assert path == Path("d/sub-1/ses-2/func/sub-1_ses-2_task-rest_space-MNI_res-3_desc-preproc_bold.nii.gz")


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("sub-control032014_AAL116_features_timeseries.mat", "control032014"),
        ("UM_1_0050272_rois_aal.1D.gz", "0050272"),
        ("Pitt_0050003_rois_ho.1D", "0050003"),
        ("50033.mat", "50033"),
        ("sub-A+b_task-rest_seg-AAL_stat-mean_timeseries.tsv", "A+b"),
        ("sub-01_ses-2_task-rest_seg-Schaefer2018100Parcels7Networks_desc-denoiseScrubbing.5+gsr_timeseries.tsv", "01"),
    ],
)
def test_the_participant_of_a_ready_series(name, person):
    assert series_person(Path(name)) == person


def test_a_series_without_a_participant_is_refused():
    with pytest.raises(ValueError, match=r"mean\.1D: no participant"):
        series_person(Path("mean.1D"))
