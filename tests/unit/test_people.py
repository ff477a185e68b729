"""Cells become levels or are counted; tables of one cohort are joined by person."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lcm.cohort.people import OBSERVED, REFUSED, STEPS, UNOBSERVED, Decoder, Flow, decode_states, read_people
from lcm.cohort.source import Column, read_source
from lcm.cohort.vocabulary import read_vocabulary


def decoder(bei: str, column: Column) -> Decoder:
    return Decoder(read_vocabulary()[bei], column, column.levels, frozenset({"", "-9999", "n/a"}))


@pytest.mark.parametrize(
    ("cell", "value", "state"),
    [
        ("1", "male", OBSERVED),
        (" 2.0 ", "female", OBSERVED),
        ("", None, UNOBSERVED),
        ("-9999.0", None, UNOBSERVED),
        ("N/A", None, UNOBSERVED),
        ("3", None, REFUSED),
        ("0", None, REFUSED),
    ],
)
def test_a_code_is_observed_silent_or_refused(cell: str, value: str | None, state: str) -> None:
    column = Column(table="t", column="SEX", levels={1: "male", 2: "female", 0: None})
    values, states = decoder("sex", column)(pd.Series([cell]), "t.csv: SEX", Flow("c"))
    assert values.tolist() == [value]
    assert states.tolist() == [state]


@pytest.mark.parametrize(
    ("unit", "cell", "years"),
    [
        ("years", "24.45", 24.45),
        ("months", "733", 733 / 12),
        ("years", "89+", 89.0),
        ("years", "1e1", 10.0),
        ("years", "111", None),
        ("years", "-3", None),
        ("years", "24,5", None),
        ("years", "inf", None),
        ("years", "nan", None),
    ],
)
def test_an_age_is_a_plausible_number_of_years_or_missing(unit: str, cell: str, years: float | None) -> None:
    column = Column.model_validate({"table": "t", "column": "AGE", "unit": unit, "values": {"89+": 89}})
    values, _ = decoder("age", column)(pd.Series([cell]), "t.csv: AGE", Flow("c"))
    assert values.tolist() == [years]


def test_a_prefix_is_read_out_of_a_name() -> None:
    column = Column(
        table="t", column="name", extract="^([a-z]+)", levels={"control": "control", "patient": "parkinsons"}
    )
    cells = pd.Series(["control032057", "patient032077", "032077"])
    values, _ = decoder("parkinsons", column)(cells, "t.tsv: name", Flow("c"))
    assert values.tolist() == ["control", "parkinsons", None]


def test_the_state_comes_from_the_task_in_any_case() -> None:
    values, states = decode_states(
        read_source("hcpya"), pd.Series(["WM", "rest1", None, "finger"]), flow := Flow("hcpya")
    )
    assert values.tolist() == ["wm", "rest", None, None]
    assert states.tolist() == [OBSERVED, OBSERVED, UNOBSERVED, REFUSED]
    assert flow.rows() == [("hcpya", "unknown code", "scans.tsv: task = finger", 1)]


def test_the_flow_is_printed_in_running_order() -> None:
    flow = Flow("c")
    for step in reversed(STEPS):
        flow.add(step, "all", 1)
    flow.add("rows read", "none", 0)
    assert [step for _, step, _, _ in flow.rows()] == list(STEPS)


def test_a_person_in_one_of_two_tables_is_blank_in_the_other(tmp_path: Path) -> None:
    (tmp_path / "Participant_Status_1.csv").write_text("PATNO,COHORT,ENROLL_AGE\n3001,1,60\n3002,2,61\n")
    (tmp_path / "Demographics_1.csv").write_text("PATNO,SEX\n3002,0\n3003,1\n")
    people = read_people(read_source("ppmi"), tmp_path, None, Flow("ppmi"))
    table = people.values[["sex", "age", "parkinsons"]].astype("object")
    assert table.where(table.notna(), None).to_numpy().tolist() == [
        [None, 60.0, "parkinsons"],
        ["female", 61.0, "control"],
        ["male", None, None],
    ]
    assert people.states.loc["3003", "parkinsons"] == UNOBSERVED


def test_an_age_of_999_months_is_an_age_and_no_mark_of_a_missing_one() -> None:
    source = read_source("hcpa")
    decode = Decoder(read_vocabulary()["age"], source.beis["age"], {}, frozenset(source.missing))
    values, states = decode(pd.Series(["999", "1200"]), "ndar_subject01.txt: interview_age", Flow("hcpa"))
    assert values.tolist() == [83.25, 90.0]
    assert set(states) == {OBSERVED}
