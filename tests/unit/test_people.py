"""Tables of one cohort are joined by person and session; each BEI is read from the row that speaks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from lcm.cohort.decode import OBSERVED, REFUSED, UNOBSERVED
from lcm.cohort.flow import Flow
from lcm.cohort.people import People, read_people
from lcm.cohort.source import Source, read_source
from lcm.tables import hashed

VISITS = {"column": "visit", "order": ["bl", "m12", "m24"], "entry": {"column": "day"}, "within_days": 100}
DIAGNOSIS = {"table": "a", "column": "dx", "levels": {"C": "control", "P": "parkinsons", "S": None}}
AGE = {"table": "a", "column": "age", "unit": "years"}


def source(beis: Mapping[str, object], visit: object = VISITS, **more: object) -> Source:
    """A cohort with a table `a` of visits and, optionally, a table `b` of people."""
    tables = {
        "a": {"file": "a.csv", "person": "id", "visit": visit},
        "b": {"file": "b.csv", "person": "id", "optional": True},
    }
    content = {
        "title": "t", "description": "d", "licence": "l", "rows_may_be_exported": False, "traps": ["none"],
        "person": {"pattern": "(?P<id>p[0-9]+)"}, "tables": tables, "missing": ["", "n/a"], "beis": beis,
        "sessions": {"pattern": "d(?P<days>[0-9]+)|(?P<date>[0-9]{8})|(?P<visit>[a-z]+[0-9]*)", "visits": {"y1": "m12"}},
    }  # fmt: skip
    return Source.model_validate(content | more)


def read(
    cohort: Source, folder: Path, table: str, *sessions: str, other: str | None = None, share: float = 1.0
) -> tuple[People, dict[tuple[str, str], int]]:
    """People of table `a` (and `b`), with the sessions of person p1, and the flow's counts."""
    (folder / "a.csv").write_text(table)
    if other is not None:
        (folder / "b.csv").write_text(other)
    flow = Flow("c")
    asked = [("p1", session) for session in sessions]
    people = read_people(cohort, folder, None, flow, asked, max_refused_share=share)
    return people, {(step, reason): count for _, step, reason, count in flow.rows()}


LONG = "id,visit,day,dx,age\np1,m24,720,P,62\np1,bl,0,C,60\np1,m12,400,,61\np2,bl,0,S,70\n"


@pytest.mark.parametrize(
    ("session", "level"),
    [
        ("", "control"),  # the earliest visit
        ("bl", "control"),
        ("m24", "parkinsons"),
        ("m12", None),  # that visit's row says nothing
        ("d90", "control"),
        ("d650", "parkinsons"),
        ("d400", None),  # the row of that day is silent, and those that speak are too far
        ("m36", None),  # no row of this visit
        ("20200101", "control"),  # a date, where the table knows days only: the earliest
    ],
)
def test_a_session_reads_the_row_that_speaks_for_it(tmp_path: Path, session: str, level: str | None) -> None:
    people, _ = read(source({"parkinsons": DIAGNOSIS}), tmp_path, LONG, session)
    assert people.values.loc[("p1", session), "parkinsons"] == level


def test_a_session_without_a_visit_is_counted(tmp_path: Path) -> None:
    _, flow = read(source({"parkinsons": DIAGNOSIS}), tmp_path, LONG, "m36", "d400", "d90")
    assert flow["no row of this visit", "a.csv: parkinsons"] == 1
    assert flow["no near visit", "a.csv: parkinsons within 100 days"] == 1


def test_each_bei_has_its_own_nearest_row(tmp_path: Path) -> None:
    people, _ = read(
        source({"parkinsons": DIAGNOSIS, "age": AGE}, VISITS | {"within_days": 500}), tmp_path, LONG, "d410"
    )
    assert people.values.loc[("p1", "d410")].tolist() == ["parkinsons", 61.0]


def test_a_fixed_column_is_read_from_the_earliest_row_that_says_it(tmp_path: Path) -> None:
    table = "id,visit,day,dx,age\np1,m24,720,P,62\np1,m12,400,C,61\np1,bl,0,,60\n"
    people, flow = read(source({"parkinsons": DIAGNOSIS | {"fixed": True}}), tmp_path, table, "m24", "m36", "d720")
    assert people.values["parkinsons"].tolist() == ["control"] * 4
    assert not [step for step, _ in flow if step.startswith("no ")]


@pytest.mark.parametrize(
    ("ages_from", "fixed", "session", "age"),
    [
        ("entry", True, "d365", 60 + 365 / 365.25),
        ("entry", True, "m12", 60 + 400 / 365.25),
        ("entry", True, "", 60.0),
        ("row", True, "d800", 60 + 800 / 365.25),
        ("row", False, "d730", 62 + 10 / 365.25),
        ("row", False, "m24", 62.0),
        ("row", True, "m24", 60 + 720 / 365.25),
        (None, False, "d730", 62.0),
    ],
)
def test_an_age_grows_with_the_time_up_to_the_scan(
    tmp_path: Path, ages_from: str | None, fixed: bool, session: str, age: float
) -> None:
    people, _ = read(source({"age": AGE | {"ages_from": ages_from, "fixed": fixed}}), tmp_path, LONG, session)
    assert people.values.loc[("p1", session), "age"] == pytest.approx(age)


def test_a_calendar_date_finds_the_nearest_row_and_the_age_of_the_day(tmp_path: Path) -> None:
    visit = {"date": {"column": "on", "unit": "date", "formats": ["%Y-%m-%d", "%m/%d/%Y"]}, "within_days": 60}
    table = "id,on,dx,age\np1,2020-01-01,C,60\np1,03/01/2021,P,61.2\np1,bad,P,0\n"
    beis = {"parkinsons": DIAGNOSIS, "age": AGE | {"ages_from": "row"}}
    people, flow = read(source(beis, visit), tmp_path, table, "20210311", "20200601")
    assert people.values.loc[("p1", "20210311")].tolist() == ["parkinsons", pytest.approx(61.2 + 10 / 365.25)]
    # Too far from any row, and yet not silence: the tables speak of the person.
    assert people.states.loc[("p1", "20200601")].tolist() == [REFUSED, REFUSED]
    assert flow["unknown code", "a.csv: on = bad"] == 1


def test_an_age_that_a_wrong_date_makes_impossible_is_missing_and_counted(tmp_path: Path) -> None:
    visit = {"date": {"column": "on", "unit": "date"}}
    people, flow = read(
        source({"age": AGE | {"ages_from": "row"}}, visit),
        tmp_path,
        "id,on,age\np1,2020-01-01,60\n",
        "19000101",
        "20300101",
    )
    assert people.values["age"].tolist() == [60.0, None, pytest.approx(60 + 3653 / 365.25)]
    assert people.states["age"].tolist() == [OBSERVED, REFUSED, OBSERVED]
    assert flow["implausible value", "a.csv: age, moved to the day of the scan"] == 1


def test_rows_of_a_person_whom_another_table_excludes_are_counted_as_excluded(tmp_path: Path) -> None:
    drop = [{"table": "b", "column": "status", "values": ["out"], "reason": "left"}]
    beis = {"parkinsons": DIAGNOSIS}
    cohort = source(beis, None, drop=drop)
    people, flow = read(cohort, tmp_path, "id,dx\np1,C\np2,P\n", other="id,status\np1,in\np2,out\n")
    assert people.keys == {"p1"}
    assert flow["rows excluded", "a.csv: of a person whom another row excludes"] == 1
    assert flow["rows kept", "a.csv"] == flow["rows kept", "b.csv"] == 1


def test_rows_without_a_visit_code_are_told_apart_by_their_times(tmp_path: Path) -> None:
    table = "id,visit,day,dx,age\np1,bl,0,C,60\np1,,100,P,61\np1,,200,P,62\n"
    people, _ = read(source({"parkinsons": DIAGNOSIS, "age": AGE}), tmp_path, table, "d190")
    assert people.values.loc[("p1", "d190")].tolist() == ["parkinsons", 62.0]


def test_visits_without_times_stand_by_their_numbers(tmp_path: Path) -> None:
    visit = {"column": "visit"}
    people, _ = read(source({"age": AGE}, visit), tmp_path, "id,visit,age\np1,v10,60\np1,v2,52\n")
    assert people.values["age"].tolist() == [52.0]


def test_a_site_that_each_person_has_alone_is_a_swapped_column(tmp_path: Path) -> None:
    cohort = source({"site": {"table": "a", "column": "site"}}, None)
    people = "".join(f"p{number},{{}}{number}\n" for number in range(1, 10))
    with pytest.raises(ValueError, match=r"a\.csv: site: 9 of 9 people share their label with no one") as caught:
        read(cohort, tmp_path, "id,site\n" + people.format(*["secret"] * 9))
    assert "secret" not in str(caught.value)
    read(cohort, tmp_path, "id,site\np1,A\np2,B\np3,C\np4,D\np5,E\n" + "".join(f"p{n},A\n" for n in range(6, 16)))


def test_rows_in_any_order_give_the_same_people(tmp_path: Path) -> None:
    head, *rows = LONG.splitlines(keepends=True)
    cohort = source({"parkinsons": DIAGNOSIS, "age": AGE})
    first, _ = read(cohort, tmp_path, LONG, "d90", "m24", "d200")
    second, _ = read(cohort, tmp_path, head + "".join(reversed(rows)), "d90", "m24", "d200")
    assert first.values.equals(second.values)
    assert first.states.equals(second.states)


def test_of_two_rows_equally_far_the_earlier_speaks(tmp_path: Path) -> None:
    table = "id,visit,day,dx,age\np1,m12,200,P,62\np1,bl,100,C,60\n"
    people, _ = read(source({"parkinsons": DIAGNOSIS}), tmp_path, table, "d150")
    assert people.values.loc[("p1", "d150"), "parkinsons"] == "control"


def test_a_session_may_be_a_column_of_its_own(tmp_path: Path) -> None:
    column = AGE | {"sessions": {"3": "later", "y1": "gone"}}
    people, _ = read(source({"age": column}, None), tmp_path, "id,age,later\np1,50,55\n", "3", "2", "y1")
    assert people.values["age"].to_dict() == {
        ("p1", ""): 50.0,
        ("p1", "2"): 50.0,
        ("p1", "3"): 55.0,
        ("p1", "y1"): None,
    }


def test_the_first_column_that_is_not_silent_holds(tmp_path: Path) -> None:
    columns = [DIAGNOSIS, DIAGNOSIS | {"column": "dx2"}]
    table = "id,dx,dx2\np1,C,C\np2,,P\np3,S,P\np4,C,S\np5,C,P\np6,,\n"
    people, flow = read(source({"parkinsons": columns}, None), tmp_path, table)
    assert people.values["parkinsons"].tolist() == ["control", "parkinsons", None, "control", None, None]
    assert people.states["parkinsons"].tolist() == [OBSERVED, OBSERVED, REFUSED, OBSERVED, REFUSED, UNOBSERVED]
    assert flow["contradiction", "parkinsons"] == 1


def test_two_ages_do_not_contradict_each_other(tmp_path: Path) -> None:
    columns = [AGE | {"table": "b", "column": "exact"}, AGE]
    other = "id,exact\np1,23.4\n"
    people, flow = read(source({"age": columns}, None), tmp_path, "id,age\np1,22\np2,30\n", other=other)
    assert people.values["age"].tolist() == [23.4, 30.0]
    assert not [step for step, _ in flow if step == "contradiction"]


def test_columns_of_one_table_are_read_from_one_row(tmp_path: Path) -> None:
    columns = [DIAGNOSIS, DIAGNOSIS | {"column": "dx2"}]
    table = "id,visit,day,dx,dx2\np1,bl,0,C,\np1,m12,40,,P\n"
    people, flow = read(source({"parkinsons": columns}), tmp_path, table, "d30", "d5")
    assert people.values["parkinsons"].tolist() == ["control", "parkinsons", "control"]
    assert not [step for step, _ in flow if step == "contradiction"]


def test_an_optional_table_that_is_absent_says_nothing_and_is_counted_once(tmp_path: Path) -> None:
    beis = {"age": [AGE | {"table": "b"}, AGE], "sex": {"table": "b", "column": "sex", "levels": {"M": "male"}}}
    people, flow = read(source(beis, None), tmp_path, "id,age\np1,22\n")
    assert people.values.loc[("p1", "")].tolist() == [22.0, None]
    assert flow["table absent", "b.csv"] == 1
    assert not [step for step, _ in flow if step == "column absent"]


def test_a_folder_without_any_table_of_the_cohort_stops(tmp_path: Path) -> None:
    tables = {"a": {"file": "a*.csv", "person": "id", "optional": True}}
    cohort = source({"age": AGE}, tables=tables)
    with pytest.raises(ValueError, match=r"no table of the cohort is there \(a\*\.csv\)"):
        read_people(cohort, tmp_path, None, Flow("c"))


def test_a_list_of_people_who_withdrew_excludes_them_everywhere(tmp_path: Path) -> None:
    tables = {
        "a": {"file": "a.csv", "person": "id"},
        "b": {"file": "b.csv", "person": "who", "header": ["who"], "optional": True},
    }
    cohort = source({"age": AGE}, tables=tables, drop=[{"table": "b", "column": "who", "reason": "withdrew"}])
    people, flow = read(cohort, tmp_path, "id,age\np1,22\np2,999\n", other="p2\np3\n")
    assert people.keys == {"p1"}
    assert people.excluded == {"p2", "p3"}
    assert flow["rows excluded", "b.csv: withdrew"] == 2
    assert ("implausible value", "a.csv: age") not in flow


def test_two_rows_of_one_visit_that_differ_stop_and_name_no_one(tmp_path: Path) -> None:
    table = LONG + "p1,m24,720,C,62\n"
    with pytest.raises(ValueError, match=r"a\.csv: 1 people have several rows that differ") as caught:
        read(source({"parkinsons": DIAGNOSIS}), tmp_path, table)
    assert hashed("p1") in str(caught.value)
    assert "p1" not in str(caught.value)


def test_a_repeated_row_of_a_visit_is_one_and_all_rows_add_up(tmp_path: Path) -> None:
    _, flow = read(source({"parkinsons": DIAGNOSIS}), tmp_path, LONG + "p1,M24,720.0,p,62\nxx,bl,0,C,60\n")
    assert flow["rows read", "a.csv"] == 6
    assert flow["rows excluded", "a.csv: repeats a row of the same person"] == 1
    assert flow["rows excluded", "a.csv: id does not fit the cohort's pattern"] == 1
    assert flow["rows kept", "a.csv"] == 4


def test_an_unknown_code_of_any_visit_is_counted(tmp_path: Path) -> None:
    _, flow = read(source({"parkinsons": DIAGNOSIS}), tmp_path, LONG.replace("p1,m24,720,P", "p1,m24,720,Q"))
    assert flow["unknown code", "a.csv: dx = q"] == 1
    assert flow["set aside", "a.csv: dx = s"] == 1


def test_a_visit_code_out_of_the_order_is_counted(tmp_path: Path) -> None:
    _, flow = read(source({"parkinsons": DIAGNOSIS}), tmp_path, LONG + "p2,m99,9,C,1\n")
    assert flow["unknown code", "a.csv: visit = m99"] == 1


def test_a_column_of_something_else_stops_the_study(tmp_path: Path) -> None:
    swapped = "id,dx,age\n" + "".join(f"p{number},{20 + number % 3},C\n" for number in range(1, 9))
    with pytest.raises(ValueError, match=r"a\.csv: dx: 8 of 8 cells .* such as 21 \(3\), 22 \(3\), 20 \(2\)"):
        read(source({"parkinsons": DIAGNOSIS}, None), tmp_path, swapped, share=0.2)
    with pytest.raises(ValueError, match="id"):
        read(source({"age": AGE}, None), tmp_path, swapped.replace("p", "q"), share=0.2)


def test_sessions_files_of_each_person_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t30\tF\nsub-02\t40\tM\n")
    for label, age in (("01", 33), ("02", 44)):
        (tmp_path / f"sub-{label}").mkdir()
        (tmp_path / f"sub-{label}" / f"sub-{label}_sessions.tsv").write_text(
            f"session_id\tage\nses-02\t{age}\nses-01\tn/a\n"
        )
    people = read_people(
        read_source("generic"), tmp_path, None, flow := Flow("g"), [("01", "02"), ("01", "01"), ("02", "9")]
    )
    ages = people.values["age"].to_dict()
    assert (ages["01", "02"], ages["01", "01"], ages["02", "9"]) == (33.0, 30.0, 40.0)
    assert flow.counts["rows read", "sub-*/sub-*_sessions.tsv"] == 4
    assert flow.counts["no row of this visit", "sub-*/sub-*_sessions.tsv: age"] == 1


def test_a_person_in_one_of_two_tables_is_blank_in_the_other(tmp_path: Path) -> None:
    status = (
        "PATNO,COHORT,ENROLL_AGE,ENROLL_STATUS,ENROLL_DATE\n3001,1,60,Enrolled,01/2011\n3002,2,61,Enrolled,01/2011\n"
    )
    (tmp_path / "Participant_Status_1.csv").write_text(status)
    (tmp_path / "Demographics_1.csv").write_text("PATNO,SEX\n3002,0\n3003,1\n")
    people = read_people(read_source("ppmi"), tmp_path, None, Flow("ppmi"))
    assert people.values[["sex", "age", "parkinsons"]].to_numpy().tolist() == [
        [None, 60.0, "parkinsons"],
        ["female", 61.0, "control"],
        ["male", None, None],
    ]
    assert people.states.loc[("3003", ""), "parkinsons"] == UNOBSERVED
