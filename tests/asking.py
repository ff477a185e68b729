"""A bundle asked about a cohort as it stands, for tests that want its scores and nothing that surrounds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lcm.training.data import Cohort
from lcm.training.inference import ask
from lcm.training.weights import load_bundle


def scores_of(folder: Path, cohort: Cohort) -> np.ndarray:
    """Scores of a finetune bundle for every connectome, (N, K); whom it has seen is not asked."""
    manifest, arrays = load_bundle(folder, cohort)
    assert manifest.task is not None
    return ask(manifest, arrays, cohort)[manifest.task.target].scores_NK
