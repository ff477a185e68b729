"""Ridge: closed form, honest choices, and edges that are missing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from lcm.models.labelled import Labelled, Scans, together
from lcm.models.ridge import PENALTIES, Ridge
from lcm.models.ridge_path import RidgePath


def labelled(edges_NE: np.ndarray, target_N: np.ndarray) -> Labelled:
    return Labelled(Scans.of_edges(edges_NE), target_N)


def planted(num_scans: int, generator: np.random.Generator, effect: float = 1.0) -> Labelled:
    """Two levels that differ in five of thirty edges."""
    level_N = generator.integers(0, 2, num_scans)
    edges_NE = generator.normal(size=(num_scans, 30))
    edges_NE[:, :5] += effect * level_N[:, None]
    return Labelled(Scans.of_edges(edges_NE.astype(np.float32)), level_N.astype(np.float64))


def test_coefficients_equal_the_closed_form():
    generator = np.random.default_rng(0)
    training, validation = planted(80, generator), planted(40, generator)
    value_N = training.scans.edges_NE[:, 3].astype(np.float64) * 2 + 10
    fitted = Ridge.fit(training._replace(target_N=value_N), validation, 0)
    x_NE = training.scans.edges_NE.astype(np.float64)
    z_NE = (x_NE - x_NE.mean(axis=0)) / x_NE.std(axis=0)
    penalty = fitted.state["penalty"][0]
    expected_E = np.linalg.solve(z_NE.T @ z_NE + penalty * np.eye(30), z_NE.T @ (value_N - value_N.mean()))
    np.testing.assert_allclose(fitted.state["coefficient_EL"][:, 0], expected_E, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(fitted.predict(training.scans)[:, 0], z_NE @ expected_E + value_N.mean(), rtol=1e-8)


def test_a_planted_effect_is_found_and_scores_are_probabilities():
    generator = np.random.default_rng(1)
    fitted = Ridge.fit(planted(200, generator), planted(60, generator), 2)
    test = planted(400, generator)
    scores_NL = fitted.predict(test.scans)
    np.testing.assert_allclose(scores_NL.sum(axis=1), 1.0)
    # Optimal accuracy is Φ(√5 / 2) = 0.868; 30 coefficients from 200 scans cost some 0.03, 400 test scans give ± 0.05.
    assert np.mean(scores_NL.argmax(axis=1) == test.target_N) > 0.868 - 0.08


def test_permuted_labels_score_at_chance():
    generator = np.random.default_rng(2)
    training, validation, test = planted(200, generator), planted(60, generator), planted(200, generator)
    accuracies = []
    for _ in range(20):
        permuted, other = (
            part._replace(target_N=generator.permutation(part.target_N)) for part in (training, validation)
        )
        accuracies.append(np.mean(Ridge.fit(permuted, other, 2).predict(test.scans).argmax(axis=1) == test.target_N))
    # A permutation scatters by 0.12 because the planted axis is shared; the mean of 20 by 0.03.
    assert abs(np.mean(accuracies) - 0.5) < 0.1


def test_three_levels_are_told_apart():
    generator = np.random.default_rng(3)
    level_N = np.tile([0.0, 1.0, 2.0], 40)
    edges_NE = generator.normal(0, 0.1, (120, 12))
    edges_NE[np.arange(120), level_N.astype(int)] += 1
    fitted = Ridge.fit(labelled(edges_NE[:90], level_N[:90]), labelled(edges_NE[90:], level_N[90:]), 3)
    assert (fitted.predict(Scans.of_edges(edges_NE[90:])).argmax(axis=1) == level_N[90:]).all()


def test_a_missing_edge_counts_as_the_training_mean():
    generator = np.random.default_rng(4)
    training = planted(100, generator)
    training.scans.edges_NE[:, 7] = np.nan
    training.scans.edges_NE[:10, 8] = np.nan
    fitted = Ridge.fit(training, planted(40, generator), 2)
    np.testing.assert_allclose(
        fitted.state["mean_E"][8], training.scans.edges_NE[10:, 8].mean(dtype=np.float64), rtol=1e-6
    )
    missing_NE = np.zeros((1, 30), dtype=np.float32)
    filled_NE = missing_NE.copy()
    missing_NE[0, 8], filled_NE[0, 8] = np.nan, fitted.state["mean_E"][8]
    np.testing.assert_allclose(
        fitted.predict(Scans.of_edges(missing_NE)), fitted.predict(Scans.of_edges(filled_NE)), rtol=1e-6
    )
    assert np.isfinite(fitted.predict(training.scans)).all()


def test_the_penalty_is_the_best_on_validation_scans():
    generator = np.random.default_rng(5)
    training, validation = planted(60, generator, effect=0.3), planted(60, generator, effect=0.3)
    chosen = Ridge.fit(training, validation, 2)

    def squared_error(penalty: float) -> float:
        x_NE = training.scans.edges_NE.astype(np.float64)
        z_NE = (x_NE - x_NE.mean(axis=0)) / x_NE.std(axis=0)
        v_NE = (validation.scans.edges_NE - x_NE.mean(axis=0)) / x_NE.std(axis=0)
        share = training.target_N.mean()
        w_E = np.linalg.solve(z_NE.T @ z_NE + penalty * np.eye(30), z_NE.T @ (training.target_N - share))
        return float(np.mean((v_NE @ w_E + share - validation.target_N) ** 2))

    assert chosen.state["penalty"][0] == min(PENALTIES, key=squared_error)


def test_no_validation_people_is_an_error():
    training = planted(10, np.random.default_rng(6))
    with pytest.raises(ValueError, match="validation"):
        Ridge.fit(training, labelled(np.empty((0, 30)), np.empty(0)), 2)


@pytest.mark.parametrize("num_edges", [30, 300], ids=["fewer edges than scans", "more edges than scans"])
def test_every_penalty_of_the_path_is_scikit_learns_ridge(num_edges):
    generator = np.random.default_rng(7)
    features_NF, outputs_NO = generator.normal(1, 2, (90, num_edges)), generator.normal(3, 1, (90, 2))
    path = RidgePath(features_NF, outputs_NO)
    for penalty in PENALTIES:
        expected = SklearnRidge(alpha=penalty, fit_intercept=True, solver="cholesky").fit(features_NF, outputs_NO)
        found = path.at(penalty)
        np.testing.assert_allclose(found.coefficient_FO.T, expected.coef_, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(found.outputs(features_NF), expected.predict(features_NF), rtol=1e-8)


def test_fitted_again_it_is_the_same_ridge_on_everybody():
    generator = np.random.default_rng(8)
    training, validation = planted(60, generator), planted(40, generator)
    fitted = Ridge.fit(training, validation, 2)
    again = fitted.refit(together(training, validation), 2)
    x_NE = np.concatenate([training.scans.edges_NE, validation.scans.edges_NE]).astype(np.float64)
    np.testing.assert_allclose(again.state["mean_E"], x_NE.mean(axis=0), rtol=1e-10)
    z_NE = (x_NE - x_NE.mean(axis=0)) / x_NE.std(axis=0)
    level_N = np.concatenate([training.target_N, validation.target_N])
    penalty = fitted.state["penalty"][0]
    expected_E = np.linalg.solve(z_NE.T @ z_NE + penalty * np.eye(30), z_NE.T @ (level_N - level_N.mean()))
    np.testing.assert_allclose(again.state["coefficient_EL"][:, 1], expected_E, rtol=1e-8, atol=1e-12)
    for name in ("penalty", "sharpness"):
        assert again.state[name] == fitted.state[name]
