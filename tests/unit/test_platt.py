"""Platt's sigmoid: the maximum of its likelihood, also where levels are separated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from lcm.models.platt import platt, probabilities


def by_hand(decision_N: np.ndarray, own_N: np.ndarray) -> np.ndarray:
    """Slope and intercept that maximise Platt's likelihood, by a general optimiser."""
    target_N = np.where(own_N, (own_N.sum() + 1) / (own_N.sum() + 2), 1 / ((~own_N).sum() + 2))

    def loss(parameters: np.ndarray) -> float:
        logit_N = parameters[0] * decision_N + parameters[1]
        return float(np.sum(np.logaddexp(0, logit_N) - target_N * logit_N))

    return minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).x


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("gap", [1.0, 50.0], ids=["overlapping", "separated"])
def test_slope_and_intercept_maximise_platts_likelihood(gap, scale):
    generator = np.random.default_rng(0)
    target_N = (np.arange(40) % 4 == 0).astype(float)
    decision_N = generator.normal(size=40) + gap * target_N
    slope, intercept = platt(scale * np.stack([-decision_N, decision_N], axis=1), target_N)[:, 1]
    np.testing.assert_allclose([slope * scale, intercept], by_hand(decision_N, target_N == 1), rtol=1e-3, atol=1e-3)


def test_two_opposite_decisions_sum_to_one_without_help():
    generator = np.random.default_rng(1)
    target_N = (np.arange(30) % 2).astype(float)
    decision_N = generator.normal(size=30) + target_N
    sigmoid_2L = platt(np.stack([-decision_N, decision_N], axis=1), target_N)
    share_NL = expit(np.stack([-decision_N, decision_N], axis=1) * sigmoid_2L[0] + sigmoid_2L[1])
    np.testing.assert_allclose(share_NL.sum(axis=1), 1, atol=1e-4)


def test_more_levels_are_shares_of_their_sum():
    sigmoid_2L = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    decision_NL = np.array([[0.0, 0.0, np.log(3.0)]])
    np.testing.assert_allclose(probabilities(decision_NL, sigmoid_2L), [[0.5 / 1.75, 0.5 / 1.75, 0.75 / 1.75]])


def test_few_scans_that_are_ranked_the_wrong_way_do_not_turn_the_ranking_round():
    decision_N, target_N = np.array([1.0, 2.0, -1.0, -2.0]), np.array([0.0, 0.0, 1.0, 1.0])
    decision_NL = np.stack([-decision_N, decision_N], axis=1)
    said_N = probabilities(decision_NL, platt(decision_NL, target_N))[:, 1]
    assert (np.argsort(said_N) == np.argsort(decision_N)).all()
    np.testing.assert_allclose(said_N, 0.5, atol=0.01)
