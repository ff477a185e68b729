"""A 4D run read and written one volume at a time, so that memory holds neither its floats nor its copy in MNI."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lcm.imaging.stored_volumes import stored_volumes

if TYPE_CHECKING:
    from numpy.typing import NDArray


In = TypeVar("In")
Out = TypeVar("Out")

_NO_EXTENSION = b"\0" * 4
_OFFSET = 352
"""Bytes before the voxels of a NIfTI-1 without extensions: 348 of header and those four."""


def _stored(image: Any) -> NDArray[Any]:
    """Stored values X×Y×Z×T: mapped where the file is plain, else inflated into place."""
    if not image.get_filename().endswith(".gz"):
        try:
            return np.asanyarray(image.dataobj.get_unscaled())
        except (OSError, ValueError) as error:
            raise ValueError(f"truncated or corrupt image ({type(error).__name__})") from None
    # nibabel inflates into bytes and copies them: twice the run.
    stored = np.empty(image.shape, image.dataobj.dtype, order="F")
    for time, volume_V in enumerate(stored_volumes(image)):
        stored[..., time] = volume_V.reshape(image.shape[:3], order="F")
    return stored


class RunImage:
    """A 4D NIfTI whose stored integers stay as they are; `volume(i)` gives scaled float32, X×Y×Z."""

    def __init__(self, path: Path) -> None:
        import nibabel as nib

        image: Any = nib.load(path)
        if len(image.shape) != 4:
            raise ValueError(f"the image has {len(image.shape)} dimensions, a run needs 4")
        self.stored = _stored(image)
        slope, inter = image.dataobj.slope, image.dataobj.inter
        self.slope, self.inter = np.float32(slope), np.float32(inter)
        self.affine: NDArray[np.float64] = np.asarray(image.affine, dtype=np.float64)
        self.shape: tuple[int, ...] = image.shape[:3]
        self.num_volumes: int = image.shape[3]

    def volume(self, index: int) -> NDArray[np.float32]:
        """The volume at `index`, X×Y×Z, in the units of the file."""
        return self.stored[..., index].astype(np.float32) * self.slope + self.inter

    def first_means(self, count: int) -> NDArray[np.float64]:
        """Mean over all voxels of each of the first `count` volumes, or of all where there are fewer."""
        return np.array([self.volume(i).mean(dtype=np.float64) for i in range(min(count, self.num_volumes))])

    def slice_series(self, axis: int, index: int) -> NDArray[np.float32]:
        """Slice `index` along `axis` of every volume: the other two axes × T, in the units of the file."""
        return self.stored[(slice(None),) * axis + (index,)].astype(np.float32) * self.slope + self.inter

    def check_values(self) -> None:
        """Raises ValueError naming the first volume with NaN or infinite voxels, or with nothing but one value."""
        for index in range(self.num_volumes):
            check_volume(self.volume(index), index)


def check_volume(volume: NDArray[np.float32], index: int) -> None:
    """Raises ValueError naming the volume that has NaN or infinite voxels, or nothing but one value."""
    num_bad = int(np.count_nonzero(~np.isfinite(volume)))
    if num_bad:
        raise ValueError(f"{num_bad} voxels of volume {index} are NaN or infinite")
    if volume.min() == volume.max():
        raise ValueError(f"volume {index} is constant")


def checked_volumes(image: Any) -> Iterator[NDArray[np.float32]]:
    """Each volume X×Y×Z of nibabel's `image`, in the units of the file and checked; one is in memory at a time."""
    slope, inter = np.float32(image.dataobj.slope), np.float32(image.dataobj.inter)
    for index, volume_V in enumerate(stored_volumes(image)):
        volume = volume_V.astype(np.float32).reshape(image.shape[:3], order="F") * slope + inter
        check_volume(volume, index)
        yield volume


def in_order(function: Callable[[In], Out], items: Iterable[In], threads: int) -> Iterator[Out]:
    """`function` of each item, in their order; up to `threads` at once, and no more waiting than that.

    Each result is worked out by one thread alone, so their number changes the time and not one bit.
    """
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[Out]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class RunWriter:
    """Appends volumes to an int16 NIfTI with one scale for the run; values beyond ±`limit` are clipped."""

    def __init__(self, stream: object, shape: tuple[int, ...], limit: float) -> None:
        self._stream, self._shape = stream, shape
        self._slope = limit / np.iinfo(np.int16).max

    def append(self, volume: NDArray[np.float32]) -> None:
        """Write the next volume, X×Y×Z."""
        if volume.shape != self._shape:
            raise ValueError(f"volume of shape {volume.shape} in a run of {self._shape}")
        stored = np.clip(np.rint(volume / self._slope), -32767, 32767).astype("<i2")
        self._stream.write(stored.tobytes(order="F"))  # type: ignore[attr-defined]


def _header(shape: tuple[int, ...], affine: NDArray[np.float64], tr_s: float, dtype: str, space: str) -> Any:
    """A NIfTI-1 header, in mm and s, for voxels that follow it directly."""
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_zooms((*np.linalg.norm(affine[:3, :3], axis=0), tr_s))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, code=space)
    header.set_qform(affine, code=space)
    header["vox_offset"], header["magic"] = _OFFSET, b"n+1"
    return header


def create_float_run(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64], tr_s: float) -> np.memmap:
    """An uncompressed float32 `.nii` of shape X×Y×Z×T, mapped into memory to be filled; `RunImage` reads it the same way."""
    path.write_bytes(_header(shape, affine, tr_s, "<f4", "scanner").binaryblock + _NO_EXTENSION)
    return np.memmap(path, dtype="<f4", mode="r+", offset=_OFFSET, shape=shape, order="F")


@contextlib.contextmanager
def open_run_writer(
    path: Path, shape: tuple[int, ...], affine: NDArray[np.float64], tr_s: float, limit: float
) -> Iterator[RunWriter]:
    """A writer of a `.nii.gz` of shape X×Y×Z×T; the caller appends exactly T volumes of X×Y×Z.

    nibabel writes a whole array only; the header is nibabel's, the compression isal's at its fastest level.
    """
    from isal import igzip

    header = _header(shape, affine, tr_s, "<i2", "mni")
    header["scl_slope"], header["scl_inter"] = limit / np.iinfo(np.int16).max, 0.0
    with (
        path.open("wb") as raw,
        igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as stream,
    ):
        stream.write(header.binaryblock + _NO_EXTENSION)
        yield RunWriter(stream, shape[:3], limit)
