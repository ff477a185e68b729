"""What becomes of every code of the cohorts whose tables may not be shared: HCP, ADNI, PPMI, UK Biobank, OASIS-3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lcm.cohort.harmonize import harmonize
from lcm.cohort.source import SOURCES, Source, canonical, read_source
from lcm.config import Dataset, Harmonize
from lcm.tables import SCANS
from tests import planted_dementia, planted_restricted
from tests.planted_restricted import UKB_SPELLINGS, Planted

RESTRICTED = ("adni", "hcpa", "hcpya", "oasis3", "ppmi", "ukb")

PLANTED: dict[str, Callable[[], Planted]] = {
    "hcpa": planted_restricted.hcpa,
    "hcpya, unrestricted alone": lambda: planted_restricted.hcpya(restricted=False),
    "hcpya, both tables": lambda: planted_restricted.hcpya(restricted=True),
    "adni, lcm_paper": planted_dementia.adni_stages,
    "adni, mci_apart": lambda: planted_dementia.adni_visits("mci_apart"),
    "adni, dementia_only": lambda: planted_dementia.adni_visits("dementia_only"),
    "ppmi, four_groups": lambda: planted_restricted.ppmi("four_groups"),
    "ppmi, diagnosed_only": lambda: planted_restricted.ppmi("diagnosed_only"),
    **{f"ukb, {spelling}": lambda spelling=spelling: planted_restricted.ukb(spelling) for spelling in UKB_SPELLINGS},
    "oasis3, clinician_diagnosis": lambda: planted_dementia.oasis3("clinician_diagnosis"),
    "oasis3, cdr_zero_is_control": lambda: planted_dementia.oasis3("cdr_zero_is_control"),
    "oasis3 as it was, clinician_diagnosis": lambda: planted_dementia.oasis3_older("clinician_diagnosis"),
    "oasis3 as it was, cdr_zero_is_control": lambda: planted_dementia.oasis3_older("cdr_zero_is_control"),
}

COLUMNS = {
    "hcpa": "subjectkey, src_subject_id, interview_date, interview_age, sex, race, site, phenotype",
    "hcpya, unrestricted alone": "Subject, Release, Acquisition, Gender, Age, 3T_Full_MR_Compl",
    "hcpya, both tables": "Subject, Age_in_Yrs, Family_ID, Mother_ID, Father_ID, Handedness, SSAGA_Educ",
    "adni, lcm_paper": """RID, PTID, VISCODE, SITE, COLPROT, ORIGPROT, EXAMDATE, DX_bl, AGE, PTGENDER, PTEDUCAT, PTETHCAT,
        PTRACCAT, PTMARRY, APOE4, FDG, PIB, AV45, CDRSB, DX, Subject ID, Research Group, Study Date""",
    "ppmi, four_groups": """PATNO, COHORT, COHORT_DEFINITION, ENROLL_DATE, ENROLL_STATUS, STATUS_DATE, ENROLL_AGE, SEX, BIRTHDT,
        HANDED""",
    "ukb, csv": "eid, 31-0.0, 34-0.0, 52-0.0, 53-2.0, 54-2.0, 21003-2.0, 41270-0.0, 41202-0.0, 41204-0.0",
    "ukb, tab": "f.eid, f.31.0.0",
    "ukb, platform": "p31, p34, p53_i2, p21003_i2",
    "oasis3, clinician_diagnosis": """OASISID, OASIS_session_label, age at visit, GENDER, HAND, EDUC, AgeatEntry, APOE,
        days_to_visit, CDRTOT, NORMCOG, PROBAD, PROBADIF, alzdisif, MCIAMEM""",
    "oasis3 as it was, clinician_diagnosis": "ADRC_ADRCCLINICALDATA ID, Subject, M/F, Age, ageAtEntry, mmse, cdr, dx1",
}
"""Simulated tables → the real columns they must have, transcribed from the notes on the real tables."""


def harmonized(planted: Planted, folder: Path, settings: Harmonize | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The BEI table, in the order of the truth, and the flow."""
    rows = [
        {
            "dataset": "D", "batch": "0", "participant_id": f"sub-{person}",
            "session_id": f"ses-{session}" if session else None, "task": "rest", "input": "series", "outcome": "ok",
            "fingerprint": "x", "scan": f"sub-{person}" + (f"_ses-{session}" if session else ""),
        }
        for person, session in planted.truth
    ]  # fmt: skip
    scans = pd.DataFrame(rows).reindex(columns=list(SCANS.columns)).astype("object")
    datasets = {
        "D": Dataset(
            path="x", input="series", pattern="*", cohort=planted.cohort, phenotypes=str(planted.write(folder))
        )
    }
    # Most codes are unusual on purpose, so no column is too bad to be read.
    chosen = settings or Harmonize(
        policies={planted.cohort: planted.policy} if planted.policy else {}, max_refused_share=1.0
    )
    return harmonize(scans, datasets, chosen)


def value(cell: object) -> str | float | None:
    if not isinstance(cell, str):
        return None
    try:
        return float(cell)
    except ValueError:
        return cell


@pytest.mark.parametrize("name", PLANTED)
def test_every_code_becomes_what_was_planted(tmp_path: Path, name: str) -> None:
    planted = PLANTED[name]()
    bei, _ = harmonized(planted, tmp_path)
    found = {}
    for (scan, expected), (_, row) in zip(planted.truth.items(), bei.iterrows(), strict=True):
        found[scan] = {bei: None if row[f"{bei}_source"] == "missing" else value(row[bei]) for bei in expected}
        wanted_site = expected.get("site")
        if wanted_site is not None:
            found[scan]["site"] = str(row["site"])
        if isinstance(expected.get("age"), float) and found[scan]["age"] is not None:
            # A month is 30.4375 days here, so an age that follows a session in months is off by a day at most.
            assert found[scan]["age"] == pytest.approx(expected["age"], abs=0.01), scan
            found[scan]["age"] = expected["age"]
    assert found == planted.truth


@pytest.mark.parametrize("name", COLUMNS)
def test_the_simulated_tables_have_the_real_columns(name: str) -> None:
    texts = PLANTED[name]().files.values()
    there = {cell.strip().strip('"') for text in texts for cell in text.split("\n")[0].replace("\t", ",").split(",")}
    assert {column.strip() for column in COLUMNS[name].split(",")} <= there


def test_what_is_refused_is_counted_by_code(tmp_path: Path) -> None:
    _, flow = harmonized(planted_restricted.ppmi("diagnosed_only"), tmp_path)
    counted = {(row["step"], row["reason"]): row["count"] for row in flow.to_dict("records")}
    file = "Participant_Status_24Jul2023.csv"
    assert counted["unknown code", f"{file}: COHORT = 9"] == 1
    assert counted["set aside", f"{file}: COHORT = 4"] == 1
    assert counted["rows excluded", f"{file}: never enrolled"] == 7


def test_nobody_who_withdrew_from_uk_biobank_is_described(tmp_path: Path) -> None:
    planted = planted_restricted.ukb("csv")
    bei, flow = harmonized(planted, tmp_path)
    counted = {(row["step"], row["reason"]): row["count"] for row in flow.to_dict("records")}
    assert counted["scans without a phenotype row", "row excluded"] == 2
    everything = Harmonize(pseudo_labels={"ukb": {"parkinsons": "control"}}, max_refused_share=1.0)
    assumed, _ = harmonized(planted, tmp_path, everything)
    gone = bei["participant_id"].isin(["sub-9000301", "sub-9000302"])
    assert set(assumed.loc[gone, "parkinsons_source"]) == {"missing"}
    assert (bei.loc[~gone, "sex_source"] == "observed").all()


def test_no_hospital_record_makes_a_control_of_anybody() -> None:
    source = read_source("ukb")
    for bei in ("alzheimers", "parkinsons", "autism", "schizophrenia"):
        for column in source.beis[bei]:
            assert column.silent
            assert "control" not in column.levels.values()


def test_the_family_of_young_adults_is_read_where_the_restricted_table_is_given(tmp_path: Path) -> None:
    bei, _ = harmonized(planted_restricted.hcpya(restricted=True), tmp_path / "both")
    group = dict(zip(bei["participant_id"], bei["group_id"], strict=True))
    # The third shares a mother with the first two and no family; the fourth and fifth are nobody's relatives.
    assert len({group[f"sub-99010{number}"] for number in (1, 2, 3)}) == 1
    assert len(set(group.values())) == 3
    alone, _ = harmonized(planted_restricted.hcpya(restricted=False), tmp_path / "one")
    assert alone["group_id"].nunique() == len(alone)


def test_the_papers_policy_is_the_default_and_the_others_are_explained() -> None:
    source = read_source("adni")
    assert list(source.policies) == ["lcm_paper", "mci_apart", "dementia_only"]
    read = {
        policy: [column.column for column in source.beis["alzheimers"] if source.levels(column, policy) is not None]
        for policy in (None, *source.policies)
    }
    assert read == {
        None: ["DX_bl", "Research Group"],
        "lcm_paper": ["DX_bl", "Research Group"],
        "mci_apart": ["DX"],
        "dementia_only": ["DX"],
    }


@pytest.mark.parametrize("cohort", RESTRICTED)
def test_no_row_of_a_restricted_cohort_may_leave_the_lab_and_its_file_says_why(cohort: str) -> None:
    source = read_source(cohort)
    assert not source.rows_may_be_exported
    assert source.licence
    assert len(source.traps) >= 4
    assert all(len(text) > 60 for text in source.policies.values())


@pytest.mark.parametrize("cohort", RESTRICTED)
def test_no_code_that_means_missing_is_also_a_level(cohort: str) -> None:
    source: Source = read_source(cohort)
    for columns in source.beis.values():
        for column in columns:
            silent = {*source.missing, *column.missing}
            for levels in (column.levels, *column.policies.values()):
                assert not silent & set(map(canonical, levels))


def test_a_score_of_the_hand_beyond_40_is_a_preference_and_up_to_40_is_none() -> None:
    (column,) = read_source("hcpya").beis["handedness"]
    expected = {
        str(score): "left" if score < -40 else "right" if score > 40 else "ambidextrous"
        for score in range(-100, 101, 5)
    }
    assert column.levels == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": {"lcm_paper": "a", "mci_apart": "b"}}, r"alzheimers: policies .*dementia_only.*explained"),
        (
            {"policies": dict.fromkeys(("lcm_paper", "mci_apart", "dementia_only", "strict"), "x")},
            "explained .*strict",
        ),
        ({"default_policy": "strict"}, r"by default \['lcm_paper', 'strict'\]"),
    ],
)
def test_a_policy_that_is_unexplained_unused_or_ambiguous_by_default_is_refused(change: dict, message: str) -> None:
    content = yaml.safe_load((SOURCES / "adni.yaml").read_text(encoding="utf-8"))
    content |= {key: value for key, value in change.items() if key == "policies"}
    content["beis"]["alzheimers"][0] |= {key: value for key, value in change.items() if key == "default_policy"}
    with pytest.raises(ValueError, match=message):
        Source.model_validate(content)


def test_a_table_of_no_cohort_that_is_there_stops(tmp_path: Path) -> None:
    planted = Planted("oasis3", {"other.csv": "OASISID\nOAS39001\n"}, {("OAS39001", None): {}})
    with pytest.raises(ValueError, match="OASIS3_demographics"):
        harmonized(planted, tmp_path)
