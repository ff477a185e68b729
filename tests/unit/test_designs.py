"""Split designs: even strata, whole sites, whole cohorts, and the LCM authors' own folds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold, StratifiedKFold

from lcm.cohort.designs import DESIGNS, _pack
from lcm.cohort.split import split
from lcm.cohort.strata import read_groups
from lcm.config import Split
from tests.planted_people import bei_table, people_of

LEAVE_SITE_OUT = Split(design="leave-site-out", num_folds=2)


def fold_of_tested(folds: pd.DataFrame) -> pd.Series:
    """Person → the fold that tests them."""
    return folds[folds["role"] == "test"].set_index("person_id")["fold"].sort_index()


def role(folds: pd.DataFrame, person: str) -> list[str]:
    """Roles of a person in fold 0, 1, …."""
    return folds[folds["person_id"] == person].sort_values("fold")["role"].tolist()


PEOPLE = st.lists(
    st.fixed_dictionaries(
        {
            "cohort": st.sampled_from(["a", "b", "c"]),
            "autism": st.sampled_from(["control", "autism", None]),
            "site": st.sampled_from(["x", "y", None]),
            "sex": st.sampled_from(["female", "male", None]),
        }
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(people=PEOPLE, num_folds=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_every_run_of_strata_is_within_one_person_of_equal_in_every_fold(
    people: list, num_folds: int, seed: int
) -> None:
    bei = bei_table([person | {"id": str(place)} for place, person in enumerate(people)])
    design = Split(num_folds=num_folds, seed=seed)
    groups = read_groups(bei)
    asked_GK = DESIGNS["stratified"](bei, groups, design)
    assert (asked_GK.sum(axis=1) == 1).all()
    frame = groups.merge(bei, on=["group_id", "cohort"]).fillna("").assign(fold=asked_GK.argmax(axis=1))
    for depth in range(4):
        for _, run in frame.groupby(["cohort", "autism", "site", "sex"][: depth + 1]):
            counts = run["fold"].value_counts().reindex(range(num_folds), fill_value=0)
            assert counts.max() - counts.min() <= 1


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=6, max_size=40), num_folds=st.integers(2, 5))
def test_families_differ_by_one_between_folds_and_their_people_by_no_more_than_the_largest(sizes, num_folds) -> None:
    people = [f"f{family}" for family, size in enumerate(sizes) for _ in range(size)]
    bei = bei_table([{"cohort": "a", "id": str(place), "group": group} for place, group in enumerate(people)])
    groups = read_groups(bei)
    asked_GK = DESIGNS["stratified"](bei, groups, Split(num_folds=num_folds))
    assert np.ptp(asked_GK.sum(axis=0)) <= 1
    assert np.ptp(groups["num_people"].to_numpy() @ asked_GK) <= max(sizes)


def test_the_folds_are_as_even_as_those_of_scikit_learn() -> None:
    people = people_of("a", 61)
    folds = split(bei_table(people), Split(num_folds=5))
    stratum = np.array([f"{person['autism']}{person['sex']}" for person in people])
    reference = StratifiedKFold(n_splits=5, shuffle=True, random_state=0)
    theirs = pd.DataFrame([pd.Series(stratum[test]).value_counts() for _, test in reference.split(stratum, stratum)])
    fold = fold_of_tested(folds)
    ours = pd.crosstab(fold.to_numpy(), stratum[fold.index.str.removeprefix("a:").astype(int) - 50000])
    assert (np.ptp(ours.to_numpy(), axis=0) <= np.ptp(theirs[ours.columns].to_numpy(), axis=0)).all()
    assert np.ptp(ours.sum(axis=1)) <= max(np.ptp(theirs.sum(axis=1)), 1)


def at_sites(**sizes: int) -> list[dict]:
    """People of cohort a, so many at each site."""
    people = [(site, number) for site, size in sizes.items() for number in range(size)]
    return [{"cohort": "a", "id": f"{site}{number}", "site": site} for site, number in people]


def test_a_site_is_tested_whole_and_trained_on_nowhere_else_in_its_fold() -> None:
    folds = split(bei_table(at_sites(p=9, q=7, r=4, s=3, t=2)), LEAVE_SITE_OUT)
    roles = folds.assign(site=folds["person_id"].str[2]).groupby(["site", "fold"])["role"].agg(set)
    assert all(said == {"test"} for said in roles if "test" in said)
    # Largest first into the emptiest: p 9 | q 7, then r 4 to the second, s 3 to the first, t 2 to the second.
    assert fold_of_tested(folds).groupby(lambda person: person[2]).unique().map(list).to_dict() == {
        "p": [0], "q": [1], "r": [1], "s": [0], "t": [1],
    }  # fmt: skip


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=40), num_folds=st.integers(1, 6))
def test_packed_folds_differ_by_no_more_than_the_largest_site(sizes: list[int], num_folds: int) -> None:
    sizes = sorted(sizes, reverse=True)
    filled = np.bincount(_pack(sizes, num_folds), weights=sizes, minlength=num_folds)
    assert np.ptp(filled) <= sizes[0]


def test_the_sites_of_two_cohorts_are_two_sites_even_under_one_name() -> None:
    b = [person | {"cohort": "b"} for person in at_sites(p=4, q=4)]
    folds = split(bei_table(at_sites(p=4, q=4) + b), Split(design="leave-site-out", num_folds=4))
    assert fold_of_tested(folds).groupby(lambda person: person[:3]).nunique().to_dict() == dict.fromkeys(
        ("a:p", "a:q", "b:p", "b:q"), 1
    )
    assert sorted(fold_of_tested(folds).value_counts()) == [4, 4, 4, 4]


def test_people_of_no_known_site_and_of_cohorts_with_one_are_spread_over_the_folds(caplog) -> None:
    unknown = [person | {"site": None, "id": f"u{place}"} for place, person in enumerate(at_sites(p=6))]
    single = [person | {"cohort": "b"} for person in at_sites(p=8)]
    with caplog.at_level("INFO"):
        folds = split(bei_table(at_sites(p=5, q=5) + unknown + single), LEAVE_SITE_OUT)
    fold = fold_of_tested(folds)
    assert fold[fold.index.str.startswith("a:u")].value_counts().to_dict() == {0: 3, 1: 3}
    assert fold[fold.index.str.startswith("b:")].value_counts().to_dict() == {0: 4, 1: 4}
    assert "2 sites in 2 folds; 14 people of unknown site or of cohorts with one site" in caplog.text


def test_a_person_of_two_sites_is_tested_with_the_first_fold_and_unused_in_the_other() -> None:
    moved = [{"cohort": "a", "id": "p0", "site": "q"}]
    folds = split(bei_table(at_sites(p=5, q=4, r=3) + moved), Split(design="leave-site-out", num_folds=3))
    assert role(folds, "a:p0")[:2] == ["test", "unused"]
    assert role(folds, "a:p0")[2] in ("train", "validation")


def test_a_family_of_two_sites_has_no_member_training_on_the_other_members_site() -> None:
    people = [person | ({"group": "f"} if person["id"] in ("p0", "q0") else {}) for person in at_sites(p=5, q=4)]
    folds = split(bei_table(people), LEAVE_SITE_OUT)
    assert role(folds, "a:p0") == role(folds, "a:q0") == ["test", "unused"]


def test_fewer_sites_than_folds_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(ValueError, match=r"column site: .* have 2 in all, too few for 3 folds"):
        split(bei_table(at_sites(p=9, q=9)), Split(design="leave-site-out", num_folds=3))
    with pytest.raises(ValueError, match="have 0 in all"):
        split(bei_table(at_sites(p=9)), LEAVE_SITE_OUT)


def three_cohorts() -> list[dict]:
    return people_of("ppmi", 20) + people_of("taowu", 8) + people_of("neurocon", 6)


def test_whole_cohorts_are_tested_and_the_others_train_only() -> None:
    design = Split(design="cross-cohort", test_cohorts=(("taowu", "neurocon"),))
    folds = split(bei_table(three_cohorts()), design)
    cohort = folds["person_id"].str.split(":").str[0]
    assert set(folds.loc[cohort.isin(["taowu", "neurocon"]), "role"]) == {"test"}
    assert folds.loc[cohort == "ppmi", "role"].value_counts().to_dict() == {"train": 16, "validation": 4}


def test_each_fold_has_cohorts_of_its_own() -> None:
    folds = split(bei_table(three_cohorts()), Split(design="cross-cohort", test_cohorts=(("taowu",), ("neurocon",))))
    fold = fold_of_tested(folds)
    assert fold.groupby(fold.index.str.split(":").str[0]).unique().map(list).to_dict() == {
        "taowu": [0],
        "neurocon": [1],
    }


def test_a_person_with_any_scan_in_a_tested_cohort_is_tested_and_of_two_tested_cohorts_unused_once() -> None:
    linked = [
        {"cohort": "ppmi", "id": "x", "person": "twofold"},
        {"cohort": "taowu", "id": "x", "person": "twofold"},
        {"cohort": "taowu", "id": "y", "person": "threefold"},
        {"cohort": "neurocon", "id": "y", "person": "threefold"},
    ]
    design = Split(design="cross-cohort", test_cohorts=(("taowu",), ("neurocon",)))
    folds = split(bei_table(three_cohorts() + linked), design)
    assert role(folds, "twofold")[0] == "test"
    assert role(folds, "twofold")[1] in ("train", "validation")
    assert role(folds, "threefold") == ["test", "unused"]


def test_an_unknown_or_repeated_test_cohort_is_an_error_that_names_the_known_ones() -> None:
    bei = bei_table(three_cohorts())
    with pytest.raises(ValueError, match=r"test_cohorts: no cohort taiwu; the study has: neurocon, ppmi, taowu"):
        split(bei, Split(design="cross-cohort", test_cohorts=(("taiwu",),)))
    with pytest.raises(ValueError, match="taowu is there more than once"):
        split(bei, Split(design="cross-cohort", test_cohorts=(("taowu",), ("taowu", "neurocon"))))


def test_a_design_that_leaves_nobody_to_train_is_an_error() -> None:
    design = Split(design="cross-cohort", test_cohorts=(("ppmi", "taowu", "neurocon"),))
    with pytest.raises(ValueError, match="fold 0 has no one to train or validation"):
        split(bei_table(three_cohorts()), design)


@pytest.mark.parametrize("num_folds", [2, 5])
def test_kfold_is_scikit_learns_over_sorted_ids_for_every_cohort(num_folds: int) -> None:
    ids = {
        "abide": [f"{50000 + number}" for number in range(57)],
        "taowu": [f"c{n}" for n in (11, 2, 1, 30, 5, 7, 9, 10, 8, 3)],
    }
    scans = [{"cohort": cohort, "id": name} for cohort, names in ids.items() for name in reversed(names)]
    design = Split(design="kfold", num_folds=num_folds, cohort_folds={"taowu": 10})
    folds = split(bei_table(2 * scans), design)
    for cohort, number in {"abide": num_folds, "taowu": 10}.items():
        names = np.sort(np.unique(ids[cohort]))
        theirs = list(KFold(n_splits=number, shuffle=True, random_state=142857).split(names))[:num_folds]
        fold = fold_of_tested(folds)
        for place, (_, test) in enumerate(theirs):
            ours = [person for person in fold.index[fold == place] if person.startswith(cohort)]
            assert ours == sorted(f"{cohort}:{name}" for name in names[test])


def test_kfold_leaves_the_later_folds_of_a_cohort_untested_and_training() -> None:
    design = Split(design="kfold", num_folds=2, cohort_folds={"a": 10})
    folds = split(bei_table(people_of("a", 40)), design)
    assert len(fold_of_tested(folds)) == 8
    never = set(folds["person_id"]) - set(fold_of_tested(folds).index)
    assert set(folds.loc[folds["person_id"].isin(never), "role"]) == {"train", "validation"}


def test_kfold_moves_a_family_to_its_first_members_fold_and_says_how_many_moved(caplog) -> None:
    design = Split(design="kfold", num_folds=2)
    people = people_of("a", 20)
    plain = fold_of_tested(split(bei_table(people), design))
    first, other = "a:50000", next(person for person in plain.index if plain[person] != plain["a:50000"])
    family = [p | ({"group": "f"} if f"a:{p['id']}" in (first, other) else {}) for p in people]
    with caplog.at_level("INFO"):
        together = fold_of_tested(split(bei_table(family), design))
    assert together[other] == plain[first]
    pd.testing.assert_series_equal(together.drop(other), plain.drop(other))
    assert "1 people moved to the fold" in caplog.text


def test_kfold_refuses_an_unknown_cohort_and_one_with_fewer_people_than_folds() -> None:
    bei = bei_table(people_of("a", 9))
    with pytest.raises(ValueError, match="cohort_folds: no cohort b; the study has: a"):
        split(bei, Split(design="kfold", num_folds=2, cohort_folds={"b": 5}))
    with pytest.raises(ValueError, match="cohort a: 9 people are too few for its 10 folds"):
        split(bei, Split(design="kfold", num_folds=2, cohort_folds={"a": 10}))
