"""Whatever the visits, sessions and gaps of a longitudinal table: the fast reading says what a slow, independent one says."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.cohort.source import read_source
from tests.planted_dementia import ADNI_DIAGNOSES, ADNI_STAGES
from tests.planted_restricted import Planted, table
from tests.slow_phenotypes import read_slowly
from tests.unit.test_sources_restricted import harmonized, value

ENTRY = date(2010, 5, 1)
ADNI_SESSIONS = st.one_of(
    st.sampled_from([None, "bl", "sc", "m06", "M009", "m12", "m24", "m96", "1"]),
    st.integers(-200, 1500).map(lambda days: f"{ENTRY + timedelta(days):%Y%m%d}"),
)
FLAG = st.sampled_from(["", "0", "0", "1"])


@st.composite
def adni(draw: st.DrawFn) -> Planted:
    """Up to three people, each with some of ADNI's visits in any order, and scans of any session."""
    rows, scans = [], set()
    for rid in range(9001, 9002 + draw(st.integers(0, 2))):
        stage, sex = draw(st.sampled_from([*ADNI_STAGES, ""])), draw(st.sampled_from(["Male", "Female", "Unknown"]))
        for months in draw(st.lists(st.sampled_from([0, 3, 6, 12, 18, 24, 36]), min_size=1, unique=True)):
            exam = ENTRY + timedelta(30 * months + draw(st.integers(0, 20)))
            rows.append(
                {
                    "PTID": f"941_S_{rid}", "VISCODE": f"m{months:02d}" if months else "bl", "EXAMDATE": exam, "SITE": "941",
                    "DX_bl": stage, "DX": draw(st.sampled_from(list(ADNI_DIAGNOSES))),
                    "AGE": draw(st.sampled_from(["70.0", ""])),
                    "PTGENDER": sex, "PTEDUCAT": draw(st.sampled_from(["12", "", "-4"])),
                }
            )  # fmt: skip
        scans |= {(f"941S{rid}", session) for session in draw(st.lists(ADNI_SESSIONS, min_size=1, max_size=4))}
    policy = draw(st.sampled_from(["lcm_paper", "mci_apart", "dementia_only"]))
    return Planted("adni", {"ADNIMERGE.csv": table(rows)}, {scan: {} for scan in sorted(scans, key=str)}, policy)


@st.composite
def oasis3(draw: st.DrawFn) -> Planted:
    """Up to three people with forms and ratings on any days."""
    demographics, forms, ratings, scans = [], [], [], set()
    for number in range(39001, 39002 + draw(st.integers(0, 2))):
        person, days = f"OAS{number}", st.integers(0, 1500)
        demographics.append({"OASISID": person, "AgeatEntry": "68.0", "GENDER": "1", "HAND": "R", "EDUC": "16"})
        for day in draw(st.lists(days, max_size=4, unique=True)):
            flags = {name: draw(FLAG) for name in ("NORMCOG", "DEMENTED", "MCIAMEM", "PROBAD", "alzdis")}
            causes = {name: draw(st.sampled_from(["", "1", "2"])) for name in ("PROBADIF", "alzdisif")}
            forms.append({"OASISID": person, "OASIS_session_label": f"{person}_UDSd1_d{day:04d}"} | flags | causes)
        for day in draw(st.lists(days, max_size=4, unique=True)):
            rating = draw(st.sampled_from(["0", "0.5", "1", ""]))
            ratings.append({"OASISID": person, "days_to_visit": day, "CDRTOT": rating, "age at visit": "70"})
        scans |= {
            (person, session and f"d{session:04d}")
            for session in draw(st.lists(st.none() | days, min_size=1, max_size=4))
        }
    blank = {
        "OASISID": "nobody",
        "OASIS_session_label": "",
        "NORMCOG": "",
        "days_to_visit": "",
        "CDRTOT": "",
        "age at visit": "",
    }
    files = {
        "OASIS3_demographics.csv": table(demographics),
        "OASIS3_UDSd1_diagnoses.csv": table([*forms, blank]),
        "OASIS3_UDSb4_cdr.csv": table([*ratings, blank]),
    }
    policy = draw(st.sampled_from(["clinician_diagnosis", "cdr_zero_is_control"]))
    return Planted("oasis3", files, {scan: {} for scan in sorted(scans, key=str)}, policy)


@settings(max_examples=25, deadline=None)
@given(planted=st.one_of(adni(), oasis3()))
def test_the_fast_reading_agrees_with_the_slow_one(planted: Planted) -> None:
    with TemporaryDirectory() as folder:
        bei, _ = harmonized(planted, Path(folder))
    source = read_source(planted.cohort)
    for (person, session), (_, row) in zip(planted.truth, bei.iterrows(), strict=True):
        for name, expected in read_slowly(source, planted.files, planted.policy, person, session).items():
            found = row[name] if name == "site" and isinstance(row[name], str) else value(row[name])
            if isinstance(expected, float):
                expected = pytest.approx(expected, abs=1e-6)
            assert found == expected, (name, session)
