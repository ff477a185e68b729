"""Units: several connectomes of a person, or of a scan, are one answer."""

from __future__ import annotations

import numpy as np

from lcm.training.units import mean_of_units, most_frequent

CODE_N = np.array([1, 0, 1, 2, 1])


def test_a_mean_is_of_the_rows_of_each_unit_whatever_their_shape():
    values_NK = np.array([[1.0, 10], [5, 50], [2, 20], [7, 70], [6, 60]])
    np.testing.assert_allclose(mean_of_units(values_NK, CODE_N, 3), [[5, 50], [3, 30], [7, 70]])
    np.testing.assert_allclose(mean_of_units(values_NK[:, None], CODE_N, 3), [[[5, 50]], [[3, 30]], [[7, 70]]])


def test_the_lowest_of_equally_frequent_layers_is_named():
    np.testing.assert_array_equal(most_frequent(np.array([4, 2, 3, 1, 3]), CODE_N, 3), [2, 3, 1])
    np.testing.assert_array_equal(most_frequent(np.array([4, 2, 3, 1, 5]), CODE_N, 3), [2, 3, 1])
