"""Curves: the area under one is the score of the table, known answers have known curves, bands hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from lcm.evaluation.answers import Answers
from lcm.evaluation.metrics import auprc, auroc
from lcm.evaluation.performance import confusion, precision_recall, roc, true_over_predicted


def drawn(num_people: int = 200, *, num_levels: int = 2, num_folds: int = 3, shift: float = 1.0) -> Answers:
    random = np.random.default_rng(4)
    truth_N = np.arange(num_people) % num_levels
    scores_NL = random.standard_normal((num_people, num_levels))
    scores_NL[np.arange(num_people), truth_N] += shift
    scores_NL = np.exp(scores_NL) / np.exp(scores_NL).sum(axis=1, keepdims=True)
    fold_N = np.arange(num_people) // num_levels % num_folds
    return Answers(truth_N, scores_NL, fold_N, np.arange(num_people), tuple("abcdef"[:num_levels]))


@pytest.mark.parametrize("num_levels", [2, 3])
def test_the_area_under_the_roc_curve_is_the_score(num_levels):
    answers = drawn(num_levels=num_levels)
    curve = roc(answers, num_bootstraps=20, seed=0)
    assert np.trapezoid(curve.y_P, curve.x_P) == pytest.approx(auroc(answers), abs=0.01)


@pytest.mark.parametrize("num_levels", [2, 3])
def test_the_mean_precision_over_recall_is_the_score(num_levels):
    answers = drawn(num_levels=num_levels)
    curve = precision_recall(answers, num_bootstraps=20, seed=0)
    assert curve.y_P.mean() == pytest.approx(auprc(answers), abs=0.01)


def test_curves_of_one_fold_are_those_of_scikit_learn():
    answers = drawn(num_folds=1)
    positive_N, score_N = answers.truth_N == 1, answers.scores_NL[:, 1]
    false_T, true_T, _ = roc_curve(positive_N, score_N, drop_intermediate=False)
    curve = roc(answers, num_bootstraps=5, seed=0)
    np.testing.assert_allclose(curve.y_P, np.interp(curve.x_P, false_T, true_T), atol=1e-9)
    precision_T, recall_T, _ = precision_recall_curve(positive_N, score_N)
    expected = [precision_T[np.flatnonzero(recall_T >= r - 1e-9)[-1]] for r in np.linspace(0, 1, 101)[1:]]
    found = precision_recall(answers, num_bootstraps=5, seed=0)
    np.testing.assert_allclose(found.y_P, expected, atol=1e-9)


def test_a_perfect_and_a_blind_model_have_the_curves_of_their_names():
    people = drawn()
    right_NL = np.eye(2)[people.truth_N]
    perfect = Answers(people.truth_N, right_NL, people.fold_N, people.person_N, people.levels)
    blind = Answers(people.truth_N, np.full((200, 2), 0.5), people.fold_N, people.person_N, people.levels)
    assert roc(perfect, num_bootstraps=5, seed=0).y_P.min() == 1
    line = roc(blind, num_bootstraps=5, seed=0)
    np.testing.assert_allclose(line.y_P, line.x_P)
    np.testing.assert_allclose(precision_recall(blind, num_bootstraps=5, seed=0).y_P, 0.5)


def test_the_band_holds_the_curve_and_narrows_with_people():
    few, many = (roc(drawn(n), num_bootstraps=100, seed=0) for n in (100, 2000))
    for curve in (few, many):
        assert (curve.low_P <= curve.y_P).all()
        assert (curve.y_P <= curve.high_P).all()
        assert 0 <= curve.low_P.min() <= curve.high_P.max() <= 1
    assert (many.high_P - many.low_P).mean() < 0.5 * (few.high_P - few.low_P).mean()


def test_nobody_on_one_side_has_no_curve():
    people = drawn()
    alone = Answers(np.zeros(200, int), people.scores_NL, people.fold_N, people.person_N, people.levels)
    assert roc(alone, num_bootstraps=5, seed=0) is None
    assert precision_recall(alone, num_bootstraps=5, seed=0) is None


def test_the_confusion_is_scikit_learns_and_its_recall_has_wilsons_interval():
    answers = drawn(num_levels=3)
    found = confusion(answers)
    np.testing.assert_array_equal(found.counts_LL, confusion_matrix(answers.truth_N, answers.predicted))
    one = drawn(40, num_folds=1)
    right = int(confusion(one).counts_LL[0, 0])
    from scipy.stats import binomtest

    expected = binomtest(right, 20).proportion_ci(0.95, method="wilson")
    assert (confusion(one).low_L[0], confusion(one).high_L[0]) == pytest.approx((expected.low, expected.high))
    folds = confusion(drawn(40, num_folds=4))
    assert folds.high_L[0] - folds.low_L[0] > expected.high - expected.low


def test_true_over_predicted_is_the_diagonal_for_a_right_model():
    truth_N = np.linspace(20, 60, 100)
    answers = Answers(truth_N, truth_N[:, None], np.arange(100) % 2, np.arange(100), ())
    curve = true_over_predicted(answers)
    np.testing.assert_allclose(curve.x_P, curve.y_P)
    assert len(curve.x_P) == 10
    constant = Answers(truth_N, np.full((100, 1), 40.0), np.arange(100) % 2, np.arange(100), ())
    one = true_over_predicted(constant)
    assert one.y_P.tolist() == pytest.approx([40.0])
    assert one.low_P[0] < 40 < one.high_P[0]
