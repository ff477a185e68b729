"""Connectomes: the sample correlation, regions missing not dropped, and every scan accounted for."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lcm.config import Correlate
from lcm.imaging.correlate import correlation, main
from lcm.tables import denoised_schema, read_arrow, write_arrow


def test_a_known_covariance_is_found():
    rng = np.random.default_rng(0)
    a, b, noise = rng.standard_normal((3, 200_000))
    series_TR = np.column_stack([a, 0.6 * a + 0.8 * b, noise])
    assert correlation(series_TR) == pytest.approx([0.6, 0, 0], abs=0.01)


def test_the_estimator_is_the_sample_one_without_shrinkage():
    series_TR = np.random.default_rng(1).standard_normal((12, 3))
    expected = [np.cov(series_TR[:, i], series_TR[:, j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
    sd = series_TR.std(axis=0, ddof=1)
    np.testing.assert_allclose(
        correlation(series_TR), expected / np.array([sd[0] * sd[1], sd[0] * sd[2], sd[1] * sd[2]])
    )


def test_an_uncovered_region_gives_nan_edges_and_no_others():
    series_TR = np.random.default_rng(2).standard_normal((50, 4))
    whole = correlation(series_TR)
    series_TR[:, 1] = np.nan
    edges = correlation(series_TR)
    touched = [1 in pair for pair in zip(*np.triu_indices(4, 1), strict=True)]
    np.testing.assert_array_equal(np.isnan(edges), touched)
    np.testing.assert_allclose(edges[~np.array(touched)], whole[~np.array(touched)])


def _row(scan: str, kept: np.ndarray, outcome: str = "ok") -> dict[str, object]:
    series_TR = np.random.default_rng(3).standard_normal((len(kept), 3))
    series_TR[~kept] = np.nan
    base = {"dataset": "D", "participant_id": scan, "scan": scan, "outcome": outcome}
    return (
        base
        if outcome != "ok"
        else base | {"num_kept": int(kept.sum()), "kept": kept, "series": series_TR.ravel(), "num_volumes": len(kept)}
    )


def test_only_kept_volumes_enter_and_no_scan_is_lost(tmp_path: Path):
    kept = np.ones(60, dtype=bool)
    kept[10:20] = False
    rows = [_row("sub-1", kept), _row("sub-2", np.arange(60) < 5), _row("sub-3", kept, "failed: truncated image")]
    write_arrow(pa.Table.from_pylist(rows, schema=denoised_schema("abc", "X", "9P")), tmp_path / "in.arrow")
    options = argparse.Namespace(
        scans=tmp_path, series=tmp_path / "in.arrow", atlas="AAL", output=tmp_path / "out.arrow", settings=Correlate()
    )
    main(options)
    table = read_arrow(tmp_path / "out.arrow")
    assert table.column("outcome").to_pylist() == [
        "ok",
        "excluded: fewer than 30 volumes kept",
        "failed: truncated image",
    ]
    series_TR = np.array(rows[0]["series"], dtype=np.float32).reshape(60, 3)[kept]
    np.testing.assert_allclose(table.column("fc")[0].as_py(), correlation(series_TR), atol=1e-6)
    assert table.column("fc")[1].as_py() is None
