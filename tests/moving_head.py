"""A head of known shape and motion: the MNI template with BOLD-like contrast, moved rigidly, for the imaging tests."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from lcm.imaging.motion import image_centre, rigid_matrix
from lcm.imaging.registration import load_template

TR_S = 2.0


def planted_motion(num_volumes: int, seed: int) -> np.ndarray:
    """T×6 parameters reference→volume: a slow drift, a step in the middle, none in the first volume."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1, (num_volumes, 6)) * np.array([0.06, 0.06, 0.06, 0.001, 0.001, 0.001])
    steps[num_volumes // 2] += np.array([0.6, -0.4, 0.5, 0.01, -0.006, 0.005])
    steps[0] = 0
    return np.cumsum(steps, axis=0)


def head(grid_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A T1w-like and a BOLD-like brain (X×Y×Z, about 1000) and their affine."""
    template = load_template("nilearn", grid_mm)
    t1w = 1000 * template.brain / template.brain.max()
    bold = np.where(template.mask, 1600 - 0.9 * t1w, 0)
    return t1w, gaussian_filter(bold, 0.5), template.affine


def move(volume: np.ndarray, affine: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """The volume after the head has moved by `parameters` about the image centre (cubic)."""
    matrix = rigid_matrix(parameters, image_centre(affine, volume.shape))
    to_reference = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ affine
    return affine_transform(volume, to_reference[:3, :3], to_reference[:3, 3], order=3)


def moving_run(volume: np.ndarray, affine: np.ndarray, parameters_T6: np.ndarray, seed: int) -> np.ndarray:
    """X×Y×Z×T int16: the head at every planted position with 1 % of noise."""
    rng = np.random.default_rng(seed)
    moved = [move(volume, affine, p) + rng.normal(0, 10, volume.shape) * (volume > 0) for p in parameters_T6]
    return np.clip(np.stack(moved, axis=-1), 0, 32000).astype(np.int16)


def save(data: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    """Write a NIfTI with seconds in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], TR_S))
    nib.save(image, path)
    return path
