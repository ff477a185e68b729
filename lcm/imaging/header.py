"""What a NIfTI header and the last bytes of its file tell, without inflating the image."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_CHUNK = 1 << 20


class ImageError(ValueError):
    """An image that cannot be used; the text is its outcome."""


@dataclass(frozen=True)
class Header:
    """Shape and timing of a 4D image."""

    shape: tuple[int, ...]
    tr_s: float | None
    """From pixdim[4] when the header states seconds or milliseconds and a positive value."""

    @property
    def num_volumes(self) -> int:
        """Length of the time axis."""
        return self.shape[3]


def read_header(path: Path) -> Header:
    """Header of a 4D NIfTI-1/2 image whose file is as long as the header promises.

    Raises:
        ImageError: the file is missing, is no NIfTI, is truncated, is CIFTI, has no time axis, or does not say where its
            voxels lie.
    """
    import nibabel as nib

    if not path.is_file():
        raise ImageError("the image is missing, or a link whose content was not fetched")
    try:
        image = nib.load(path)
    except unreadable() as error:
        raise ImageError(f"unreadable image ({type(error).__name__})") from None
    if isinstance(image, nib.Cifti2Image) or _is_cifti(image.header):
        raise ImageError("CIFTI, which holds no volumes: hand in the image in MNI space")
    if not isinstance(image, nib.Nifti1Image):
        raise ImageError(f"not a volumetric NIfTI but {type(image).__name__}")
    if image.ndim != 4 or min(image.shape) < 1:
        raise ImageError(f"image has shape {'×'.join(map(str, image.shape))}; a run needs four dimensions")
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"voxels of type {image.get_data_dtype()} are no real numbers")
    _check_orientation(image)
    header, proxy = image.header, cast("nib.arrayproxy.ArrayProxy", image.dataobj)
    # Not the header's vox_offset, which nibabel sets to 0 when it loads a file.
    expected = int(proxy.offset) + header.get_data_dtype().itemsize * _product(image.shape)
    if _inflated_size(path, expected) < expected:
        raise ImageError("truncated image: the file ends before its last voxel")
    return Header(shape=tuple(int(n) for n in image.shape), tr_s=_header_tr_s(header))


def unreadable() -> tuple[type[Exception], ...]:
    """What nibabel raises for a file that is damaged or no image; only the voxels of gzip need the last two."""
    import nibabel as nib

    broken = (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError)
    return (*broken, OSError, ValueError, OverflowError, EOFError, zlib.error)


def _is_cifti(header: Any) -> bool:
    # nibabel knows CIFTI by its extension .nii only; NIFTI_INTENT_CONNECTIVITY_* of the CIFTI-2 standard are 3000 to 3099.
    return "intent_code" in header and 3000 <= int(header["intent_code"]) < 3100


def _check_orientation(image: Any) -> None:
    import numpy as np

    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        # nibabel would make one up, and left would be right in half of such images.
        raise ImageError("no orientation: sform and qform codes are 0")
    if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(image.affine[:3, :3]) < 3:
        raise ImageError("the affine is not finite or flattens the image: voxels have no place in space")


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= int(size)
    return total


def _header_tr_s(header: Any) -> float | None:
    step = float(header["pixdim"][4])
    # NIFTI_UNITS_SEC, _MSEC and _USEC are bits 3 to 5; nibabel's own reader raises KeyError where other bits are damaged.
    scale = {8: 1.0, 16: 1e-3, 24: 1e-6}.get(int(header["xyzt_units"]) & 0b111000)
    return step * scale if scale and step > 0 else None


def _inflated_size(path: Path, expected: int) -> int:
    """Bytes of the file once inflated: the size itself, or what gzip's trailer says, or a count where that is unsure."""
    size = path.stat().st_size
    if path.suffix != ".gz":
        return size
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        trailer = int.from_bytes(stream.read(4), "little")
    if trailer == expected % 2**32:
        return expected
    return _count_inflated(path)


def _count_inflated(path: Path) -> int:
    """Inflate and count: needed where the trailer disagrees, because a file of several gzip members has several."""
    from isal import igzip, igzip_lib

    total = 0
    try:
        with igzip.open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                total += len(chunk)
    except (EOFError, OSError, igzip_lib.IsalError):  # type: ignore[misc]  # isal has no type for it
        return total
    return total
