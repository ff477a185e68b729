"""Folds are of groups of people, complete, and the same whenever the people are the same."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.cohort import split as module
from lcm.cohort.designs import DESIGNS
from lcm.cohort.split import main, methods, split
from lcm.config import Split
from lcm.tables import BEI, FOLDS, check_folds, hashed, read_tsv, write_tsv
from tests.planted_people import bei_table, people_of

SCANS = st.lists(
    st.fixed_dictionaries(
        {
            "cohort": st.sampled_from(["a", "b"]),
            "id": st.integers(0, 60).map(str),
            "group": st.sampled_from([None, None, None, "f1", "f2", "f3"]),
            "site": st.sampled_from([None, "x", "y", "z"]),
            "autism": st.sampled_from([None, "control", "autism"]),
        }
    ),
    min_size=30,
    max_size=90,
)
EVERY_DESIGN = [
    Split(num_folds=3),
    Split(design="leave-site-out", num_folds=2),
    Split(design="cross-cohort", test_cohorts=(("b",),)),
    Split(design="kfold", num_folds=2, cohort_folds={"a": 4}),
]


def one_group_each(scans: list[dict]) -> list[dict]:
    """The scans with the first group that each person was given, and everyone of two sites at least once."""
    group: dict[tuple, str | None] = {}
    known = [scan | {"group": group.setdefault((scan["cohort"], scan["id"]), scan["group"])} for scan in scans]
    fixed = [{"cohort": c, "id": f"9{c}{s}{i}", "site": s} for c in "ab" for s in "xyz" for i in range(2)]
    return known + fixed


@pytest.mark.parametrize("design", EVERY_DESIGN, ids=lambda design: design.design)
@settings(max_examples=15, deadline=None)
@given(scans=SCANS)
def test_no_group_is_on_two_sides_of_a_fold_and_nobody_is_lost(design: Split, scans: list) -> None:
    bei = bei_table(one_group_each(scans))
    folds = split(bei, design)
    check_folds(folds)
    assert len(folds) == bei["person_id"].nunique() * design.count
    sides = folds[folds["role"] != "unused"].groupby(["group_id", "fold"])["role"].nunique()
    assert (sides == 1).all()
    times = folds.assign(tested=folds["role"] == "test").groupby("person_id")["tested"].sum()
    assert times.max() == 1
    if design.design in ("stratified", "leave-site-out"):
        assert times.min() == 1


@pytest.mark.parametrize("design", EVERY_DESIGN, ids=lambda design: design.design)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_the_order_of_the_rows_does_not_matter(design: Split, data: st.DataObject) -> None:
    people = people_of("a", 24, site="x") + people_of("b", 10, site="y") + people_of("a", 6, site="z")
    table = bei_table([person | {"id": str(place)} for place, person in enumerate(people)])
    order = data.draw(st.permutations(range(len(table))))
    pd.testing.assert_frame_equal(split(table, design), split(table.iloc[order], design))


def test_a_person_of_many_scans_is_listed_once_a_fold() -> None:
    folds = split(bei_table(3 * (people_of("a", 30) + people_of("b", 12))), Split(num_folds=4))
    assert len(folds) == 42 * 4
    assert not folds.duplicated(["person_id", "fold"]).any()


def test_validation_takes_its_share_of_the_training_people_in_every_stratum() -> None:
    folds = split(bei_table(people_of("a", 300)), Split(num_folds=3, validation_share=0.2))
    autistic = folds["person_id"].str.removeprefix("a:").astype(int) % 2 == 1
    for _, fold in folds[folds["role"] != "test"].groupby("fold"):
        for mask in (autistic, ~autistic):
            share = (fold["role"][mask.loc[fold.index]] == "validation").mean()
            assert share == pytest.approx(0.2, abs=0.02)


def test_a_cohort_keeps_its_folds_when_another_joins_the_study() -> None:
    alone = split(bei_table(people_of("a", 40)), Split())
    together = split(bei_table(people_of("a", 40) + people_of("b", 25)), Split())
    mine = together[together["person_id"].str.startswith("a:")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, mine)


def test_another_seed_gives_other_folds() -> None:
    table = bei_table(people_of("a", 40))
    assert not split(table, Split(seed=1)).equals(split(table, Split(seed=2)))


def test_too_few_people_for_the_folds_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 people are too few for 3 folds"):
        split(bei_table(people_of("a", 2)), Split())
    with pytest.raises(ValueError, match="no one"):
        split(bei_table(people_of("a", 2)).iloc[:0], Split())


def test_a_family_counts_as_one_when_it_is_asked_whether_there_are_enough() -> None:
    family = bei_table(people_of("a", 6, group="f"))
    with pytest.raises(ValueError, match="6 people are too few"):
        split(family, Split())


def test_three_people_are_enough_for_three_folds() -> None:
    folds = split(bei_table(people_of("a", 3)), Split(validation_share=0.05))
    check_folds(folds)
    assert (folds.groupby("fold")["role"].nunique() == 3).all()


def test_a_design_that_should_test_everyone_and_does_not_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.DESIGNS, "stratified", lambda *inputs: DESIGNS["kfold"](*inputs) & [True, False, True])
    with pytest.raises(ValueError, match="tests everyone once, but 13 groups of people are not"):
        split(bei_table(people_of("a", 40)), Split())


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (lambda folds: pd.concat([folds, folds.iloc[[0]]]), "1 people have several rows in one fold"),
        (lambda folds: pd.concat([folds, folds.iloc[[0]].assign(role="train")]), "1 people have several rows"),
        (lambda folds: folds.drop(folds.index[folds["person_id"] == "a:50001"][:1]), "1 people lack a row"),
        (
            lambda folds: folds.assign(role=folds["role"].where(folds["person_id"] != "a:50001", "test")),
            "1 people are tested in several folds",
        ),
        (
            lambda folds: folds.assign(group_id=folds["group_id"].where(folds.index > 0, "other")),
            "1 people belong to several groups",
        ),
        (
            lambda folds: folds.assign(group_id=folds["group_id"].replace("a:50002", "a:50001")),
            "2 people share a group",
        ),
        (lambda folds: folds.assign(role=folds["role"].replace("validation", "valid")), "role valid"),
        (
            lambda folds: folds.assign(
                role=folds["role"].where(folds["fold"] < 2, folds["role"].replace("validation", "train"))
            ),
            "fold 2 has no one to v",
        ),
        (lambda folds: folds.assign(role=folds["role"].where(folds["fold"] < 2, "train")), "fold 2 has no one"),
    ],
)
def test_a_poisoned_fold_table_is_refused_and_names_no_one(poison, message: str) -> None:
    folds = split(bei_table(people_of("a", 40)), Split())
    check_folds(folds)
    sides = folds.pivot(index="person_id", columns="fold", values="role")
    assert (sides.loc["a:50001"] != sides.loc["a:50002"]).any(), "or nothing would be torn by giving them one group"
    with pytest.raises(ValueError, match=message) as caught:
        check_folds(poison(folds))
    assert "a:" not in str(caught.value)


def test_a_refused_fold_table_says_whose_rows_they_are_by_hash() -> None:
    folds = split(bei_table(people_of("a", 40)), Split())
    with pytest.raises(ValueError, match=hashed("a:50007")):
        check_folds(folds.drop(folds.index[folds["person_id"] == "a:50007"][0]))


def test_the_command_writes_a_table_that_reads_back_and_logs_counts_only(tmp_path: Path, caplog) -> None:
    twins = people_of("c", 2, group="twins")
    write_tsv(bei_table(people_of("a", 20) + people_of("b", 11) + twins), tmp_path / "bei.tsv", BEI)
    design = Split(design="cross-cohort", test_cohorts=(("b",),))
    with caplog.at_level("INFO"):
        main(argparse.Namespace(bei=tmp_path / "bei.tsv", output=tmp_path / "folds.tsv", settings=design))
    folds = read_tsv(tmp_path / "folds.tsv", FOLDS)
    assert len(folds) == 33
    assert "fold 0: 11 test" in caplog.text
    assert "33 people: 1 families kept together (2 people), 22 people never tested" in caplog.text
    assert not any(person in caplog.text for person in folds["person_id"])


@pytest.mark.parametrize(
    ("design", "said"),
    [
        (EVERY_DESIGN[0], "split into 3 folds, stratified by cohort, diagnosis, site and sex"),
        (EVERY_DESIGN[1], "Whole sites were tested, packed into 2 folds"),
        (Split(design="cross-cohort", test_cohorts=(("a", "b"), ("c",))), "tested: a and b in fold 0, c in fold 1."),
        (EVERY_DESIGN[3], "seed 142857 and without strata, into 2 folds (4 in a), of which the first 2 were tested"),
    ],
)
def test_the_methods_name_the_design_the_families_and_the_validation_share(design: Split, said: str) -> None:
    assert said in methods(design)
    assert "Members of a known family" in methods(design)
    assert "20% of each fold's training people" in methods(design)


def test_validation_is_even_in_its_places_whatever_the_start() -> None:
    for start in (0.0, 0.3, 0.99):
        mask = module._spread(50, 0.2, start)
        assert mask.sum() == 10
        assert set(np.diff(np.flatnonzero(mask))) == {5}
