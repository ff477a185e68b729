"""Tissues: grey, white and CSF of a T1w or of the template, and the voxels of a run that hold one of them alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.bids import derivative_path, entities, scan_name
from lcm.imaging.registration import Template, resample_to_grid, to_ants
from lcm.tables import write_atomically

if TYPE_CHECKING:
    import ants
    from numpy.typing import NDArray

# Arrays are X×Y×Z.

CLASSES = ("csf", "grey_matter", "white_matter")
"""Of a T1w, from dark to bright."""

_LABELS = {"grey_matter": 1, "white_matter": 2, "csf": 3}
"""BIDS' own numbers of a `_dseg` (Derivatives, common image-derived labels)."""

_MIN_PROBABILITY = 0.95
_FROM_OTHER_TISSUE_MM = 2.0
_FROM_SURFACE_MM = 30.0
"""fMRIPrep's erosion of the brain for its CSF mask: what is left are ventricles, no sulci and no cisterns at the rim."""

_MIN_VOXELS = 30
_VENTRICLE_BOX_MM = ((-30.0, 30.0), (-55.0, 35.0), (-15.0, 35.0))


def anatomy_stem(t1w: str, scan: str, output: Path) -> str:
    """What the paths of a T1w's derivatives begin with: `<output>/sub-X[/ses-Y]/anat/sub-X[_ses-Y…]`, by the T1w's own name.

    A T1w whose name tells no participant is named after `scan`, a run that uses it.
    """
    found = entities(Path(t1w))
    name = scan_name(found) if "sub" in found else scan
    return str(derivative_path(output, name, "T1w.nii.gz").parents[1] / "anat" / name)


def segment(brain: ants.ANTsImage, mask: ants.ANTsImage, folder: Path) -> list[NDArray[np.float32]]:
    """Probabilities of CSF, grey and white matter in a T1w without skull, each 0..1, zero outside `mask`.

    Atropos (Avants et al. 2011, Neuroinformatics 9:381): a k-means start and a Markov random field, no priors. Without its
    fixed seed two runs differ. `folder` takes its files.
    """
    import ants

    # It writes into the machine's folder of temporary files and leaves them there.
    usual, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        found = ants.atropos(a=brain, x=mask, i="KMeans[3]", m="[0.1,1x1x1]", c="[10,0.0001]", r=0)
    finally:
        tempfile.tempdir = usual
    maps = [image.numpy() for image in found["probabilityimages"]]
    values = brain.numpy()
    return sorted(maps, key=lambda share: float((share * values).sum() / max(share.sum(), 1e-6)))


def pure_tissues(probabilities: list[NDArray[np.float32]], brain: ants.ANTsImage) -> dict[str, NDArray[np.bool_]]:
    """Masks of deep `csf` and of `white_matter`, away from grey matter, on the grid of `brain`, the T1w's brain mask.

    A voxel is sure of its tissue; white matter has no other tissue within 2 mm, CSF no grey matter within 2 mm and no surface
    of the brain within 30 mm.
    """
    from scipy.ndimage import distance_transform_edt

    def distance_mm(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        return distance_transform_edt(np.pad(mask, 1), sampling=brain.spacing)[1:-1, 1:-1, 1:-1]

    csf, white = probabilities[0] > _MIN_PROBABILITY, probabilities[2] > _MIN_PROBABILITY
    no_grey = probabilities[1] < 0.5
    return {
        "csf": csf
        & (distance_mm(no_grey) > _FROM_OTHER_TISSUE_MM)
        & (distance_mm(brain.numpy() > 0) > _FROM_SURFACE_MM),
        "white_matter": white & (distance_mm(white) > _FROM_OTHER_TISSUE_MM),
    }


def to_template(
    masks: dict[str, NDArray[np.bool_]], t1w: ants.ANTsImage, transforms: list[str], template: Template
) -> dict[str, NDArray[np.bool_]]:
    """Masks on the grid of `t1w` → on the template's: above a half, by linear interpolation through the transforms."""
    import ants

    grid = to_ants(template.brain, template.affine)
    return {
        name: ants.apply_transforms(
            grid, t1w.new_image_like(mask.astype(np.float32)), transforms, interpolator="linear"
        ).numpy()
        > 0.5
        for name, mask in masks.items()
    }


def write_anatomy(
    head: ants.ANTsImage,
    probabilities: list[NDArray[np.float32]],
    in_template: NDArray[np.bool_],
    transforms: list[str],
    template: Template,
    stem: str,
) -> None:
    """Write `<stem>_space-<template>_desc-preproc_T1w`, `_desc-brain_mask` and `_dseg` (.nii.gz) on the template's grid.

    `head` is the bias-corrected T1w with its skull, `in_template` its brain mask, already on that grid. The one sidecar of all
    people's T1w lies at the top of the dataset, where `index` writes it (BIDS inheritance): a file fewer a person.
    """
    import ants

    grid = to_ants(template.brain, template.affine)
    labels = np.array([_LABELS[name] for name in CLASSES])[np.argmax(probabilities, axis=0)]
    labels = np.where(np.sum(probabilities, axis=0) > 0, labels, 0).astype(np.float32)
    warped = ants.apply_transforms(grid, head, transforms, interpolator="linear").numpy()
    tissue = ants.apply_transforms(grid, head.new_image_like(labels), transforms, interpolator="genericLabel").numpy()
    outputs = {
        "desc-preproc_T1w": warped.astype(np.float32),
        "desc-brain_mask": in_template.astype(np.uint8),
        "dseg": (np.rint(tissue) * in_template).astype(np.uint8),
    }
    for ending, values in outputs.items():
        _write(values, template.affine, Path(f"{stem}_space-{template.name}_{ending}.nii.gz"))


def _write(values: NDArray, affine: NDArray[np.float64], path: Path) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(values, affine)
    image.header.set_sform(affine, code="mni")
    image.header.set_qform(affine, code="mni")
    image.header.set_xyzt_units("mm")
    with write_atomically(path) as temporary:
        nib.save(image, temporary)


def tissue_masks(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Voxels of `csf` and `white_matter` of the template on an MNI grid, inside the run's brain mask.

    nilearn's MNI152 maps hold grey and white matter only. CSF is therefore what lies deep inside the brain (the box of the
    lateral and third ventricles) and is neither, eroded by 1 mm; sulcal CSF is left out, it is mixed with cortex at BOLD
    resolution. White matter is > 0.9, eroded by 2 mm. All MNI152 versions agree within that margin, so one set serves them.
    """
    from nilearn import datasets
    from scipy.ndimage import binary_erosion

    maps = [load(resolution=1) for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)]
    grey, white = (image.get_fdata(dtype=np.float32) for image in maps)
    brain = datasets.load_mni152_brain_mask(resolution=1, threshold=0.2).get_fdata() > 0
    inside = np.ones(grey.shape, dtype=bool)
    for axis, (low_mm, high_mm) in enumerate(_VENTRICLE_BOX_MM):
        along_mm = maps[0].affine[axis, 3] + maps[0].affine[axis, axis] * np.arange(grey.shape[axis])
        inside &= np.expand_dims((low_mm <= along_mm) & (along_mm <= high_mm), [a for a in range(3) if a != axis])
    fine = {
        "csf": binary_erosion(brain & inside & (grey + white < 0.1), iterations=1),
        "white_matter": binary_erosion(white > 0.9, iterations=2),
    }
    return {name: (resample_to_grid(m, maps[0].affine, mask.shape, affine) > 0.5) & mask for name, m in fine.items()}


def masks_of_run(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], of_t1w: dict[str, NDArray[np.bool_]]
) -> dict[str, tuple[NDArray[np.bool_], str]]:
    """`csf` and `white_matter` of a run inside its brain mask, and where each comes from: `T1w` or `template`.

    `of_t1w` are the masks of the person's own T1w on the same grid; the template's replace one of under 30 voxels.
    Raises ValueError when a mask is empty.
    """
    own = {name: found & mask for name, found in of_t1w.items()}
    chosen = {name: (found, "T1w") for name, found in own.items() if found.sum() >= _MIN_VOXELS}
    if len(chosen) < 2:
        chosen = {name: (found, "template") for name, found in tissue_masks(mask, affine).items()} | chosen
    for name, (found, _) in chosen.items():
        if not found.any():
            raise ValueError(f"no voxel of {name} inside the run's brain mask")
    csf, white = chosen["csf"], chosen["white_matter"]
    # Where they come from different places they may touch.
    return {"csf": csf, "white_matter": (white[0] & ~csf[0], white[1])}
