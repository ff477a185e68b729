"""What a NIfTI header and the last bytes of its file tell, without inflating the image."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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
        ImageError: the file is missing, is no NIfTI, is truncated, is CIFTI, or has no time axis.
    """
    import nibabel as nib

    if not path.is_file():
        raise ImageError("the image is missing, or a link whose content was not fetched")
    try:
        image = nib.load(path)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ImageError(f"unreadable image ({type(error).__name__})") from None
    if not isinstance(image, nib.Nifti1Image):
        raise ImageError(f"not a volumetric NIfTI but {type(image).__name__}")
    if image.ndim != 4 or min(image.shape) < 1:
        raise ImageError(f"image has shape {'×'.join(map(str, image.shape))}; a run needs four dimensions")
    header, proxy = image.header, cast("nib.arrayproxy.ArrayProxy", image.dataobj)
    # Not the header's vox_offset, which nibabel sets to 0 when it loads a file.
    expected = int(proxy.offset) + header.get_data_dtype().itemsize * _product(image.shape)
    if _inflated_size(path, expected) < expected:
        raise ImageError("truncated image: the file ends before its last voxel")
    return Header(shape=tuple(int(n) for n in image.shape), tr_s=_header_tr_s(header))


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= int(size)
    return total


def _header_tr_s(header: object) -> float | None:
    step = float(header["pixdim"][4])  # type: ignore[index]
    unit = header.get_xyzt_units()[1]  # type: ignore[attr-defined]
    scale = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(unit)
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
