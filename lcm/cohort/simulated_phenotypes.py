"""Simulated phenotype tables: each demo cohort's own file names, columns, codes, line ends and defects."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lcm.cohort.simulated_people import UNKNOWN_CODE, Person

Rows = Iterable[Sequence[object]]


def write_phenotypes(cohort: str, people: Sequence[Person], folder: Path, rng: np.random.Generator) -> None:
    """Write the cohort's tables into `folder`; people with `has_row` false are in none of them."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = [person for person in people if person.has_row]
    for name, content in TABLES[cohort](listed, rng).items():
        (folder / name).write_bytes(content.encode("utf-8"))


def _table(
    rows: Rows, *, separator: str = ",", line_end: str = "\n", quoting: Literal[0, 1, 2, 3] = csv.QUOTE_MINIMAL
) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows(rows)
    return stream.getvalue()


def _letter(person: Person) -> str:
    return person.sex[0].upper()


def _date(rng: np.random.Generator, first_year: int, last_year: int) -> tuple[int, int, int]:
    return int(rng.integers(first_year, last_year + 1)), int(rng.integers(1, 13)), int(rng.integers(1, 28))


def _hcpa(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """NDA's subject table: quoted, tab separated, a row of descriptions below the header, ages in months."""
    header = ("subjectkey", "src_subject_id", "interview_date", "interview_age", "sex", "race", "site", "phenotype")
    descriptions = (
        "The NDAR Global Unique Identifier (GUID) for research subject",
        "Subject ID how it's defined in lab/project",
        "Date on which the interview/genetic test/sampling/imaging/biospecimen was completed. MM/DD/YYYY",
        "Age in months at the time of the interview/test/sampling/imaging.",
        "Sex of subject at birth",
        "Race of study subject",
        "Site",
        "Phenotype/diagnosis for the subject",
    )
    rows: list[Sequence[object]] = [header, descriptions]
    for person in people:
        year, month, day = _date(rng, 2016, 2019)
        months = int(person.age_years * 12)
        when = f"{month:02d}/{day:02d}/{year}"
        rows.append(
            (f"NDAR_SIM{person.number}", person.label, when, months, _letter(person), "Unknown", person.site, "healthy")
        )
    return {"ndar_subject01.txt": _table(rows, separator="\t", quoting=csv.QUOTE_ALL)}


def _hcpya(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """The unrestricted table: the age is a band."""
    bands = ((26, "22-25"), (31, "26-30"), (36, "31-35"), (200, "36+"))
    rows: list[Sequence[object]] = [("Subject", "Release", "Acquisition", "Gender", "Age", "3T_Full_MR_Compl")]
    for person in people:
        band = next(name for below, name in bands if person.age_years < below)
        complete = str(bool(person.tasks)).lower()
        rows.append((person.label, "S1200", f"Q{rng.integers(1, 14):02d}", _letter(person), band, complete))
    return {"unrestricted_simulated_1_1_2020_0_0_0.csv": _table(rows)}


def _adni(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """ADNIMERGE: a row a visit, not in order; AGE and DX_bl repeat the baseline."""
    header = (
        "RID", "PTID", "VISCODE", "SITE", "COLPROT", "ORIGPROT", "EXAMDATE", "DX_bl", "AGE", "PTGENDER", "PTEDUCAT",
        "PTETHCAT", "PTRACCAT", "PTMARRY", "APOE4", "DX",
    )  # fmt: skip
    clinical = {"CN": "CN", "SMC": "CN", "EMCI": "MCI", "LMCI": "MCI", "AD": "Dementia"}
    rows: list[Sequence[object]] = []
    for person in people:
        year, month, day = _date(rng, 2008, 2014)
        education, alleles = int(rng.integers(8, 21)), int(rng.integers(0, 3))
        patient = f"{person.site}_S_{person.number}"
        for visit, months in (("m12", 12), ("bl", 0), ("m06", 6))[: int(rng.integers(2, 4))]:
            later = month - 1 + months
            exam = f"{year + later // 12}-{later % 12 + 1:02d}-{day:02d}"
            rows.append((
                person.number, patient, visit, int(person.site), "ADNI2", "ADNI2", exam, person.group,
                f"{person.age_years:.1f}", person.sex.capitalize(), education, "Not Hisp/Latino", "Unknown", "Unknown",
                alleles, "" if visit == "m12" else clinical[person.group],
            ))  # fmt: skip
    return {"ADNIMERGE.csv": _table([header, *rows], quoting=csv.QUOTE_ALL)}


def _ppmi(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """Two tables with the download's date in their names; dates of two forms, statuses of two cases, one undefined code."""
    names = {"1": "Parkinson's Disease", "2": "Healthy Control", "3": "SWEDD", "4": "Prodromal"}
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    status: list[Sequence[object]] = [
        ("PATNO", "COHORT", "COHORT_DEFINITION", "ENROLL_DATE", "ENROLL_STATUS", "STATUS_DATE", "ENROLL_AGE")
    ]
    demographics: list[Sequence[object]] = [("PATNO", "SEX", "BIRTHDT", "HANDED")]
    position, undefined = UNKNOWN_CODE["PPMI"]
    for person in people:
        year, month, _ = _date(rng, 2011, 2018)
        code = undefined if person.position == position else person.group
        enrolled = f"{months[month - 1]}-{year % 100:02d}" if person.number % 3 else f"{month:02d}/{year}"
        state = ("Enrolled", "enrolled", "Withdrew")[person.number % 3]
        definition = names.get(code, "")
        status.append(
            (person.number, code, definition, enrolled, state, f"{month:02d}/2020", f"{person.age_years:.1f}")
        )
        sex = 1 if person.sex == "male" else 0
        demographics.append(
            (person.number, sex, f"{month:02d}/{year - int(person.age_years)}", int(rng.integers(1, 4)))
        )
    return {"Participant_Status_01Jan2024.csv": _table(status), "Demographics_01Jan2024.csv": _table(demographics)}


ABIDE_FILE_SITES = {"PITT": "Pitt", "NYU": "NYU", "UM_1": "UM_1"}
"""SITE_ID of the table → the spelling in FILE_ID and in file names."""


def _abide(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """The Preprocessed Connectomes Project's table: two counters without a name, −9999 and blank for missing, no_filename."""
    header = (
        "", "Unnamed: 0", "SUB_ID", "X", "subject", "SITE_ID", "FILE_ID", "DX_GROUP", "DSM_IV_TR", "AGE_AT_SCAN", "SEX",
        "HANDEDNESS_CATEGORY", "FIQ", "EYE_STATUS_AT_SCAN", "func_mean_fd", "SUB_IN_SMP",
    )  # fmt: skip
    rows: list[Sequence[object]] = [header]
    for row, person in enumerate(people):
        file_id = f"{ABIDE_FILE_SITES[person.site]}_{person.label}" if person.tasks else "no_filename"
        intelligence = -9999 if row % 11 == 4 else int(rng.normal(107, 12))
        rows.append((
            row, row + 1, person.number, row + 1, person.number, person.site, file_id, person.group,
            -9999 if row % 13 == 6 else (1 if person.group == "1" else 0), f"{person.age_years:.2f}",
            1 if person.sex == "male" else 2, "" if row % 5 == 3 else "R", intelligence, 1,
            f"{rng.gamma(4, 0.03):.6f}", 1,
        ))  # fmt: skip
    return {"Phenotypic_V1_0b_preprocessed1.csv": _table(rows)}


def _taowu(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """No diagnosis column (it is the prefix of `name`), and carriage returns alone end the lines."""
    rows: list[Sequence[object]] = [
        ("name", "sex", "age", "scan_date", "mmse", "n_timepoints", "disease_duration", "H_Y")
    ]
    for person in people:
        year, month, day = _date(rng, 2011, 2013)
        sick = person.group == "patient"
        duration, stage = (int(rng.integers(1, 16)), float(rng.choice([1, 1.5, 2, 2.5]))) if sick else ("", "")
        stage = f"{stage:g}" if sick else ""
        when = f"{month}/{day}/{year % 100}"
        rows.append(
            (
                person.label,
                _letter(person),
                int(person.age_years),
                when,
                int(rng.integers(26, 31)),
                239,
                duration,
                stage,
            )
        )
    return {"taowu_patients.tsv": _table(rows, separator="\t", line_end="\r")}


def _neurocon(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """CRLF, commas inside Treatment, birth dates cut to the year, one cell with two scan dates."""
    treatments = ("Drug A ON-OFF, drug B", "No treatment", "Drug C (a/b/c), drug D, drug E", "Drug A ON-OFF")
    rows: list[Sequence[object]] = [
        (
            "code",
            "status",
            "UPDRS_motor_ON",
            "UPDRS_motor_OFF",
            "Treatment",
            "age",
            "sex",
            "H&Y",
            "birthdate",
            "scan_date",
        )
    ]
    for row, person in enumerate(people):
        year, month, day = _date(rng, 2012, 2014)
        scanned = f"{month}/{day}/{year}" if row != 6 else "04/13/2014, 05/25/2014"
        age = int(person.age_years)
        clinical: tuple[object, ...] = ("NORMAL", "", "", "")
        stage = ""
        if person.group == "patient":
            score = int(rng.integers(0, 16))
            clinical = ("PD", score, score + int(rng.integers(5, 25)), treatments[row % len(treatments)])
            stage = ("1", "1.5", "2", "2.5")[int(rng.integers(4))]
        rows.append((person.label, *clinical, age, _letter(person), stage, year - age, scanned))
    return {"neurocon_patients.tsv": _table(rows, separator="\t", line_end="\r\n")}


def _sz(people: Sequence[Person], rng: np.random.Generator) -> dict[str, str]:
    """COBRE's table: the identifier's column has no name; people who left are `Disenrolled` in every column."""
    rows: list[Sequence[object]] = [("", "Current Age", "Gender", "Handedness", "Subject Type", "Diagnosis")]
    for person in people:
        if not person.tasks:
            rows.append((person.label, *["Disenrolled"] * 4, ""))
            continue
        diagnosis = str(rng.choice(["295.3", "295.7", "295.9"])) if person.group == "Patient" else "None"
        rows.append((person.label, int(person.age_years), person.sex.capitalize(), "Right", person.group, diagnosis))
    return {"COBRE_phenotypic_data.csv": _table(rows)}


TABLES: dict[str, Callable[[Sequence[Person], np.random.Generator], dict[str, str]]] = {
    "HCPA": _hcpa,
    "HCPYA": _hcpya,
    "ADNI": _adni,
    "PPMI": _ppmi,
    "ABIDE": _abide,
    "Taowu": _taowu,
    "Neurocon": _neurocon,
    "SZ": _sz,
}
"""Cohort → the tables it publishes, by file name."""
