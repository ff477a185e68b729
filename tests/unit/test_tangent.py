"""Tangent space: nilearn's features, exactly, from correlations and shrinkage alone."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from lcm.imaging.connectivity import connectivity, shrinkage
from lcm.models import tangent
from lcm.models.labelled import Labelled, Scans, together
from lcm.models.tangent import SHRINKAGE, Tangent, covariances, geometric_mean, logarithms, vectors

NUM_REGIONS = 7


def simulated(num_scans: int, seed: int) -> list[np.ndarray]:
    """Series (40 volumes) of two kinds of people: the second half couples regions 0 and 1."""
    generator = np.random.default_rng(seed)
    mixing_RR = np.eye(NUM_REGIONS) + 0.2 * np.random.default_rng(1).normal(size=(NUM_REGIONS, NUM_REGIONS))
    series = [generator.normal(size=(40, NUM_REGIONS)) @ mixing_RR for _ in range(num_scans)]
    for number, series_TR in enumerate(series):
        series_TR[:, 0] += (number % 2) * 0.8 * series_TR[:, 1]
    return series


def scans_of(series: list[np.ndarray]) -> Scans:
    """What correlate writes of these series."""
    edges_NE = np.stack([connectivity(series_TR, "correlation") for series_TR in series])
    return Scans(edges_NE, np.array([shrinkage(series_TR) for series_TR in series]))


def labelled(num_scans: int, seed: int) -> Labelled:
    return Labelled(scans_of(simulated(num_scans, seed)), (np.arange(num_scans) % 2).astype(float))


def of_nilearn() -> ConnectivityMeasure:
    return ConnectivityMeasure(
        cov_estimator=LedoitWolf(store_precision=False, assume_centered=False, block_size=1000),
        kind="tangent",
        vectorize=True,
        discard_diagonal=False,
        standardize=False,
    )


def standard(series: list[np.ndarray]) -> list[np.ndarray]:
    return [(series_TR - series_TR.mean(axis=0)) / series_TR.std(axis=0) for series_TR in series]


def test_a_covariance_is_ledoit_and_wolfs_of_the_standardised_series():
    series = simulated(5, 0)
    expected_NRR = [LedoitWolf(store_precision=False).fit(series_TR).covariance_ for series_TR in standard(series)]
    scans = scans_of(series)
    np.testing.assert_allclose(covariances(scans, np.zeros(21), 0.5), expected_NRR, atol=1e-12)


def test_features_are_nilearns_for_training_scans_and_for_others():
    training, others = simulated(30, 2), simulated(8, 3)
    measure = of_nilearn()
    expected_NT = measure.fit_transform(standard(training))
    covariance_NRR = covariances(scans_of(training), np.zeros(21), 0.5)
    whitening_RR, logs_NRR = geometric_mean(covariance_NRR, 1e-9)
    np.testing.assert_allclose(whitening_RR, measure.whitening_, atol=1e-6)
    np.testing.assert_allclose(vectors(logs_NRR), expected_NT, atol=1e-6)
    found_NRR = logarithms(covariances(scans_of(others), np.zeros(21), 0.5), whitening_RR)
    np.testing.assert_allclose(vectors(found_NRR), measure.transform(standard(others)), atol=1e-6)


def test_the_mean_of_commuting_matrices_is_the_plain_geometric_mean():
    diagonal_NRR = np.stack([np.diag([1.0, 4.0]), np.diag([9.0, 16.0])])
    whitening_RR, _ = geometric_mean(diagonal_NRR, 1e-12)
    np.testing.assert_allclose(np.linalg.inv(whitening_RR @ whitening_RR), np.diag([3.0, 8.0]), atol=1e-9)


def test_answers_are_a_plain_logistic_regression_of_nilearns_features():
    training, validation, test = (simulated(n, seed) for n, seed in ((60, 4), (40, 5), (40, 6)))
    target_N = (np.arange(60) % 2).astype(float)
    parts = [Labelled(scans_of(part), target_N[: len(part)]) for part in (training, validation, test)]
    fitted = Tangent.fit(parts[0], parts[1], 2)
    measure = of_nilearn()
    features_NT = measure.fit_transform(standard(training))
    centre_T = features_NT.mean(axis=0)
    scale = np.sqrt(np.mean((features_NT - centre_T) ** 2))
    plain = LogisticRegression(C=1 / fitted.state["penalty"][0], tol=1e-9, max_iter=10_000)
    plain.fit((features_NT - centre_T) / scale, target_N)
    expected_NL = plain.predict_proba((measure.transform(standard(test)) - centre_T) / scale)
    np.testing.assert_allclose(fitted.predict(parts[2].scans), expected_NL, atol=1e-3)
    assert np.mean(expected_NL.argmax(axis=1) == parts[2].target_N) > 0.8


def test_what_is_missing_is_the_training_mean_edge_and_the_median_shrinkage():
    training = labelled(40, 7)
    training.scans.edges_NE[:4, 5] = np.nan
    training.scans.shrinkage_N[:10] = np.nan
    fitted = Tangent.fit(training, labelled(30, 8), 2)
    median = np.median(training.scans.shrinkage_N[10:])
    assert fitted.state["shrinkage"][0] == median
    edges_NE = labelled(2, 9).scans.edges_NE
    gappy_NE, filled_NE = edges_NE.copy(), edges_NE.copy()
    gappy_NE[:, 5], filled_NE[:, 5] = np.nan, training.scans.edges_NE[4:, 5].mean()
    np.testing.assert_allclose(
        fitted.predict(Scans(gappy_NE, np.full(2, np.nan))), fitted.predict(Scans(filled_NE, np.full(2, median)))
    )
    nobody = training._replace(scans=training.scans._replace(shrinkage_N=np.full(40, np.nan)))
    assert Tangent.fit(nobody, labelled(30, 8), 2).state["shrinkage"][0] == SHRINKAGE


def test_edges_that_no_series_could_have_are_raised_to_the_shrinkage():
    # 1 and 2 alike, 2 and 3 alike, 1 and 3 opposite: no three series are.
    impossible = Scans(np.array([[0.99, -0.99, 0.99]]), np.array([0.2]))
    values_R = np.linalg.eigvalsh(covariances(impossible, np.zeros(3), 0.1)[0])
    np.testing.assert_allclose(values_R[0], 0.2)


def test_fitted_again_the_reference_is_everybodys():
    training, validation = labelled(40, 10), labelled(30, 11)
    fitted = Tangent.fit(training, validation, 2)
    everyone = together(training, validation)
    again = fitted.refit(everyone, 2)
    covariance_NRR = covariances(everyone.scans, np.zeros(21), 0.5)
    whitening_RR, _ = geometric_mean(covariance_NRR, tangent.TOLERANCE)
    np.testing.assert_allclose(again.state["whitening_RR"], whitening_RR)
    assert again.state["penalty"] == fitted.state["penalty"]


def test_a_continuous_target_is_refused():
    with pytest.raises(ValueError, match="tangent tells levels apart"):
        Tangent.fit(labelled(4, 0), labelled(4, 1), 0)
