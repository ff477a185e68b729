"""Sessions and rows are put on the study's clocks, and the nearest row in time speaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcm.cohort.source import Sessions, Visit, read_source
from lcm.cohort.visits import (
    Times,
    choose_rows,
    earliest_first,
    session_label,
    times_of_rows,
    times_of_sessions,
    years_between,
)


@pytest.mark.parametrize(("session_id", "label"), [("ses-M012", "m012"), ("V1", "v1"), (None, ""), (float("nan"), "")])
def test_a_session_label_is_lower_case_without_its_prefix(session_id: object, label: str) -> None:
    assert session_label(session_id) == label


@pytest.mark.parametrize(
    ("label", "visit", "entry_days", "date"),
    [
        ("m012", "", 12 * 30.4375, None),
        ("20110501", "", None, "2011-05-01"),
        ("20119901", "", None, None),
        ("bl", "bl", None, None),
        ("1", "", None, None),
        ("", "", None, None),
    ],
)
def test_a_session_of_adni_is_months_a_date_a_visit_or_nothing(
    label: str, visit: str, entry_days: float | None, date: str | None
) -> None:
    times = times_of_sessions(read_source("adni").sessions, pd.Series(["p"]), pd.Series([label]))
    day = np.nan if date is None else pd.Timestamp(date).to_pydatetime().toordinal()
    assert times.visit_N.tolist() == [visit]
    np.testing.assert_equal(times.entry_days_N, [np.nan if entry_days is None else entry_days])
    np.testing.assert_equal(times.date_days_N, [day])


def test_years_and_renamed_visits_are_understood() -> None:
    sessions = Sessions.model_validate({"pattern": "y(?P<years>[0-9]+)|v(?P<visit>[0-9]+)", "visits": {"1": "BL"}})
    times = times_of_sessions(sessions, pd.Series(["p"] * 3), pd.Series(["y2", "v01", "v2"]))
    np.testing.assert_equal(times.entry_days_N, [2 * 365.25, np.nan, np.nan])
    assert times.visit_N.tolist() == ["", "bl", "2"]


def test_rows_are_read_on_both_clocks_and_what_cannot_be_read_is_told() -> None:
    visit = read_source("adni").tables["merge"].visit
    frame = pd.DataFrame(
        {
            "VISCODE": ["bl", "M06", "ses-m12", "uns1", ""],
            "EXAMDATE": ["2005-09-08", "9/8/2005", "", "n/a", "08.09.2005"],
        }
    )
    times, unknown = times_of_rows(pd.Series(list("ppppp")), frame.iloc[:, :], visit, frozenset({"", "n/a"}))
    day = float(pd.Timestamp("2005-09-08").to_pydatetime().toordinal())
    assert times.visit_N.tolist() == ["bl", "m06", "m12", "uns1", ""]
    np.testing.assert_equal(times.entry_days_N[:2], [0.0, 6 * 30.4375])
    np.testing.assert_equal(times.date_days_N, [day, day, np.nan, np.nan, np.nan])
    assert unknown["EXAMDATE"] == {"08.09.2005": 1}
    assert unknown["VISCODE"]["uns1"] == 1


def times(keys: list[str], days: list[float], visits: list[str] | None = None) -> Times:
    nothing = np.full(len(keys), np.nan)
    codes = np.array(visits or [""] * len(keys), dtype="object")
    return Times(np.array(keys, dtype="object"), codes, np.array(days, dtype=float), nothing)


def test_the_order_of_visits_comes_before_time_and_time_before_the_code() -> None:
    rows = times(["a", "a", "a", "b", "b"], [0, 5, 9, np.nan, 3], ["x", "bl", "", "z", "y"])
    assert earliest_first(rows, ("bl",)).tolist() == [1, 0, 2, 4, 3]
    assert earliest_first(rows, ()).tolist() == [0, 1, 2, 4, 3]


DAYS = st.lists(st.integers(0, 400), min_size=1, max_size=12, unique=True)


@given(
    people=st.lists(DAYS, min_size=1, max_size=4),
    asked=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 400)), min_size=1, max_size=8),
    silent=st.sets(st.integers(0, 40)),
    within=st.integers(1, 200),
)
def test_the_nearest_row_that_speaks_is_the_one_a_loop_finds(
    people: list[list[int]], asked: list[tuple[int, int]], silent: set[int], within: int
) -> None:
    flat = [(f"p{person}", day) for person, days in enumerate(people) for day in sorted(days)]
    rows = times([key for key, _ in flat], [day for _, day in flat])
    sessions = times([f"p{person}" for person, _ in asked], [day for _, day in asked])
    says_N = np.array([place not in silent for place in range(len(flat))])
    visit = Visit.model_validate({"entry": {"column": "day"}, "within_days": within})
    chosen = choose_rows(rows, sessions, visit, says_N, fixed=False)
    for place, (person, day) in enumerate(asked):
        near = [(abs(d - day), d, row) for row, (key, d) in enumerate(flat) if key == f"p{person}" and says_N[row]]
        best = min(near, default=None)
        within_reach = best is not None and best[0] <= within
        assert chosen.row_N[place] == (best[2] if best is not None and within_reach else -1)
        assert chosen.too_far_N[place] == (best is not None and not within_reach)


def test_the_years_between_row_and_session_need_a_clock_that_both_share() -> None:
    rows, sessions = times(["a"], [100]), times(["a", "a"], [100 + 365.25, np.nan])
    assert years_between(rows, np.array([0, 0]), sessions).tolist() == [1.0, 0.0]
    assert years_between(rows, np.array([-1, -1]), sessions).tolist() == [0.0, 0.0]
