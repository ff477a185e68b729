"""The open cohorts' files mean what their owners published: every column and code that is known of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from lcm.cohort.harmonize import harmonize
from lcm.config import Dataset, Harmonize
from lcm.tables import SCANS


@dataclass(frozen=True)
class Layout:
    """A cohort's table: one row, all well."""

    cohort: str
    file: str
    separator: str
    person: str
    row: Mapping[str, str]


LAYOUTS = {
    "abide": Layout(
        "abide", "Phenotypic_V1_0b_preprocessed1.csv", ",", "SUB_ID",
        {
            "": "0", "Unnamed: 0": "1", "SUB_ID": "50003", "SITE_ID": "UM_1", "FILE_ID": "no_filename", "DX_GROUP": "1",
            "DSM_IV_TR": "-9999", "AGE_AT_SCAN": "24.45", "SEX": "1", "HANDEDNESS_CATEGORY": "R", "FIQ": "103.5",
        },
    ),
    "abide2": Layout(
        "abide2", "ABIDEII_Composite_Phenotypic.csv", ",", "SUB_ID",
        {
            "SITE_ID": "ABIDEII-NYU_1", "SUB_ID": "29177", "NDAR_GUID": "x", "DX_GROUP": "1", "ASD_DSM_5": "",
            "AGE_AT_SCAN ": "24.45", "SEX": "1", "HANDEDNESS_CATEGORY": "1", "FIQ": "103.5",
        },
    ),
    "neurocon": Layout(
        "neurocon", "neurocon_patients.tsv", "\t", "code",
        {
            "code": "control032014", "status": "NORMAL", "UPDRS_motor_ON": "", "Treatment": "drug A ON-OFF, drug B",
            "age": "68", "sex": "M", "H&Y": "", "birthdate": "1945", "scan_date": "04/13/2014, 05/25/2014",
        },
    ),
    "taowu": Layout(
        "taowu", "taowu_patients.tsv", "\t", "name",
        {"name": "control032014", "sex": "M", "age": "68", "scan_date": "2/4/12", "mmse": "29", "H_Y": ""},
    ),
    "sz": Layout(
        "sz", "COBRE_phenotypic_data.csv", ",", "",
        {
            "": "0040000", "Current Age": "30", "Gender": "Female", "Handedness": "Right", "Subject Type": "Patient",
            "Diagnosis": "295.3",
        },
    ),
    "schizconnect": Layout(
        "sz-schizconnect", "participants.tsv", "\t", "participant_id",
        {"participant_id": "sub-A00000300", "age": "30", "sex": "female", "dx": "Schizophrenia_Strict", "study": "COBRE"},
    ),
    "schizconnect metadata": Layout(
        "sz-schizconnect", "schizconnect_metaData_1.csv", ",", "subjectid",
        {"study": "COBRE", "subjectid": "A00000300", "age": "30", "sex": "female", "dx": "Schizophrenia_Strict"},
    ),
    "ucla": Layout(
        "sz-ucla", "participants.tsv", "\t", "participant_id",
        {"participant_id": "sub-10159", "diagnosis": "CONTROL", "age": "30", "gender": "F", "ScannerSerialNumber": "35343"},
    ),
    "generic": Layout(
        "generic", "participants.tsv", "\t", "participant_id",
        {"participant_id": "sub-01", "age": "34", "sex": "M", "handedness": "right", "site": "S1", "scanner": "Trio"},
    ),
}  # fmt: skip


def read(
    folder: Path, layout: Layout, changed: Mapping[str, str], policy: str | None = None
) -> tuple[pd.Series, pd.DataFrame]:
    """The BEI row of the layout's one person, some cells changed, and the cohort flow."""
    row = {**layout.row, **changed}
    stream = io.StringIO()
    csv.writer(stream, delimiter=layout.separator).writerows([list(row), list(row.values())])
    (folder / layout.file).write_text(stream.getvalue(), encoding="utf-8")
    return harmonized(folder, layout.cohort, row[layout.person].removeprefix("sub-"), policy)


def harmonized(folder: Path, cohort: str, label: str, policy: str | None = None) -> tuple[pd.Series, pd.DataFrame]:
    text = {name: "x" for name, kind in SCANS.columns.items() if kind == "text"}
    scan = text | {
        "dataset": "D",
        "participant_id": f"sub-{label}",
        "session_id": None,
        "task": "rest",
        "scan": f"sub-{label}",
    }
    scans = pd.DataFrame([scan]).reindex(columns=list(SCANS.columns)).astype("object")
    datasets = {"D": Dataset(path="x", input="series", pattern="*", cohort=cohort, phenotypes=str(folder))}
    chosen = Harmonize(policies={cohort: policy} if policy else {}, max_refused_share=1.0)
    bei, flow = harmonize(scans, datasets, chosen)[:2]
    return bei.iloc[0], flow


def steps(flow: pd.DataFrame) -> set[str]:
    """What was refused, by step."""
    cells = {"unknown code", "implausible value", "set aside", "contradiction"}
    return cells & set(flow.loc[flow["count"] > 0, "step"])


GOOD = [
    ("abide", {"site": "UM_1", "sex": "male", "age": "24.45", "autism": "autism", "handedness": "right", "iq": "103.5"}),
    ("abide2", {"site": "ABIDEII-NYU_1", "sex": "male", "age": "24.45", "autism": "autism", "handedness": "right"}),
    ("neurocon", {"sex": "male", "age": "68.0", "parkinsons": "control"}),
    ("taowu", {"sex": "male", "age": "68.0", "parkinsons": "control"}),
    ("sz", {"sex": "female", "age": "30.0", "schizophrenia": "schizophrenia", "handedness": "right"}),
    ("schizconnect", {"sex": "female", "age": "30.0", "schizophrenia": "schizophrenia", "site": "COBRE"}),
    ("schizconnect metadata", {"sex": "female", "age": "30.0", "schizophrenia": "schizophrenia", "site": "COBRE"}),
    ("ucla", {"sex": "female", "age": "30.0", "schizophrenia": "control", "scanner": "35343"}),
    ("generic", {"sex": "male", "age": "34.0", "handedness": "right", "site": "S1", "scanner": "Trio"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), GOOD)
def test_a_row_in_order_says_what_it_says(tmp_path: Path, name: str, expected: dict[str, str]) -> None:
    row, flow = read(tmp_path, LAYOUTS[name], {})
    assert {bei: row[bei] for bei in expected} == expected
    assert {row[f"{bei}_source"] for bei in expected} == {"observed"}
    assert row["cognitive_state"] == "rest"
    assert not steps(flow)


ABIDE_HANDS = {"R": "right", "L": "left", "Ambi": "ambidextrous", "Mixed": "ambidextrous"}
SCHIZCONNECT = (
    "No_Known_Disorder",
    "Schizophrenia_Strict",
    "Schizophrenia_Broad",
    "Schizoaffective",
    "Bipolar_Disorder",
)
CODES: list[tuple[str, str, dict[str, str | None], str]] = [
    ("abide", "DX_GROUP", {"1": "autism", "2": "control", "2.0": "control", "-9999": None, "": None}, "autism"),
    ("abide", "SEX", {"1": "male", "2": "female", "-9999": None}, "sex"),
    ("abide", "HANDEDNESS_CATEGORY", ABIDE_HANDS | {"-9999": None, "": None}, "handedness"),
    ("abide", "FIQ", {"-9999": None, "": None, "41": "41.0", "148": "148.0"}, "iq"),
    ("abide2", "DX_GROUP", {"1": "autism", "2": "control", "": None}, "autism"),
    ("abide2", "SEX", {"1": "male", "2": "female"}, "sex"),
    ("abide2", "HANDEDNESS_CATEGORY", {"1": "right", "2": "left", "3": "ambidextrous", "": None}, "handedness"),
    ("neurocon", "status", {"NORMAL": "control", "PD": "parkinsons", "": None}, "parkinsons"),
    ("neurocon", "sex", {"M": "male", "F": "female"}, "sex"),
    ("taowu", "name", {"control032014": "control", "patient032077": "parkinsons"}, "parkinsons"),
    ("taowu", "sex", {"M": "male", "F": "female"}, "sex"),
    ("sz", "Gender", {"Male": "male", "Female": "female"}, "sex"),
    ("sz", "Handedness", {"Right": "right", "Left": "left", "Both": "ambidextrous", "": None}, "handedness"),
    (
        "sz", "Diagnosis",
        dict.fromkeys(("295.1", "295.2", "295.3", "295.30", "295.6", "295.7", "295.70", "295.9", "295.92"), "schizophrenia")
        | {"None": None, "": None},
        "schizophrenia",
    ),
    ("ucla", "diagnosis", {"CONTROL": "control", "SCHZ": "schizophrenia", "n/a": None}, "schizophrenia"),
    ("ucla", "gender", {"M": "male", "F": "female"}, "sex"),
    ("generic", "sex", dict.fromkeys(("male", "m", "M", "MALE", "Male"), "male"), "sex"),
    ("generic", "sex", dict.fromkeys(("female", "f", "F", "FEMALE", "Female"), "female") | {"n/a": None}, "sex"),
    ("generic", "handedness", dict.fromkeys(("left", "l", "L", "LEFT", "Left"), "left") | {"n/a": None}, "handedness"),
    ("generic", "handedness", dict.fromkeys(("ambidextrous", "a", "A"), "ambidextrous"), "handedness"),
    ("generic", "age", {"89+": "89.0", "n/a": None, "0.5": "0.5"}, "age"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "column", "cell", "bei", "value"),
    [(name, column, cell, bei, value) for name, column, cells, bei in CODES for cell, value in cells.items()],
)
def test_every_known_code_has_its_meaning(
    tmp_path: Path, name: str, column: str, cell: str, bei: str, value: str | None
) -> None:
    row, flow = read(tmp_path, LAYOUTS[name], {column: cell})
    assert (row[bei] if pd.notna(row[bei]) else None) == value
    assert row[f"{bei}_source"] == ("observed" if value else "missing")
    assert not steps(flow)


ASIDE = [
    ("abide", "HANDEDNESS_CATEGORY", "L->R", "handedness", None),
    ("sz", "Diagnosis", "296.4", "schizophrenia", None),
    ("sz", "Diagnosis", "311", "schizophrenia", None),
    ("sz", "Diagnosis", "295.70", "schizophrenia", "strict"),
    ("schizconnect", "dx", "Bipolar_Disorder", "schizophrenia", None),
    ("schizconnect", "dx", "Sibling_of_No_Known_Disorder", "schizophrenia", None),
    ("schizconnect", "dx", "Schizoaffective", "schizophrenia", "strict"),
    ("schizconnect metadata", "dx", "Schizophrenia_Broad", "schizophrenia", "strict"),
    ("ucla", "diagnosis", "BIPOLAR", "schizophrenia", None),
    ("ucla", "diagnosis", "ADHD", "schizophrenia", None),
    ("generic", "sex", "other", "sex", None),
    ("generic", "sex", "O", "sex", None),
]


@pytest.mark.parametrize(("name", "column", "cell", "bei", "policy"), ASIDE)
def test_what_is_neither_case_nor_control_is_set_aside_and_counted(
    tmp_path: Path, name: str, column: str, cell: str, bei: str, policy: str | None
) -> None:
    row, flow = read(tmp_path, LAYOUTS[name], {column: cell}, policy)
    assert pd.isna(row[bei])
    assert row[f"{bei}_source"] == "missing"
    assert steps(flow) == {"set aside"}


@pytest.mark.parametrize(("policy", "cases"), [("broad", 3), ("strict", 1)])
def test_schizconnect_has_two_policies(tmp_path: Path, policy: str, cases: int) -> None:
    found = [read(tmp_path, LAYOUTS["schizconnect"], {"dx": dx}, policy)[0]["schizophrenia"] for dx in SCHIZCONNECT]
    assert found[0] == "control"
    assert found[1] == "schizophrenia"
    assert found.count("schizophrenia") == cases


def test_a_control_of_cobre_with_a_diagnosis_contradicts_himself(tmp_path: Path) -> None:
    row, _ = read(tmp_path, LAYOUTS["sz"], {"Subject Type": "Control", "Diagnosis": "None"})
    assert row["schizophrenia"] == "control"
    row, flow = read(tmp_path, LAYOUTS["sz"], {"Subject Type": "Control", "Diagnosis": "295.3"})
    assert pd.isna(row["schizophrenia"])
    assert steps(flow) == {"contradiction"}


def test_a_patient_of_cobre_without_a_diagnosis_is_neither_case_nor_control(tmp_path: Path) -> None:
    row, _ = read(tmp_path, LAYOUTS["sz"], {"Diagnosis": ""})
    assert pd.isna(row["schizophrenia"])


def test_a_disenrolled_person_of_cobre_is_excluded(tmp_path: Path) -> None:
    gone = dict.fromkeys(("Current Age", "Gender", "Handedness", "Subject Type"), "Disenrolled")
    row, flow = read(tmp_path, LAYOUTS["sz"], gone | {"Diagnosis": ""})
    assert pd.isna(row["sex"])
    assert not steps(flow)
    excluded = flow[flow["step"] == "rows excluded"]
    assert excluded["reason"].tolist() == ["COBRE_phenotypic_data.csv: disenrolled"]


@pytest.mark.parametrize("name", ["ID", "Unnamed: 0", ""])
def test_the_unnamed_column_of_cobre_may_have_got_a_name(tmp_path: Path, name: str) -> None:
    row = {name if column == "" else column: cell for column, cell in LAYOUTS["sz"].row.items()}
    (tmp_path / "COBRE_phenotypic_data.csv").write_text(
        f"{','.join(row)}\n{','.join(row.values())}\n", encoding="utf-8"
    )
    assert harmonized(tmp_path, "sz", "0040000")[0]["sex"] == "female"


def test_schizconnect_is_known_by_either_name_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text(
        "subjectid\tage\tsex\tdx\tstudy\nA00000300\t30\tmale\tNo_Known_Disorder\tCOBRE\n"
    )
    assert harmonized(tmp_path, "sz-schizconnect", "A00000300")[0]["schizophrenia"] == "control"


@pytest.mark.parametrize(
    ("code", "value"), [("Control", "control"), ("SCZ", "schizophrenia"), ("BP", None), ("ADHD", None)]
)
def test_the_feather_file_of_ucla_has_codes_of_its_own(tmp_path: Path, code: str, value: str | None) -> None:
    row = {"Sample_ID": ["sub-10159"], "Diagnosis": [code], "Age": [30], "Sex": ["F"], "Study": ["UCLA_CNP"]}
    pd.DataFrame(row).to_feather(tmp_path / "UCLA_CNP_sample_metadata.feather")
    found, flow = harmonized(tmp_path, "sz-ucla", "10159")
    assert (found["schizophrenia"] if value else None) == value
    assert (found["sex"], found["age"], found["site"]) == ("female", "30.0", "UCLA_CNP")
    assert steps(flow) == (set() if value else {"set aside"})


def test_a_folder_with_neither_layout_stops(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"participants\.tsv"):
        harmonized(tmp_path, "sz-ucla", "10159")


def test_the_age_at_the_session_beats_the_age_of_the_person(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t30\tF\nsub-02\t40\tM\n")
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tage\nses-1\t30.5\nses-2\t32.5\n")
    text = {name: "x" for name, kind in SCANS.columns.items() if kind == "text"}
    rows = [
        text
        | {
            "dataset": "D",
            "participant_id": person,
            "session_id": session,
            "task": "rest",
            "scan": f"{person}_{session}",
        }
        for person, session in (("sub-01", "ses-1"), ("sub-01", "ses-2"), ("sub-01", "ses-3"), ("sub-02", "ses-1"))
    ]
    scans = pd.DataFrame(rows).reindex(columns=list(SCANS.columns)).astype("object")
    datasets = {"D": Dataset(path="x", input="series", pattern="*", cohort="generic", phenotypes=str(tmp_path))}
    bei = harmonize(scans, datasets, Harmonize())[0]
    assert bei["age"].tolist() == ["30.5", "32.5", "30.0", "40.0"]
    assert bei["sex"].tolist() == ["female", "female", "female", "male"]
