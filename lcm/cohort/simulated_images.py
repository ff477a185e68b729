"""Simulated images: raw runs with a known motion trace, and fMRIPrep derivatives whose confounds are in the signal.

Shapes: V voxels of a grid, N voxels of the brain, T volumes, R regions.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcm.cohort.simulated_anatomy import MNI_HEAD, Grid, Head, Tissue, rotation, sample
from lcm.cohort.simulated_series import band_limited_noise

Array = NDArray[np.float64]

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
"""fMRIPrep's names: millimetres and radians, of the head, in RAS+ space."""

HEAD_RADIUS_MM = 50.0
"""Radius at which a rotation becomes a displacement (Power et al. 2012, NeuroImage 59:2142)."""

NEURAL_SHARE = 0.02
"""Standard deviation of a region's own signal over the baseline."""

PHYSIOLOGY_SHARE = {"global": 0.008, "white": 0.006, "csf": 0.015}
"""Standard deviation, over the baseline, of the nuisance signal of all tissue, white matter and CSF."""

THERMAL_NOISE = 5.0
HIGH_PASS_S = 128.0


def motion_trace(num_volumes: int, rng: np.random.Generator) -> Array:
    """Rigid motion of the head (T×6, MOTION): slow drift, breathing-sized jitter, and a few sudden moves that stay."""
    steps = rng.normal(0.0, 1.0, (num_volumes, 6))
    scale = np.array([0.010, 0.012, 0.020, 0.00025, 0.00015, 0.00015])
    trace = np.cumsum(steps, axis=0) * scale + rng.normal(0.0, 0.6, (num_volumes, 6)) * scale
    for volume in rng.choice(np.arange(5, num_volumes - 5), size=max(2, num_volumes // 40), replace=False):
        trace[volume:] += rng.normal(0.0, 12.0, 6) * scale
    return trace - trace[0]


def framewise_displacement(motion: Array) -> Array:
    """Power's FD (T, mm) of a motion trace (T×6); the first volume has none and gets 0."""
    changes = np.abs(np.diff(motion, axis=0, prepend=motion[:1]))
    return changes[:, :3].sum(1) + HEAD_RADIUS_MM * changes[:, 3:].sum(1)


def echo_planar(tissue: Tissue, head: Head, grid: Grid) -> dict[str, Array]:
    """Maps of a head on the run's grid: `baseline` (T2*: CSF bright, white matter dark), tissues, `regions`, `brain`."""
    maps = {name: sample(getattr(tissue, name), tissue, head, grid) for name in ("grey", "white", "brain")}
    maps["csf"] = np.clip(maps["brain"] - maps["grey"] - maps["white"], 0.0, 1.0)
    contrast = 1000.0 * maps["grey"] + 850.0 * maps["white"] + 1300.0 * maps["csf"]
    z = grid.coordinates_mm()[2].reshape(grid.shape)
    maps["baseline"] = contrast * (1.0 + 0.001 * z)
    maps["regions"] = sample(tissue.regions.astype(np.float64), tissue, head, grid, nearest=True)
    return maps


def fluctuations(
    maps: Mapping[str, Array], series: Array, tr_s: float, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """What changes inside the brain: its mask (grid) and the signal minus baseline (N×T).

    A voxel has its region's series, the physiology of its tissues and slow drift, all in proportion to its baseline.
    """
    # A generous mask, like fMRIPrep's: a tight one would leave AAL's outermost regions (Cerebelum_10) half uncovered.
    inside = maps["brain"] > 0.2
    baseline = maps["baseline"][inside]
    num_volumes = len(series)
    region = np.rint(maps["regions"][inside]).astype(int)
    neural = np.vstack([np.zeros(num_volumes), NEURAL_SHARE * series.T])[region]
    physiology = band_limited_noise(num_volumes, 3, tr_s, rng)
    weights = np.stack([
        np.full(baseline.shape, PHYSIOLOGY_SHARE["global"]),
        PHYSIOLOGY_SHARE["white"] * maps["white"][inside],
        PHYSIOLOGY_SHARE["csf"] * maps["csf"][inside],
    ])  # fmt: skip
    drift = np.linspace(-1.0, 1.0, num_volumes)
    slope = rng.normal(0.0, 0.004, (baseline.size, 1))
    relative = neural + weights.T @ physiology.T + slope * drift
    return inside, (relative * baseline[:, None]).astype(np.float32)


def slice_times(num_slices: int, tr_s: float) -> list[float]:
    """Seconds after a volume's start at which each slice is taken: first the even ones, then the odd ones (interleaved)."""
    order = [*range(0, num_slices, 2), *range(1, num_slices, 2)]
    times = {index: place * tr_s / num_slices for place, index in enumerate(order)}
    return [times[index] for index in range(num_slices)]


def moving_run(
    maps: Mapping[str, Array],
    grid: Grid,
    series: Array,
    motion: Array,
    *,
    tr_s: float,
    slice_times_s: Sequence[float],
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """A raw run (grid×T): every volume is the head of that moment, moved by `motion` (T×6) and sampled anew, plus noise.

    The move turns about the middle of the grid, then shifts. The baseline is interpolated by cubic splines and the 2 %
    that fluctuate linearly, which keeps the dependence of the blur on the move out of the baseline. Between two volumes
    the fluctuation goes on in a straight line, and each slice along the third axis is taken at its own time.
    """
    from scipy.ndimage import affine_transform, spline_filter

    inside, change = fluctuations(maps, series, tr_s, rng)
    later = (np.asarray(slice_times_s) / tr_s)[np.nonzero(inside)[2]].astype(np.float32)
    coefficients = spline_filter(maps["baseline"].astype(np.float32), order=3, output=np.float32)
    frame = np.zeros(grid.shape, np.float32)
    run = np.empty((*grid.shape, len(series)), np.int16, order="F")
    for volume, move in enumerate(motion):
        next_volume = min(volume + 1, len(series) - 1)
        frame[inside] = (1 - later) * change[:, volume] + later * change[:, next_volume]
        matrix, offset = _pull(grid, move)
        still = affine_transform(
            coefficients, matrix, offset, order=3, prefilter=False, mode="constant", output=np.float32
        )
        moved = affine_transform(frame, matrix, offset, order=1, mode="constant", output=np.float32)
        noise = rng.standard_normal(grid.shape, np.float32) * np.float32(THERMAL_NOISE)
        run[..., volume] = np.rint(np.abs(still + moved + noise))
    return run


def _pull(grid: Grid, move: Array) -> tuple[Array, Array]:
    """Matrix and offset, voxel to voxel, from a place in the moved head to where it was before the move."""
    center = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    back = rotation(move[3:]).T
    to_mm, to_voxel = grid.affine[:3, :3], np.linalg.inv(grid.affine[:3, :3])
    matrix = to_voxel @ back @ to_mm
    shift_mm = back @ (grid.affine[:3, 3] - center - move[:3]) + center - grid.affine[:3, 3]
    return matrix, to_voxel @ shift_mm


def preprocessed_run(
    maps: Mapping[str, Array], grid: Grid, series: Array, motion: Array, *, tr_s: float, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.bool_], dict[str, Array]]:
    """A run as fMRIPrep leaves it (grid×T), its mask and its confounds: motion is corrected, its traces remain.

    What remains is a third of the first-order change that the motion makes at intensity edges, and a change of the whole
    signal with the speed of the motion (spin history), so that regression on the 24 motion columns removes both.
    """
    inside, change = fluctuations(maps, series, tr_s, rng)
    edges = np.asarray(np.gradient(maps["baseline"], axis=(0, 1, 2)))[:, inside]
    edges = (np.linalg.inv(grid.affine[:3, :3]).T @ edges).astype(np.float32)
    arms = grid.coordinates_mm().reshape(3, *grid.shape)[:, inside].astype(np.float32)
    turning = np.cross(arms, edges, axis=0)
    change -= 0.33 * (np.vstack([edges, turning]).T @ motion.T.astype(np.float32))
    speed = np.diff(motion, axis=0, prepend=motion[:1]) @ np.array([1.0, 1.0, 1.0, 50.0, 50.0, 50.0])
    baseline = maps["baseline"][inside].astype(np.float32)[:, None]
    change += 0.01 * baseline * speed.astype(np.float32)
    signal = baseline + change + THERMAL_NOISE * rng.standard_normal(change.shape, np.float32)
    run = np.zeros((*grid.shape, len(series)), np.int16, order="F")
    run[inside] = np.rint(np.maximum(signal, 0.0))
    signals = {
        "csf": signal[_purest(maps["csf"][inside], 0.8)].mean(0),
        "white_matter": signal[_purest(maps["white"][inside], 0.95)].mean(0),
        "global_signal": signal.mean(0),
    }
    return run, inside, confounds(signals, signal, motion, tr_s)


def _purest(share: Array, least: float) -> NDArray[np.bool_]:
    """Voxels with at least this share of a tissue; the best hundredth where large voxels leave none so pure."""
    return share >= min(least, float(np.quantile(share, 0.99)))


def confounds(signals: Mapping[str, Array], brain: Array, motion: Array, tr_s: float) -> dict[str, Array]:
    """The confound columns of fMRIPrep (T each, NaN where the first volume has none) of brain voxels (N×T)."""
    traces = dict(signals) | dict(zip(MOTION, motion.T, strict=True))
    columns: dict[str, Array] = {}
    for name, trace in traces.items():
        derivative = np.diff(trace, prepend=np.nan)
        columns |= {
            name: trace,
            f"{name}_derivative1": derivative,
            f"{name}_power2": trace**2,
            f"{name}_derivative1_power2": derivative**2,
        }
    dvars = np.append(np.nan, np.sqrt(np.mean(np.diff(brain, axis=1) ** 2, axis=0)))
    columns["dvars"] = dvars
    columns["std_dvars"] = dvars / np.nanmean(dvars)
    displacement = framewise_displacement(motion)
    displacement[0] = np.nan
    columns["framewise_displacement"] = displacement
    num_volumes = len(motion)
    times = np.arange(num_volumes) + 0.5
    for order in range(int(2 * num_volumes * tr_s / HIGH_PASS_S)):
        wave = np.sqrt(2 / num_volumes) * np.cos(np.pi * (order + 1) * times / num_volumes)
        columns[f"cosine{order:02d}"] = wave
    return columns


def mni_maps(tissue: Tissue, voxel_mm: float) -> tuple[Grid, dict[str, Array]]:
    """The template itself at the run's voxel size, on the template's bounding box."""
    extent = np.array(tissue.grid.shape) * np.diag(tissue.grid.affine)[:3]
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = tissue.grid.affine[:3, 3]
    x, y, z = (int(length) for length in np.ceil(extent / voxel_mm))
    grid = Grid((x, y, z), affine)
    return grid, echo_planar(tissue, MNI_HEAD, grid)


def write_nifti(path: Path, data: NDArray[np.generic], affine: Array, tr_s: float | None = None) -> None:
    """Write a gzipped NIfTI-1 whose bytes depend on the content alone."""
    import nibabel as nib

    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if tr_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def write_columns(path: Path, columns: Mapping[str, Array]) -> None:
    """Write columns of equal length as TSV, NaN as n/a."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join("n/a" if np.isnan(value) else f"{value:.8g}" for value in row) for row in rows]
    path.write_text("\n".join(["\t".join(columns), *lines]) + "\n", encoding="utf-8")


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
