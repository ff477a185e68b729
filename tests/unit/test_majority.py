"""Majority: the answer is the training share of every level."""

from __future__ import annotations

import numpy as np
import pytest

from lcm.models.labelled import Labelled, Scans, together
from lcm.models.majority import Majority


def labelled(edges_NE: np.ndarray, target_N: np.ndarray) -> Labelled:
    return Labelled(Scans.of_edges(edges_NE), target_N)


NOBODY = labelled(np.empty((0, 3)), np.empty(0))


def test_scores_are_the_training_shares_for_every_scan():
    training = labelled(np.zeros((4, 3)), np.array([1.0, 1.0, 0.0, 1.0]))
    scores_NL = Majority.fit(training, NOBODY, 2).predict(Scans.of_edges(np.full((5, 3), np.nan)))
    np.testing.assert_allclose(scores_NL, [[0.25, 0.75]] * 5)


def test_a_continuous_answer_is_the_training_mean():
    training = labelled(np.zeros((2, 3)), np.array([20.0, 50.0]))
    np.testing.assert_allclose(
        Majority.fit(training, NOBODY, 0).predict(Scans.of_edges(np.zeros((3, 3)))), [[35.0]] * 3
    )


def test_a_level_nobody_has_gets_probability_zero():
    training = labelled(np.zeros((2, 3)), np.array([0.0, 0.0]))
    np.testing.assert_allclose(
        Majority.fit(training, NOBODY, 3).predict(Scans.of_edges(np.zeros((1, 3)))), [[1.0, 0.0, 0.0]]
    )


def test_no_label_is_an_error():
    with pytest.raises(ValueError, match="no training scan"):
        Majority.fit(NOBODY, NOBODY, 2)


def test_fitted_again_it_counts_everybody():
    training, validation = (labelled(np.zeros((len(level), 3)), np.array(level)) for level in ([1.0, 0.0], [1.0, 1.0]))
    again = Majority.fit(training, validation, 2).refit(together(training, validation), 2)
    np.testing.assert_allclose(again.predict(Scans.of_edges(np.zeros((1, 3)))), [[0.25, 0.75]])
