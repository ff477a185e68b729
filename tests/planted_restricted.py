"""Simulated tables of the cohorts whose people may not be shown: a planted person for every code that is known of them.

`truth` holds, per scan (id, session), what the tables' rows were made to say; None: nothing usable. No row is a real person's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Truth = dict[tuple[str, str | None], dict[str, str | float | None]]


@dataclass(frozen=True)
class Planted:
    """A cohort's files by name, its scans with what they must come to, and the policy under which they do."""

    cohort: str
    files: Mapping[str, str]
    truth: Truth
    policy: str | None = None

    def write(self, folder: Path) -> Path:
        """The folder, with the files in it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder


def table(rows: Sequence[Mapping[str, object]], *, separator: str = ",") -> str:
    """Rows as text below a header of all their columns; a cell that is not named is blank."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    lines = [header, *([str(row.get(name, "")) for name in header] for row in rows)]
    return "".join(separator.join(f'"{cell}"' for cell in cells) + "\n" for cells in lines)


# ── HCP ───────────────────────────────────────────────────────────────────────────────────────────


def hcpa() -> Planted:
    """NDA's subject table: a row of descriptions, months, masked ages, every code of sex."""
    people = [
        ("HCA9600001", "733", "F", 733 / 12, "female"),
        ("HCA9600002", "1200", "M", 90.0, "male"),
        ("HCA9600003", "432", "O", 36.0, None),
        ("HCA9600004", "-9999", "NR", None, None),
        ("HCA9600005", "41", "f", None, "female"),  # an age in years
        ("HCA9600006", "", "", None, None),
    ]
    described = {
        "subjectkey": "The NDAR Global Unique Identifier (GUID)", "src_subject_id": "Subject ID in lab/project",
        "interview_date": "MM/DD/YYYY", "interview_age": "Age in months", "sex": "Sex", "race": "Race", "site": "Site",
        "phenotype": "Phenotype/diagnosis",
    }  # fmt: skip
    rows = [described] + [
        {
            "subjectkey": f"NDAR_SIM{person}", "src_subject_id": person, "interview_date": "03/14/2018",
            "interview_age": months, "sex": sex, "race": "Unknown or not reported", "site": "WashU", "phenotype": "healthy",
        }
        for person, months, sex, _, _ in people
    ]  # fmt: skip
    truth: Truth = {
        (person, "V1"): {"age": age, "sex": sex, "site": "WashU", "alzheimers": None}
        for person, _, _, age, sex in people
    }
    return Planted("hcpa", {"ndar_subject01.txt": table(rows, separator="\t")}, truth)


def hcpya(*, restricted: bool) -> Planted:
    """The unrestricted table with its four bands, and the restricted one with exact ages, hands and two families."""
    people = [
        # id, sex, band, its value; exact age, education, score of the hand and its level; family, mother, father
        ("990101", "M", "22-25", 23.5, 25, 11, 100, "right", "9_1", "9001", "9002"),
        ("990102", "F", "26-30", 28.0, 29, 17, -45, "left", "9_1", "9001", "9002"),
        ("990103", "F", "31-35", 33.0, 31, 14, -40, "ambidextrous", "9_2", "9001", "9003"),
        ("990104", "M", "36+", 36.0, 37, 16, 40, "ambidextrous", "9_3", "9004", "9005"),
        ("990105", "F", "", None, "", "", "", None, "", "", ""),
    ]
    behaviour, more, truth = [], [], {}
    for person, sex, band, middle, age, years, score, hand, family, mother, father in people:
        behaviour.append(
            {"Subject": person, "Release": "S1200", "Acquisition": "Q07", "Gender": sex, "Age": band,
             "3T_Full_MR_Compl": "true"}
        )  # fmt: skip
        more.append(
            {"Subject": person, "Age_in_Yrs": age, "Family_ID": family, "Mother_ID": mother, "Father_ID": father,
             "Handedness": score, "SSAGA_Educ": years}
        )  # fmt: skip
        truth[person, None] = {
            "sex": {"M": "male", "F": "female"}[sex],
            "age": middle if not restricted else float(age) if age else None,
            "education": float(years) if restricted and years else None,
            "handedness": hand if restricted else None,
        }
    files = {"unrestricted_simulated_1_1_2020.csv": table(behaviour)}
    if restricted:
        files["RESTRICTED_simulated_1_1_2020.csv"] = table(more)
    return Planted("hcpya", files, truth)


# ── PPMI ──────────────────────────────────────────────────────────────────────────────────────────

PPMI_GROUPS = {
    ("1", "Parkinson's Disease"): "parkinsons",
    ("2", "Healthy Control"): "control",
    ("3", "SWEDD"): "swedd",
    ("4", "Prodromal"): "prodromal",
    ("", "Early Imaging"): "parkinsons",
    ("1", ""): "parkinsons",
    ("", "Healthy Controls"): "control",
    ("", "SWEDD"): "swedd",
    ("", "Prodromal"): "prodromal",
    ("3", "Prodromal"): None,  # the code and its own definition contradict each other
    ("9", ""): None,  # a code that nobody defined
}
"""COHORT, COHORT_DEFINITION → level under four_groups."""

PPMI_STATUSES = {
    "Enrolled": True, "enrolled": True, "Withdrew": True, "withdrew": True, "Complete": True, "Pending": False,
    "Screened": False, "Declined": False, "Screen_failed": False, "screen failed": False, "Excluded": False, "excluded": False,
}  # fmt: skip
"""ENROLL_STATUS → whether the person took part."""

PPMI_HANDS = {
    "1": "right",
    "2": "left",
    "3": "ambidextrous",
    "Right": "right",
    "Left": "left",
    "Mixed": "ambidextrous",
    "": None,
}


def ppmi(policy: str) -> Planted:
    """A person for each cohort, status, hand and sex; enrolment dates of both forms."""
    status, demographics, truth = [], [], {}

    def plant(number: int, session: str | None = None, **more: str) -> dict[str, str | float | None]:
        cells = {"COHORT": "2", "COHORT_DEFINITION": "Healthy Control", "ENROLL_DATE": "Jan-11", "ENROLL_STATUS": "Enrolled",
                 "SEX": "0", "HANDED": "1"} | more  # fmt: skip
        status.append(
            {"PATNO": number} | {name: cells[name] for name in ("COHORT", "COHORT_DEFINITION", "ENROLL_DATE", "ENROLL_STATUS")}
            | {"STATUS_DATE": "05/2021", "ENROLL_AGE": "64.0"}
        )  # fmt: skip
        demographics.append({"PATNO": number, "SEX": cells["SEX"], "BIRTHDT": "01/1947", "HANDED": cells["HANDED"]})
        truth[str(number), session] = {"parkinsons": "control", "sex": "female", "age": 64.0, "handedness": "right"}
        return truth[str(number), session]

    aside = {"swedd", "prodromal"} if policy == "diagnosed_only" else set()
    for number, ((code, name), level) in enumerate(PPMI_GROUPS.items(), start=990001):
        plant(number, COHORT=code, COHORT_DEFINITION=name)["parkinsons"] = None if level in aside else level
    for number, (state, took_part) in enumerate(PPMI_STATUSES.items(), start=990101):
        expected = plant(number, ENROLL_STATUS=state)
        if not took_part:
            expected.update(dict.fromkeys(expected))
    for number, (hand, level) in enumerate(PPMI_HANDS.items(), start=990201):
        plant(number, HANDED=hand)["handedness"] = level
    plant(990301, SEX="1")["sex"] = "male"
    plant(990302, SEX="")["sex"] = None
    plant(990306, SEX="Male")["sex"] = "male"
    plant(990307, SEX="Female")["sex"] = "female"
    plant(990303, "20130101", ENROLL_DATE="Jan-11")["age"] = 64 + 731 / 365.25
    plant(990304, "20130101", ENROLL_DATE="01/2011")["age"] = 64 + 731 / 365.25
    plant(990305, "BL", ENROLL_DATE="01/2011")
    files = {"Participant_Status_24Jul2023.csv": table(status), "Demographics_24Jul2023.csv": table(demographics)}
    return Planted("ppmi", files, truth, policy)


# ── UK Biobank ────────────────────────────────────────────────────────────────────────────────────


def _csv(field: int, instance: int, array: int = 0) -> str:
    return f"{field}-{instance}.{array}"


def _tab(field: int, instance: int, array: int = 0) -> str:
    return f"f.{field}.{instance}.{array}"


def _platform(field: int, instance: int, _: int = 0) -> str:
    return f"p{field}" if field in (31, 34, 52, 41270, 41202, 41204) else f"p{field}_i{instance}"


UKB_SPELLINGS = {
    "csv": ("ukb12345.csv", "eid", _csv, ","),
    "tab": ("ukb12345.tab", "f.eid", _tab, "\t"),
    "platform": ("ukb_export.csv", "eid", _platform, ","),
    "platform with entity": (
        "ukb_export.csv",
        "participant.eid",
        lambda *where: f"participant.{_platform(*where)}",
        ",",
    ),
}
"""Release → file, column of the id, name of a field's column, separator."""

UKB_DIAGNOSES = {
    "G301": ("alzheimers", "alzheimers"), "F009": ("alzheimers", "alzheimers"), "G20": ("parkinsons", "parkinsons"),
    "F200": ("schizophrenia", "schizophrenia"), "F840": ("autism", "autism"), "F841": ("autism", "autism"),
    "F845": ("autism", "autism"), "F84.0": ("autism", "autism"),
    "F84.1": ("autism", "autism"), "F84.5": ("autism", "autism"), "F842": ("autism", None),
    "F03": ("alzheimers", None), "I10": ("parkinsons", None),
}  # fmt: skip
"""ICD-10 code → BEI and what it says of it."""

UKB_HANDS = {
    "1": "right", "2": "left", "3": "ambidextrous", "-1": None, "-3": None, "Right-handed": "right", "Left-handed": "left",
    "Use both right and left hands equally": "ambidextrous", "Do not know": None, "Prefer not to answer": None,
}  # fmt: skip
"""Field 1707 as a code, or as the word that an export may write."""


def ukb(spelling: str) -> Planted:
    """One truth in each of the releases' spellings; codes of diseases lie in all three fields; two people withdrew."""
    file, eid, column, separator = UKB_SPELLINGS[spelling]
    rows, truth = [], {}

    def plant(person: int, field: int = 41270, codes: Sequence[str] = (), **more: str) -> dict[str, str | float | None]:
        cells = {"sex": "0", "hand": "1", "asked": "0"} | more
        arrays = {column(field, 0): "|".join(codes)} if "platform" in spelling else {
            column(field, 0, place): code for place, code in enumerate(codes)
        }  # fmt: skip
        rows.append({
            eid: person, column(31, 0): cells["sex"], column(34, 0): 1950, column(52, 0): 4, column(53, 2): "2015-06-01",
            column(54, 2): 11025, column(54, 3): 11027, column(21003, 2): 65, column(21003, 3): 68,
            column(1707, int(cells["asked"])): cells["hand"],
        } | arrays)  # fmt: skip
        truth[str(person), None] = {
            "sex": "female",
            "age": 65.0,
            "site": "11025",
            "handedness": "right",
        } | dict.fromkeys(("alzheimers", "parkinsons", "autism", "schizophrenia"))
        return truth[str(person), None]

    for number, (code, (bei, level)) in enumerate(UKB_DIAGNOSES.items()):
        field = (41270, 41202, 41204)[number % 3]
        plant(9000001 + number, field, ["I10", code])[bei] = level
    for number, (hand, level) in enumerate(UKB_HANDS.items(), start=9000101):
        plant(number, hand=hand)["handedness"] = level
        plant(number + 50, hand=hand, asked="2")["handedness"] = level
    plant(9000201, sex="1")["sex"] = "male"
    plant(9000203, sex="Male")["sex"] = "male"
    plant(9000204, sex="Female")["sex"] = "female"
    # One person at two imaging visits; the session is the instance.
    first = plant(9000202)
    truth["9000202", "2"] = dict(first)
    truth["9000202", "3"] = first | {"age": 68.0, "site": "11027"}
    for withdrew in (9000301, 9000302):
        gone = plant(withdrew, codes=["G20"])
        gone.update(dict.fromkeys(gone))
    return Planted("ukb", {file: table(rows, separator=separator), "w12345_20240101.csv": "9000301\n9000302\n"}, truth)
