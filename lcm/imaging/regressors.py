"""The confounds table of a run under fMRIPrep's names: motion, tissue signals, FD, RMSD, DVARS, CompCor, outliers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcm.imaging.compcor import CUTOFF_S, compcor
from lcm.imaging.motion import framewise_displacement, rigid_matrix
from lcm.imaging.stored_volumes import masked_series
from lcm.imaging.tissues import masks_of_run
from lcm.tables import MISSING, write_atomically

if TYPE_CHECKING:
    import nibabel as nib
    import pandas as pd
    from numpy.typing import NDArray

# T volume, P voxel of the brain mask, 6 = trans x y z (mm), rot x y z (rad).

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
TISSUES = ("csf", "white_matter", "global_signal")
FD_OUTLIER_MM = 0.5
STD_DVARS_OUTLIER = 1.5
"""fMRIPrep's defaults of --fd-spike-threshold and --dvars-spike-threshold."""

NUM_VOLUMES_JUDGED = 50
"""How many volumes from the start nipype's rule for the steady state looks at."""

_SPHERE_RADIUS_MM = 80.0
_CHUNK_VOXELS = 5_000


def derivative(values_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Backward difference; NaN for the first volume, as in fMRIPrep."""
    return np.concatenate([[np.nan], np.diff(values_T)])


def relative_rms(parameters_T6: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square displacement (mm) from the volume before, over a sphere of 80 mm about the image centre; first NaN.

    Jenkinson 1999, FMRIB technical report TR99MJ1: √(R²/5 tr(AᵀA) + tᵀt) of M(t) M(t − 1)⁻¹ − 1 = [A t; 0 0]; the `_rel.rms` of
    FSL's mcflirt, fMRIPrep's `rmsd`.
    """
    # The parameters turn about the image centre, so there it is the origin.
    matrices_T44 = np.stack([rigid_matrix(parameters, np.zeros(3)) for parameters in parameters_T6])
    change_T44 = matrices_T44[1:] @ np.linalg.inv(matrices_T44[:-1]) - np.eye(4)
    turned = (change_T44[:, :3, :3] ** 2).sum(axis=(1, 2))
    shifted = (change_T44[:, :3, 3] ** 2).sum(axis=1)
    return np.concatenate([[np.nan], np.sqrt(_SPHERE_RADIUS_MM**2 / 5 * turned + shifted)])


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

    first_T = global_signal_T[:NUM_VOLUMES_JUDGED]
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
    components: dict[str, NDArray[np.float64]],
) -> pd.DataFrame:
    """T rows under fMRIPrep's names; NaN only in the first row of derivatives, FD, RMSD and DVARS.

    `tissues` holds csf, white_matter and global_signal, `components` the columns of `compcor`. An outlier volume has a column
    of its own with a single 1.
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
    columns |= {"framewise_displacement": fd_mm, "rmsd": relative_rms(parameters_T6)}
    columns |= {"dvars": dvars_T, "std_dvars": std_dvars_T, **components}
    # NaN compares false: the first volume is no motion outlier.
    moved = np.flatnonzero((fd_mm > FD_OUTLIER_MM) | (std_dvars_T > STD_DVARS_OUTLIER))
    spikes = {"non_steady_state_outlier": np.arange(num_non_steady), "motion_outlier": moved}
    for prefix, volumes in spikes.items():
        for number, volume in enumerate(volumes):
            columns[f"{prefix}{number:02d}"] = (np.arange(len(fd_mm)) == volume).astype(np.int64)
    return pd.DataFrame(columns)


def column_descriptions(voxels: dict[str, tuple[int, str]]) -> dict[str, dict[str, object]]:
    """Sidecar of the table but for CompCor: units, sources, thresholds. Keys are columns or what numbered ones begin with.

    `voxels` gives, for each tissue signal, the number of its voxels and where its mask comes from (`T1w`, `template`, `BOLD`).
    """
    found: dict[str, dict[str, object]] = {
        name: {
            "Description": f"mean BOLD over {count} voxels in template space, their mask from the {origin}",
            "Mask": origin,
            "NumberOfVoxels": count,
        }
        for name, (count, origin) in voxels.items()
    }
    for name in MOTION:
        unit = "mm" if name.startswith("trans") else "rad"
        found[name] = {"Description": "volume to reference, about the image centre, world axes (RAS)", "Units": unit}
    plain = {
        "dvars": "DVARS at a median intensity of 1000",
        "std_dvars": "DVARS over its expected value (Nichols 2013)",
        "cosine": f"discrete cosine basis, periods over {CUTOFF_S:g} s; removed before CompCor; 0 before steady state",
        "non_steady_state_outlier": "volumes at the start before the magnetisation is steady",
        "motion_outlier": f"FD > {FD_OUTLIER_MM} mm or std_dvars > {STD_DVARS_OUTLIER}",
    }
    found["framewise_displacement"] = {"Description": "Power et al. 2012, 50 mm head radius", "Units": "mm"}
    found["rmsd"] = {"Description": "relative RMS displacement, Jenkinson 1999, 80 mm sphere", "Units": "mm"}
    return found | {name: {"Description": text} for name, text in plain.items()}


def write_confounds(
    image: nib.Nifti1Image,
    mask: NDArray[np.bool_],
    motion: tuple[NDArray[np.float64], int],
    tr_s: float,
    of_t1w: dict[str, NDArray[np.bool_]],
    path: Path,
) -> None:
    """Write the table and its sidecar for a run in MNI space, `mask` being its brain mask on the same grid.

    `motion` is the parameters (T×6) and the number of volumes before the steady state, `of_t1w` the tissue masks of the
    person's T1w on that grid (none: the template's).
    """
    from scipy.ndimage import binary_erosion

    parameters_T6, num_non_steady = motion
    proxy: Any = image.dataobj
    stored_PT, slope = masked_series(image, mask), float(proxy.slope)
    chosen = {name: (f[mask], origin) for name, (f, origin) in masks_of_run(mask, image.affine, of_t1w).items()}
    chosen["global_signal"] = (mask[mask], "BOLD")
    tissues = {name: stored_PT[found].mean(axis=0, dtype=np.float64) * slope for name, (found, _) in chosen.items()}
    noise = {name: chosen[name][0] for name in ("csf", "white_matter")} | {"inner": binary_erosion(mask)[mask]}
    components, metadata = compcor(stored_PT, noise, tr_s, num_non_steady)
    table = confounds_table(parameters_T6, tissues, *dvars(stored_PT), num_non_steady, components)
    with write_atomically(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep=MISSING, lineterminator="\n", float_format="%.8g")
    voxels = {name: (int(found.sum()), origin) for name, (found, origin) in chosen.items()}
    with write_atomically(path.with_suffix(".json")) as temporary:
        text = json.dumps(column_descriptions(voxels) | metadata, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")
