"""PCA and logistic regression: scikit-learn's own pipeline, chosen on validation scans."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lcm.models import pca_logistic
from lcm.models.labelled import Labelled, Lacking, Scans, together
from lcm.models.pca_logistic import NUM_COMPONENTS, PENALTIES, PcaLogistic


def planted(num_scans: int, seed: int) -> Labelled:
    """Two levels on the strongest of three latent axes of 80 edges."""
    generator = np.random.default_rng(seed)
    level_N = np.arange(num_scans) % 2
    axes_3E = np.random.default_rng(99).normal(size=(3, 80))
    latent_N3 = generator.normal(size=(num_scans, 3)) * [3.0, 2.0, 1.0]
    latent_N3[:, 0] += 4.0 * level_N
    edges_NE = latent_N3 @ axes_3E + generator.normal(size=(num_scans, 80))
    return Labelled(Scans.of_edges(edges_NE.astype(np.float32)), level_N.astype(np.float64))


def pipeline(count: int, penalty: float) -> object:
    return make_pipeline(
        StandardScaler(),
        PCA(n_components=count, whiten=True, svd_solver="full"),
        LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=10_000),
    )


def test_it_is_the_pipeline_of_scikit_learn_that_does_best_on_validation_scans():
    training, validation = planted(70, 0), planted(50, 1)
    counts = sorted({min(count, 69) for count in NUM_COMPONENTS})
    losses = {}
    for count in counts:
        for penalty in PENALTIES:
            fitted = pipeline(count, penalty).fit(training.scans.edges_NE.astype(float), training.target_N)
            losses[count, penalty] = log_loss(validation.target_N, fitted.predict_proba(validation.scans.edges_NE))
    best = min(losses, key=losses.get)
    found = PcaLogistic.fit(training, validation, 2)
    assert (int(found.state["components"][0]), found.state["penalty"][0]) == best
    expected = pipeline(*best).fit(training.scans.edges_NE.astype(float), training.target_N)
    np.testing.assert_allclose(
        found.predict(validation.scans), expected.predict_proba(validation.scans.edges_NE), atol=1e-3
    )
    everyone = together(training, validation)
    again = found.refit(everyone, 2)
    expected = pipeline(*best).fit(everyone.scans.edges_NE.astype(float), everyone.target_N)
    np.testing.assert_allclose(
        again.predict(training.scans), expected.predict_proba(training.scans.edges_NE), atol=1e-3
    )


def test_scans_on_a_small_subspace_give_no_component_of_noise(monkeypatch):
    monkeypatch.setattr(pca_logistic, "NUM_COMPONENTS", (200,))
    training = planted(60, 2)
    training.scans.edges_NE[30:] = training.scans.edges_NE[:30]
    assert PcaLogistic.fit(training, planted(40, 3), 2).state["components"][0] == 29


def test_a_continuous_target_is_refused():
    with pytest.raises(ValueError, match="pca-logistic tells levels apart"):
        PcaLogistic.fit(planted(20, 4), planted(20, 5), 0)


def test_connectomes_that_are_all_the_same_are_refused_with_the_reason():
    same = Labelled(Scans.of_edges(np.ones((8, 10), dtype=np.float32)), np.arange(8) % 2.0)
    with pytest.raises(Lacking, match="no edge differs"):
        PcaLogistic.fit(same, same, 2)
