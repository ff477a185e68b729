"""Seconds of one pass over a run: bare inflating, our parcellate, and nilearn's masker on the same file, in one go."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

sys.path.insert(0, str(Path(__file__).parents[1]))


from lcm.atlas import load_atlas
from lcm.config import Parcellate
from lcm.imaging.parcellate import parcellate

AFFINE = np.array([[-2.0, 0, 0, 96], [0, 2, 0, -132], [0, 0, 2, -78], [0, 0, 0, 1]])
SHAPE = (97, 115, 97)


def write_run(folder: Path, num_volumes: int) -> tuple[Path, Path]:
    """A BOLD-like int16 run on the 2 mm MNI grid (smooth anatomy plus noise, zero outside the brain) and its mask."""
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_img

    brain = resample_img(
        load_mni152_brain_mask(resolution=2),
        target_affine=AFFINE,
        target_shape=SHAPE,
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    )
    inside = brain.get_fdata() > 0
    rng = np.random.default_rng(0)
    data = np.zeros((*SHAPE, num_volumes), dtype="int16")
    data[inside] = rng.normal(800, 40, (int(inside.sum()), num_volumes))
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_zooms((2, 2, 2, 2.0))
    nib.save(image, folder / "bold.nii.gz")
    nib.save(nib.Nifti1Image(inside.astype("uint8"), AFFINE), folder / "mask.nii.gz")
    return folder / "bold.nii.gz", folder / "mask.nii.gz"


def inflate(path: Path) -> None:
    """Read the file to its end and keep nothing: the floor for anything that looks at every voxel."""
    with igzip.open(path, "rb") as stream:
        while stream.read(16 << 20):
            pass


def masker(bold: Path, mask: Path) -> None:
    """What a user would write instead."""
    from nilearn.maskers import NiftiLabelsMasker

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        NiftiLabelsMasker(
            labels_img=str(load_atlas("AAL").image),
            mask_img=str(mask),
            smoothing_fwhm=None,
            standardize=None,
            detrend=False,
            resampling_target="data",
            strategy="mean",
            keep_masked_labels=True,
        ).fit_transform(str(bold))


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bold, mask = write_run(Path(folder), options.volumes)
        atlas, settings = load_atlas("AAL"), Parcellate()
        found = {
            "inflate_s": seconds(lambda: inflate(bold), options.repeats),
            "parcellate_s": seconds(lambda: parcellate(bold, mask, atlas, settings, {}), options.repeats),
            "masker_s": seconds(lambda: masker(bold, mask), 1),
        }
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in found.items():
        ratio = value / found["inflate_s"]
        sys.stdout.write(f"{name.removesuffix('_s'):<12}{value:8.2f} s   {ratio:5.1f} × bare inflating\n")


if __name__ == "__main__":
    main()
