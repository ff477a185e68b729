"""Preprocess on the two real participants: one with a defaced T1w, one without any and already without skull."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.config import Preprocess
from lcm.imaging.preprocess import preprocess
from lcm.imaging.tissues import tissue_masks
from lcm.tables import SCANS

pytestmark = pytest.mark.real

T1W = "sub-sforrest02/anat/sub-sforrest02_T1w.nii.gz"
RUNS_OF = {
    "sub-sforrest02": ("sub-sforrest02_task-oneback_run-01", 2.0, 156, T1W),
    "sub-rapidtide01": ("sub-rapidtide01_task-rest", 1.5, 260, None),
}


@pytest.mark.parametrize("participant", sorted(RUNS_OF))
def test_a_real_participant_reaches_the_template(participant, shared_data, tmp_path):
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
    run = preprocess(pd.DataFrame([row]), Preprocess(template="nilearn"), tmp_path, threads=2).iloc[0]
    assert run["outcome"] == "ok"
    assert run["dice_template"] > 0.9
    assert 0.02 < run["mean_fd_mm"] < 0.4
    assert run["slice_timing"] == "none in JSON"
    assert run["dice_t1w"] > 0.95 if t1w else pd.isna(run["dice_t1w"])
    _check_files(run, num_volumes)


def _check_files(run: pd.Series, num_volumes: int) -> None:
    bold = nib.load(run["bold"])
    mask = np.asarray(nib.load(run["mask"]).dataobj) > 0
    assert bold.shape == (*mask.shape, num_volumes)
    assert 1.2e6 < mask.sum() * 27 < 2.2e6
    table = pd.read_csv(Path(run["confounds"]), sep="\t", na_values="n/a")
    assert len(table) == num_volumes
    assert {f"{tissue}_comp_cor_{number:02d}" for tissue in "cw" for number in range(5)} <= set(table.columns)
    assert not table.iloc[1:].isna().any().any()
    # The tissue masks know nothing of the run: T2*-weighted CSF is brighter than white matter only where they meet the anatomy.
    mean = np.asarray(bold.dataobj[..., ::20]).mean(axis=3)
    masks = tissue_masks(mask, bold.affine)
    assert mean[masks["csf"]].mean() > 1.3 * mean[masks["white_matter"]].mean()
    assert 0.001 < table["global_signal"].std() / table["global_signal"].mean() < 0.05
