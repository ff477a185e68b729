"""Kinds of connectivity: each equals its definition or nilearn's, and refuses what it cannot do."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lcm.array_tables import denoised_schema
from lcm.config import Correlate
from lcm.imaging.connectivity import TooShort, connectivity, read_reference, tangent_reference, write_reference
from lcm.imaging.correlate import main
from lcm.tables import write_arrow

REGIONS = ("a", "b", "c", "d")
UPPER = np.triu_indices(4, k=1)


def _runs(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    return [rng.standard_normal((80, 4)) @ (mixing + 0.1 * rng.standard_normal((4, 4))) for _ in range(count)]


def test_a_known_covariance_is_found():
    rng = np.random.default_rng(0)
    a, b, noise = rng.standard_normal((3, 200_000))
    series_TR = np.column_stack([a, 0.6 * a + 0.8 * b, noise])
    assert connectivity(series_TR, "correlation") == pytest.approx([0.6, 0, 0], abs=0.01)


def test_the_estimator_is_the_sample_one_without_shrinkage():
    series_TR = np.random.default_rng(1).standard_normal((12, 3))
    expected = [np.cov(series_TR[:, i], series_TR[:, j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
    sd = series_TR.std(axis=0, ddof=1)
    products = np.array([sd[0] * sd[1], sd[0] * sd[2], sd[1] * sd[2]])
    np.testing.assert_allclose(connectivity(series_TR, "correlation"), expected / products)


def test_an_uncovered_region_gives_nan_edges_and_no_others():
    series_TR = np.random.default_rng(2).standard_normal((50, 4))
    whole = connectivity(series_TR, "correlation")
    series_TR[:, 1] = np.nan
    edges = connectivity(series_TR, "correlation")
    touched = [1 in pair for pair in zip(*UPPER, strict=True)]
    np.testing.assert_array_equal(np.isnan(edges), touched)
    np.testing.assert_allclose(edges[~np.array(touched)], whole[~np.array(touched)])


def test_partial_correlation_is_the_scaled_inverse_covariance():
    """A chain a → b → c: a and c correlate, and do not once b is held fixed."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal(20_000)
    b = a + rng.standard_normal(20_000)
    series_TR = np.column_stack([a, b, b + rng.standard_normal(20_000)])
    precision = np.linalg.inv(np.cov(series_TR, rowvar=False))
    expected = -precision / np.sqrt(np.outer(np.diag(precision), np.diag(precision)))
    found = connectivity(series_TR, "partial correlation")
    np.testing.assert_allclose(found, expected[np.triu_indices(3, k=1)], rtol=1e-6, atol=1e-9)
    assert abs(found[1]) < 0.02 < connectivity(series_TR, "correlation")[1]


def test_covariance_is_the_sample_covariance():
    series_TR = _runs(1)[0]
    expected = np.cov(series_TR, rowvar=False, bias=True)[UPPER]
    np.testing.assert_allclose(connectivity(series_TR, "covariance"), expected, rtol=1e-10)


def test_tangent_equals_nilearns_transform_of_the_same_people(tmp_path: Path):
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance

    runs = _runs(6)
    measure = ConnectivityMeasure(EmpiricalCovariance(), kind="tangent", standardize=False)
    expected = measure.fit_transform(runs)
    write_reference(tangent_reference(runs), REGIONS, tmp_path / "reference.tsv")
    reference_RR = read_reference(tmp_path / "reference.tsv", REGIONS)
    for run_TR, expected_RR in zip(runs, expected, strict=True):
        found = connectivity(run_TR, "tangent", reference_RR)
        np.testing.assert_allclose(found, expected_RR[UPPER], atol=1e-10)


@pytest.mark.parametrize("kind", ["partial correlation", "tangent"])
def test_a_run_with_fewer_volumes_than_regions_is_refused_where_the_covariance_is_inverted(kind: str):
    series_TR = np.random.default_rng(4).standard_normal((4, 4))
    with pytest.raises(TooShort, match="4 regions needs more degrees of freedom than that, left: 4"):
        connectivity(series_TR, kind, np.eye(4))


@pytest.mark.parametrize("kind", ["partial correlation", "tangent"])
def test_filtered_volumes_are_no_degrees_of_freedom(kind: str):
    """Eighty volumes of which a band-pass left the freedom of four: their covariance has full rank by noise alone."""
    series_TR = _runs(1)[0]
    assert np.isfinite(connectivity(series_TR, kind, np.eye(4), residual_dof=20.0)).all()
    with pytest.raises(TooShort, match="left: 4"):
        connectivity(series_TR, kind, np.eye(4), residual_dof=4.0)


def test_a_reference_of_other_regions_is_refused(tmp_path: Path):
    write_reference(np.eye(4), REGIONS, tmp_path / "reference.tsv")
    with pytest.raises(ValueError, match="its header is not the 4 regions"):
        read_reference(tmp_path / "reference.tsv", tuple(reversed(REGIONS)))
    write_reference(-np.eye(4), REGIONS, tmp_path / "reference.tsv")
    with pytest.raises(ValueError, match="positive definite"):
        read_reference(tmp_path / "reference.tsv", REGIONS)


def test_the_reference_is_fitted_on_the_people_listed_and_nobody_else(tmp_path: Path):
    runs = _runs(5)
    rows = [
        {"dataset": "D", "participant_id": f"sub-{i}", "scan": f"sub-{i}", "outcome": "ok", "num_kept": 80,
         "kept": np.ones(80, bool), "series": run.astype(np.float32).ravel()}
        for i, run in enumerate(runs)
    ]  # fmt: skip
    write_arrow(pa.Table.from_pylist(rows, schema=denoised_schema(REGIONS, "X", "9P")), tmp_path / "in.arrow")
    (tmp_path / "train.txt").write_text("sub-0\nsub-1\nsub-2\n")
    main(
        argparse.Namespace(
            people=tmp_path / "train.txt",
            series=[tmp_path / "in.arrow"],
            output=tmp_path / "reference.tsv",
            settings=Correlate(),
        )
    )
    found = read_reference(tmp_path / "reference.tsv", REGIONS)
    np.testing.assert_allclose(found, tangent_reference(runs[:3]), rtol=1e-4)
    assert not np.allclose(found, tangent_reference(runs), rtol=1e-2)


def test_a_run_with_a_hole_gives_no_reference():
    runs = _runs(2)
    runs[1][:, 2] = np.nan
    with pytest.raises(ValueError, match="run 1 of 2 has an uncovered region"):
        tangent_reference(runs)
