"""From a simulated image to a connectome: parcellate, denoise and correlate find the correlations that were planted."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from lcm.atlas import load_atlas
from lcm.cohort.simulated_anatomy import load_tissue
from lcm.cohort.simulated_images import mni_maps, motion_trace, preprocessed_run
from lcm.config import Denoise, Parcellate
from lcm.imaging.connectivity import connectivity
from lcm.imaging.denoise import denoise
from lcm.imaging.parcellate import parcellate
from lcm.imaging.strategy import Confounds, read_strategy, strategy_path

NUM_VOLUMES, TR_S = 400, 2.0
PLANTED_SHARE = 0.3
"""Of the simulation's usual amplitude, so that motion, physiology and drift outweigh what was planted."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, Confounds]:
    """Planted series T×R, the parcellated ones of the image they are in, and its confounds.

    Loadings of either sign: the planted series have no global signal of their own, which 9P would take for nuisance.
    """
    folder, rng, atlas = tmp_path_factory.mktemp("run"), np.random.default_rng(0), load_atlas("AAL")
    grid, maps = mni_maps(load_tissue(atlas), 5.0)
    loadings = rng.standard_normal((6, atlas.num_regions))
    planted_TR = rng.standard_normal((NUM_VOLUMES, 6)) @ loadings + rng.standard_normal(
        (NUM_VOLUMES, atlas.num_regions)
    )
    planted_TR /= planted_TR.std(axis=0)
    motion = motion_trace(NUM_VOLUMES, rng)
    bold, mask, columns = preprocessed_run(maps, grid, PLANTED_SHARE * planted_TR, motion, tr_s=TR_S, rng=rng)
    for name, data in {"bold": bold, "mask": mask.astype(np.uint8)}.items():
        nib.save(nib.Nifti1Image(data, grid.affine), folder / f"{name}.nii.gz")
    pd.DataFrame(columns).to_csv(folder / "confounds.tsv", sep="\t", na_rep="n/a", index=False)
    found_TR, _ = parcellate(folder / "bold.nii.gz", folder / "mask.nii.gz", atlas, Parcellate(min_coverage=0), {})
    return planted_TR, found_TR, Confounds(folder / "confounds.tsv", NUM_VOLUMES)


def test_planted_correlations_are_recovered_and_not_without_denoising(run: tuple[np.ndarray, np.ndarray, Confounds]):
    planted_TR, found_TR, confounds = run
    settings = Denoise(low_hz=None, high_hz=None, fd_mm=0.5, min_minutes=0)
    kept_T = denoise(found_TR, TR_S, confounds, read_strategy(strategy_path("9P")), settings).kept_T
    truth_E = connectivity(planted_TR[kept_T], "correlation")

    def agreement(series_TR: np.ndarray) -> float:
        return float(np.corrcoef(connectivity(series_TR[kept_T], "correlation"), truth_E)[0, 1])

    for name in ("9P", "36P"):
        done = denoise(found_TR, TR_S, confounds, read_strategy(strategy_path(name)), settings)
        assert agreement(done.series_TR) > 0.95, name
    assert agreement(found_TR) < 0.8
