"""Confounds that do not fit their run: each is refused by name, and the first row's n/a is no fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lcm.config import Denoise
from lcm.imaging.denoise import Denoised, Refused, denoise
from lcm.imaging.strategy import Confounds, ConfoundsError, read_strategy, strategy_path

NINE = read_strategy(strategy_path("9P"))
THIRTY_SIX = read_strategy(strategy_path("36P"))
TR_S, NUM_VOLUMES, NUM_REGIONS = 2.0, 200, 4
OPEN = Denoise(low_hz=None, high_hz=None, fd_mm=None, min_minutes=0)


def _frame(num_volumes: int = NUM_VOLUMES) -> pd.DataFrame:
    """A sound table: n/a in the first row where fMRIPrep writes it."""
    columns = sorted({*NINE.columns, *THIRTY_SIX.columns})
    frame = pd.DataFrame(np.random.default_rng(0).standard_normal((num_volumes, len(columns))), columns=columns)
    frame["framewise_displacement"] = 0.1
    frame.loc[0, [name for name in frame if "derivative1" in name or name == "framewise_displacement"]] = np.nan
    return frame


def _denoise(folder: Path, frame: pd.DataFrame, *, strategy=NINE, settings: Denoise = OPEN) -> Denoised:
    path = folder / "confounds.tsv"
    frame.to_csv(path, sep="\t", na_rep="n/a", index=False)
    num_volumes = len(frame)
    series_TR = np.random.default_rng(1).standard_normal((num_volumes, NUM_REGIONS))
    return denoise(series_TR, TR_S, Confounds(path, num_volumes), strategy, settings)


def test_a_sound_table_is_used_and_its_first_row_may_be_missing(tmp_path):
    done = _denoise(tmp_path, _frame(), strategy=THIRTY_SIX)
    assert np.isfinite(done.series_TR).all()
    assert done.kept_T.all()


def _set(row: int, column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return spoil


SPOILED: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "NaN beyond the first row": (_set(7, "csf", np.nan), "confound csf is missing or infinite after the first volume"),
    "NaN in the last row": (_set(199, "csf", np.nan), "confound csf is missing or infinite after the first volume"),
    "infinity": (_set(7, "rot_x", np.inf), "confound rot_x is missing or infinite after the first volume"),
    "infinity in the first row": (_set(0, "rot_x", np.inf), "confound rot_x is missing or infinite"),
    "text": (_set(7, "trans_y", "oops"), "confound trans_y holds text"),
    "a constant": (lambda frame: frame.assign(white_matter=3.5), "confound white_matter is constant"),
    "a column of n/a": (lambda frame: frame.assign(csf=np.nan), "confound csf is missing or infinite"),
    "no such column": (lambda frame: frame.drop(columns="rot_z"), "confounds lack the column rot_z"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_confound_is_refused_by_its_name(tmp_path, case):
    spoil, expected = SPOILED[case]
    with pytest.raises(ConfoundsError, match=expected):
        _denoise(tmp_path, spoil(_frame()))


def test_a_spoiled_column_that_no_strategy_asks_for_does_no_harm(tmp_path):
    frame = _frame().assign(edge_comp_00=np.nan, dvars="text", crown=1.0)
    np.testing.assert_array_equal(_denoise(tmp_path, frame).series_TR, _denoise(tmp_path, _frame()).series_TR)


def test_motion_that_is_missing_beyond_the_first_row_stops_censoring(tmp_path):
    frame = _set(50, "framewise_displacement", np.nan)(_frame())
    with pytest.raises(ConfoundsError, match="framewise_displacement is missing"):
        _denoise(tmp_path, frame, settings=OPEN.model_copy(update={"fd_mm": 0.5}))


def test_more_regressors_than_volumes_leave_no_degree_of_freedom(tmp_path):
    with pytest.raises(Refused, match="no degree of freedom left"):
        _denoise(tmp_path, _frame(30), strategy=THIRTY_SIX)


def test_a_filter_may_take_the_degrees_of_freedom_that_regressors_need(tmp_path):
    banded = OPEN.model_copy(update={"low_hz": 0.01, "high_hz": 0.08})
    # A band of 0.07 of 0.25 Hz leaves 28 of 100 volumes' worth, fewer than 36.
    with pytest.raises(Refused, match="no degree of freedom left"):
        _denoise(tmp_path, _frame(100), strategy=THIRTY_SIX, settings=banded)


def test_a_run_that_moved_throughout_is_refused_and_not_interpolated(tmp_path):
    frame = _frame().assign(framewise_displacement=2.0)
    with pytest.raises(Refused, match="less than 5 minutes left after censoring"):
        _denoise(tmp_path, frame, settings=Denoise(min_minutes=5))
    # The first volume has no predecessor and counts as still; alone it is no segment.
    alone = Denoise(min_minutes=0, min_segment_volumes=2)
    with pytest.raises(Refused, match="left after censoring"):
        _denoise(tmp_path, frame.assign(framewise_displacement=[np.nan, *[2.0] * 199]), settings=alone)


def test_four_volumes_are_too_few_minutes(tmp_path):
    with pytest.raises(Refused, match="minutes left"):
        _denoise(tmp_path, _frame(4), settings=Denoise(min_minutes=5))


def test_four_volumes_are_too_few_for_their_regressors_whatever_the_minutes(tmp_path):
    with pytest.raises(Refused, match="no degree of freedom left"):
        _denoise(tmp_path, _frame(4))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "unreadable confounds table"),
        (b"\xff\xfe\x00csf", "unreadable confounds table"),
        (b"csf\n1\n2\n", "confounds have 2 rows, the run 200 volumes"),
    ],
)
def test_a_table_that_is_none_or_too_short_is_refused(tmp_path, content, expected):
    path = tmp_path / "confounds.tsv"
    path.write_bytes(content)
    with pytest.raises(ConfoundsError, match=expected):
        Confounds(path, NUM_VOLUMES)


def test_a_missing_table_is_refused_without_its_path(tmp_path):
    with pytest.raises(ConfoundsError) as refused:
        Confounds(tmp_path / "sub-1.tsv", NUM_VOLUMES)
    assert "sub-1" not in str(refused.value)
