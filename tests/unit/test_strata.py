"""Groups of people, what stratifies them, and who may not be a person."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lcm.cohort.strata import by_cohort, generator_of, in_order, read_groups
from lcm.tables import hashed
from tests.planted_people import bei_table, people_of


def stratum_of(*scans: dict) -> dict[str, int]:
    return read_groups(bei_table(list(scans))).set_index("group_id")["stratum"].to_dict()


def test_a_person_of_two_cohorts_is_one_group_of_the_first() -> None:
    scans = [{"cohort": c, "id": "1", "person": "abide:1"} for c in ("abide2", "abide")]
    groups = read_groups(bei_table(scans))
    assert groups.to_dict("records") == [{"group_id": "abide:1", "cohort": "abide", "num_people": 1, "stratum": 0}]


def test_a_person_who_converts_between_visits_is_a_stratum_between_the_two() -> None:
    visits = [{"cohort": "adni", "id": "3", "alzheimers": level} for level in ("dementia", "control")]
    others = [
        {"cohort": "adni", "id": "1", "alzheimers": "control"},
        {"cohort": "adni", "id": "2", "alzheimers": "dementia"},
    ]
    stratum = stratum_of(*visits, *others)
    assert stratum["adni:1"] < stratum["adni:3"] < stratum["adni:2"]


def test_people_who_agree_share_a_stratum_and_diagnosis_weighs_more_than_site_and_site_more_than_sex() -> None:
    stratum = stratum_of(
        {"cohort": "a", "id": "1", "autism": "autism", "site": "y", "sex": "male"},
        {"cohort": "a", "id": "2", "autism": "control", "site": "x", "sex": "female"},
        {"cohort": "a", "id": "3", "autism": "control", "site": "x", "sex": "male"},
        {"cohort": "a", "id": "4", "autism": "control", "site": "y", "sex": "female"},
        {"cohort": "a", "id": "5", "autism": "control", "site": "y", "sex": "female"},
    )
    assert [stratum[f"a:{number}"] for number in range(1, 6)] == [0, 1, 2, 3, 3]


def test_a_family_stands_with_families_of_its_size_and_its_set_of_sexes() -> None:
    pair = [("female", "f1"), ("male", "f1"), ("male", "f2"), ("female", "f2"), ("female", "f3"), ("male", "f3")]
    scans = [{"cohort": "a", "id": str(place), "sex": sex, "group": f} for place, (sex, f) in enumerate(pair)]
    stratum = stratum_of(*scans, {"cohort": "a", "id": "9", "sex": "male", "group": "f3"})
    assert stratum["f1"] == stratum["f2"] < stratum["f3"]


def test_a_pseudo_label_does_not_stratify() -> None:
    table = bei_table(people_of("a", 40))
    pseudo = table.assign(autism_source="pseudo")
    none = table.assign(autism=None, autism_source="missing")
    pd.testing.assert_frame_equal(read_groups(pseudo), read_groups(none))


@pytest.mark.parametrize(
    ("column", "value", "message"), [("sex", "male", "have two sexes"), ("group_id", "f", "belong to several groups")]
)
def test_a_person_whose_scans_disagree_stops_the_split_without_being_named(column, value, message) -> None:
    table = bei_table(2 * people_of("a", 40))
    table.loc[0, column] = value
    with pytest.raises(ValueError, match=message) as caught:
        read_groups(table)
    assert hashed("a:50000") in str(caught.value)
    assert "50000" not in str(caught.value)


def test_an_unknown_sex_beside_a_known_one_is_no_contradiction() -> None:
    table = bei_table(2 * people_of("a", 4))
    table.loc[0, ["sex", "sex_source"]] = [None, "missing"]
    assert len(read_groups(table)) == 4


def test_the_order_goes_by_stratum_and_shuffles_within() -> None:
    stratum_G = np.repeat([2, 0, 1], 30)
    one, two = (in_order(stratum_G, generator_of("a", seed)) for seed in (1, 2))
    assert (np.diff(stratum_G[one]) >= 0).all()
    assert sorted(one) == list(range(90))
    assert not np.array_equal(one, two)


def test_each_cohort_has_randomness_of_its_own() -> None:
    assert generator_of("a", 1).random() == generator_of("a", 1).random()
    assert len({generator_of(*key).random() for key in (("a", 1), ("b", 1), ("a", 2), ("a", 1, 1))}) == 4


def test_groups_of_a_cohort_are_found_by_place() -> None:
    groups = read_groups(bei_table(people_of("b", 2) + people_of("a", 3)))
    assert {cohort: list(places) for cohort, places in by_cohort(groups).items()} == {"a": [0, 1, 2], "b": [3, 4]}
