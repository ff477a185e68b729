"""Motion, registration and normalisation in one interpolation: a run and its brain mask written on the MNI grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.imaging.registration import Template, dice, sample
from lcm.imaging.run_image import RunImage, RunWriter, in_order
from lcm.tables import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

# P points: all voxels of the grid in C order, or those of the brain; T volumes.


def write_brain_mask(
    bold_mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    points_3P: NDArray[np.float64],
    template: Template,
    path: Path,
) -> tuple[NDArray[np.bool_], float]:
    """Write the run's brain mask in MNI space; give it and the Dice of BOLD mask and template within the field of view.

    The mask is the BOLD's own, cut to the template's brain grown by one voxel: a region without signal (dropout, outside the
    field of view) must show as uncovered, and eyes or scalp must not show as brain.
    """
    import nibabel as nib
    from scipy.ndimage import binary_dilation

    shape = template.mask.shape
    in_view = sample(np.ones(bold_mask.shape), affine, points_3P, 0).reshape(shape) > 0
    own = sample(bold_mask, affine, points_3P, 1).reshape(shape) > 0.5
    brain = own & binary_dilation(template.mask)
    if not brain.any():
        raise ValueError("the BOLD and the template share no voxel: the registration failed")
    image = nib.Nifti1Image(brain.astype(np.uint8), template.affine)
    image.header.set_sform(template.affine, code="mni")
    image.header.set_qform(template.affine, code="mni")
    with write_atomically(path) as temporary:
        nib.save(image, temporary)
    return brain, dice(own & in_view, template.mask & in_view)


def resample_volumes(
    run: RunImage,
    matrices_T44: NDArray[np.float64],
    inside_3P: NDArray[np.float64],
    brain: NDArray[np.bool_],
    writer: RunWriter,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Append the run to `writer` on the grid of `brain`, zero outside it, and give its mean over time (X×Y×Z).

    `inside_3P` are the points of the mean BOLD behind the voxels of `brain`. Every original volume is interpolated once, by a
    cubic spline, at those points moved by that volume's head position; `threads` volumes at a time, with the same result.
    """

    def interpolated(index: int) -> NDArray[np.float32]:
        matrix = matrices_T44[index]
        moved_3P = matrix[:3, :3] @ inside_3P + matrix[:3, 3:]
        return sample(run.volume(index), run.affine, moved_3P, 3)

    total = np.zeros(inside_3P.shape[1])
    volume_out = np.zeros(brain.shape, dtype=np.float32)
    for values in in_order(interpolated, range(run.num_volumes), threads):
        volume_out[brain] = values
        writer.append(volume_out)
        total += values
    volume_out[brain] = total / run.num_volumes
    return volume_out
