"""Simulated tables of ADNI and OASIS-3: a planted person for every code that is known of them, and people who convert."""

from __future__ import annotations

from collections.abc import Sequence

from tests.planted_restricted import Planted, table

# ── ADNI ──────────────────────────────────────────────────────────────────────────────────────────


def _exam(rid: int, viscode: str, exam: str, dx_bl: str, dx: str, **more: object) -> dict[str, object]:
    """A row of ADNIMERGE; the person is 70 at baseline."""
    return {
        "RID": rid, "PTID": f"941_S_{rid}", "VISCODE": viscode, "SITE": 941, "COLPROT": "ADNI2", "ORIGPROT": "ADNI2",
        "EXAMDATE": exam, "DX_bl": dx_bl, "AGE": "70.0", "PTGENDER": "Female", "PTEDUCAT": 16, "PTETHCAT": "Not Hisp/Latino",
        "PTRACCAT": "Unknown", "PTMARRY": "Widowed", "APOE4": 1, "FDG": "1.2", "PIB": "", "AV45": "", "CDRSB": "0.5", "DX": dx,
    } | more  # fmt: skip


ADNI_STAGES = {
    "CN": "control",
    "SMC": "control",
    "EMCI": "control",
    "LMCI": "alzheimers",
    "AD": "alzheimers",
    "MCI": None,
}
"""DX_bl and Research Group under the LCM paper's policy."""

ADNI_DIAGNOSES = {
    "CN": "control", "NL": "control", "MCI": "mci", "Dementia": "alzheimers", "MCI to NL": "control",
    "Dementia to NL": "control", "NL to MCI": "mci", "Dementia to MCI": "mci",
    "NL to Dementia": "alzheimers", "MCI to Dementia": "alzheimers", "": None,
}  # fmt: skip
"""DX where MCI is kept apart."""


def adni_stages() -> Planted:
    """A person for each group of DX_bl, in ADNIMERGE or, where that is blank, in the image archive's list."""
    files, truth = {"ADNIMERGE_10Nov2024.csv": [], "idaSearch_1_01_2024.csv": []}, {}
    merged, searched = files.values()
    for rid, (group, level) in enumerate(ADNI_STAGES.items(), start=9001):
        merged.append(_exam(rid, "bl", "2012-05-01", group, ""))
        truth[f"941S{rid}", None] = {
            "alzheimers": level,
            "age": 70.0,
            "sex": "female",
            "education": 16.0,
            "site": "941",
        }
    for rid, (group, level) in enumerate((ADNI_STAGES | {"Patient": None}).items(), start=9101):
        merged.append(_exam(rid, "bl", "2012-05-01", "", "", PTGENDER="Unknown", AGE="", PTEDUCAT="-4"))
        searched.append(
            {
                "Subject ID": f"941_S_{rid}",
                "Sex": "M",
                "Research Group": group,
                "Study Date": "5/20/2012",
                "Age": "71.5",
            }
        )
        truth[f"941S{rid}", None] = {"alzheimers": level, "age": 71.5, "sex": "male", "education": None}
    for rid, (group, sex, years) in enumerate((("Normal", "F", "89+"), ("CN", "F", "90+")), start=9111):
        merged.append(_exam(rid, "bl", "2012-05-01", "", "", PTGENDER="Unknown", AGE=""))
        searched.append(
            {"Subject ID": f"941_S_{rid}", "Sex": sex, "Research Group": group, "Study Date": "5/20/2012", "Age": years}
        )
        truth[f"941S{rid}", None] = {"alzheimers": "control", "age": float(years[:2]), "sex": "female"}
    merged.append(_exam(9202, "bl", "2006-05-01", "CN", "CN", AGE="90+"))
    truth["941S9202", None] = {"age": 90.0}
    # ADNI 1: the archive says MCI where ADNIMERGE knows the stage.
    merged.append(_exam(9201, "bl", "2006-05-01", "LMCI", "MCI", AGE="89+", PTGENDER="Male", PTEDUCAT=""))
    searched.append(
        {"Subject ID": "941_S_9201", "Sex": "M", "Research Group": "MCI", "Study Date": "5/20/2006", "Age": "89"}
    )
    truth["941S9201", None] = {"alzheimers": "alzheimers", "age": 89.0, "sex": "male", "education": None}
    return Planted("adni", {name: table(rows) for name, rows in files.items()}, truth)


def adni_visits(policy: str) -> Planted:
    """A person for each code of DX; one who converts from CN over MCI to dementia; a visit without a diagnosis."""
    rows, truth = [], {}
    kept = (
        ADNI_DIAGNOSES
        if policy == "mci_apart"
        else {dx: None if level == "mci" else level for dx, level in ADNI_DIAGNOSES.items()}
    )
    for rid, (dx, level) in enumerate(kept.items(), start=9301):
        rows.append(_exam(rid, "bl", "2012-05-01", "CN", dx))
        truth[f"941S{rid}", "bl"] = {"alzheimers": level}
    rows += [  # out of order on purpose
        _exam(9401, "m24", "2012-05-11", "CN", "Dementia"),
        _exam(9401, "bl", "2010-05-01", "CN", "CN"),
        _exam(9401, "m18", "2011-11-01", "CN", ""),
        _exam(9401, "m12", "2011-05-02", "CN", "MCI"),
    ]
    middle = "mci" if policy == "mci_apart" else None
    truth |= {
        ("941S9401", "bl"): {"alzheimers": "control", "age": 70.0},
        ("941S9401", "M012"): {"alzheimers": middle, "age": 71.0},
        # 5 months after the visit of 12 months; that of 18 months is nearer and says nothing.
        ("941S9401", "m17"): {"alzheimers": middle, "age": 70 + 17 / 12},
        ("941S9401", "20120510"): {"alzheimers": "alzheimers", "age": 70 + 740 / 365.25},
        ("941S9401", "m72"): {"alzheimers": None, "age": 76.0},
    }
    return Planted("adni", {"ADNIMERGE.csv": table(rows)}, truth, policy)


# ── OASIS-3 ───────────────────────────────────────────────────────────────────────────────────────

OASIS_FLAGS: dict[tuple[str, ...], tuple[str | None, str | None]] = {
    ("NORMCOG=1",): ("control", None),
    ("PROBAD=1", "PROBADIF=1", "DEMENTED=1"): ("alzheimers", "alzheimers"),
    ("PROBAD=1", "PROBADIF=2", "DEMENTED=1"): (None, None),  # it only contributes
    ("POSSAD=1", "POSSADIF=1", "DEMENTED=1"): ("alzheimers", "alzheimers"),
    ("POSSAD=1", "POSSADIF=2", "DEMENTED=1"): (None, None),
    ("alzdis=1", "alzdisif=1", "DEMENTED=1"): ("alzheimers", "alzheimers"),
    ("alzdis=1", "DEMENTED=1"): ("alzheimers", "alzheimers"),
    ("alzdis=1", "alzdisif=2"): (None, None),
    ("MCIAMEM=1",): (None, None),
    ("MCIAPLUS=1",): (None, None),
    ("MCIAPLUS=1", "alzdis=1", "alzdisif=1"): (None, None),  # impaired by Alzheimer's disease, not demented
    ("MCINON1=1",): (None, None),
    ("MCINON2=1",): (None, None),
    ("IMPNOMCI=1",): (None, None),
    ("DEMENTED=1",): (None, None),  # of another cause
    ("NORMCOG=1", "MCIAMEM=1"): (None, None),
    ("NORMCOG=1", "PROBAD=1"): (None, "alzheimers"),  # a contradiction, where both columns are read
    ("DEMENTED=2",): (None, None),  # no such code
    (): (None, None),
}
"""Flags of form D1 that are not 0 → level under clinician_diagnosis, under cdr_zero_is_control without a rating."""

OASIS_RATINGS = {"0": "control", "0.0": "control", "0.5": None, "1": None, "2": None, "3": None}

OASIS_WORDS = {
    "Cognitively normal": "control", "No dementia": "control", "AD Dementia": "alzheimers", "DAT": "alzheimers",
    "AD dem w/CVD contribut": "alzheimers", "DAT w/depresss, not contribut": "alzheimers", "AD dem cannot be primary": None,
    "uncertain dementia": None, "Unc: ques. Impairment": None, "0.5 in memory only": None, "Vascular Demt, primary": None,
    "Frontotemporal demt. prim": None, "DLBD, primary": None, "Dementia/PD, primary": None, "Non AD dem, Other primary": None,
    "Incipient demt PTP": None, "ProAph w/o dement": None, "Q": None, ".": None, "": None,
}  # fmt: skip
"""dx1 of the older table → level under clinician_diagnosis."""

_FLAGS = ("NORMCOG", "DEMENTED", "MCIAMEM", "MCIAPLUS", "MCINON1", "MCINON2", "IMPNOMCI", "PROBAD", "PROBADIF", "POSSAD",
          "POSSADIF", "alzdis", "alzdisif")  # fmt: skip


def _form_d1(person: str, day: int, flags: Sequence[str]) -> dict[str, object]:
    said = dict(flag.split("=") for flag in flags)
    zero = {name: "" if name.endswith(("IF", "if")) else "0" for name in _FLAGS}
    return {"OASISID": person, "OASIS_session_label": f"{person}_UDSd1_d{day:04d}", "days_to_visit": day} | zero | said


def oasis3(policy: str) -> Planted:
    """The present form: demographics, ratings and form D1; one person converts, one was last seen years before the scan."""
    clinical = policy == "clinician_diagnosis"
    demographics, ratings, forms, truth = [], [], [], {}

    def plant(person: str, gender: str = "2", hand: str = "R") -> dict[str, str | float | None]:
        demographics.append(
            {"OASISID": person, "AgeatEntry": "68.0", "GENDER": gender, "HAND": hand, "EDUC": "16", "APOE": "33"}
        )
        truth[person, "d0129"] = {"sex": "female", "handedness": "right", "education": 16.0, "age": 68 + 129 / 365.25}
        return truth[person, "d0129"]

    for number, (flags, levels) in enumerate(OASIS_FLAGS.items(), start=39001):
        expected = plant(f"OAS{number}")
        forms.append(_form_d1(f"OAS{number}", 100, flags))
        expected["alzheimers"] = levels[0 if clinical else 1]
    for number, (rating, level) in enumerate(OASIS_RATINGS.items(), start=39101):
        plant(f"OAS{number}")["alzheimers"] = None if clinical else level
        session = f"OAS{number}_UDSb4_d0150"
        ratings.append({"OASISID": f"OAS{number}", "OASIS_session_label": session, "days_to_visit": 150, "CDRTOT": rating,
                        "age at visit": "68.4"})  # fmt: skip
    plant("OAS39201", gender="1", hand="L").update(sex="male", handedness="left")
    plant("OAS39202", hand="B")["handedness"] = "ambidextrous"
    if clinical:
        plant("OAS39301")["alzheimers"] = "control"
        forms += [_form_d1("OAS39301", 2000, ["DEMENTED=1", "PROBAD=1"]), _form_d1("OAS39301", 0, ["NORMCOG=1"]),
                  _form_d1("OAS39301", 1000, ["MCIAMEM=1"])]  # fmt: skip
        # Not normal at the nearest visit, for a reason without a flag: normal cognition months later makes no control of that.
        plant("OAS39302")["alzheimers"] = None
        forms += [_form_d1("OAS39302", 100, []), _form_d1("OAS39302", 400, ["NORMCOG=1"])]
        truth |= {
            ("OAS39301", None): {"alzheimers": "control", "age": 68.0},
            ("OAS39301", "d1100"): {"alzheimers": None},
            ("OAS39301", "d2364"): {"alzheimers": "alzheimers", "age": 68 + 2364 / 365.25},
            ("OAS39301", "d2366"): {"alzheimers": None},  # 366 days after the last visit
        }
    # A form and a rating stand in every file, so that no column is missing as a whole.
    files = {"OASIS3_demographics.csv": table(demographics), "OASIS3_UDSb4_cdr.csv": table(ratings),
             "OASIS3_UDSd1_diagnoses.csv": table(forms)}  # fmt: skip
    return Planted("oasis3", files, truth, policy)


def oasis3_older(policy: str) -> Planted:
    """The older form: one clinical table with words for a diagnosis and full stops for missing, and a table of subjects."""
    clinical = policy == "clinician_diagnosis"
    visits, subjects, truth = [], [], {}
    cases = [(word, "0.5", level) for word, level in OASIS_WORDS.items()]
    cases += [(".", rating, None if clinical else level) for rating, level in OASIS_RATINGS.items()]
    for number, (word, rating, level) in enumerate(cases, start=39401):
        person = f"OAS{number}"
        visits.append(
            {"ADRC_ADRCCLINICALDATA ID": f"{person}_ClinicalData_d0100", "Subject": person, "M/F": "M", "Age": "70.3",
             "ageAtEntry": "70.0", "mmse": "29", "cdr": rating, "dx1": word}
        )  # fmt: skip
        subjects.append({"Subject": person, "M/F": "M", "Hand": "L", "Education": "12"})
        found = level if clinical or level == "alzheimers" or word == "." else None
        truth[person, "d0129"] = {
            "alzheimers": found,
            "sex": "male",
            "age": 70 + 129 / 365.25,
            "handedness": "left",
            "education": 12.0,
        }
    hands = {"R": "right", "B": "ambidextrous", "A": "ambidextrous", "": None}
    for number, (hand, preferred) in enumerate(hands.items(), start=39501):
        subjects.append({"Subject": f"OAS{number}", "M/F": "F", "Hand": hand})
        truth[f"OAS{number}", None] = {"sex": "female", "handedness": preferred, "age": None, "education": None}
    visits.append(
        {"ADRC_ADRCCLINICALDATA ID": "OAS39601_ClinicalData_d0000", "Subject": "OAS39601", "M/F": "F", "Age": "71"}
    )
    truth["OAS39601", "d0010"] = {"sex": "female", "age": 71 + 10 / 365.25}
    return Planted("oasis3", {"ADRC_Clinical_Data.csv": table(visits), "subjects.csv": table(subjects)}, truth, policy)
