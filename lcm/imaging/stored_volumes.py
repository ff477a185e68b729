"""The stored values of a 4D NIfTI, one volume at a time from front to back, and the mask that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcm.imaging.header import ImageError, unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

# T volume; V all voxels of the grid; P voxels of a mask.


def stored_volumes(image: Any) -> Iterator[NDArray[Any]]:
    """Each volume's stored values V (Fortran order), scaling not applied; each overwrites the one before.

    `image` is nibabel's, loaded from a file. Plain files are read, not mapped: a mapped file counts as memory for as long as
    it is, and the run may be any length. Raises ImageError where the file ends early or gzip's checksum does not hold.
    """
    from isal import igzip_lib

    volume_V = np.empty(int(np.prod(image.shape[:3])), image.dataobj.dtype)
    data = volume_V.view(np.uint8).data
    try:
        with _open(Path(image.get_filename())) as stream:
            stream.seek(image.dataobj.offset)
            for _ in range(image.shape[3]):
                if stream.readinto(data) < len(data):
                    raise EOFError
                yield volume_V
            # gzip's checksum stands behind the last voxel.
            stream.read(1)
    except (EOFError, OSError, igzip_lib.IsalError) as error:  # type: ignore[misc]  # isal has no type for it
        raise ImageError(f"truncated or corrupt image ({type(error).__name__})") from None


def masked_series(image: Any, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Stored values P×T of the voxels of a mask X×Y×Z, in the mask's C order; memory holds these and one volume."""
    voxels_P = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
    series_TP = np.empty((image.shape[3], len(voxels_P)), image.dataobj.dtype.newbyteorder("="))
    for time, volume_V in enumerate(stored_volumes(image)):
        series_TP[time] = volume_V[voxels_P]
    return series_TP.T


def read_mask(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A mask image X×Y×Z, true above 0; raises ImageError where it cannot be read or lies on another grid than the run."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        mask = np.asarray(image.dataobj) > 0
    except unreadable() as error:
        raise ImageError(f"unreadable brain mask ({type(error).__name__})") from None
    if mask.shape != tuple(shape) or not np.allclose(image.affine, affine, rtol=0, atol=1e-3):
        raise ImageError("brain mask and BOLD are on different grids")
    return mask


def _open(path: Path) -> BufferedIOBase:
    # isal inflates gzip two to three times as fast as zlib, and inflating is most of the time that a pass over a run takes.
    from isal import igzip

    return igzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
