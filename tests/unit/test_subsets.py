"""Subsets: matching takes a planted confounder away, pairs are alike, and who is left out is told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lcm.evaluation.subsets import low_motion, matched

LEVELS = ["control", "autism"]


def predictions(number: int = 600, seed: int = 0) -> pd.DataFrame:
    """The level follows age and nothing else; the model reads age and nothing else."""
    generator = np.random.default_rng(seed)
    age = generator.normal(30, 8, number)
    positive = generator.random(number) < 1 / (1 + np.exp(-(age - 30) / 4))
    score = (age - age.min()) / np.ptp(age)
    return pd.DataFrame(
        {
            "person_id": [f"abide:{i:04d}" for i in range(number)],
            "cohort": "abide",
            "site": [f"site{i % 3}" for i in range(number)],
            "fold": np.arange(number) % 4,
            "age": age,
            "sex": np.where(generator.random(number) < 0.4, "female", "male"),
            "mean_fd_mm": generator.lognormal(-2, 0.5, number),
            "truth": np.array(LEVELS)[positive.astype(int)],
            "prediction": "control",
            "levels": [LEVELS] * number,
            "scores": list(np.stack([1 - score, score], axis=1)),
        }
    )


def auroc(rows: pd.DataFrame) -> float:
    """Within folds, as in the scores."""
    areas = [
        roc_auc_score(own["truth"] == "autism", own["scores"].str[1]) for _, own in rows.groupby("fold", sort=True)
    ]
    return float(np.mean(areas))


def test_a_model_that_reads_only_age_falls_to_chance_among_people_of_one_age():
    rows = predictions(2000)
    people = matched(rows).people
    assert auroc(rows) > 0.8
    assert len(people) > 200
    assert auroc(people) == pytest.approx(0.5, abs=0.06)


def test_an_effect_beside_the_confounder_survives_matching():
    rows = predictions(2000)
    effect = np.random.default_rng(1).normal(0, 1, len(rows)) + 1.5 * (rows["truth"] == "autism")
    rows["scores"] = list(np.stack([-effect, effect], axis=1))
    people = matched(rows).people
    # Φ(1.5 / √2), two Gaussians 1.5 SD apart.
    assert auroc(people) == pytest.approx(0.856, abs=0.06)


def test_pairs_are_of_one_fold_and_sex_and_alike_in_number_and_site_where_possible():
    rows = predictions()
    people, balance = matched(rows)
    assert (people["truth"] == "autism").sum() == (people["truth"] == "control").sum()
    assert people["person_id"].is_unique
    for _, own in people.groupby(["fold", "sex"]):
        assert (own["truth"] == "autism").sum() == (own["truth"] == "control").sum()
    by_name = balance.set_index("covariate")
    assert list(by_name.index) == ["age", "mean_fd_mm", "sex"]
    assert by_name.loc["age", "smd_before"] > 1
    assert by_name.loc["age", "smd_after"] == pytest.approx(0, abs=0.1)
    assert by_name.loc["sex", "smd_after"] == pytest.approx(0, abs=1e-9)
    assert set(by_name["num_pairs"]) == {len(people) // 2}


def test_differences_of_means_are_in_standard_deviations_of_the_levels():
    rows = predictions()
    people, balance = matched(rows)
    of_level = rows.groupby("truth")["age"]
    spread = np.sqrt(of_level.var().mean())
    gap = of_level.mean()["autism"] - of_level.mean()["control"]
    kept = people.groupby("truth")["age"].mean()
    row = balance.set_index("covariate").loc["age"]
    assert row["smd_before"] == pytest.approx(gap / spread)
    assert row["smd_after"] == pytest.approx((kept["autism"] - kept["control"]) / spread)


def hand_case(ages: dict[str, list[float]], sites: dict[str, list[str]] | None = None) -> pd.DataFrame:
    rows = predictions(sum(map(len, ages.values()))).assign(fold=0, sex="male", mean_fd_mm=np.nan, site="one")
    rows["truth"] = [level for level, values in ages.items() for _ in values]
    rows["age"] = [age for values in ages.values() for age in values]
    if sites:
        rows["site"] = [site for names in sites.values() for site in names]
    return rows


def test_the_closest_pair_is_taken_first_and_strangers_stay_out():
    # The SD of ages is near 20: 2 apart is within a quarter of it, 10 apart is not.
    ages = {"control": [11.5, 30, 41, 52, 63, 75], "autism": [10, 12, 31, 40, 50, 61]}
    people = matched(hand_case(ages)).people
    assert sorted(people.loc[people["truth"] == "control", "age"]) == [11.5, 30, 41, 52, 63]
    # 11.5 is within reach of 10 too, and 12 is closer.
    assert sorted(people.loc[people["truth"] == "autism", "age"]) == [12, 31, 40, 50, 61]


def test_a_pair_of_one_site_is_preferred_to_a_closer_one_of_another():
    ages = {"control": [20.0, 30, 40, 50, 60, 20.5], "autism": [20.4, 30, 40, 50, 60]}
    sites = {"control": ["a"] * 5 + ["b"], "autism": ["a"] * 5}
    people = matched(hand_case(ages, sites)).people
    assert 20.5 not in set(people["age"])
    sites["autism"] = ["b"] * 5
    people = matched(hand_case(ages, sites)).people
    assert 20.5 in set(people["age"])
    assert 20.0 not in set(people["age"])
    # The others share no site with anybody, and are paired all the same.
    assert len(people) == 10


def test_the_order_of_rows_changes_nothing_among_people_of_one_age():
    rows = predictions().assign(age=lambda frame: frame["age"].round(), mean_fd_mm=np.nan)
    shuffled = rows.sample(frac=1.0, random_state=3)
    assert set(matched(rows).people["person_id"]) == set(matched(shuffled).people["person_id"])


def test_a_sex_is_not_matched_between_sexes_nor_motion_that_few_people_have():
    rows = predictions().assign(levels=lambda frame: [["female", "male"]] * len(frame))
    rows["truth"] = rows["sex"]
    rows.loc[rows.index[:400], "mean_fd_mm"] = np.nan
    people, balance = matched(rows)
    assert list(balance["covariate"]) == ["age"]
    assert people["truth"].value_counts().nunique() == 1


def test_who_lacks_a_covariate_that_others_have_is_in_no_pair():
    rows = predictions()
    unknown = rows.index[:100]
    rows.loc[unknown, "age"] = np.nan
    assert not set(matched(rows).people["person_id"]) & set(rows.loc[unknown, "person_id"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"levels": [["a", "b", "c"]] * 60}, "between two levels"),
        ({"levels": [[]] * 60}, "between two levels"),
        ({"person_id": "abide:1"}, "state of scans"),
        ({"age": np.nan, "sex": None, "mean_fd_mm": np.nan}, "are unknown"),
        ({"age": lambda frame: np.where(frame["truth"] == "autism", 60, 20) + np.arange(60) / 60}, "0 pairs"),
    ],
)
def test_what_cannot_be_matched_says_why(change: dict, reason: str):
    with pytest.raises(ValueError, match=reason):
        matched(predictions(60).assign(**change))


def test_low_motion_keeps_those_known_to_have_hardly_moved():
    rows = predictions(6).assign(mean_fd_mm=[0.1, 0.2, 0.2000001, np.nan, 0.05, 3])
    assert list(low_motion(rows, 0.2).index) == [0, 1, 2]
    assert list(low_motion(rows, 0.2)["mean_fd_mm"]) == [0.1, 0.2, 0.05]
    with pytest.raises(ValueError, match=r"nobody's mean framewise displacement is 0\.01 mm"):
        low_motion(rows, 0.01)
    with pytest.raises(ValueError, match="nobody's head motion is known"):
        low_motion(rows.assign(mean_fd_mm=None), 0.2)


@pytest.mark.filterwarnings("error")
def test_a_cohort_of_one_person_a_level_is_no_reason_to_warn():
    rows = predictions(200)
    pair = [rows.index[rows["truth"] == level][0] for level in LEVELS]
    rows.loc[pair, "cohort"] = "tiny"
    balance = matched(rows).balance
    assert np.isfinite(balance.loc[balance["cohort"] == "abide", "smd_before"]).all()
