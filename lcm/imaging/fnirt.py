"""FNIRT's displacement fields: from points of the standard space to points of the image that FSL registered to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcm.imaging.header import unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

# 3P points in world coordinates (RAS mm) unless named otherwise; X×Y×Z the field's grid.

_DISPLACEMENT = 2006
_COEFFICIENTS = {2007: "cubic spline", 2008: "discrete cosine", 2009: "quadratic spline"}
"""NIfTI intent codes of FSL (fnirt_file_writer.cpp)."""

_OUTSIDE_MM = 1e6


def fsl_to_world(
    affine: NDArray[np.float64], shape: tuple[int, ...], zooms_mm: tuple[float, ...]
) -> NDArray[np.float64]:
    """4×4 from FSL's coordinates of an image to its world: voxel × size, x counted from the right where det > 0."""
    to_fsl = np.diag([*zooms_mm[:3], 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        to_fsl[0] = [-zooms_mm[0], 0, 0, (shape[0] - 1) * zooms_mm[0]]
    return affine @ np.linalg.inv(to_fsl)


def _apply(matrix: NDArray, points_3P: NDArray) -> NDArray[np.float64]:
    return matrix[:3, :3] @ points_3P + matrix[:3, 3:]


def _read_field(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The field as absolute FSL coordinates of the source (3×X×Y×Z), and its affine."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        values = np.moveaxis(np.asarray(image.dataobj, dtype=np.float64), -1, 0)
    except unreadable() as error:
        raise ValueError(f"unreadable warp field ({type(error).__name__})") from None
    intent = int(image.header["intent_code"])
    if intent in _COEFFICIENTS:
        raise ValueError(
            f"the warp is a file of {_COEFFICIENTS[intent]} coefficients, not a displacement field: convert it with "
            "FSL's fnirtfileutils --in --ref --withaff --out"
        )
    if image.ndim != 4 or image.shape[3] != 3:
        raise ValueError(f"the warp has shape {'×'.join(map(str, image.shape))}; a displacement field is X×Y×Z×3")
    if intent != _DISPLACEMENT:
        raise ValueError(f"the warp has NIfTI intent code {intent}; FSL's displacement fields have {_DISPLACEMENT}")
    to_world = fsl_to_world(image.affine, image.shape, image.header.get_zooms())
    grid_3P = _apply(image.affine, np.indices(values.shape[1:]).reshape(3, -1))
    own = _apply(np.linalg.inv(to_world), grid_3P).reshape(values.shape)
    # The file does not say which kind it is. As in fslpy: positions spread over the whole brain, displacements do not.
    spread, spread_of_difference = (v.std(axis=(1, 2, 3)).sum() for v in (values, values - own))
    return values if spread > spread_of_difference else values + own, image.affine


def source_points(path: Path, points_3P: NDArray[np.float64], source: Any) -> NDArray[np.float64]:
    """Points of the image `source` (nibabel) behind points of the standard space, by a relative or absolute field at `path`.

    The field is linear between its voxels, as in FSL's applywarp; beyond its grid a point lies far outside any image.
    Coordinates: FSL wiki, FLIRT/FNIRT "FSL coordinates". Raises ValueError for a coefficient file and for what is no field.
    """
    from scipy.ndimage import map_coordinates

    values, affine = _read_field(path)
    where_3P = _apply(np.linalg.inv(affine), points_3P)
    found_3P = np.stack([map_coordinates(v, where_3P, order=1, mode="constant", cval=np.nan) for v in values])
    world_3P = _apply(fsl_to_world(source.affine, source.shape, source.header.get_zooms()), found_3P)
    return np.where(np.isfinite(world_3P).all(axis=0), world_3P, _OUTSIDE_MM)
