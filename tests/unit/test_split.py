"""Folds are by person, stratified, complete, and the same whenever the people are the same."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from lcm.cohort.split import main, split
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Split
from lcm.tables import BEI, FOLDS, check_folds, hashed, read_tsv, write_tsv


def bei_table(people: list[tuple[str, str | None, str | None]], scans_each: int = 2) -> pd.DataFrame:
    """A BEI table of people (cohort, autism level, sex), each scanned in several datasets."""
    rows = []
    for number, (cohort, autism, sex) in enumerate(people):
        for scan in range(scans_each):
            cells = dict.fromkeys(read_vocabulary()) | {"autism": autism, "sex": sex}
            sources = {f"{name}_source": "observed" if cell else "missing" for name, cell in cells.items()}
            rows.append({
                "dataset": f"D{scan}", "scan": f"sub-{number}", "cohort": cohort, "participant_id": f"sub-{number}",
                "session_id": None, "person_id": f"{cohort}:{number}", "site": None, **cells, **sources,
            })  # fmt: skip
    return pd.DataFrame(rows)


def crossed(cohorts: dict[str, int]) -> list[tuple[str, str | None, str | None]]:
    return [
        (cohort, ("control", "autism")[number % 2], ("female", "male", "male")[number % 3])
        for cohort, count in cohorts.items()
        for number in range(count)
    ]


PEOPLE = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["control", "autism", None]),
        st.sampled_from(["female", "male", None]),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(people=PEOPLE, num_folds=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_the_test_sets_partition_the_people_and_every_stratum_evenly(people: list, num_folds: int, seed: int) -> None:
    folds = split(bei_table(people, scans_each=1), Split(num_folds=num_folds, seed=seed, validation_share=0.3))
    check_folds(folds)
    tested = folds[folds["role"] == "test"]
    assert sorted(tested["person_id"]) == sorted(f"{cohort}:{number}" for number, (cohort, _, _) in enumerate(people))
    frame = pd.DataFrame(people, columns=["cohort", "autism", "sex"]).fillna("")
    frame["fold"] = (
        tested.set_index("person_id")["fold"].loc[[f"{c}:{n}" for n, (c, _, _) in enumerate(people)]].to_numpy()
    )
    for strata in (["cohort"], ["cohort", "autism"], ["cohort", "autism", "sex"]):
        for _, stratum in frame.groupby(strata):
            counts = stratum["fold"].value_counts().reindex(range(num_folds), fill_value=0)
            assert counts.max() - counts.min() <= 1


def test_the_folds_are_as_even_as_those_of_scikit_learn() -> None:
    people = crossed({"a": 61})
    folds = split(bei_table(people), Split(num_folds=5))
    stratum = np.array([f"{autism}{sex}" for _, autism, sex in people])
    reference = StratifiedKFold(n_splits=5, shuffle=True, random_state=0)
    theirs = [sorted(np.unique(stratum[test], return_counts=True)[1]) for _, test in reference.split(stratum, stratum)]
    tested = folds[folds["role"] == "test"].assign(
        stratum=lambda frame: stratum[frame["person_id"].str.removeprefix("a:").astype(int)]
    )
    ours = pd.crosstab(tested["fold"], tested["stratum"])
    spread = np.ptp(ours.to_numpy(), axis=0)
    assert (spread <= 1).all()
    assert np.ptp(ours.sum(axis=1)) <= max(np.ptp([sum(counts) for counts in theirs]), 1)


def test_a_person_is_never_in_two_roles_of_a_fold_and_is_listed_once_a_fold() -> None:
    folds = split(bei_table(crossed({"a": 30, "b": 12}), scans_each=3), Split(num_folds=4))
    assert len(folds) == 42 * 4
    assert not folds.duplicated(["person_id", "fold"]).any()


def test_validation_takes_its_share_of_the_training_people_in_every_stratum() -> None:
    folds = split(bei_table(crossed({"a": 300})), Split(num_folds=3, validation_share=0.2))
    autistic = folds["person_id"].str.removeprefix("a:").astype(int) % 2 == 1
    for _, fold in folds[folds["role"] != "test"].groupby("fold"):
        for mask in (autistic, ~autistic):
            share = (fold["role"][mask.loc[fold.index]] == "validation").mean()
            assert share == pytest.approx(0.2, abs=0.02)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(48)))
def test_the_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    table = bei_table(crossed({"a": 24}))
    pd.testing.assert_frame_equal(split(table, Split()), split(table.iloc[order], Split()))


def test_a_cohort_keeps_its_folds_when_another_joins_the_study() -> None:
    alone = split(bei_table(crossed({"a": 40})), Split())
    together = split(bei_table(crossed({"a": 40, "b": 25})), Split())
    mine = together[together["person_id"].str.startswith("a:")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, mine)


def test_another_seed_gives_other_folds() -> None:
    table = bei_table(crossed({"a": 40}))
    assert not split(table, Split(seed=1)).equals(split(table, Split(seed=2)))


def test_a_pseudo_label_does_not_stratify() -> None:
    table = bei_table(crossed({"a": 40}))
    pseudo = table.assign(autism_source="pseudo")
    none = table.assign(autism=None, autism_source="missing")
    pd.testing.assert_frame_equal(split(pseudo, Split()), split(none, Split()))


def test_too_few_people_for_the_folds_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 people are too few for 3 folds"):
        split(bei_table(crossed({"a": 2})), Split())
    with pytest.raises(ValueError, match="no one"):
        split(bei_table(crossed({"a": 2})).iloc[:0], Split())


def test_three_people_are_enough_for_three_folds() -> None:
    folds = split(bei_table(crossed({"a": 3})), Split(validation_share=0.05))
    check_folds(folds)
    assert (folds.groupby("fold")["role"].nunique() == 3).all()


def test_a_person_whose_scans_disagree_stops_the_split_without_being_named() -> None:
    table = bei_table(crossed({"a": 40}))
    table.loc[0, "sex"] = "male"
    with pytest.raises(ValueError, match="disagree") as caught:
        split(table, Split())
    assert hashed("a:0") in str(caught.value)
    assert "a:0" not in str(caught.value)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (lambda folds: pd.concat([folds, folds.iloc[[0]].assign(role="train")]), "several roles in one fold"),
        (
            lambda folds: folds.assign(role=folds["role"].where(folds["person_id"] != "a:1", "test")),
            "tested exactly once",
        ),
        (
            lambda folds: folds.assign(role=folds["role"].where(folds["person_id"] != "a:1", "train")),
            "tested exactly once",
        ),
        (lambda folds: folds.drop(folds.index[folds["person_id"] == "a:1"][:1]), "tested exactly once"),
        (lambda folds: folds.assign(role=folds["role"].replace("validation", "valid")), "role valid"),
    ],
)
def test_a_poisoned_fold_table_is_refused_and_names_no_one(poison, message: str) -> None:
    folds = split(bei_table(crossed({"a": 40})), Split())
    check_folds(folds)
    with pytest.raises(ValueError, match=message) as caught:
        check_folds(poison(folds))
    assert "a:" not in str(caught.value)


def test_the_command_writes_a_table_that_reads_back(tmp_path: Path) -> None:
    write_tsv(bei_table(crossed({"a": 20, "b": 11})), tmp_path / "bei.tsv", BEI)
    main(argparse.Namespace(bei=tmp_path / "bei.tsv", output=tmp_path / "folds.tsv", settings=Split()))
    folds = read_tsv(tmp_path / "folds.tsv", FOLDS)
    check_folds(folds)
    assert len(folds) == 31 * 3
