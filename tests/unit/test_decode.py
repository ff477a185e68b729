"""Cells become levels, numbers or labels, stay silent, or are refused and counted; too many refused cells stop the study."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from lcm.cohort.decode import (
    OBSERVED,
    REFUSED,
    UNOBSERVED,
    Decoder,
    decode_states,
    misfit_problem,
    pick,
    refused_share_problem,
)
from lcm.cohort.flow import STEPS, Flow, count_refused, shown_codes
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
    decoded = decoder("sex", column)(pd.Series([cell]))
    assert decoded.values.tolist() == [value]
    assert decoded.states.tolist() == [state]
    assert decoded.num_said == (state != UNOBSERVED)


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
    assert decoder("age", column)(pd.Series([cell])).values.tolist() == [years]


def test_a_prefix_is_read_out_of_a_name() -> None:
    column = Column(
        table="t", column="name", extract="^([a-z]+)", levels={"control": "control", "patient": "parkinsons"}
    )
    cells = pd.Series(["control032057", "patient032077", "032077"])
    assert decoder("parkinsons", column)(cells).values.tolist() == ["control", "parkinsons", None]


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


def test_an_age_of_999_months_is_an_age_and_no_mark_of_a_missing_one() -> None:
    source = read_source("hcpa")
    decode = Decoder(read_vocabulary()["age"], source.beis["age"][0], {}, frozenset(source.missing))
    decoded = decode(pd.Series(["999", "1200"]))
    assert decoded.values.tolist() == [83.25, 90.0]
    assert set(decoded.states) == {OBSERVED}


def test_a_label_is_the_cell_as_it_stands() -> None:
    decoded = decoder("site", Column(table="t", column="s"))(pd.Series([" NYU ", "-9999", "9"]))
    assert decoded.values.tolist() == ["NYU", None, "9"]
    assert decoded.states.tolist() == [OBSERVED, UNOBSERVED, OBSERVED]


def test_a_column_has_missing_marks_and_a_range_of_its_own() -> None:
    column = Column(table="t", column="a", unit="years", missing=("99",), range=(40, 100))
    decoded = decoder("age", column)(pd.Series(["99.0", "39", "40", "100.5"]))
    assert decoded.values.tolist() == [None, None, 40.0, None]
    assert decoded.states.tolist() == [UNOBSERVED, REFUSED, OBSERVED, REFUSED]
    assert decoded.refused == {("implausible value", "39"): 1, ("implausible value", "100.5"): 1}


def test_a_silent_column_takes_what_it_does_not_find_for_silence() -> None:
    levels = {"G20": "parkinsons"}
    cells = pd.Series(["I10|G20|E11", "I10", ""])
    column = Column(table="t", column="c", extract=r"\b(G20)", silent=True, levels=levels)
    assert decoder("parkinsons", column)(cells).states.tolist() == [OBSERVED, UNOBSERVED, UNOBSERVED]
    strict = Column(table="t", column="c", extract=r"\b(G20)", levels=levels)
    assert decoder("parkinsons", strict)(cells).states.tolist() == [OBSERVED, REFUSED, UNOBSERVED]


def test_cells_are_picked_by_place_and_nowhere_is_silence() -> None:
    assert pick(pd.Series(["a", "b"]), np.array([1, -1, 0]), None).tolist() == ["b", None, "a"]
    assert pick(pd.Series([], dtype="object"), np.array([-1]), UNOBSERVED).tolist() == [UNOBSERVED]


@pytest.mark.parametrize(
    ("num_unknown", "num_implausible", "num_aside", "stops"),
    [(20, 0, 0, False), (21, 0, 0, True), (0, 21, 0, True), (11, 10, 0, True), (0, 0, 90, False)],
)
def test_a_column_with_too_many_refused_cells_has_a_problem(
    num_unknown: int, num_implausible: int, num_aside: int, stops: bool
) -> None:
    refused = Counter(
        {
            ("unknown code", "x"): num_unknown,
            ("implausible value", "999"): num_implausible,
            ("set aside", "m"): num_aside,
        }
    )
    problem = refused_share_problem(+refused, 100, 0.2)
    assert (problem is not None) is stops
    if problem is not None:
        assert f"{num_unknown + num_implausible} of 100 cells" in problem
        assert "999" not in problem
        assert ("x (" in problem) is (num_unknown > 0)


def test_a_few_refused_cells_of_a_tiny_table_stop_nothing() -> None:
    assert refused_share_problem({("unknown code", "x"): 4}, 4, 0.2) is None
    assert misfit_problem(4, 4, 0.2) is None
    assert "5 of 5 ids" in str(misfit_problem(5, 5, 0.2))


def test_many_different_codes_are_counted_and_not_shown() -> None:
    assert shown_codes({"b": 2, "a": 2, "c": 3}) == {"c": 3, "a": 2, "b": 2}
    names = {f"name-{number}": 2 for number in range(21)}
    assert shown_codes(names) == {"(more than 20 different codes)": 42}
    problem = refused_share_problem({("unknown code", name): 2 for name in names}, 42, 0.2)
    assert problem is not None
    assert "name-" not in problem


@pytest.mark.parametrize(
    ("codes", "shown"),
    [
        ({"odd": 1}, {"odd": 1}),
        ({"ndar_a1b2c3d4": 1, "odd": 1}, {"(an id or a date, perhaps)": 1, "odd": 1}),
        ({"11025": 2}, {"11025": 2}),  # of two people, so no one's id
        ({"ann": 1, "bob": 1, "eve": 1}, {"(3 different codes, most of them in one cell)": 3}),
    ],
)
def test_single_cells_that_may_name_people_are_counted_and_not_shown(
    codes: dict[str, int], shown: dict[str, int]
) -> None:
    assert shown_codes(codes) == shown


def test_refused_cells_enter_the_flow_by_code_and_implausible_ones_without() -> None:
    flow = Flow("c")
    refused = {("unknown code", "7"): 2, ("implausible value", "293"): 1, ("implausible value", "-4"): 1}
    count_refused(refused, "t.csv: X", flow)
    assert flow.rows() == [("c", "unknown code", "t.csv: X = 7", 2), ("c", "implausible value", "t.csv: X", 2)]
