"""ABIDE I's people and sites, read from their table without our reader, under each design that needs no other cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import KFold

from lcm.cohort.split import split
from lcm.config import Split
from lcm.tables import check_folds
from tests.planted_people import bei_table

pytestmark = pytest.mark.real


@pytest.fixture
def abide(shared_data: Path) -> pd.DataFrame:
    """Columns id, autism, site, sex of the 1,112 people; index: person_id."""
    own = pd.read_csv(shared_data / "phenotypes" / "Phenotypic_V1_0b_preprocessed1.csv", low_memory=False)
    people = pd.DataFrame(
        {
            "id": own["SUB_ID"].astype(str),
            "autism": own["DX_GROUP"].map({1: "autism", 2: "control"}),
            "site": own["SITE_ID"],
            "sex": own["SEX"].map({1: "male", 2: "female"}),
        }
    )
    return people.set_index("abide:" + people["id"])


def folds_of(people: pd.DataFrame, design: Split) -> pd.Series:
    """Person → the fold that tests them, by the person's place in `people`; missing for those never tested."""
    folds = split(bei_table(people.assign(cohort="abide").to_dict("records")), design)
    check_folds(folds)
    return folds[folds["role"] == "test"].set_index("person_id")["fold"].reindex(people.index)


def test_five_stratified_folds_hold_every_diagnosis_and_site_evenly(abide: pd.DataFrame) -> None:
    fold = folds_of(abide, Split(num_folds=5))
    assert np.ptp(fold.value_counts()) <= 1
    assert np.ptp(pd.crosstab(fold, abide["autism"]), axis=0).max() <= 1
    # A site is one run under each of two diagnoses.
    assert np.ptp(pd.crosstab(fold, abide["site"]), axis=0).max() <= 2


def test_every_site_is_tested_whole_in_folds_of_about_a_fifth(abide: pd.DataFrame) -> None:
    fold = folds_of(abide, Split(design="leave-site-out", num_folds=5))
    assert (fold.groupby(abide["site"]).nunique() == 1).all()
    assert abide["site"].nunique() == 20
    assert fold.value_counts().between(0.9 * 1112 / 5, 1.1 * 1112 / 5).all()


def test_twenty_folds_leave_each_of_the_twenty_sites_out_once(abide: pd.DataFrame) -> None:
    fold = folds_of(abide, Split(design="leave-site-out", num_folds=20))
    assert sorted(fold.value_counts()) == sorted(abide["site"].value_counts())


def test_the_authors_ten_folds_of_which_five_are_tested_are_scikit_learns(abide: pd.DataFrame) -> None:
    fold = folds_of(abide, Split(design="kfold", num_folds=5, cohort_folds={"abide": 10}))
    ids = np.sort(abide["id"].to_numpy(dtype=str))
    for place, (_, test) in enumerate(KFold(10, shuffle=True, random_state=142857).split(ids)):
        ours = set(abide["id"][fold == place])
        assert ours == (set(ids[test]) if place < 5 else set()), f"fold {place}"
