"""Ready series: matched to the atlas by name, refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from lcm.atlas import load_atlas
from lcm.imaging.series import SeriesError, covered, read_series

AAL = load_atlas("AAL")
DATA = np.random.default_rng(0).standard_normal((20, 116))


def _one_d(path: Path, columns: np.ndarray, data: np.ndarray) -> Path:
    rows = ["\t".join(f"#{AAL.ids[c]}" for c in columns), *("\t".join(map(str, row)) for row in data)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_columns_are_matched_by_region_id_not_by_position(tmp_path):
    order = np.random.default_rng(1).permutation(116)
    shuffled = _one_d(tmp_path / "UM_1_0050272_rois_aal.1D", order, DATA[:, order])
    np.testing.assert_allclose(read_series(shuffled, AAL), DATA)


def test_columns_of_a_tsv_are_matched_by_region_name(tmp_path):
    path = tmp_path / "x_timeseries.tsv"
    rows = ["\t".join(reversed(AAL.names)), *("\t".join(map(str, row[::-1])) for row in DATA)]
    path.write_text("\n".join(rows) + "\n")
    np.testing.assert_allclose(read_series(path, AAL), DATA)


@pytest.mark.parametrize("key", ["data", "ROISignals"])
def test_both_matlab_namings_are_read(tmp_path, key):
    savemat(tmp_path / "s.mat", {key: DATA})
    np.testing.assert_allclose(read_series(tmp_path / "s.mat", AAL), DATA)


def test_a_missing_or_silent_region_is_nan_with_no_coverage(tmp_path):
    data = DATA.copy()
    data[:, 5] = 0
    series_TR = read_series(_one_d(tmp_path / "a.1D", np.arange(115), data[:, :115]), AAL)
    assert np.isnan(series_TR[:, [5, 115]]).all()
    np.testing.assert_array_equal(np.flatnonzero(covered(series_TR) == 0), [5, 115])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.1D", "#1\t#2\n1\t2\n3\t4\n", "2 columns are not regions of AAL, first '#1'"),
        ("a.1D", "#2001\t#2001\n1\t2\n3\t5\n", "two columns"),
        ("a.1D", "#2001\t#2002\n1\t2\t3\n3\t4\t4\n", "header names 2 regions, rows have 3"),
        ("a.mat", "not a matlab file, but long enough to be looked at as if it were one" * 4, "unreadable"),
        ("a.csv", "", "unknown series format"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SeriesError, match=message):
        read_series(tmp_path / name, AAL)


def test_a_matrix_of_another_atlas_is_refused(tmp_path):
    savemat(tmp_path / "s.mat", {"data": DATA[:, :100]})
    with pytest.raises(SeriesError, match="116 regions of AAL"):
        read_series(tmp_path / "s.mat", AAL)


def test_a_damaged_mat_file_is_a_series_error_wherever_it_is_damaged(tmp_path):
    path = tmp_path / "s.mat"
    savemat(path, {"data": DATA}, do_compression=True)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    damaged = [whole[:length] for length in (0, 1, 60, 127, 128, 131, 140, 1000, len(whole) - 10)]
    for _ in range(60):
        content = bytearray(whole)
        for place in random.integers(120, 300, 3):
            content[place] = random.integers(256)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_series(path, AAL)
        except SeriesError:
            refused += 1
    assert refused > 50


def test_a_series_without_a_volume_is_refused(tmp_path):
    savemat(tmp_path / "s.mat", {"data": np.zeros((0, 116))})
    with pytest.raises(SeriesError, match="no volume"):
        read_series(tmp_path / "s.mat", AAL)


# ── XCP-D and giga_connectome ───────────────────────────────────────────────────────────────────

XCPD = "sub-1_task-rest_space-MNI152NLin2009cAsym_seg-AAL_stat-mean_timeseries.tsv"
FLAGS = np.isin(np.arange(20), [0, 7, 8, 19]).astype(int)


def _tsv(path: Path, names: tuple[str, ...], data: np.ndarray) -> Path:
    rows = ["\t".join(names), *("\t".join("n/a" if np.isnan(x) else repr(float(x)) for x in row) for row in data)]
    path.write_text("\n".join(rows) + "\n")
    return path


def _outliers(folder: Path, flags: np.ndarray) -> None:
    _tsv(folder / "sub-1_task-rest_outliers.tsv", ("framewise_displacement",), flags[:, None])


def test_volumes_that_xcpd_interpolated_are_left_out(tmp_path):
    _outliers(tmp_path, FLAGS)
    np.testing.assert_allclose(read_series(_tsv(tmp_path / XCPD, AAL.names, DATA), AAL), DATA[FLAGS == 0])


def test_a_table_that_xcpd_censored_is_taken_whole(tmp_path):
    _outliers(tmp_path, FLAGS)
    censored = _tsv(tmp_path / XCPD, AAL.names, DATA[FLAGS == 0])
    np.testing.assert_allclose(read_series(censored, AAL), DATA[FLAGS == 0])


def test_outliers_of_another_run_are_refused(tmp_path):
    _outliers(tmp_path, FLAGS)
    with pytest.raises(SeriesError, match="18 volumes, its outliers table 20 of which 16 are kept"):
        read_series(_tsv(tmp_path / XCPD, AAL.names, DATA[:18]), AAL)
    _tsv(tmp_path / "sub-1_task-rest_outliers.tsv", ("fd",), FLAGS[:, None])
    with pytest.raises(SeriesError, match="no column framewise_displacement"):
        read_series(tmp_path / XCPD, AAL)


def test_a_region_of_na_is_uncovered(tmp_path):
    data = DATA.copy()
    data[:, 3] = np.nan
    series_TR = read_series(_tsv(tmp_path / XCPD, AAL.names, data), AAL)
    np.testing.assert_array_equal(np.flatnonzero(covered(series_TR) == 0), [3])


def test_a_cell_of_text_is_an_error_and_not_a_gap(tmp_path):
    path = _tsv(tmp_path / XCPD, AAL.names, DATA)
    path.write_text(path.read_text().replace(repr(float(DATA[4, 4])), "many"))
    with pytest.raises(SeriesError, match="unreadable series file"):
        read_series(path, AAL)


def test_numbered_columns_follow_the_label_values_not_the_atlas_table(tmp_path):
    order = np.random.default_rng(2).permutation(116)
    shuffled = replace(AAL, ids=tuple(np.array(AAL.ids)[order]), names=tuple(np.array(AAL.names)[order]))
    name = "sub-1_task-rest_seg-AAL_desc-denoiseSimple_timeseries.tsv"
    numbered = _tsv(tmp_path / name, tuple(map(str, range(116))), DATA)
    np.testing.assert_allclose(read_series(numbered, shuffled), DATA[:, order])
    with pytest.raises(SeriesError, match="not regions of AAL"):
        read_series(_tsv(tmp_path / name, tuple(map(str, range(110))), DATA[:, :110]), AAL)
