"""Connectomes: every scan accounted for, from kept volumes only, whole or in windows."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.covariance import LedoitWolf

from lcm.array_tables import denoised_schema
from lcm.config import Correlate
from lcm.imaging.connectivity import connectivity, shrinkage
from lcm.imaging.correlate import main, windows
from lcm.tables import read_arrow, write_arrow


def _row(scan: str, kept: np.ndarray, outcome: str = "ok") -> dict[str, object]:
    series_TR = np.random.default_rng(3).standard_normal((len(kept), 3))
    series_TR[~kept] = np.nan
    base = {"dataset": "D", "participant_id": scan, "scan": scan, "outcome": outcome}
    return (
        base
        if outcome != "ok"
        else base | {"num_kept": int(kept.sum()), "kept": kept, "series": series_TR.ravel(), "num_volumes": len(kept)}
    )


def _correlate(folder: Path, rows: list[dict[str, object]], settings: Correlate) -> pa.Table:
    write_arrow(pa.Table.from_pylist(rows, schema=denoised_schema("abc", "X", "9P")), folder / "in.arrow")
    options = argparse.Namespace(
        people=None,
        scans=folder,
        series=[folder / "in.arrow"],
        atlas="AAL",
        output=folder / "out.arrow",
        settings=settings,
    )
    main(options)
    return read_arrow(folder / "out.arrow")


def test_only_kept_volumes_enter_and_no_scan_is_lost(tmp_path: Path):
    kept = np.ones(60, dtype=bool)
    kept[10:20] = False
    rows = [_row("sub-1", kept), _row("sub-2", np.arange(60) < 5), _row("sub-3", kept, "failed: truncated image")]
    table = _correlate(tmp_path, rows, Correlate())
    assert table.column("outcome").to_pylist() == [
        "ok",
        "excluded: fewer than 30 volumes kept",
        "failed: truncated image",
    ]
    series_TR = np.array(rows[0]["series"], dtype=np.float32).reshape(60, 3)[kept]
    np.testing.assert_allclose(table.column("fc")[0].as_py(), connectivity(series_TR, "correlation"), atol=1e-6)
    assert table.column("fc")[1].as_py() is None


@pytest.mark.parametrize(
    ("num_volumes", "tail", "expected"),
    [
        (1200, "keep", [(0, 500), (500, 1000), (1000, 1200)]),
        (1200, "drop", [(0, 500), (500, 1000)]),
        (1000, "drop", [(0, 500), (500, 1000)]),
        (1000, "keep", [(0, 500), (500, 1000)]),
        (300, "keep", [(0, 300)]),
        (300, "drop", []),
        (300, "zero-pad", [(0, 300)]),
    ],
)
def test_windows_cover_the_run_from_its_start(num_volumes: int, tail: str, expected: list[tuple[int, int]]):
    assert [(w.start, w.stop) for w in windows(num_volumes, 500, tail)] == expected
    assert windows(num_volumes, None, tail) == [slice(0, num_volumes)]


def test_each_window_has_its_own_connectome_from_its_own_kept_volumes(tmp_path: Path):
    kept = np.ones(130, dtype=bool)
    kept[55:65] = False
    rows = [_row("sub-1", kept), _row("sub-2", np.arange(130) < 20)]
    table = _correlate(tmp_path, rows, Correlate(window_volumes=50, min_volumes=30))
    found = table.select(["scan", "outcome", "window", "window_start", "num_kept"]).to_pylist()
    assert [list(row.values()) for row in found] == [
        ["sub-1", "ok", 0, 0, 50],
        ["sub-1", "ok", 1, 50, 40],
        ["sub-1", "ok", 2, 100, 30],
        ["sub-2", "excluded: fewer than 30 volumes kept", None, None, 20],
    ]
    series_TR = np.array(rows[0]["series"], dtype=np.float32).reshape(130, 3)
    second = np.r_[50:55, 65:100]
    np.testing.assert_allclose(table["fc"][1].as_py(), connectivity(series_TR[second], "correlation"), atol=1e-6)


def test_a_short_run_is_dropped_by_name_where_tails_are_dropped(tmp_path: Path):
    table = _correlate(tmp_path, [_row("sub-1", np.ones(60, bool))], Correlate(window_volumes=100, window_tail="drop"))
    assert table["outcome"].to_pylist() == ["excluded: shorter than a window of 100 volumes"]


def test_zero_padding_is_the_authors_loader_and_harmless_only_at_mean_zero(tmp_path: Path):
    """The LCM authors pad the last window with zeros before `corrcoef` (conventions: noise with a mean of 1000 gives r ≈ 1)."""
    rng = np.random.default_rng(5)
    noise_TR = rng.standard_normal((60, 3))
    settings = Correlate(window_volumes=100, window_tail="zero-pad")
    for mean, expected in ((0.0, connectivity(noise_TR, "correlation")), (1000.0, np.ones(3))):
        row = _row("sub-1", np.ones(60, bool)) | {"series": (noise_TR - noise_TR.mean(axis=0) + mean).ravel()}
        table = _correlate(tmp_path, [row], settings)
        np.testing.assert_allclose(table["fc"][0].as_py(), expected, atol=1e-3)


def test_fisher_z_is_the_inverse_hyperbolic_tangent_and_is_recorded(tmp_path: Path):
    rows = [_row("sub-1", np.ones(60, bool))]
    plain = np.array(_correlate(tmp_path, rows, Correlate())["fc"][0].as_py())
    table = _correlate(tmp_path, rows, Correlate(fisher_z=True))
    np.testing.assert_allclose(np.tanh(table["fc"][0].as_py()), plain, atol=1e-6)
    assert table.schema.metadata[b"fisher_z"] == b"true"


def test_identical_series_have_a_finite_fisher_z(tmp_path: Path):
    row = _row("sub-1", np.ones(60, bool))
    row["series"] = np.repeat(np.random.default_rng(0).standard_normal(60), 3)
    assert np.isfinite(_correlate(tmp_path, [row], Correlate(fisher_z=True))["fc"][0].as_py()).all()


def test_the_degrees_of_freedom_of_a_run_are_shared_among_its_windows(tmp_path: Path):
    """Two windows of 60 of a run with 7 degrees of freedom left have 3.5 each, and three regions need more than 3."""
    settings = Correlate(window_volumes=60, kind="partial correlation")
    for dof, outcome in (
        (7.0, "ok"),
        (6.0, "excluded: partial correlation of 3 regions needs more degrees of freedom than that, left: 3"),
    ):
        table = _correlate(tmp_path, [_row("sub-1", np.ones(120, bool)) | {"residual_dof": dof}], settings)
        assert set(table["outcome"].to_pylist()) == {outcome}


def test_shrinkage_is_ledoit_and_wolfs_of_the_kept_standardised_series_of_each_window(tmp_path: Path):
    kept = np.ones(120, dtype=bool)
    kept[70:80] = False
    row = _row("sub-1", kept)
    # Uncorrelated noise would be shrunk to the identity whole.
    row["series"] = (np.reshape(row["series"], (120, 3)) @ [[1, 1, 0], [0, 1, 1], [0, 0, 1]]).ravel()
    table = _correlate(tmp_path, [row], Correlate(window_volumes=60))
    series_TR = np.array(row["series"], dtype=np.float32).reshape(120, 3).astype(float)
    for window, volumes in enumerate((np.arange(60), np.r_[60:70, 80:120])):
        part_TR = series_TR[volumes]
        expected = LedoitWolf().fit((part_TR - part_TR.mean(axis=0)) / part_TR.std(axis=0)).shrinkage_
        assert table["shrinkage"][window].as_py() == pytest.approx(expected, rel=1e-9)
        assert 0 < expected < 1


def test_shrinkage_leaves_an_uncovered_region_out_and_is_unknown_where_nothing_varies(tmp_path: Path):
    series_TR = np.random.default_rng(0).standard_normal((60, 4))
    gappy_TR = series_TR.copy()
    gappy_TR[:, 2] = np.nan
    assert shrinkage(gappy_TR) == pytest.approx(shrinkage(series_TR[:, [0, 1, 3]]))
    assert shrinkage(series_TR * [1, 1, 0, 1]) is None
    assert shrinkage(series_TR[:, :1]) is None


@pytest.mark.parametrize("settings", [Correlate(fisher_z=True), Correlate(kind="covariance")], ids=["z", "covariance"])
def test_only_correlations_have_a_shrinkage(tmp_path: Path, settings: Correlate):
    table = _correlate(tmp_path, [_row("sub-1", np.ones(60, bool)), _row("sub-2", np.arange(60) < 5)], settings)
    assert table["shrinkage"].to_pylist() == [None, None]
