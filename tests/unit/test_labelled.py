"""Scans and answers joined, and what is refused before anything is fitted."""

from __future__ import annotations

import numpy as np
import pytest

from lcm.models.labelled import Labelled, Scans, check_labelled, together


def labelled(target: list[float], **covariates: np.ndarray) -> Labelled:
    number = len(target)
    scans = Scans(np.full((number, 3), float(number)), np.linspace(0, 1, number), covariates)
    return Labelled(scans, np.array(target))


def test_joined_scans_keep_their_order_and_the_covariates_of_both():
    age = {"age": np.array([1.0, 2.0])}
    joined = together(
        labelled([0.0, 1.0], **age, site=np.array(["a", "b"], object)), labelled([1.0], age=np.array([3.0]))
    )
    np.testing.assert_array_equal(joined.target_N, [0, 1, 1])
    np.testing.assert_array_equal(joined.scans.edges_NE[:, 0], [2, 2, 1])
    np.testing.assert_array_equal(joined.scans.shrinkage_N, [0, 1, 0])
    np.testing.assert_array_equal(joined.scans.covariates["age"], [1, 2, 3])
    assert set(joined.scans.covariates) == {"age"}


def test_a_covariate_left_out_is_gone_and_the_rest_stays():
    scans = labelled([0.0], age=np.array([3.0]), num_kept=np.array([90.0])).scans
    assert set(scans.without(("age", "iq")).covariates) == {"num_kept"}
    assert set(scans.covariates) == {"age", "num_kept"}


def test_of_edges_alone_nothing_else_is_known():
    scans = Scans.of_edges(np.zeros((4, 3)))
    assert np.isnan(scans.shrinkage_N).tolist() == [True] * 4
    assert not scans.covariates


@pytest.mark.parametrize(
    ("training", "validation", "num_levels", "said"),
    [
        ([0.0, 1.0], [], 2, "there are 2 and 0"),
        ([], [1.0], 0, "there are 0 and 1"),
        ([0.0, 2.0], [1.0], 3, r"without levels \[1\]"),
    ],
)
def test_too_few_labels_are_counted(training, validation, num_levels, said):
    with pytest.raises(ValueError, match=said):
        check_labelled("it", labelled(training), labelled(validation), num_levels)


def test_enough_labels_pass():
    check_labelled("it", labelled([0.0, 1.0]), labelled([1.0]), 2)
    check_labelled("it", labelled([40.0]), labelled([50.0]), 0)
