"""The confounds table of a run under fMRIPrep's column names: motion, tissue signals, FD, DVARS, outliers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcm.imaging.motion import framewise_displacement
from lcm.imaging.registration import resample_to_grid
from lcm.tables import MISSING, write_atomically

if TYPE_CHECKING:
    import nibabel as nib
    import pandas as pd
    from numpy.typing import NDArray

# T volume, P voxel, 6 = trans x y z (mm), rot x y z (rad).

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
TISSUES = ("csf", "white_matter", "global_signal")
FD_OUTLIER_MM = 0.5
STD_DVARS_OUTLIER = 1.5
"""fMRIPrep's defaults of --fd-spike-threshold and --dvars-spike-threshold."""

_CHUNK_VOXELS = 20_000
_VENTRICLE_BOX_MM = ((-30.0, 30.0), (-55.0, 35.0), (-15.0, 35.0))


def tissue_masks(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Voxels of `csf`, `white_matter` and `global_signal` on an MNI grid, inside the run's brain mask.

    nilearn's MNI152 maps hold grey and white matter only. CSF is therefore what lies deep inside the brain (the box of the
    lateral and third ventricles) and is neither, eroded by 1 mm; sulcal CSF is left out, it is mixed with cortex at BOLD
    resolution. White matter is > 0.9, eroded by 2 mm. All MNI152 versions agree within that margin, so one set serves them.
    Raises ValueError when a mask is empty.
    """
    from nilearn import datasets
    from scipy.ndimage import binary_erosion

    maps = [load(resolution=1) for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)]
    grey, white = (image.get_fdata(dtype=np.float32) for image in maps)
    brain = datasets.load_mni152_brain_mask(resolution=1, threshold=0.2).get_fdata() > 0
    inside = np.ones(grey.shape, dtype=bool)
    for axis, (low_mm, high_mm) in enumerate(_VENTRICLE_BOX_MM):
        along_mm = maps[0].affine[axis, 3] + maps[0].affine[axis, axis] * np.arange(grey.shape[axis])
        inside &= np.expand_dims((low_mm <= along_mm) & (along_mm <= high_mm), [a for a in range(3) if a != axis])
    fine = {
        "csf": binary_erosion(brain & inside & (grey + white < 0.1), iterations=1),
        "white_matter": binary_erosion(white > 0.9, iterations=2),
    }
    masks = {name: (resample_to_grid(m, maps[0].affine, mask.shape, affine) > 0.5) & mask for name, m in fine.items()}
    masks["global_signal"] = mask
    for name, found in masks.items():
        if not found.any():
            raise ValueError(f"no voxel of {name} inside the run's brain mask")
    return masks


def derivative(values_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Backward difference; NaN for the first volume, as in fMRIPrep."""
    return np.concatenate([[np.nan], np.diff(values_T)])


def dvars(values_PT: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """DVARS and standardised DVARS of every volume (first NaN) of a run's in-mask values P×T, in any unit.

    As nipype's `compute_dvars` (Nichols 2013, "Notes on creating a standardized version of DVARS"; Power 2012): values are
    scaled to a median of 1000; std_dvars divides by √(2 (1 − ρ)) σ averaged over voxels, σ the interquartile range / 1.349,
    ρ the lag-1 autocorrelation. Constant voxels do not enter. nipype's own needs nitime, which it does not install.
    """
    median = float(np.median(values_PT))
    if median <= 0:
        raise ValueError(f"the median of the BOLD inside the brain mask is {median:g}; DVARS needs a positive one")
    squares_T, expected, num_voxels = np.zeros(values_PT.shape[1] - 1), 0.0, 0
    for start in range(0, values_PT.shape[0], _CHUNK_VOXELS):
        values = values_PT[start : start + _CHUNK_VOXELS].astype(np.float64) * (1000.0 / median)
        quartiles = np.percentile(values, (25, 75), axis=1)
        sigma = (quartiles[1] - quartiles[0]) / 1.349
        values, sigma = values[sigma > 0], sigma[sigma > 0]
        centred = values - values.mean(axis=1, keepdims=True)
        lag_one = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) / (centred**2).sum(axis=1)
        expected += float((np.sqrt(2 * (1 - lag_one)) * sigma).sum())
        squares_T += (np.diff(values, axis=1) ** 2).sum(axis=0)
        num_voxels += values.shape[0]
    if num_voxels == 0:
        raise ValueError("every voxel of the brain mask is constant over time")
    plain = np.sqrt(squares_T / num_voxels)
    return np.concatenate([[np.nan], plain]), np.concatenate([[np.nan], plain / (expected / num_voxels)])


def count_non_steady(global_signal_T: NDArray[np.float64]) -> int:
    """Volumes at the start before the magnetisation is steady: leading outliers of the first 50 (nipype's rule)."""
    from nipype.algorithms.confounds import is_outlier

    first_T = global_signal_T[:50]
    # The rule divides by the median deviation; a noiseless run has none.
    if np.median(np.abs(first_T - np.median(first_T))) == 0:
        return 0
    return int(is_outlier(first_T, thresh=3.5))


def confounds_table(
    parameters_T6: NDArray[np.float64],
    tissues: dict[str, NDArray[np.float64]],
    dvars_T: NDArray[np.float64],
    std_dvars_T: NDArray[np.float64],
    num_non_steady: int,
) -> pd.DataFrame:
    """T rows under fMRIPrep's names; NaN only in the first row of derivatives, FD and DVARS.

    `tissues` holds csf, white_matter and global_signal. An outlier volume has a column of its own with a single 1.
    """
    import pandas as pd

    fd_mm = framewise_displacement(parameters_T6)
    columns: dict[str, NDArray[np.float64]] = {}
    for name, values_T in [*((n, tissues[n]) for n in TISSUES), *zip(MOTION, parameters_T6.T, strict=True)]:
        slope_T = derivative(values_T)
        columns |= {
            name: values_T,
            f"{name}_derivative1": slope_T,
            f"{name}_power2": values_T**2,
            f"{name}_derivative1_power2": slope_T**2,
        }
    columns |= {"framewise_displacement": fd_mm, "dvars": dvars_T, "std_dvars": std_dvars_T}
    # NaN compares false: the first volume is no motion outlier.
    moved = np.flatnonzero((fd_mm > FD_OUTLIER_MM) | (std_dvars_T > STD_DVARS_OUTLIER))
    spikes = {"non_steady_state_outlier": np.arange(num_non_steady), "motion_outlier": moved}
    for prefix, volumes in spikes.items():
        for number, volume in enumerate(volumes):
            columns[f"{prefix}_{number:02d}"] = (np.arange(len(fd_mm)) == volume).astype(np.int64)
    return pd.DataFrame(columns)


def column_descriptions(num_voxels: dict[str, int]) -> dict[str, dict[str, object]]:
    """Sidecar of the table: what each tissue signal is a mean of, units of motion, thresholds of the outliers."""
    found: dict[str, dict[str, object]] = {
        name: {"Description": f"mean BOLD over {count} voxels in template space", "NumberOfVoxels": count}
        for name, count in num_voxels.items()
    }
    for name in MOTION:
        unit = "mm" if name.startswith("trans") else "rad"
        found[name] = {"Description": "volume to reference, about the image centre, world axes (RAS)", "Units": unit}
    found["framewise_displacement"] = {"Description": "Power et al. 2012, 50 mm head radius", "Units": "mm"}
    found["dvars"] = {"Description": "DVARS at a median intensity of 1000"}
    found["std_dvars"] = {"Description": "DVARS over its expected value (Nichols 2013)"}
    found["motion_outlier"] = {"Description": f"FD > {FD_OUTLIER_MM} mm or std_dvars > {STD_DVARS_OUTLIER}"}
    return found


def write_confounds(
    image: nib.Nifti1Image,
    mask: NDArray[np.bool_],
    parameters_T6: NDArray[np.float64],
    num_non_steady: int,
    path: Path,
) -> None:
    """Write the table and its sidecar for a run in MNI space, `mask` being its brain mask on the same grid."""
    stored: Any = image.dataobj
    stored_PT, slope = np.asanyarray(stored.get_unscaled())[mask], float(stored.slope)
    masks = {name: found[mask] for name, found in tissue_masks(mask, image.affine).items()}
    tissues = {name: stored_PT[found].mean(axis=0, dtype=np.float64) * slope for name, found in masks.items()}
    table = confounds_table(parameters_T6, tissues, *dvars(stored_PT), num_non_steady)
    with write_atomically(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep=MISSING, lineterminator="\n", float_format="%.8g")
    sidecar = column_descriptions({name: int(found.sum()) for name, found in masks.items()})
    with write_atomically(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
