"""Comparisons: DeLong's variance by brute force and by bootstrap, Nadeau and Bengio's t and Holm's p by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import comb
from scipy.stats import norm, t

from lcm.evaluation.answers import Answers
from lcm.evaluation.bootstrap import draw, resampled
from lcm.evaluation.comparisons import (
    compare,
    contributions,
    corrected_t,
    detectable_auroc,
    holm,
    least_p,
    variance,
    with_holm,
)
from lcm.evaluation.metrics import CLASSIFICATION, REGRESSION, answers_of
from lcm.result_tables import COMPARISONS
from lcm.tables import read_tsv, write_tsv

NUM_PEOPLE = 90


def predictions(model: str, skill: float, seed: int, *, num_folds: int = 3, task: str = "autism") -> pd.DataFrame:
    random = np.random.default_rng(seed)
    # The people are the same for every seed; half of what a model gets wrong is shared.
    shared = np.random.default_rng(0).normal(size=NUM_PEOPLE)
    level = np.arange(NUM_PEOPLE) % 2
    probability = 1 / (1 + np.exp(-(skill * level + shared + random.normal(size=NUM_PEOPLE))))
    return pd.DataFrame(
        {
            "protocol": "honest",
            "select": "validation",
            "model": model,
            "group": "linear",
            "task": task,
            "fold": np.arange(NUM_PEOPLE) // 2 % num_folds,
            "person_id": [f"p{place:02d}" for place in range(NUM_PEOPLE)],
            "cohort": "c",
            "site": "s",
            "num_train": NUM_PEOPLE * 2 // 3,
            "truth": np.array(["no", "yes"])[level],
            "levels": [["no", "yes"]] * NUM_PEOPLE,
            "scores": np.stack([1 - probability, probability], axis=1).tolist(),
        }
    )


def added(answers: Answers) -> np.ndarray:
    return contributions(answers).answer_N


def brute_force(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """DeLong's variance of the difference of two AUROCs over one fold, pair by pair (DeLong et al. 1988, eq. 5 and 6)."""
    kernels = []
    for rows in (first, second):
        score, positive = np.array(rows["scores"].to_list())[:, 1], (rows["truth"] == "yes").to_numpy()
        kernels.append([[(p > n) + 0.5 * (p == n) for n in score[~positive]] for p in score[positive]])
    difference = np.array(kernels[0]) - np.array(kernels[1])
    num_with, num_without = difference.shape
    return float(difference.mean(axis=1).var(ddof=1) / num_with + difference.mean(axis=0).var(ddof=1) / num_without)


def test_the_variance_of_one_fold_is_delongs():
    first, second = (predictions(name, 1.0, seed, num_folds=1) for name, seed in (("a", 1), ("b", 2)))
    answers = [answers_of(rows) for rows in (first, second)]
    found = variance(answers[0], added(answers[0]) - added(answers[1]))
    assert found == pytest.approx(brute_force(first, second), rel=1e-9)


def test_the_variance_of_several_folds_is_that_of_the_paired_bootstrap():
    first, second = (answers_of(predictions(name, 1.0, seed)) for name, seed in (("a", 1), ("b", 2)))
    weights_BN = draw(first, num_bootstraps=4000, seed=0)
    resamples_B = resampled(first, weights_BN)["auroc"] - resampled(second, weights_BN)["auroc"]
    found = variance(first, added(first) - added(second))
    assert np.sqrt(found) == pytest.approx(resamples_B.std(), rel=0.05)


def test_three_levels_and_values_have_the_variance_of_the_paired_bootstrap_too():
    random = np.random.default_rng(3)
    rows = predictions("a", 1.0, 1).drop(columns=["truth", "levels", "scores"])
    levels = ["a", "b", "c"]
    truth = random.integers(0, 3, NUM_PEOPLE)
    of_levels = [
        answers_of(
            rows.assign(
                truth=np.array(levels)[truth],
                levels=[levels] * NUM_PEOPLE,
                scores=random.dirichlet(np.ones(3) + seed, NUM_PEOPLE).tolist(),
            )
        )
        for seed in (0, 1)
    ]
    age = random.normal(50, 10, NUM_PEOPLE)
    of_values = [
        answers_of(
            rows.assign(
                truth=[repr(float(a)) for a in age],
                levels=[[]] * NUM_PEOPLE,
                scores=(age + random.normal(0, 5 + seed, NUM_PEOPLE))[:, None].tolist(),
            )
        )
        for seed in (0, 1)
    ]
    for metric, (first, second) in {"auroc": of_levels, "mae": of_values}.items():
        weights_BN = draw(first, num_bootstraps=4000, seed=0)
        resamples_B = resampled(first, weights_BN)[metric] - resampled(second, weights_BN)[metric]
        found = variance(first, added(first) - added(second))
        assert np.sqrt(found) == pytest.approx(resamples_B.std(), rel=0.06), metric
        assert contributions(first).value == pytest.approx((CLASSIFICATION | REGRESSION)[metric](first)), metric


def test_a_fold_without_a_level_has_no_area_and_no_part_in_the_others():
    rows = predictions("a", 1.0, 1)
    rows.loc[rows["fold"] == 2, "truth"] = "no"
    found = contributions(answers_of(rows))
    assert np.isnan(found.fold_K[2])
    assert found.value == pytest.approx(CLASSIFICATION["auroc"](answers_of(rows)))
    assert (found.answer_N[rows["fold"] == 2] == 0).all()
    other = predictions("ridge", 0.5, 2).assign(truth=rows["truth"])
    assert np.isfinite(compare(pd.concat([rows, other]), "ridge")["p_corrected_t"].iloc[0])


def test_people_who_answer_twice_count_once():
    once = predictions("a", 1.0, 1, num_folds=1)
    answers = answers_of(once)
    # The same answer of everybody twice is worth no more than once.
    twice = answers_of(pd.concat([once, once], ignore_index=True))
    expected = variance(answers, added(answers) - added(answers_of(predictions("b", 1.0, 2, num_folds=1))))
    other = answers_of(pd.concat([predictions("b", 1.0, 2, num_folds=1)] * 2, ignore_index=True))
    assert variance(twice, added(twice) - added(other)) == pytest.approx(expected, rel=0.05)


def test_a_row_holds_the_difference_its_interval_and_p():
    first, second = predictions("a", 2.5, 1), predictions("ridge", 0.5, 2)
    row = compare(pd.concat([first, second]), "ridge").iloc[0]
    answers = [answers_of(rows) for rows in (first, second)]
    difference = CLASSIFICATION["auroc"](answers[0]) - CLASSIFICATION["auroc"](answers[1])
    # Three folds trained on each other's people: the variance is doubled.
    spread = np.sqrt(2 * variance(answers[0], added(answers[0]) - added(answers[1])))
    assert row["difference"] == pytest.approx(difference)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(
        (difference - 1.96 * spread, difference + 1.96 * spread), rel=1e-3
    )
    assert row["p"] == pytest.approx(2 * norm.sf(difference / spread))
    assert (row["num_people"], row["num_folds"]) == (NUM_PEOPLE, 3)
    assert row["method"] == "DeLong within folds, variance x 2"
    by_fold = [
        np.subtract(*(CLASSIFICATION["auroc"](answers_of(rows[rows["fold"] == fold])) for rows in (first, second)))
        for fold in range(3)
    ]
    assert row["p_corrected_t"] == pytest.approx(corrected_t(np.array(by_fold), 30 / 60))


def test_the_order_of_rows_does_not_matter():
    first, second = predictions("a", 2.0, 1), predictions("ridge", 0.5, 2)
    sorted_rows = compare(pd.concat([first, second]), "ridge")
    shuffled = compare(pd.concat([first.sample(frac=1, random_state=0), second]), "ridge")
    pd.testing.assert_frame_equal(sorted_rows, shuffled)


def test_models_that_answer_alike_do_not_differ():
    first = predictions("a", 1.0, 1)
    row = compare(pd.concat([first, first.assign(model="ridge")]), "ridge").iloc[0]
    assert (row["difference"], row["p"], row["p_corrected_t"]) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows.iloc[1:], "other people"),
        (lambda rows: rows.assign(person_id=rows["person_id"].replace("p00", "p99")), "other people"),
        (lambda rows: rows.assign(truth=rows["truth"].map({"no": "yes", "yes": "no"})), "other truths"),
        (lambda rows: rows.assign(fold=(rows["fold"] + 1) % 3), "other folds"),
        (lambda rows: rows.assign(levels=[["yes", "no"]] * len(rows)), "other levels"),
    ],
)
def test_what_is_not_paired_is_not_compared(change, reason):
    row = compare(pd.concat([change(predictions("a", 1.0, 1)), predictions("ridge", 0.5, 2)]), "ridge").iloc[0]
    assert reason in row["method"]
    assert row[["difference", "ci_low", "ci_high", "p", "p_corrected_t"]].isna().all()


def test_without_the_reference_every_row_says_so():
    rows = compare(pd.concat([predictions("a", 1.0, 1), predictions("b", 1.0, 2)]), "ridge")
    assert set(rows["method"]) == {"not compared: ridge did not answer"}
    assert set(rows["model"]) == {"a", "b"}


def test_a_reference_alone_is_compared_with_no_one():
    rows = compare(predictions("ridge", 0.5, 2), "ridge")
    assert rows.empty
    assert list(with_holm(rows).columns) == list(COMPARISONS.columns)


def test_comparisons_are_the_table_that_is_written(tmp_path):
    tasks = [
        compare(pd.concat([predictions("a", 2.0, 1, task=task), predictions("ridge", 0.5, 2, task=task)]), "ridge")
        for task in ("autism", "sex")
    ]
    write_tsv(with_holm(pd.concat(tasks)), tmp_path / "comparisons.tsv", COMPARISONS)
    written = read_tsv(tmp_path / "comparisons.tsv", COMPARISONS)
    assert (written["p_holm"] == 2 * written["p"]).all()


def test_the_corrected_t_equals_the_hand_computed_case():
    # Mean 0.03, variance 0.0004 / 3; (1/4 + 1/3) of it.
    difference_K = np.array([0.02, 0.04, 0.02, 0.04])
    statistic = 0.03 / np.sqrt((1 / 4 + 1 / 3) * 0.0004 / 3)
    assert corrected_t(difference_K, 1 / 3) == pytest.approx(2 * t.sf(statistic, df=3))
    assert np.isnan(corrected_t(difference_K[:1], 1 / 3))
    assert np.isnan(corrected_t(difference_K, float("nan")))


def test_holms_p_equals_the_hand_computed_case():
    p = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(p, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_holm_counts_the_rows_of_a_protocol():
    rows = pd.DataFrame({"protocol": ["honest", "paper", "honest"], "p": [0.01, 0.01, 0.5]})
    assert with_holm(rows)["p_holm"].tolist() == [0.02, 0.01, 0.5]


def test_the_detectable_auroc_is_found_in_four_of_five_studies():
    random = np.random.default_rng(0)
    area = detectable_auroc(40, 60, factor=1.0)
    truth, distance = np.repeat([True, False], [40, 60]), np.sqrt(2) * norm.ppf(area)
    found = 0
    for _ in range(400):
        score = random.normal(truth * distance)
        won = (score[truth][:, None] > score[~truth]).mean()
        found += won - 0.5 > 1.96 * np.sqrt(101 / (12 * 40 * 60))
    assert found / 400 == pytest.approx(0.8, abs=0.06)


def test_the_detectable_auroc_falls_with_people_and_rises_with_reuse():
    assert detectable_auroc(1000, 1000) < detectable_auroc(100, 100) < detectable_auroc(30, 30)
    assert detectable_auroc(100, 100) > detectable_auroc(100, 100, factor=1.0)
    assert np.isnan(detectable_auroc(1, 2))
    assert np.isnan(detectable_auroc(0, 50))


def separated(model: str, num_people: int, *, tells: bool) -> pd.DataFrame:
    """People of one fold, every other with the level, told apart without a mistake or not at all."""
    rows = predictions(model, 1.0, 1, num_folds=1).head(num_people)
    positive = (rows["truth"] == "yes").to_numpy(dtype=float) if tells else np.full(num_people, 0.5)
    return rows.assign(scores=np.stack([1 - positive, positive], axis=1).tolist())


@pytest.mark.parametrize(("num_people", "least"), [(2, 1.0), (6, 2 / comb(6, 3)), (8, 2 / comb(8, 4))])
def test_few_people_who_all_add_alike_are_no_certainty(num_people: int, least: float):
    """DeLong's variance is 0; an exact test has as many ways as the levels can be dealt, of which two are extreme."""
    both = [separated("a", num_people, tells=True), separated("ridge", num_people, tells=False)]
    row = compare(pd.concat(both), "ridge").iloc[0]
    assert row["difference"] == 0.5
    assert row["p"] == pytest.approx(least)
    assert row[["ci_low", "ci_high"]].isna().all()


def test_the_least_p_of_folds_and_of_values_is_the_hand_computed_one():
    answers = answers_of(predictions("a", 1.0, 1).head(12))
    # Three folds of two people with and two without the level; their people count half.
    assert least_p(answers) == pytest.approx(2 / np.sqrt(comb(4, 2) ** 3))
    values = Answers(np.arange(4.0), np.zeros((4, 1)), np.zeros(4, dtype=int), np.arange(4), ())
    assert least_p(values) == pytest.approx(2 / 2**4)


def test_a_single_person_is_no_finding():
    rows = predictions("a", 1.0, 1).head(1).assign(truth="40.0", levels=[[]], scores=[[50.0]])
    row = compare(pd.concat([rows, rows.assign(model="ridge", scores=[[41.0]])]), "ridge").iloc[0]
    assert (row["difference"], row["p"]) == (9.0, 1.0)
    assert row[["ci_low", "ci_high", "p_corrected_t"]].isna().all()


@pytest.mark.filterwarnings("error")
def test_a_single_person_of_two_truths_has_no_variance():
    rows = predictions("a", 1.0, 1).head(2).assign(person_id="p0", fold=0)
    row = compare(pd.concat([rows, separated("ridge", 2, tells=True).assign(person_id="p0")]), "ridge").iloc[0]
    assert np.isnan(row["p"])


def test_folds_that_all_differ_by_the_same_have_no_corrected_t():
    assert np.isnan(corrected_t(np.array([0.5, 0.5]), 1 / 3))
    assert corrected_t(np.zeros(3), 1 / 3) == 1.0
