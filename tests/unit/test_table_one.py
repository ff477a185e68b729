"""Table 1 counts observed cells of people, not scans, and its groups are the cohort's own diagnoses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lcm.cohort.vocabulary import read_vocabulary
from lcm.evaluation.people_page import cohort_tables
from lcm.evaluation.study_people import first_visits, usable_scans
from lcm.evaluation.table_one import read_variables, table_one
from lcm.tables import OK, TABLE_ONE, excluded, read_tsv, write_tsv


def scans(**columns: list[object]) -> pd.DataFrame:
    """Rows of bei.tsv, one a value; every cell that is not None is observed."""
    frame = pd.DataFrame(columns)
    frame = frame.assign(**{"cohort": "abide", "dataset": "A"} | {name: frame[name] for name in columns})
    for name in ("sex", "age", "autism", "site", "handedness"):
        if name in frame:
            known = frame[name].notna()
            frame[f"{name}_source"] = frame.get(f"{name}_source", known.map({True: "observed", False: "missing"}))
    people = [f"abide:{place}" for place in range(len(frame))]
    for name, values in {"person_id": people, "scan": people, "session_id": None, "mean_fd_mm": 0.1}.items():
        if name not in frame:
            frame[name] = values
    return frame


def values(frame: pd.DataFrame) -> dict[tuple[str, str, str | None, str], str | None]:
    table = table_one(first_visits(frame), read_variables())
    plain = table.astype("object").where(table.notna(), None)
    rows = plain[["group", "variable", "level", "statistic", "value"]].itertuples(index=False)
    return {(group, variable, level, statistic): value for group, variable, level, statistic, value in rows}


def test_people_are_counted_by_the_diagnosis_that_was_observed():
    found = values(
        scans(
            autism=["autism", "autism", "control", None, "control"],
            autism_source=["observed", "observed", "observed", "missing", "pseudo"],
            sex=["male", "female", "male", "male", None],
        )
    )
    assert {group: int(found[group, "people", None, "n"]) for group, variable, *_ in found if variable == "people"} == {
        "all": 5,
        "autism: control": 1,
        "autism: autism": 2,
        "autism: unknown": 2,
    }
    assert found["all", "sex", "male", "n"] == "3"
    assert found["all", "sex", "unknown", "percent"] == "20.0"
    assert found["autism: autism", "sex", "female", "percent"] == "50.0"


def test_numbers_are_those_of_numpy():
    age = np.array([20.0, 23.5, 31.0, 44.25])
    found = values(scans(age=[*map(repr, age.tolist()), None]))
    expected = {"mean": age.mean(), "sd": age.std(ddof=1), "median": np.median(age), "min": 20.0, "max": 44.25}
    expected |= {"q1": np.quantile(age, 0.25), "q3": np.quantile(age, 0.75)}
    assert {name: found["all", "age", None, name] for name in expected} == {k: f"{v:.2f}" for k, v in expected.items()}
    assert (found["all", "age", None, "n"], found["all", "age", None, "missing"]) == ("4", "1")


def test_a_person_counts_once_at_the_first_visit():
    frame = scans(
        person_id=["abide:1"] * 3 + ["abide:2"],
        scan=["c", "b", "a", "d"],
        session_id=["ses-1", "ses-2", "ses-3", None],
        age=["31.0", "30.0", None, "50.0"],
        site=["Pitt", "Yale", "NYU", "Pitt"],
        mean_fd_mm=[0.1, 0.2, 0.3, 0.4],
    )
    found = values(frame)
    assert found["all", "people", None, "n"] == "2"
    assert found["all", "scans", None, "n"] == "4"
    assert found["all", "age", None, "mean"] == "40.00"
    assert found["all", "motion", None, "mean"] == "0.30"
    assert found["all", "site", "Yale", "n"] == "1"
    assert ("all", "site", "NYU", "n") not in found


def test_only_people_with_a_usable_connectome_are_in_the_study():
    frame = scans(sex=["male", "female"])
    outcomes = frame[["dataset", "scan"]].assign(outcome=[OK, excluded("too short")])
    assert first_visits(usable_scans(frame, outcomes))["sex"].to_list() == ["male"]


def test_what_nobody_was_asked_is_no_row_but_sex_and_age():
    found = values(scans(site=["Pitt", None]))
    assert {variable for _, variable, _, _ in found} == {"people", "scans", "sex", "age", "site", "motion"}
    assert found["all", "sex", "unknown", "n"] == "2"
    assert found["all", "age", None, "mean"] is None


def test_one_person_has_no_spread():
    assert values(scans(age=["20.0"]))["all", "age", None, "sd"] is None


def test_the_vocabulary_is_read_as_its_own_room_reads_it():
    entries = read_vocabulary()
    for name, variable in read_variables().items():
        entry = entries[name]
        assert (variable.kind, variable.group, variable.unit) == (entry.kind, entry.group, entry.unit)
        assert variable.levels == tuple(entry.levels)
    assert list(read_variables()) == list(entries)


def test_the_table_survives_the_disk_and_is_printed(tmp_path: Path):
    table = table_one(first_visits(scans(age=["20.0", "30.0"], sex=["male", None])), read_variables())
    write_tsv(table, tmp_path / "table_one.tsv", TABLE_ONE)
    (cohort,) = cohort_tables(read_tsv(tmp_path / "table_one.tsv", TABLE_ONE), read_variables())
    assert cohort.groups == ["all"]
    assert dict(cohort.rows) == {
        "People": ["2"],
        "Usable scans": ["2"],
        "Sex: male": ["1 (50.0 %)"],
        "Sex: unknown": ["1 (50.0 %)"],
        "Age (years): mean (SD)": ["25.00 (7.07)"],
        "Age (years): median [quartiles]": ["25.00 [22.50–27.50]"],
        "Age (years): range": ["20.00–30.00"],
        "Mean FD (mm): mean (SD)": ["0.10 (0.00)"],
        "Mean FD (mm): median [quartiles]": ["0.10 [0.10–0.10]"],
        "Mean FD (mm): range": ["0.10–0.10"],
    }
