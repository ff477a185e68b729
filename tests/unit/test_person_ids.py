"""Images and tables write a person in their own ways: one person's ways meet, two persons' never do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcm.bids import series_person
from lcm.cohort.source import read_source

ABIDE_SITES = (
    "Pitt", "Olin", "OHSU", "SDSU", "Trinity", "UM_1", "UM_2", "USM", "Yale", "CMU_a", "CMU_b", "Leuven_1", "Leuven_2", "KKI",
    "NYU", "Stanford", "UCLA_1", "UCLA_2", "MaxMun_a", "MaxMun_d", "Caltech", "SBL",
)  # fmt: skip
"""How FILE_ID and the names of PCP's files begin."""


def key(cohort: str, label: str) -> str | None:
    return read_source(cohort).person.normalise(label)


@pytest.mark.parametrize(
    ("cohort", "spellings", "expected"),
    [
        (
            "abide",
            ("0050003", "50003", "50003.0", "sub-0050003", "Pitt_0050003", "sub-Pitt0050003", " 50003 "),
            "50003",
        ),
        ("abide", ("UM_1_0050272", "sub-UM10050272", "50272"), "50272"),
        ("abide2", ("28675", "sub-28675", "0028675"), "28675"),
        ("adni", ("002_S_0295", "sub-002S0295", "002-S-0295", "002s0295"), "002s0295"),
        ("neurocon", ("control032014", "sub-control032014", "Control032014 "), "control032014"),
        ("taowu", ("patient032077", "sub-patient032077"), "patient032077"),
        ("hcpa", ("HCA6000030", "sub-HCA6000030", "HCA6000030_V1_MR", "sub-HCA6000030_V2_MR"), "hca6000030"),
        ("hcpya", ("100206", "sub-100206", "100206.0", "100206_3T"), "100206"),
        ("ppmi", ("3102", "sub-3102", "3102.0"), "3102"),
        ("ppmi", ("100001", "sub-100001"), "100001"),
        ("sz", ("0040000", "40000", "sub-0040000", "40000.0"), "40000"),
        ("sz-schizconnect", ("A00000300", "sub-A00000300"), "a00000300"),
        ("sz-schizconnect", ("NMorphCH_0001", "sub-NMorphCH0001"), "nmorphch0001"),
        ("sz-ucla", ("sub-10159", "10159"), "10159"),
        ("generic", ("sub-01", "01"), "01"),
    ],
)
def test_a_person_has_one_key_however_written(cohort: str, spellings: tuple[str, ...], expected: str) -> None:
    assert {key(cohort, label) for label in spellings} == {expected}


@pytest.mark.parametrize(
    ("cohort", "label"),
    [
        ("abide", "sub-123456"),
        ("abide", "no_filename"),
        ("abide", "5003"),
        ("adni", "sub-0050003"),
        ("adni", "002_S_029"),
        ("neurocon", "sub-032014"),
        ("taowu", "control"),
        ("hcpa", "100206"),
        ("hcpya", "HCA6000030"),
        ("ppmi", "PATNO"),
        ("sz", ""),
        ("generic", "sub-01_ses-1"),
    ],
)
def test_a_label_that_is_none_of_the_cohorts_has_no_key(cohort: str, label: str) -> None:
    assert key(cohort, label) is None


def numbers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


OWN_FORMS = {
    "abide": numbers(50001, 59999).map(
        lambda n: (n, [f"{n}", f"{n:07d}", f"sub-{n:07d}", *(f"{site}_{n:07d}" for site in ABIDE_SITES)])
    ),
    "abide2": numbers(28001, 31000).map(lambda n: (n, [f"{n}", f"sub-{n}", f"{n}.0"])),
    "adni": st.tuples(numbers(1, 999), numbers(1, 99999)).map(
        lambda n: (n, [f"{n[0]:03d}_S_{n[1]:04d}", f"sub-{n[0]:03d}S{n[1]:04d}"])
    ),
    "neurocon": st.tuples(st.sampled_from(("control", "patient")), numbers(0, 999999)).map(
        lambda n: (n, [f"{n[0]}{n[1]:06d}", f"sub-{n[0]}{n[1]:06d}"])
    ),
    "hcpa": numbers(6000000, 9999999).map(lambda n: (n, [f"HCA{n}", f"sub-HCA{n}", f"HCA{n}_V1_MR", f"HCA{n}_V3_MR"])),
    "hcpya": numbers(100000, 999999).map(lambda n: (n, [f"{n}", f"sub-{n}", f"{n}.0"])),
    "ppmi": numbers(3000, 999999).map(lambda n: (n, [f"{n}", f"sub-{n}", f"{n}.0"])),
    "sz": numbers(40000, 49999).map(lambda n: (n, [f"{n}", f"{n:07d}", f"sub-{n:07d}"])),
    "sz-ucla": numbers(10000, 79999).map(lambda n: (n, [f"{n}", f"sub-{n}"])),
    "generic": st.from_regex(r"[0-9a-zA-Z+]{1,8}", fullmatch=True).map(lambda label: (label.lower(), [label, f"sub-{label}"])),
}  # fmt: skip
"""Cohort → a person, and the ways in which this cohort's tables, folders and files write this person."""


@pytest.mark.parametrize("cohort", OWN_FORMS)
@given(data=st.data())
def test_two_people_never_meet_and_one_always_does(cohort: str, data: st.DataObject) -> None:
    (one, first), (other, second) = data.draw(OWN_FORMS[cohort]), data.draw(OWN_FORMS[cohort])
    keys, others = {key(cohort, label) for label in first}, {key(cohort, label) for label in second}
    assert len(keys) == 1
    assert None not in keys
    assert (keys == others) == (one == other)


@pytest.mark.parametrize(
    ("file", "cohort", "expected"),
    [
        ("Pitt_0050003_rois_aal.1D", "abide", "50003"),
        ("UM_1_0050272_rois_cc200.1D.gz", "abide", "50272"),
        ("50003.mat", "abide", "50003"),
        ("sub-control032014_task-rest_AAL116_features_timeseries.mat", "neurocon", "control032014"),
        ("sub-002S0295_ses-M012_task-rest_AAL116_features_timeseries.mat", "adni", "002s0295"),
    ],
)
def test_a_series_file_names_the_person_of_the_table(file: str, cohort: str, expected: str) -> None:
    assert key(cohort, series_person(Path(file))) == expected
