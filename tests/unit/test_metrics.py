"""Metrics against hand-computed cases and scikit-learn, intervals against what they promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)

from lcm.evaluation.answers import Answers
from lcm.evaluation.bootstrap import draw, interval, intervals, resampled
from lcm.evaluation.metrics import CALIBRATION, CLASSIFICATION, REGRESSION, answers_of, chance, not_run, score
from lcm.result_tables import SCORES
from lcm.tables import read_tsv, write_tsv


def answers(truth, scores, levels=("control", "autism"), fold=None, person=None, threshold=None) -> Answers:
    truth_N = np.asarray(truth)
    scores_NL = np.asarray(scores, dtype=float)
    if levels and scores_NL.ndim == 1:
        scores_NL = np.stack([1 - scores_NL, scores_NL], axis=1)
    fold_N = np.zeros(len(truth_N), dtype=int) if fold is None else np.asarray(fold)
    person_N = np.arange(len(truth_N)) if person is None else np.asarray(person)
    threshold_N = None if threshold is None else np.broadcast_to(np.asarray(threshold, dtype=float), truth_N.shape)
    return Answers(truth_N, scores_NL.reshape(len(truth_N), -1), fold_N, person_N, tuple(levels), threshold_N)


def random_answers(num_levels: int, num_people: int = 200) -> Answers:
    random = np.random.default_rng(num_levels)
    truth = random.integers(0, num_levels, num_people)
    scores = random.random((num_people, num_levels))
    scores[np.arange(num_people), truth] += 0.3
    # Rounded, so that ties occur.
    scores = np.round(scores / scores.sum(axis=1, keepdims=True), 2)
    scores /= scores.sum(axis=1, keepdims=True)
    return answers(truth, scores, tuple("abcd"[:num_levels]), fold=random.integers(0, 3, num_people))


HAND_MADE = answers([0, 0, 0, 1, 1], [0.1, 0.4, 0.8, 0.6, 0.9], threshold=0.7)
"""Three controls, one taken for autism; two with autism, both found, but one of them not at the threshold."""


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 4 / 5),
        ("balanced_accuracy", (2 / 3 + 1) / 2),
        ("f1_macro", (4 / 5 + 4 / 5) / 2),
        ("f1_weighted", 4 / 5),
        ("auroc", 5 / 6),
        ("auprc", (1 / 1 + 2 / 3) / 2),
        ("brier", (0.01 + 0.16 + 0.64 + 0.16 + 0.01) / 5),
        ("sensitivity", 1 / 2),
        ("specificity", 2 / 3),
        ("ece", (0.1 + 0.4 + 0.8 + 0.4 + 0.1) / 5),
    ],
)
def test_classification_metrics_equal_the_hand_computed_case(metric, expected):
    assert CLASSIFICATION[metric](HAND_MADE) == pytest.approx(expected, abs=1e-12)


def test_regression_metrics_equal_the_hand_computed_case():
    case = answers([20.0, 30.0, 40.0], [22.0, 29.0, 42.0], levels=())
    assert REGRESSION["mae"](case) == pytest.approx(5 / 3)
    assert REGRESSION["r2"](case) == pytest.approx(1 - (4 + 1 + 4) / 200)
    # Centred: (-10, 0, 10) and (-9, -2, 11).
    assert REGRESSION["r"](case) == pytest.approx(200 / np.sqrt(200 * 206))


def test_a_threshold_is_the_folds_own_and_reaching_it_is_enough():
    case = answers([1, 1, 0, 0], [0.2, 0.6, 0.1, 0.7], fold=[0, 1, 0, 1], threshold=[0.2, 0.6, 0.2, 0.6])
    assert CLASSIFICATION["sensitivity"](case) == 1.0
    assert CLASSIFICATION["specificity"](case) == 0.5


@pytest.mark.parametrize(
    "case",
    [
        answers([0, 1], [0.2, 0.7]),
        answers([0, 1], [0.2, 0.7], threshold=[0.5, np.nan]),
        answers([0, 1, 2], np.eye(3), levels=("a", "b", "c"), threshold=0.5),
    ],
)
def test_without_a_threshold_of_every_fold_nothing_is_said_about_it(case):
    assert np.isnan(CLASSIFICATION["sensitivity"](case))
    assert np.isnan(CLASSIFICATION["specificity"](case))
    weighted = resampled(case, np.ones((1, len(case.truth_N))))
    assert np.isnan(weighted["sensitivity"][0])


def test_chance_is_what_a_guess_scores():
    guess = chance(answers([0, 0, 0, 1], [0.5] * 4))
    assert guess["auroc"] == 0.5
    assert guess["accuracy"] == 0.75
    assert guess["balanced_accuracy"] == 0.5
    assert guess["auprc"] == 0.25
    # Of everybody 0.25 is said.
    assert guess["brier"] == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)
    assert chance(answers([10.0, 20.0, 60.0], [0.0] * 3, levels=()))["mae"] == pytest.approx(50 / 3)


def test_the_positive_level_is_the_last_one():
    turned = answers([1, 1, 1, 0, 0], HAND_MADE.scores_NL[:, ::-1])
    assert CLASSIFICATION["auprc"](turned) != pytest.approx(CLASSIFICATION["auprc"](HAND_MADE))
    assert CLASSIFICATION["auroc"](turned) == pytest.approx(CLASSIFICATION["auroc"](HAND_MADE))


def test_a_constant_that_differs_between_folds_scores_exactly_chance():
    fold = np.repeat([0, 1], 10)
    truth = np.r_[np.ones(6), np.zeros(4), np.ones(4), np.zeros(6)].astype(int)
    constant = np.where(fold == 0, 0.4, 0.6)
    assert CLASSIFICATION["auroc"](answers(truth, constant, fold=fold)) == 0.5
    assert np.isnan(REGRESSION["r"](answers(truth + 20.0, constant, levels=(), fold=fold)))


def test_one_level_only_is_missing_not_a_crash():
    only = answers([0, 0, 0], [0.2, 0.3, 0.1])
    for metric in ("auroc", "auprc", "balanced_accuracy", "f1_macro"):
        assert np.isnan(CLASSIFICATION[metric](only)), metric
    assert CLASSIFICATION["accuracy"](only) == 1.0
    assert np.isnan(intervals(only, ["auroc"], num_bootstraps=100, seed=0)["auroc"]).all()


def test_scores_that_are_no_probabilities_have_no_brier():
    assert np.isnan(CLASSIFICATION["brier"](answers([0, 1], [[-1.0, 1.0], [-2.0, 2.0]])))


@pytest.mark.parametrize("num_levels", [2, 3, 4])
def test_the_weighted_form_with_weight_one_is_the_metric(num_levels):
    case = random_answers(num_levels)
    case = answers(case.truth_N, case.scores_NL, case.levels, case.fold_N, threshold=0.45)
    weighted = resampled(case, np.ones((1, len(case.truth_N))))
    for metric, function in (CLASSIFICATION | CALIBRATION).items():
        assert weighted[metric][0] == pytest.approx(function(case), abs=1e-12, nan_ok=True), metric


def test_the_weighted_form_equals_scikit_learn_with_sample_weight():
    case = random_answers(2)
    case = answers(case.truth_N, case.scores_NL, threshold=0.45)
    weights_BN = np.random.default_rng(1).integers(0, 4, (5, len(case.truth_N))).astype(float)
    values = resampled(case, weights_BN)
    for resample, weights in enumerate(weights_BN):
        people = {"sample_weight": weights}
        score_N, predicted_N = case.scores_NL[:, 1], case.predicted
        expected = {
            "auroc": roc_auc_score(case.truth_N, score_N, **people),
            "auprc": average_precision_score(case.truth_N, score_N, **people),
            "f1_macro": f1_score(case.truth_N, predicted_N, average="macro", **people),
            "f1_weighted": f1_score(case.truth_N, predicted_N, average="weighted", **people),
            "balanced_accuracy": recall_score(case.truth_N, predicted_N, average="macro", **people),
            "sensitivity": recall_score(case.truth_N, score_N >= 0.45, **people),
            "specificity": recall_score(case.truth_N, score_N >= 0.45, pos_label=0, **people),
            "brier": brier_score_loss(case.truth_N, score_N, **people),
            "accuracy": accuracy_score(case.truth_N, predicted_N, **people),
        }
        for metric, value in expected.items():
            assert values[metric][resample] == pytest.approx(value, abs=1e-10), metric


def test_a_level_that_was_not_drawn_has_no_part_in_the_weighted_f1():
    case = answers([0, 0, 1, 2], np.eye(3)[[0, 1, 1, 2]], levels=("a", "b", "c"))
    value = resampled(case, np.array([[1.0, 1.0, 2.0, 0.0]]))["f1_weighted"][0]
    assert value == pytest.approx(f1_score([0, 0, 1, 1], [0, 1, 1, 1], average="weighted"))


def test_the_weighted_regression_form_equals_repeating_people():
    random = np.random.default_rng(2)
    truth, fold = random.normal(60, 10, 30), random.integers(0, 2, 30)
    case = answers(truth, truth + random.normal(0, 5, 30), levels=(), fold=fold)
    times = random.integers(0, 3, 30)
    repeated = answers(
        np.repeat(truth, times), np.repeat(case.scores_NL[:, 0], times), levels=(), fold=np.repeat(fold, times)
    )
    values = resampled(case, times[None].astype(float))
    for metric, function in REGRESSION.items():
        assert values[metric][0] == pytest.approx(function(repeated), abs=1e-9), metric


def test_a_resample_keeps_the_people_of_every_level():
    case = random_answers(3)
    weights_BN = draw(case, num_bootstraps=50, seed=0)
    for level in range(3):
        kept_B = weights_BN[:, case.truth_N == level].sum(axis=1)
        np.testing.assert_allclose(kept_B, np.sum(case.truth_N == level))


def test_a_person_who_answers_twice_is_drawn_whole():
    case = answers([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.7], person=[0, 0, 1, 1])
    weights_BN = draw(case, num_bootstraps=50, seed=0)
    assert (weights_BN[:, 0] == weights_BN[:, 1]).all()
    assert (weights_BN[:, 2] == weights_BN[:, 3]).all()


def test_resampled_means_vary_as_much_as_the_standard_error_says():
    # Four people a level and fold: plain resampling would give 3/4 of the variance.
    fold, truth = np.repeat([0, 1, 2], 8), np.tile([0, 1], 12)
    case = answers(truth, np.linspace(0, 1, 24), fold=fold)
    value_N = np.random.default_rng(5).normal(size=24)
    means_B = draw(case, num_bootstraps=20000, seed=0) @ value_N / 24
    strata = [value_N[(fold == k) & (truth == level)] for k in range(3) for level in (0, 1)]
    expected = sum(np.var(stratum, ddof=1) * len(stratum) for stratum in strata) / 24**2
    assert means_B.var() == pytest.approx(expected, rel=0.05)


def test_intervals_cover_the_true_auroc_of_two_normals():
    # Scores N(0, 1) and N(1, 1): AUROC is Phi(1 / sqrt(2)) = 0.7602.
    random = np.random.default_rng(3)
    truth = np.repeat([0, 1], 40)
    covered = 0
    for repeat in range(100):
        scores = 1 / (1 + np.exp(-random.normal(truth, 1.0)))
        low, high = intervals(answers(truth, scores), ["auroc"], num_bootstraps=300, seed=repeat)["auroc"]
        covered += low <= 0.76025 <= high
    assert covered >= 90


def test_intervals_of_small_folds_cover_the_true_auroc_too():
    random = np.random.default_rng(6)
    truth, fold = np.repeat([0, 1], 24), np.tile([0, 1, 2], 16)
    covered = 0
    for repeat in range(100):
        # Each fold's model has a scale and an offset of its own.
        scores = random.normal(truth, 1.0) * (1 + fold) + 5 * fold
        case = answers(truth, np.stack([-scores, scores], axis=1), fold=fold)
        low, high = intervals(case, ["auroc"], num_bootstraps=300, seed=repeat)["auroc"]
        covered += low <= 0.76025 <= high
    assert covered >= 90


def test_an_interval_holds_the_value_of_a_constant_prediction():
    case = answers(np.tile([0, 0, 1], 20), np.full(60, 0.3), fold=np.arange(60) // 3 % 3)
    bounds = intervals(case, ["auroc", "auprc"], num_bootstraps=100, seed=0)
    assert bounds["auroc"] == pytest.approx((0.5, 0.5))
    assert bounds["auprc"] == pytest.approx((1 / 3, 1 / 3))


def test_an_interval_of_folds_is_wider_by_the_root_of_two_on_its_scale():
    truth = np.tile([0, 1], 50)
    scores = np.clip(np.random.default_rng(8).normal(0.4 + 0.2 * truth, 0.15), 0, 1)
    case = answers(truth, scores, fold=np.arange(100) // 2 % 2)
    low, high = intervals(case, ["auroc"], num_bootstraps=400, seed=0)["auroc"]
    values_B = resampled(case, np.concatenate([np.ones((1, 100)), draw(case, num_bootstraps=400, seed=0)]))["auroc"]
    alone = interval("auroc", values_B, 1.0)
    angle, *ends = (np.arcsin(np.sqrt(value)) for value in (values_B[0], low, high, *alone))
    assert (np.array(ends[:2]) - angle) == pytest.approx(np.sqrt(2) * (np.array(ends[2:]) - angle))


def test_an_interval_is_laid_around_its_value_and_stays_in_range():
    values_B = np.concatenate([[0.02], np.linspace(0.05, 0.15, 101)])
    low, high = interval("ece", values_B, 2.0)
    assert 0 <= low < 0.02 < high
    assert interval("auroc", np.array([0.99, 0.9, 0.99, 1.0]), 2.0)[1] <= 1
    low, high = interval("calibration_slope", np.array([1.0, 0.0, 0.5, 1.0]), 4.0)
    assert (low, high) == pytest.approx((1 - 2 * 0.475, 1 + 2 * 0.475))


def test_an_interval_without_effect_includes_chance_most_of_the_time():
    random = np.random.default_rng(4)
    truth = np.repeat([0, 1], 50)
    missed = 0
    for repeat in range(200):
        low, high = intervals(answers(truth, random.random(100)), ["auroc"], num_bootstraps=300, seed=repeat)["auroc"]
        missed += not low <= 0.5 <= high
    assert missed <= 20


def test_a_perfect_row_has_an_interval_that_does_not_end_where_it_begins():
    """Six and nine people in one fold, all ranked right: Wilson's interval of the six, n / (n + z²) to 1."""
    case = answers(np.repeat([0, 1], [9, 6]), np.repeat([0.1, 0.9], [9, 6]))
    low, high = intervals(case, ["auroc"], num_bootstraps=100, seed=0)["auroc"]
    assert (low, high) == pytest.approx((6 / (6 + 1.959964**2), 1.0), abs=1e-6)
    twice = answers(case.truth_N, case.scores_NL[:, 1], fold=np.arange(15) % 2)
    assert intervals(twice, ["auroc"], num_bootstraps=100, seed=0)["auroc"][0] == pytest.approx(3 / (3 + 1.959964**2))
    wrong = answers(case.truth_N, 1 - case.scores_NL[:, 1])
    assert intervals(wrong, ["accuracy"], num_bootstraps=100, seed=0)["accuracy"] == pytest.approx(
        (0, 1 - low), abs=1e-6
    )


QUICK = {"num_bootstraps": 100, "num_permutations": 100, "seed": 0}


def predictions(**columns) -> pd.DataFrame:
    rows = {
        "protocol": "honest",
        "select": "validation",
        "model": "m",
        "group": "linear",
        "task": "t",
        "fold": [0, 0, 0, 0],
        "person_id": ["a", "b", "c", "d"],
        "cohort": ["x", "x", "y", "y"],
        "site": ["s", "s", "s", None],
        "truth": ["no", "yes", "no", "no"],
        "levels": [["no", "yes"]] * 4,
        "scores": [[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.4, 0.6]],
    }
    return pd.DataFrame(rows | columns)


def test_scores_have_rows_for_all_and_for_each_cohort():
    scores = score(predictions(), **QUICK).set_index(["cohort", "metric"])
    assert set(scores.index.get_level_values("cohort")) == {"all", "x", "y"}
    assert scores.loc[("all", "accuracy"), "value"] == 0.75
    assert scores.loc[("all", "accuracy"), "num_per_level"] == "no=3;yes=1"
    assert scores.loc[("x", "auroc"), "value"] == 1.0
    assert np.isnan(scores.loc[("y", "auroc"), "value"])


def test_scores_are_the_table_that_is_written(tmp_path):
    scores = score(predictions(), **QUICK, subset="matched")
    refused = not_run(
        "no one is labelled", protocol="paper", select="test", model="n", group="network", task="t", subset="matched"
    )
    write_tsv(pd.concat([scores, refused]), tmp_path / "scores.tsv", SCORES)
    written = read_tsv(tmp_path / "scores.tsv", SCORES).set_index(["model", "cohort", "metric"])
    assert set(written["subset"]) == {"matched"}
    first = written.loc[("m", "all", "auroc")]
    assert (first["protocol"], first["select"], first["group"], first["chance"]) == (
        "honest",
        "validation",
        "linear",
        0.5,
    )
    last = written.loc[("n", "all", "not run: no one is labelled")]
    assert (last["select"], last["num_people"]) == ("test", 0)
    assert np.isnan(last["value"])


def test_permutations_are_rows_unless_none_are_asked_for():
    metrics = score(predictions(), **QUICK)["metric"]
    without = score(predictions(), **QUICK | {"num_permutations": 0})["metric"]
    assert set(metrics) - set(without) == {"permutation_p", "permutation_mean"}


def test_a_threshold_that_no_fold_chose_leaves_sensitivity_missing():
    chosen = score(predictions(threshold=[0.5] * 4), **QUICK).set_index(["cohort", "metric"])
    assert chosen.loc[("all", "sensitivity"), "value"] == 1.0
    assert chosen.loc[("all", "specificity"), "value"] == pytest.approx(2 / 3)
    absent = score(predictions(threshold=[None] * 4), **QUICK).set_index(["cohort", "metric"])
    assert np.isnan(absent.loc[("all", "sensitivity"), "value"])


def test_the_same_seed_gives_the_same_scores():
    pd.testing.assert_frame_equal(
        score(predictions(), **QUICK | {"seed": 5}), score(predictions(), **QUICK | {"seed": 5})
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"person_id": ["a", "b", "c", "c"]}, "twice"),
        ({"person_id": ["a", "a", "b", "c"], "fold": [0, 1, 0, 0]}, "twice"),
        ({"truth": ["no", "yes", "no", "perhaps"]}, "perhaps"),
        ({"scores": [[0.5, 0.2, 0.3]] * 4}, "scores"),
        ({"scores": [[np.nan, 0.2]] * 4}, "NaN"),
        ({"levels": [["no", "yes"]] * 3 + [["yes", "no"]]}, "spellings"),
    ],
)
def test_a_defective_prediction_table_is_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        score(predictions(**columns), **QUICK)


def test_a_number_is_read_back_from_its_text():
    numbers = {
        "truth": ["61.5", "20.25", "33.0", "40.0"],
        "levels": [[]] * 4,
        "scores": [[60.0], [21.0], [33.0], [40.0]],
    }
    case = answers_of(predictions(**numbers))
    assert case.levels == ()
    assert case.truth_N.tolist() == [61.5, 20.25, 33.0, 40.0]


def test_people_who_are_one_of_their_level_leave_no_interval():
    """Whom nobody is drawn instead of does not vary in resamples, and an interval would end where it begins."""
    one_patient = answers([0, 0, 0, 0, 1], [0.1, 0.4, 0.8, 0.7, 0.6])
    found = intervals(one_patient, ["auroc", "balanced_accuracy", "brier"], num_bootstraps=100, seed=0)
    assert np.isnan(list(found.values())).all()
    one_person = answers([40.0], [41.5], levels=())
    assert np.isnan(intervals(one_person, ["mae"], num_bootstraps=100, seed=0)["mae"]).all()
    several = answers([0, 1, 1, 0], [0.2, 0.6, 0.7, 0.3], person=[0, 0, 1, 1])
    assert np.isfinite(intervals(several, ["brier"], num_bootstraps=100, seed=0)["brier"]).all()
