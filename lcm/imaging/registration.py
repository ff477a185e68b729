"""The template on a grid and antspyx registrations: head to brain, T1w to template, BOLD to T1w, and one field of them all."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.imaging.templates import fetching, space_name, template_file

if TYPE_CHECKING:
    import ants
    from numpy.typing import NDArray

    from lcm.config import Preprocess

# Affines are 4×4, voxel → world RAS mm (nibabel). ANTs' own world is LPS; `to_ants` and `sampling_points` are the only
# places that cross over. P points or voxels.

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AFFINE_ITERATIONS = (1000, 500, 250, 0)


@dataclass(frozen=True)
class Template:
    """A standard brain on one grid: `brain` (T1w without skull) and `mask`, X×Y×Z, and `name` as BIDS writes the space."""

    name: str
    brain: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def load_template(template: str, grid_mm: float) -> Template:
    """The template on a grid of `grid_mm` (mm); `template` is what `resolve_template` gave.

    Raises ValueError naming a file that is cut short.
    """
    import nibabel as nib
    from nilearn import datasets

    if template == "nilearn":
        head = datasets.load_mni152_template(resolution=1)
        mask_image = datasets.load_mni152_brain_mask(resolution=1, threshold=0.2)
    else:
        head, mask_image = (nib.Nifti1Image.from_filename(template_file(template, kind)) for kind in ("T1w", "mask"))
    fine = np.asarray(head.affine, dtype=np.float64)
    affine = fine.copy()
    affine[:3, :3] *= grid_mm / np.linalg.norm(fine[:3, :3], axis=0)
    shape = tuple(int(np.ceil(size)) for size in np.asarray(head.shape) * np.abs(np.diag(fine))[:3] / grid_mm)
    try:
        values, share = (image.get_fdata(dtype=np.float32) for image in (head, mask_image))
    except (EOFError, OSError, zlib.error):
        raise ValueError(
            f"a file of template {template} is cut short (another job may be fetching it): run again, or delete "
            f"{template_file(template, 'T1w').parent} and fetch it again ({fetching(template)})"
        ) from None
    values = resample_to_grid(values, fine, shape, affine)
    mask = resample_to_grid(share, fine, shape, affine) > 0.5
    return Template(space_name(template), np.where(mask, np.maximum(values, 0), 0).astype(np.float32), mask, affine)


def to_ants(values: NDArray, affine: NDArray[np.float64]) -> ants.ANTsImage:
    """An ANTs image (float32) of an array X×Y×Z and its RAS affine."""
    import ants

    lps = _LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    # A sheared sform is no ITK direction; the nearest rotation keeps the voxel centres within the shear.
    left, _, right = np.linalg.svd(direction)
    return ants.from_numpy(
        np.ascontiguousarray(values, dtype=np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=left @ right,
    )


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Overlap of two masks of the same shape: 2|A∩B| / (|A|+|B|); NaN where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else float("nan")


def correct_bias(image: ants.ANTsImage, mask: ants.ANTsImage | None, shrink: int) -> ants.ANTsImage:
    """N4 (Tustison et al. 2010, IEEE TMI 29:1310)."""
    import ants

    return ants.n4_bias_field_correction(
        image, mask=mask, shrink_factor=shrink, convergence={"iters": [50, 50, 30], "tol": 1e-6}, spline_param=200
    )


def match_to_template(
    moving: ants.ANTsImage, template: Template, settings: Preprocess, folder: Path, *, same_contrast: bool
) -> list[str]:
    """Files of the transform that takes template points to points of a brain without skull, in ANTs' order.

    Mutual information for the affine part. The deformable part uses it too for a T1w (`same_contrast`); for a mean BOLD it
    uses local cross-correlation, which follows the brain's edge better (Dice .975 against .949 on a resting-state run).
    """
    import ants

    metric = {"syn_metric": "mattes", "syn_sampling": 32, "reg_iterations": (40, 20, 8)}
    if not same_contrast:
        metric = {"syn_metric": "CC", "syn_sampling": 2, "reg_iterations": (20, 10, 0)}
    result = ants.registration(
        fixed=to_ants(template.brain, template.affine),
        moving=moving,
        type_of_transform=settings.normalization,
        outprefix=str(folder / "template_"),
        aff_metric="mattes",
        aff_iterations=_AFFINE_ITERATIONS,
        random_seed=settings.seed,
        **metric,
    )
    return list(result["fwdtransforms"])


def brain_mask_of_head(head: ants.ANTsImage, template: Template, seed: int, folder: Path) -> ants.ANTsImage:
    """Brain mask (0/1) of a T1w head: the template's mask through an affine and a coarse deformation scored in the brain only.

    `ants.get_mask` is no skull strip. The deformation is scored inside the dilated template mask, so that scalp, a removed face
    and a neck do not pull at it.
    """
    import ants

    fixed = to_ants(template.brain, template.affine)
    mask = to_ants(template.mask, template.affine)
    affine = ants.registration(
        fixed=fixed,
        moving=head,
        type_of_transform="Affine",
        outprefix=str(folder / "affine_"),
        aff_metric="mattes",
        aff_iterations=_AFFINE_ITERATIONS,
        random_seed=seed,
    )
    warp = ants.registration(
        fixed=fixed,
        moving=head,
        type_of_transform="SyNOnly",
        outprefix=str(folder / "warp_"),
        initial_transform=affine["fwdtransforms"][0],
        mask=ants.morphology(mask, "dilate", 3),
        syn_metric="mattes",
        syn_sampling=32,
        reg_iterations=(40, 20, 0),
        random_seed=seed,
    )
    share = ants.apply_transforms(
        head, mask, warp["invtransforms"], interpolator="linear", whichtoinvert=[True, False], singleprecision=True
    )
    return ants.threshold_image(share, 0.5, None)


def match_bold_to_t1w(bold: ants.ANTsImage, t1w: ants.ANTsImage, seed: int, folder: Path) -> list[str]:
    """File of the rigid transform that takes T1w points to BOLD points (both brains without skull), by mutual information."""
    import ants

    result = ants.registration(
        fixed=t1w,
        moving=bold,
        type_of_transform="Rigid",
        outprefix=str(folder / "t1w_"),
        aff_metric="mattes",
        aff_random_sampling_rate=0.5,
        aff_iterations=(500, 250, 100),
        aff_shrink_factors=(4, 2, 1),
        aff_smoothing_sigmas=(2, 1, 0),
        random_seed=seed,
    )
    return list(result["fwdtransforms"])


def brain_of_bold(
    reference: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The bias-corrected mean BOLD without skull, and its mask (nilearn's histogram mask of an EPI).

    Raises ValueError where no brain can be told from the background.
    """
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    image = nib.Nifti1Image(reference, affine)
    mask = compute_epi_mask(image, lower_cutoff=0.2, upper_cutoff=0.85, opening=2, connected=True).get_fdata() > 0
    if mask.sum() < 100:
        raise ValueError(f"the brain mask of the mean BOLD has {int(mask.sum())} voxels")
    corrected = correct_bias(to_ants(reference, affine), to_ants(mask, affine), 2).numpy()
    return np.where(mask, corrected, 0).astype(np.float32), mask


def sampling_points(
    shape: tuple[int, ...], affine: NDArray[np.float64], transforms: list[str], folder: Path
) -> NDArray[np.float64]:
    """World points (3×P, RAS mm, P = all voxels of a grid, C order) of the moving image behind every voxel of the grid.

    The whole chain of transforms becomes one displacement field, so an image is interpolated once, whatever their number.
    """
    import ants
    import nibabel as nib

    grid = to_ants(np.zeros(shape), affine)
    field = ants.apply_transforms(grid, grid, transforms, compose=str(folder / "chain_"), singleprecision=True)
    shift_lps = nib.Nifti1Image.from_filename(field).get_fdata(dtype=np.float32).reshape(-1, 3).T
    index = np.indices(shape).reshape(3, -1)
    return affine[:3, :3] @ index + affine[:3, 3:] + _LPS[:3, :3] @ shift_lps


def sample(
    volume: NDArray, affine: NDArray[np.float64], points_3P: NDArray[np.float64], order: int
) -> NDArray[np.float32]:
    """Values of a volume at world points (P); a spline of `order`, zero outside the field of view."""
    from scipy.ndimage import map_coordinates

    inverse = np.linalg.inv(affine)
    where_3P = inverse[:3, :3] @ points_3P + inverse[:3, 3:]
    return map_coordinates(volume.astype(np.float32), where_3P, order=order, mode="constant", cval=0.0)


def resample_to_grid(
    values: NDArray, affine: NDArray[np.float64], shape: tuple[int, ...], grid_affine: NDArray[np.float64]
) -> NDArray[np.float32]:
    """A volume on another grid of the same space (trilinear, zero outside); a mask becomes a share of 0..1.

    A coarser grid takes the mean over its voxel first, so that thin structures fade instead of appearing by chance.
    """
    from scipy.ndimage import correlate1d

    step = np.linalg.norm(grid_affine[:3, :3], axis=0) / np.linalg.norm(affine[:3, :3], axis=0)
    smooth = np.asarray(values, dtype=np.float32)
    for axis, size in enumerate(np.maximum(1, step.round().astype(int)).tolist()):
        # A window of even size has no middle voxel: half of either end voxel keeps it centred, or the image would shift.
        window = np.ones(size) if size % 2 else np.r_[0.5, np.ones(size - 1), 0.5]
        smooth = correlate1d(smooth, window / size, axis=axis, mode="constant")
    index = np.indices(shape).reshape(3, -1)
    return sample(smooth, affine, grid_affine[:3, :3] @ index + grid_affine[:3, 3:], 1).reshape(shape)
