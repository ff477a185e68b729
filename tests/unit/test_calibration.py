"""Calibration: errors, slopes and curves against hand-computed cases, torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from lcm.evaluation.answers import Answers
from lcm.evaluation.bootstrap import draw, resampled
from lcm.evaluation.calibration import bin_of, calibration_intercept, calibration_slope, curve, ece, recalibration

NAMES = ("calibration_slope", "calibration_intercept")


def answers(truth, scores, levels=("control", "autism"), fold=None) -> Answers:
    truth_N, scores_NL = np.asarray(truth), np.asarray(scores, dtype=float)
    if scores_NL.ndim == 1:
        scores_NL = np.stack([1 - scores_NL, scores_NL], axis=1)
    fold_N = np.zeros(len(truth_N), dtype=int) if fold is None else np.asarray(fold)
    return Answers(truth_N, scores_NL, fold_N, np.arange(len(truth_N)), tuple(levels))


def drawn(slope: float, intercept: float, num_people: int = 400, seed: int = 0) -> Answers:
    """People whose log-odds are `intercept` + `slope` times what the model says."""
    random = np.random.default_rng(seed)
    said_N = random.normal(0, 1.5, num_people)
    truth_N = (random.random(num_people) < expit(intercept + slope * said_N)).astype(int)
    return answers(truth_N, expit(said_N), fold=np.arange(num_people) % 4)


def test_an_edge_belongs_to_the_bin_above_it_and_one_to_the_last():
    assert bin_of(np.array([0.0, 0.05, 0.1, 0.5, 0.999, 1.0])).tolist() == [0, 0, 1, 5, 9, 9]


def test_the_calibration_error_equals_the_hand_computed_case():
    # Bin 0.2 to 0.3: mean 0.25, share 0.5; bin 0.9 to 1: mean 0.95, share 1.
    assert ece(answers([0, 1, 1, 1], [0.22, 0.28, 0.92, 0.98])) == pytest.approx((2 * 0.25 + 2 * 0.05) / 4)


def test_the_calibration_error_equals_torchmetrics():
    random = np.random.default_rng(1)
    said_N, truth_N = random.random(300), random.integers(0, 2, 300)
    expected = binary_calibration_error(torch.tensor(said_N), torch.tensor(truth_N), n_bins=10, norm="l1")
    assert ece(answers(truth_N, said_N)) == pytest.approx(float(expected), abs=1e-6)
    scores_NL, truth_N = random.dirichlet(np.ones(3), 300), random.integers(0, 3, 300)
    expected = multiclass_calibration_error(
        torch.tensor(scores_NL), torch.tensor(truth_N), num_classes=3, n_bins=10, norm="l1"
    )
    assert ece(answers(truth_N, scores_NL, levels=("a", "b", "c"))) == pytest.approx(float(expected), abs=1e-6)


def test_the_weighted_calibration_error_equals_repeating_people():
    case, times = drawn(1.0, 0.0, 60), np.random.default_rng(2).integers(0, 3, 60)
    repeated = answers(np.repeat(case.truth_N, times), np.repeat(case.scores_NL, times, axis=0))
    assert resampled(case, times[None].astype(float))["ece"][0] == pytest.approx(ece(repeated), abs=1e-12)


def test_scores_that_are_no_probabilities_have_no_calibration():
    case = answers([0, 1], [[-1.0, 1.0], [-2.0, 2.0]])
    assert np.isnan([ece(case), calibration_slope(case), calibration_intercept(case)]).all()
    assert curve(case).empty


def test_slope_and_intercept_equal_an_unpenalised_logistic_regression():
    case = drawn(0.5, 1.0)
    said_N1 = logit(case.scores_NL[:, 1])[:, None]
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(said_N1, case.truth_N)
    found = recalibration(case)
    assert found.slope == pytest.approx(reference.coef_[0, 0], abs=1e-5)
    assert found.offset == pytest.approx(reference.intercept_[0], abs=1e-5)
    # With slope 1 the predicted number of people with the level is the true one.
    assert expit(said_N1[:, 0] + found.intercept).sum() == pytest.approx(case.truth_N.sum(), abs=1e-6)


def test_an_overconfident_model_has_a_slope_below_one_and_a_calibrated_one_has_one():
    assert calibration_slope(drawn(0.5, 0.0, 20000)) == pytest.approx(0.5, abs=0.05)
    calibrated = recalibration(drawn(1.0, 0.0, 20000))
    assert (calibrated.slope, calibrated.intercept) == pytest.approx((1.0, 0.0), abs=0.05)
    assert calibration_intercept(drawn(1.0, -0.7, 20000)) == pytest.approx(-0.7, abs=0.05)


@pytest.mark.parametrize(
    "case",
    [
        answers([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        answers([0, 1, 0, 0], [0.4, 0.4, 0.6, 0.6], fold=[0, 0, 1, 1]),
        answers([0, 0, 0], [0.1, 0.2, 0.3]),
        answers([0, 1, 2], np.eye(3) * 0.7 + 0.1, levels=("a", "b", "c")),
    ],
    ids=["separated", "constant in each fold", "one level", "three levels"],
)
def test_a_slope_that_cannot_be_is_missing_not_a_crash(case):
    assert np.isnan(calibration_slope(case))
    assert np.isnan(resampled(case, np.ones((2, len(case.truth_N))))["calibration_slope"]).all()


def test_a_saturated_softmax_has_a_slope_all_the_same():
    case = drawn(1.0, 0.0)
    case.scores_NL[:2] = [[1.0, 0.0], [0.0, 1.0]]
    assert np.isfinite(calibration_slope(case))


def test_one_newton_step_is_close_to_fitting_every_resample():
    case = drawn(0.7, 0.3)
    weights_BN = draw(case, num_bootstraps=100, seed=0)
    said_N1 = logit(case.scores_NL[:, 1])[:, None]
    fits_B = [
        LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        .fit(said_N1, case.truth_N, sample_weight=weights_N)
        .coef_[0, 0]
        for weights_N in weights_BN
    ]
    steps_B = resampled(case, weights_BN)["calibration_slope"]
    assert np.std(steps_B) == pytest.approx(np.std(fits_B), rel=0.1)
    assert np.corrcoef(steps_B, fits_B)[0, 1] > 0.98


def test_a_curve_has_a_row_a_bin_with_wilsons_interval_of_half_as_many_people():
    said = [0.12] * 4 + [0.17] * 4 + [0.95] * 2
    truth = [0, 0, 0, 1, 0, 0, 0, 1, 1, 1]
    rows = curve(answers(truth, said, fold=[0, 1] * 5))
    assert rows[["bin_low", "bin_high", "mean_score", "share", "num_people"]].to_numpy() == pytest.approx(
        np.array([[0.1, 0.2, 0.145, 0.25, 8], [0.9, 1.0, 0.95, 1.0, 2]])
    )
    # Wilson's interval solves |p - share| = z sqrt(p (1 - p) / n).
    for row, effective in zip(rows.itertuples(), (4, 1), strict=True):
        for end in (row.ci_low, row.ci_high):
            assert abs(end - row.share) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / effective), abs=1e-6)
    assert curve(answers(truth, said))["ci_low"][0] > rows["ci_low"][0]
