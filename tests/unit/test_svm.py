"""Support vector machines: scikit-learn's own on standardised edges, one level against the rest, Platt's probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.svm import SVC, SVR

from lcm.models.labelled import Labelled, Scans, together
from lcm.models.svm import COSTS, EPSILON, WIDTHS, LinearSvm, RbfSvm

NUM_EDGES = 40


def planted(num_scans: int, seed: int, num_levels: int = 2) -> Labelled:
    """Levels that differ in four edges."""
    generator = np.random.default_rng(seed)
    level_N = np.arange(num_scans) % num_levels
    edges_NE = generator.normal(0.1, 1.0, (num_scans, NUM_EDGES))
    for level in range(num_levels):
        edges_NE[level_N == level, 4 * level : 4 * level + 4] += 1.0
    return Labelled(Scans.of_edges(edges_NE.astype(np.float32)), level_N.astype(np.float64))


def standard(training: Labelled, asked: Labelled) -> np.ndarray:
    x_NE = training.scans.edges_NE.astype(np.float64)
    # One over √E, so that a dot product is the mean over edges.
    return (asked.scans.edges_NE - x_NE.mean(axis=0)) / x_NE.std(axis=0) / np.sqrt(NUM_EDGES)


def of_scikit_learn(fitted: LinearSvm | RbfSvm, kind: type = SVC, **more: float) -> SVC | SVR:
    gamma = float(fitted.state["gamma"][0])
    kernel = {"kernel": "rbf", "gamma": gamma} if gamma else {"kernel": "linear"}
    return kind(C=float(fitted.state["cost"][0]), tol=1e-6, **kernel, **more)


@pytest.mark.parametrize("machine", [LinearSvm, RbfSvm])
def test_two_levels_are_scikit_learns_machine_and_its_calibration(machine):
    training, validation, test = planted(80, 0), planted(60, 1), planted(50, 2)
    fitted = machine.fit(training, validation, 2)
    plain = of_scikit_learn(fitted).fit(standard(training, training), training.target_N)
    calibrated = CalibratedClassifierCV(FrozenEstimator(plain), method="sigmoid", ensemble=False, cv=2)
    calibrated.fit(standard(training, validation), validation.target_N)
    # Ours stops a little earlier than the one it is compared with.
    np.testing.assert_allclose(
        fitted.predict(test.scans), calibrated.predict_proba(standard(training, test)), atol=5e-3
    )
    assert np.mean(fitted.predict(test.scans).argmax(axis=1) == test.target_N) > 0.7


@pytest.mark.parametrize("machine", [LinearSvm, RbfSvm])
def test_three_levels_are_three_machines_each_against_the_rest(machine):
    training, validation, test = (planted(n, seed, 3) for n, seed in ((90, 3), (60, 4), (30, 5)))
    fitted = machine.fit(training, validation, 3)
    decisions_NL = []
    for level in range(3):
        plain = of_scikit_learn(fitted).fit(standard(training, training), training.target_N == level)
        decisions_NL.append(plain.decision_function(standard(training, test)))
    slope_L, intercept_L = fitted.state["sigmoid_2L"]
    share_NL = 1 / (1 + np.exp(-(np.array(decisions_NL).T * slope_L + intercept_L)))
    np.testing.assert_allclose(fitted.predict(test.scans), share_NL / share_NL.sum(axis=1, keepdims=True), atol=1e-2)


@pytest.mark.parametrize("machine", [LinearSvm, RbfSvm])
def test_a_value_is_scikit_learns_regression_of_the_standardised_value(machine):
    training, validation, test = planted(80, 6), planted(40, 7), planted(30, 8)
    training, validation = (
        part._replace(target_N=50 + 10 * part.scans.edges_NE[:, 3].astype(float)) for part in (training, validation)
    )
    fitted = machine.fit(training, validation, 0)
    mean, spread = training.target_N.mean(), training.target_N.std()
    plain = of_scikit_learn(fitted, SVR, epsilon=EPSILON)
    plain.fit(standard(training, training), (training.target_N - mean) / spread)
    expected_N = plain.predict(standard(training, test)) * spread + mean
    np.testing.assert_allclose(fitted.predict(test.scans)[:, 0], expected_N, atol=0.1)
    assert np.corrcoef(expected_N, test.scans.edges_NE[:, 3])[0, 1] > 0.7


def test_the_width_is_in_units_of_the_median_distance():
    training, validation = planted(50, 9), planted(40, 10)
    gamma = RbfSvm.fit(training, validation, 2).state["gamma"][0]
    x_NE = standard(training, training)
    distance_NN = ((x_NE[:, None] - x_NE) ** 2).sum(axis=2)
    median = np.median(distance_NN[np.triu_indices(50, k=1)])
    assert min(abs(gamma * median - width) for width in WIDTHS) < 1e-4


def test_cost_and_width_have_the_lowest_log_loss_on_validation_scans():
    training, validation = planted(60, 11), planted(60, 12)
    found = {}
    for cost in COSTS:
        plain = SVC(kernel="linear", C=cost, tol=1e-6).fit(standard(training, training), training.target_N)
        calibrated = CalibratedClassifierCV(FrozenEstimator(plain), method="sigmoid", ensemble=False, cv=2)
        calibrated.fit(standard(training, validation), validation.target_N)
        share_NL = calibrated.predict_proba(standard(training, validation))
        found[cost] = -np.log(share_NL[np.arange(60), validation.target_N.astype(int)]).mean()
    chosen = LinearSvm.fit(training, validation, 2).state["cost"][0]
    assert found[chosen] == pytest.approx(min(found.values()), abs=1e-3)
    assert max(found.values()) > min(found.values()) + 0.01


@pytest.mark.parametrize("machine", [LinearSvm, RbfSvm])
def test_fitted_again_it_keeps_its_choices_and_learns_from_everybody(machine):
    training, validation, test = planted(60, 13), planted(60, 14), planted(40, 15)
    fitted = machine.fit(training, validation, 2)
    everyone = together(training, validation)
    again = fitted.refit(everyone, 2)
    for name in ("cost", "gamma", "sigmoid_2L"):
        np.testing.assert_array_equal(again.state[name], fitted.state[name])
    plain = of_scikit_learn(again).fit(standard(everyone, everyone), everyone.target_N)
    decision_N = plain.decision_function(standard(everyone, test))
    slope, intercept = again.state["sigmoid_2L"][:, 1]
    expected_N = 1 / (1 + np.exp(-(slope * decision_N + intercept)))
    np.testing.assert_allclose(again.predict(test.scans)[:, 1], expected_N, atol=5e-3)


def test_a_bundle_holds_plain_numbers_and_support_vectors_in_single_precision():
    fitted = RbfSvm.fit(planted(60, 16), planted(40, 17), 2)
    assert fitted.state["support_SE"].dtype == np.float32
    assert len(fitted.state["support_SE"]) == len(fitted.state["dual_SL"]) <= 60
    assert all(array.dtype.kind == "f" for array in fitted.state.values())


@pytest.mark.parametrize("machine", [LinearSvm, RbfSvm])
def test_connectomes_without_difference_give_probabilities_all_the_same(machine):
    """Platt's sigmoid is then made of zeros, as of a continuous target."""
    same = Labelled(Scans.of_edges(np.ones((8, NUM_EDGES), dtype=np.float32)), np.arange(8) % 2.0)
    np.testing.assert_allclose(machine.fit(same, same, 2).predict(same.scans), 0.5, atol=1e-6)


def test_one_training_scan_gives_its_own_value():
    one, asked = (Labelled(planted(number, 0).scans, np.full(number, 40.0)) for number in (1, 5))
    np.testing.assert_allclose(RbfSvm.fit(one, asked, 0).predict(asked.scans), 40.0)
