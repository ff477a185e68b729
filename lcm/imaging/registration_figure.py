"""The registration figure: contours of the template's tissue over the mean BOLD in MNI space, three slices an axis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.imaging.registration import Template
from lcm.tables import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLICES_MM = ((-40.0, -4.0, 32.0), (-60.0, -20.0, 25.0), (-20.0, 8.0, 42.0))
"""World coordinates of the sagittal, coronal and axial slices."""


def _plane(values: NDArray, affine: NDArray[np.float64], axis: int, at_mm: float) -> tuple[NDArray, list[float]]:
    """A slice with its first remaining axis horizontal, and its extent in mm (left, right, bottom, top)."""
    index = round((at_mm - affine[axis, 3]) / affine[axis, axis])
    plane = np.take(values, min(max(index, 0), values.shape[axis] - 1), axis=axis).T
    across, up = (a for a in range(3) if a != axis)
    extent = []
    for other in (across, up):
        first, step = affine[other, 3] - affine[other, other] / 2, affine[other, other]
        extent += [first, first + step * values.shape[other]]
    return plane, extent


def _limits(fine: Template, axis: int) -> tuple[float, float]:
    """Extent (mm) of the brain along an axis, with a rim."""
    index = np.flatnonzero(fine.mask.any(axis=tuple(a for a in range(3) if a != axis)))
    low, high = fine.affine[axis, 3] + fine.affine[axis, axis] * index[[0, -1]]
    return float(low) - 6.0, float(high) + 6.0


def draw(mean: NDArray[np.float32], grid: Template, fine: Template, path: Path) -> None:
    """Write the PNG, which names no one: its file name says whose brain it is.

    `mean` lies on the grid of `grid`; `fine` is the same template at 1 mm, for smooth contours.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.ndimage import gaussian_filter

    figure = Figure(figsize=(6.0, 5.6), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    top = float(np.percentile(mean[mean > 0], 99.0)) if (mean > 0).any() else 1.0
    outline = gaussian_filter(fine.mask.astype(np.float32), 1.0)
    tissue = gaussian_filter(fine.brain, 1.0)
    level = 0.5 * float(np.percentile(tissue[fine.mask], 30) + np.percentile(tissue[fine.mask], 90))
    limits_mm = [_limits(fine, axis) for axis in range(3)]
    panels = figure.subplots(3, 3).ravel()
    places = [(axis, at_mm) for axis, slices in enumerate(_SLICES_MM) for at_mm in slices]
    for panel, (axis, at_mm) in zip(panels, places, strict=True):
        plane, extent = _plane(mean, grid.affine, axis, at_mm)
        panel.imshow(plane, origin="lower", extent=extent, cmap="gray", vmin=0, vmax=top, interpolation="bilinear")
        for values, at, colour in ((outline, 0.5, "#ffb000"), (tissue, level, "#35c4f0")):
            line, line_extent = _plane(values, fine.affine, axis, at_mm)
            panel.contour(line, levels=[at], colors=colour, linewidths=0.5, origin="lower", extent=line_extent)
        across, up = (a for a in range(3) if a != axis)
        panel.set_xlim(*limits_mm[across])
        panel.set_ylim(*limits_mm[up])
        panel.set_title(f"{'xyz'[axis]} = {at_mm:g} mm", color="white", fontsize=7, pad=2)
        panel.set_axis_off()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png", facecolor="black", metadata={"Software": None})
