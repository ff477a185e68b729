"""Slice timing: every slice of a run moved to one moment of its repetition, by cubic splines over time.

An equivalent of AFNI's 3dTshift, which fMRIPrep runs at this place. nipy's SpaceTimeRealigner corrects motion in the same
step, from slices, and so would leave no parameters of the raw run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.imaging.run_image import RunImage, create_float_run, in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

# T volume; A and B the two axes within a slice.

MIN_VOLUMES = 5
"""Steady volumes below which nothing is interpolated; fMRIPrep's limit."""

_AXES = {"i": 0, "j": 1, "k": 2}


@dataclass(frozen=True)
class SliceTimes:
    """When each slice was acquired (s after its volume began), by rising voxel index along `axis` (0, 1, 2)."""

    axis: int
    times_s: tuple[float, ...]

    @property
    def reference_s(self) -> float:
        """The middle of the acquisition, as fMRIPrep's default `--slice-time-ref 0.5`."""
        return round((min(self.times_s) + max(self.times_s)) / 2, 3)


def read_slice_times(
    metadata: Mapping[str, object], shape: tuple[int, ...], tr_s: float, *, wanted: bool
) -> SliceTimes | str:
    """The slice times of a run of shape X×Y×Z from its BIDS metadata, or in words why there is nothing to correct.

    `SliceEncodingDirection` says along which axis and, by its minus sign, from which end `SliceTiming` counts; k where it is
    missing (BIDS 1.10, MRI, timing parameters). Raises ValueError naming the field for times that cannot be those of the
    image: their correction would put every slice at a wrong moment.
    """
    if not wanted:
        return "off"
    if metadata.get("SliceTiming") is None:
        return "none in JSON"
    direction = metadata.get("SliceEncodingDirection", "k")
    if not isinstance(direction, str) or direction.removesuffix("-") not in _AXES:
        raise ValueError(f"SliceEncodingDirection is {direction!r}, none of i, j, k, i-, j-, k-")
    axis = _AXES[direction.removesuffix("-")]
    times_s = _checked(metadata["SliceTiming"], shape[axis], direction[0], tr_s)
    if max(times_s) == min(times_s):
        return "all slices at once"
    return SliceTimes(axis, tuple(reversed(times_s)) if direction.endswith("-") else times_s)


def _checked(value: object, num_slices: int, axis: str, tr_s: float) -> tuple[float, ...]:
    remedy = "correct the JSON or set preprocess.slice_timing to false"
    numbers = isinstance(value, Sequence) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value
    )
    if not numbers:
        raise ValueError(f"SliceTiming is no list of numbers: {remedy}")
    times_s = tuple(float(v) for v in value)  # type: ignore[attr-defined]
    if len(times_s) != num_slices:
        raise ValueError(f"SliceTiming has {len(times_s)} values, the image {num_slices} slices along {axis}: {remedy}")
    if min(times_s) < 0:
        raise ValueError(f"SliceTiming holds {min(times_s):g}, and no slice comes before its volume: {remedy}")
    if max(times_s) > tr_s:
        raise ValueError(
            f"SliceTiming holds {max(times_s):g}, more than the repetition time of {tr_s:g} s (milliseconds?): {remedy}"
        )
    return times_s


def shift_in_time(values: NDArray[np.float32], volumes: float) -> NDArray[np.float32]:
    """Values (…×T) at t + `volumes` instead of t, |volumes| < 1, by the interpolating cubic spline.

    Unser 1999, IEEE Signal Process. Mag. 16(6):22. The series goes on beyond its ends as its mirror image, so the first or
    last value of a slice that is moved outwards stays near its neighbour and is not extrapolated.
    """
    from scipy.interpolate import BSpline
    from scipy.ndimage import correlate1d, spline_filter1d

    basis = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
    weights = np.nan_to_num(basis(np.arange(-2.0, 3.0) - volumes))
    coefficients = spline_filter1d(values, order=3, axis=-1, output=np.float32, mode="mirror")
    return correlate1d(coefficients, weights, axis=-1, mode="mirror")


def correct(
    run: RunImage, times: SliceTimes, tr_s: float, num_non_steady: int, path: Path, threads: int
) -> tuple[RunImage, str]:
    """The run with every slice at `times.reference_s`, mapped from an uncompressed float32 NIfTI at `path`; and what was done.

    It is written one slice at a time. The first `num_non_steady` volumes are copied and take no part: their signal is still
    falling. A run with fewer than MIN_VOLUMES others comes back as it is.
    """
    if run.num_volumes - num_non_steady < MIN_VOLUMES:
        return run, f"fewer than {MIN_VOLUMES} volumes"
    out = create_float_run(path, (*run.shape, run.num_volumes), run.affine, tr_s)

    def moved(index: int) -> NDArray[np.float32]:
        values_ABT = run.slice_series(times.axis, index)
        volumes = (times.reference_s - times.times_s[index]) / tr_s
        if volumes:
            values_ABT[..., num_non_steady:] = shift_in_time(values_ABT[..., num_non_steady:], volumes)
        return values_ABT

    for index, values_ABT in enumerate(in_order(moved, range(run.shape[times.axis]), threads)):
        out[(slice(None),) * times.axis + (index,)] = values_ABT
    out.flush()
    return RunImage(path), f"corrected to {times.reference_s:g} s"
