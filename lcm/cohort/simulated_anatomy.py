"""Simulated heads: tissue, regions and a T1-weighted image of one person, warped from the MNI template by a known mapping.

Shapes: V voxels of a grid. Coordinates are millimetres in RAS+ space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lcm.atlas import Atlas

Array = NDArray[np.float64]

TEMPLATE_MM = 2
WARP_NODE_MM = 45.0
"""Distance of the nodes that a person's smooth displacement is interpolated from."""


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape and 4×4 affine from voxel to millimetres."""

    shape: tuple[int, int, int]
    affine: Array

    def coordinates_mm(self) -> Array:
        """Position of every voxel (3×V), in C order."""
        voxels = np.indices(self.shape, dtype=np.float64).reshape(3, -1)
        return self.affine[:3, :3] @ voxels + self.affine[:3, 3:]


@dataclass(frozen=True)
class Tissue:
    """Maps on the template's own grid: T1 contrast, grey and white matter (0–1), brain mask, region position + 1."""

    grid: Grid
    t1: Array
    grey: Array
    white: Array
    brain: Array
    regions: NDArray[np.int32]


def load_tissue(atlas: Atlas) -> Tissue:
    """The MNI152 template shipped inside nilearn (ICBM 2009a symmetric, skull-stripped) and the atlas on its grid."""
    from nilearn.datasets import (
        load_mni152_brain_mask,
        load_mni152_gm_template,
        load_mni152_template,
        load_mni152_wm_template,
    )

    t1 = load_mni152_template(resolution=TEMPLATE_MM)
    maps = [load(resolution=TEMPLATE_MM).get_fdata() for load in (load_mni152_gm_template, load_mni152_wm_template)]
    brain = load_mni152_brain_mask(resolution=TEMPLATE_MM, threshold=0.2).get_fdata()
    return Tissue(
        grid=Grid(t1.shape, t1.affine),
        t1=t1.get_fdata(),
        grey=np.clip(maps[0], 0.0, 1.0),
        white=np.clip(maps[1], 0.0, 1.0),
        brain=brain,
        regions=atlas.on_grid(t1.shape, t1.affine),
    )


@dataclass(frozen=True)
class Head:
    """One person's head: the mapping from scanner space to template space, affine then a smooth displacement."""

    linear: Array
    shift_mm: Array
    nodes_mm: Array
    """Displacements (3×5×6×5) at nodes WARP_NODE_MM apart, in template space."""

    def to_template(self, points_mm: Array) -> Array:
        """Template position (3×V) of points of the scanner (3×V)."""
        from scipy.ndimage import map_coordinates

        moved = self.linear @ points_mm + self.shift_mm[:, None]
        center = (np.array(self.nodes_mm.shape[1:])[:, None] - 1) / 2
        nodes = moved / WARP_NODE_MM + center
        # Piecewise linear over nodes would fold the gradient; cubic keeps it smooth.
        displacement = [map_coordinates(axis, nodes, order=3, mode="nearest") for axis in self.nodes_mm]
        return moved + np.array(displacement)


MNI_HEAD = Head(np.eye(3), np.zeros(3), np.zeros((3, 5, 6, 5)))
"""The template itself."""


def draw_head(rng: np.random.Generator) -> Head:
    """A head up to a few per cent larger or smaller, turned by a few degrees, with smooth 2 mm deformations."""
    scale = np.diag(rng.normal(1.0, 0.03, 3))
    return Head(
        linear=scale @ rotation(rng.normal(0.0, 0.035, 3)),
        shift_mm=rng.normal(0.0, 3.0, 3),
        nodes_mm=rng.normal(0.0, 2.0, (3, 5, 6, 5)),
    )


def rotation(angles_rad: Array) -> Array:
    """Matrix of rotations about x, then y, then z (radians, right-handed): Rz·Ry·Rx."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_rad), np.sin(angles_rad)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def centered_grid(voxel_mm: float, *, flip_x: bool) -> Grid:
    """A grid of isotropic voxels that covers an adult brain, with `flip_x` stored right to left as many scanners do."""
    across, along = int(np.ceil(176.0 / voxel_mm)), int(np.ceil(212.0 / voxel_mm))
    shape = (across, along, across)
    steps = np.diag([-voxel_mm if flip_x else voxel_mm, voxel_mm, voxel_mm])
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = np.array([0.0, -18.0, 8.0]) - steps @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def sample(volume: Array, tissue: Tissue, head: Head, grid: Grid, *, nearest: bool = False) -> Array:
    """A template map as it lies in the scanner: `volume` on `grid` (its shape), linear or nearest neighbour."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    points = head.to_template(grid.coordinates_mm())
    inverse = np.linalg.inv(tissue.grid.affine)
    voxels = inverse[:3, :3] @ points + inverse[:3, 3:]
    if nearest:
        return map_coordinates(volume, voxels, order=0, mode="constant", cval=0).reshape(grid.shape)
    blur = np.sqrt(max(float(grid.affine[2, 2]) ** 2 - TEMPLATE_MM**2, 0.0)) / 2.355 / TEMPLATE_MM
    smooth = gaussian_filter(volume, blur, mode="constant") if blur > 0 else volume
    return map_coordinates(smooth, voxels, order=1, mode="constant", cval=0.0).reshape(grid.shape)


def t1_weighted(tissue: Tissue, head: Head, rng: np.random.Generator) -> tuple[Grid, NDArray[np.int16]]:
    """A 2 mm T1-weighted image of the head, with a smooth receive field and noise; no skull, as the template has none."""
    grid = centered_grid(TEMPLATE_MM, flip_x=False)
    contrast = sample(tissue.t1, tissue, head, grid)
    x, y, z = (axis[:, None] for axis in np.split(grid.coordinates_mm() / 100.0, 3))
    a, b, c = rng.uniform(-0.15, 0.15, 3)
    receive = (1.0 + a * x + b * y + c * z).reshape(grid.shape)
    image = 800.0 * contrast * receive
    image += rng.normal(0.0, 12.0, grid.shape) * (contrast > 0.01)
    return grid, np.clip(np.rint(image), 0, 32767).astype(np.int16)
