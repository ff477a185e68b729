"""Logistic regression: scikit-learn's own answer on all edges, an honest penalty, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from lcm.models.labelled import Labelled, Scans, together
from lcm.models.logistic import PENALTIES, Logistic
from lcm.training.weights import Unanswerable, read_manifest


def planted(num_scans: int, generator: np.random.Generator, *, num_edges: int = 90, num_levels: int = 2) -> Labelled:
    """Levels that differ in five edges, 0.8 standard deviations from one to the next."""
    level_N = np.arange(num_scans) % num_levels
    edges_NE = generator.normal(0.1, 1.0, size=(num_scans, num_edges))
    edges_NE[:, :5] += 0.8 * level_N[:, None]
    return Labelled(Scans.of_edges(edges_NE.astype(np.float32)), level_N.astype(np.float64))


def plain(training: Labelled, asked_NE: np.ndarray, penalty: float) -> np.ndarray:
    """What a user of scikit-learn would write: every edge standardised, every edge a coefficient."""
    x_NE = training.scans.edges_NE.astype(np.float64)
    mean_E, scale_E = x_NE.mean(axis=0), x_NE.std(axis=0)
    fitted = LogisticRegression(
        C=1 / penalty, l1_ratio=0.0, solver="lbfgs", tol=1e-9, max_iter=10_000, fit_intercept=True, class_weight=None
    )
    fitted.fit((x_NE - mean_E) / scale_E, training.target_N)
    return fitted.predict_proba((asked_NE - mean_E) / scale_E)


@pytest.mark.parametrize("num_levels", [2, 3])
@pytest.mark.parametrize("num_edges", [30, 400], ids=["fewer edges than scans", "more edges than scans"])
def test_it_answers_as_plain_scikit_learn_does_on_every_edge(num_levels, num_edges):
    generator = np.random.default_rng(0)
    training, validation, test = (
        planted(n, generator, num_edges=num_edges, num_levels=num_levels) for n in (120, 60, 50)
    )
    fitted = Logistic.fit(training, validation, num_levels)
    expected_NL = plain(training, test.scans.edges_NE, fitted.state["penalty"][0])
    np.testing.assert_allclose(fitted.predict(test.scans), expected_NL, atol=1e-4)
    assert expected_NL.std() > 0.05


def test_the_penalty_has_the_lowest_log_loss_on_validation_scans():
    generator = np.random.default_rng(1)
    training, validation = planted(60, generator), planted(60, generator)
    losses = [log_loss(validation.target_N, plain(training, validation.scans.edges_NE, p)) for p in PENALTIES]
    chosen = Logistic.fit(training, validation, 2).state["penalty"][0]
    assert chosen == PENALTIES[int(np.argmin(losses))]
    assert PENALTIES[-1] < chosen < PENALTIES[0]


def test_permuted_labels_are_given_the_shares_of_the_levels():
    generator = np.random.default_rng(2)
    training, validation, test = planted(200, generator), planted(200, generator), planted(200, generator)
    aucs = []
    for _ in range(20):
        permuted, other = (
            part._replace(target_N=generator.permutation(part.target_N)) for part in (training, validation)
        )
        scores_N = Logistic.fit(permuted, other, 2).predict(test.scans)[:, 1]
        low_N, high_N = scores_N[test.target_N == 0], scores_N[test.target_N == 1]
        aucs.append((high_N[:, None] > low_N).mean() + 0.5 * (high_N[:, None] == low_N).mean())
    # The planted axis is shared by all test scans: an AUC scatters by 0.12, the mean of 20 by 0.03.
    assert abs(np.mean(aucs) - 0.5) < 0.1


def test_a_missing_edge_counts_as_the_training_mean_and_weighs_nothing_if_nobody_has_it():
    generator = np.random.default_rng(3)
    training = planted(100, generator)
    training.scans.edges_NE[:, 7] = np.nan
    training.scans.edges_NE[:10, 2] = np.nan
    fitted = Logistic.fit(training, planted(40, generator), 2)
    missing_NE = np.ones((1, 90), dtype=np.float32)
    filled_NE = missing_NE.copy()
    missing_NE[0, [2, 7]], filled_NE[0, 2] = np.nan, training.scans.edges_NE[10:, 2].mean(dtype=np.float64)
    np.testing.assert_allclose(
        fitted.predict(Scans.of_edges(missing_NE)), fitted.predict(Scans.of_edges(filled_NE)), rtol=1e-5
    )
    np.testing.assert_allclose(fitted.state["coefficient_EL"][7], 0, atol=1e-12)
    assert np.abs(fitted.state["coefficient_EL"][2]).max() > 1e-3


def test_what_it_cannot_answer_is_an_error():
    training = planted(12, np.random.default_rng(4))
    with pytest.raises(ValueError, match="continuous; use ridge"):
        Logistic.fit(training, training, 0)
    with pytest.raises(ValueError, match=r"training without levels \[2\]"):
        Logistic.fit(training, training, 3)
    with pytest.raises(ValueError, match="there are 12 and 0"):
        Logistic.fit(training, Labelled(Scans.of_edges(np.empty((0, 90))), np.empty(0)), 2)


def test_a_task_of_levels_gets_a_bundle_and_a_continuous_one_a_reason(run_stage):
    tasks = {"sex": {"target": "sex", "levels": ["female", "male"]}, "age": {"target": "age"}}
    folders = {
        name: run_stage("finetune", name, {}, model={"architecture": "logistic"}, task=task)
        for name, task in tasks.items()
    }
    assert read_manifest(folders["sex"]).model.architecture == "logistic"
    with pytest.raises(Unanswerable, match="logistic tells levels apart, and age is continuous"):
        read_manifest(folders["age"])


def test_fitted_again_it_is_plain_scikit_learn_on_everybody_under_the_same_penalty():
    generator = np.random.default_rng(5)
    training, validation, test = (planted(n, generator, num_levels=3) for n in (80, 60, 40))
    fitted = Logistic.fit(training, validation, 3)
    everyone = together(training, validation)
    again = fitted.refit(everyone, 3)
    expected_NL = plain(everyone, test.scans.edges_NE, fitted.state["penalty"][0])
    assert again.state["penalty"] == fitted.state["penalty"]
    np.testing.assert_allclose(again.predict(test.scans), expected_NL, atol=1e-4)
    assert np.abs(again.predict(test.scans) - fitted.predict(test.scans)).max() > 0.01
