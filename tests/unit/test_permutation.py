"""Permutation test: labels exchanged within sites, against enumerated exchanges and planted leaks."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from lcm.evaluation.answers import Answers
from lcm.evaluation.metrics import CLASSIFICATION, REGRESSION, answers_of
from lcm.evaluation.permutation import permutation_test, strata_of

MANY = {"num_permutations": 4000, "seed": 0}


def predictions(truth, score, *, site=None, fold=None, person=None) -> pd.DataFrame:
    count = len(truth)
    return pd.DataFrame(
        {
            "model": "m",
            "task": "t",
            "fold": 0 if fold is None else fold,
            "person_id": [f"p{place}" for place in range(count)] if person is None else person,
            "cohort": "c",
            "site": None if site is None else site,
            "truth": np.array(["no", "yes"])[np.asarray(truth)],
            "levels": [["no", "yes"]] * count,
            "scores": np.stack([1 - np.asarray(score), np.asarray(score)], axis=1).tolist(),
        }
    )


def exchanged(rows: pd.DataFrame, **options):
    return permutation_test(answers_of(rows), strata_of(rows), **(MANY | options))


def test_p_and_mean_are_those_of_every_exchange():
    truth, score = np.array([0, 1, 0, 1, 1, 0]), np.array([0.1, 0.9, 0.4, 0.4, 0.8, 0.7])
    rows = predictions(truth, score)
    case = answers_of(rows)
    values = [CLASSIFICATION["auroc"](replace(case, truth_N=np.array(order))) for order in permutations(truth)]
    found = exchanged(rows)
    observed = CLASSIFICATION["auroc"](case)
    assert found.mean == pytest.approx(np.mean(values), abs=0.02)
    assert found.p == pytest.approx(np.mean(np.array(values) >= observed - 1e-9), abs=0.03)


def test_folds_widen_the_exchanges_by_the_root_of_two():
    random = np.random.default_rng(0)
    truth, score = np.arange(80) // 2 % 2, random.random(80)
    rows = predictions(truth, score + 0.2 * truth, fold=np.arange(80) % 2)
    case = answers_of(rows)
    shuffled = []
    for _ in range(400):
        truth_N = case.truth_N.copy()
        for fold in (0, 1):
            truth_N[case.fold_N == fold] = random.permutation(truth_N[case.fold_N == fold])
        shuffled.append(CLASSIFICATION["auroc"](replace(case, truth_N=truth_N)))
    observed, mean = CLASSIFICATION["auroc"](case), np.mean(shuffled)
    expected = np.mean(mean + np.sqrt(2) * (np.array(shuffled) - mean) >= observed)
    assert exchanged(rows).p == pytest.approx(expected, abs=0.04)
    assert expected > 2 * np.mean(np.array(shuffled) >= observed)


def test_a_continuous_target_is_tested_by_r():
    random = np.random.default_rng(1)
    fold_N = np.arange(60) % 3
    truth_N = random.normal(60, 10, 60)
    case = Answers(truth_N, (60 + 0.1 * (truth_N - 60) + random.normal(0, 4, 60))[:, None], fold_N, np.arange(60), ())
    shuffled = []
    for _ in range(1000):
        other_N = truth_N.copy()
        for fold in range(3):
            other_N[fold_N == fold] = random.permutation(other_N[fold_N == fold])
        shuffled.append(REGRESSION["r"](replace(case, truth_N=other_N)))
    found = permutation_test(case, fold_N, **MANY)
    expected = np.mean(np.sqrt(2) * np.array(shuffled) >= REGRESSION["r"](case))
    assert found.p == pytest.approx(expected, abs=0.04)
    assert found.mean == pytest.approx(0.0, abs=0.01)


def test_more_than_two_levels_have_the_exchanged_mean_of_their_questions():
    random = np.random.default_rng(2)
    truth_N = random.integers(0, 3, 90)
    scores_NL = random.dirichlet(np.ones(3), 90) + 0.3 * np.eye(3)[truth_N]
    case = Answers(truth_N, scores_NL / 1.3, np.zeros(90, dtype=int), np.arange(90), ("a", "b", "c"))
    shuffled = [CLASSIFICATION["auroc"](replace(case, truth_N=random.permutation(truth_N))) for _ in range(300)]
    found = permutation_test(case, np.zeros(90, dtype=int), **MANY)
    assert found.mean == pytest.approx(np.mean(shuffled), abs=0.01)
    assert found.p == 1 / 4001


def test_a_model_that_reads_the_site_alone_is_found_out():
    # Site A has 3 of 4 people with the level, site B 1 of 4; the model says the site.
    site = np.repeat(["A", "B"], 40)
    truth = np.r_[np.tile([1, 1, 1, 0], 10), np.tile([0, 0, 0, 1], 10)]
    rows = predictions(truth, np.where(site == "A", 0.8, 0.2), site=site)
    found = exchanged(rows)
    assert CLASSIFICATION["auroc"](answers_of(rows)) == pytest.approx(0.75)
    assert found.mean == pytest.approx(0.75)
    assert found.p == 1.0
    assert exchanged(rows.assign(site="one")).p < 0.001


def test_sites_that_share_no_level_leave_nothing_to_exchange():
    truth = np.repeat([0, 1], 20)
    found = exchanged(predictions(truth, np.linspace(0, 1, 40), site=np.repeat(["A", "B"], 20)))
    assert found == (1.0, pytest.approx(1.0))


def test_a_constant_prediction_has_p_one_and_a_single_level_none():
    assert exchanged(predictions(np.arange(20) % 2, np.full(20, 0.4))).p == 1.0
    assert np.isnan(exchanged(predictions(np.zeros(10, dtype=int), np.linspace(0, 1, 10)))).all()


def test_truths_are_exchanged_within_cohort_site_and_fold_and_within_people_who_answer_several_times():
    rows = predictions([0, 1, 0, 1, 0], [0.5] * 5, site=["s", "s", None, None, "s"], fold=[0, 0, 0, 0, 1])
    assert strata_of(rows)[0] == strata_of(rows)[1]
    assert strata_of(rows)[2] == strata_of(rows)[3]
    assert len(set(strata_of(rows))) == 3
    other = strata_of(rows.assign(cohort=["c", "d", "c", "c", "c"]))
    assert len(set(other)) == 4
    several = strata_of(predictions([0, 1, 0, 1], [0.5] * 4, person=["p", "p", "q", "q"]))
    assert several[0] == several[1] != several[2] == several[3]


def test_several_ages_of_a_person_have_no_exchange():
    """Kept among themselves they would leave the differences between people as they are: a mean near the r itself."""
    age = np.repeat(np.arange(30.0, 60.0), 2) + np.tile([0.0, 2.0], 30)
    person = np.repeat(np.arange(30), 2)
    visits = Answers(age, age[:, None] + 1, np.zeros(60, dtype=int), person, ())
    assert np.isnan(permutation_test(visits, person, num_permutations=100, seed=0)).all()
    first = Answers(age[::2], age[::2, None] + 1, np.zeros(30, dtype=int), person[::2], ())
    assert permutation_test(first, np.zeros(30, dtype=int), num_permutations=100, seed=0).p < 0.05
