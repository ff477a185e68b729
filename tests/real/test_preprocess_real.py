"""Preprocess on the two real participants: one with a defaced T1w, one without any and already without skull."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.config import Preprocess
from lcm.imaging.preprocess import preprocess
from lcm.tables import SCANS

pytestmark = pytest.mark.real

T1W = "sub-sforrest02/anat/sub-sforrest02_T1w.nii.gz"
RUNS_OF = {
    "sub-sforrest02": ("sub-sforrest02_task-oneback_run-01", 2.0, 156, T1W),
    "sub-rapidtide01": ("sub-rapidtide01_task-rest", 1.5, 260, None),
}


@pytest.mark.parametrize("participant", sorted(RUNS_OF))
def test_a_real_participant_reaches_the_template(participant, shared_data, tmp_path, caplog):
    caplog.set_level("INFO")
    scan, tr_s, num_volumes, t1w = RUNS_OF[participant]
    root = shared_data / "bids_real"
    row = dict.fromkeys(SCANS.columns) | {
        "dataset": "Real",
        "participant_id": participant,
        "scan": scan,
        "input": "bids",
        "bold": str(root / participant / "func" / f"{scan}_bold.nii.gz"),
        "t1w": str(root / t1w) if t1w else None,
        "tr_s": tr_s,
        "num_volumes": num_volumes,
        "outcome": "ok",
    }
    run = preprocess(pd.DataFrame([row]), Preprocess(), tmp_path).iloc[0]
    assert run["outcome"] == "ok"
    assert run["dice_template"] > 0.9
    assert 0.02 < run["mean_fd_mm"] < 0.4
    if t1w:
        dice = [r.args[1] for r in caplog.records if "Dice of its brain" in str(r.msg)]
        assert len(dice) == 1
        assert dice[0] > 0.95
    _check_files(run, num_volumes)


def _check_files(run: pd.Series, num_volumes: int) -> None:
    bold = nib.load(run["bold"])
    mask = np.asarray(nib.load(run["mask"]).dataobj) > 0
    assert bold.shape == (*mask.shape, num_volumes)
    assert 1.2e6 < mask.sum() * 27 < 2.2e6
    table = pd.read_csv(Path(run["confounds"]), sep="\t", na_values="n/a")
    assert len(table) == num_volumes
    assert not table.iloc[1:].isna().any().any()
    # Real brains: what is left of the global signal after its mean is a few percent, and left and right agree.
    assert 0.001 < table["global_signal"].std() / table["global_signal"].mean() < 0.05
    mean = np.asarray(bold.dataobj[..., ::20]).mean(axis=3)
    middle = round(98 / 3)
    left, right = mean[:middle], mean[2 * middle : middle : -1][: len(mean[:middle])]
    both = (left > 0) & (right > 0)
    assert np.corrcoef(left[both], right[both])[0, 1] > 0.5
