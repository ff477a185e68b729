"""Seconds of one pass over a run: bare inflating, our parcellate and nilearn's two roads on the same file, in one go."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from isal import igzip

sys.path.insert(0, str(Path(__file__).parents[1]))


from lcm.atlas import load_atlas
from lcm.config import Denoise, Parcellate
from lcm.imaging.parcellate import parcellate
from lcm.tables import OK, SCANS, read_arrow, write_tsv

AFFINE = np.array([[-2.0, 0, 0, 96], [0, 2, 0, -132], [0, 0, 2, -78], [0, 0, 0, 1]])
SHAPE = (97, 115, 97)
TR_S = 2.0


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
    image.header.set_zooms((2, 2, 2, TR_S))
    nib.save(image, folder / "bold.nii.gz")
    nib.save(nib.Nifti1Image(inside.astype("uint8"), AFFINE), folder / "mask.nii.gz")
    return folder / "bold.nii.gz", folder / "mask.nii.gz"


def inflate(path: Path) -> None:
    """Read the file to its end and keep nothing: the floor for anything that looks at every voxel."""
    with igzip.open(path, "rb") as stream:
        while stream.read(16 << 20):
            pass


def masker(bold: object, mask: Path) -> None:
    """What a user would write instead of `parcellate`; `bold` is a path or an image in memory."""
    from nilearn.maskers import NiftiLabelsMasker

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        NiftiLabelsMasker(
            labels_img=str(load_atlas("AAL").image),
            background_label=0,
            mask_img=str(mask),
            smoothing_fwhm=None,
            standardize=None,
            standardize_confounds=True,
            high_variance_confounds=False,
            detrend=False,
            low_pass=None,
            high_pass=None,
            t_r=None,
            dtype=None,
            resampling_target="data",
            strategy="mean",
            keep_masked_labels=True,
        ).fit_transform(bold)


def voxelwise(bold: Path, mask: Path, num_volumes: int) -> None:
    """What a user would write instead of `parcellate` and `denoise`: clean every voxel, then take the means."""
    from nilearn.image import clean_img

    settings = Denoise()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cleaned = clean_img(
            str(bold),
            runs=None,
            detrend=settings.detrend,
            standardize=None,
            confounds=np.random.default_rng(1).standard_normal((num_volumes, 9)),
            low_pass=settings.high_hz,
            high_pass=settings.low_hz,
            t_r=TR_S,
            ensure_finite=False,
            mask_img=str(mask),
            clean__sample_mask=None,
            clean__standardize_confounds=True,
            clean__filter="butterworth",
            clean__extrapolate=False,
            clean__butterworth__order=settings.filter_order,
            clean__butterworth__padtype="constant",
            clean__butterworth__padlen=num_volumes - 1,
        )
    masker(cleaned, mask)


def peak_mb(bold: Path, mask: Path, num_volumes: int) -> float:
    """Peak resident memory of `python -m lcm parcellate` on the run, in a process of its own."""
    scans, output = bold.parent / "scans.tsv", bold.parent / "series.arrow"
    row = dict.fromkeys(SCANS.columns) | {
        "dataset": "BENCH", "batch": "0", "participant_id": "sub-1", "scan": "sub-1_task-rest", "input": "derivatives",
        "bold": str(bold), "mask": str(mask), "confounds": "not read", "tr_s": TR_S,
        "fingerprint": "none", "outcome": OK,
    }  # fmt: skip
    write_tsv(pd.DataFrame([row]), scans, SCANS)
    code = (
        "import sys; from lcm.__main__ import main\n"
        "assert main(['parcellate', *sys.argv[1:]]) == 0\n"
        # Not ru_maxrss: a child inherits its parent's there.
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    flags = ["--scans", str(scans), "--runs", str(bold.parent), "--output", str(output)]
    command = [sys.executable, "-c", code, *flags]
    run = subprocess.run(command, cwd=Path(__file__).parents[1], check=False, capture_output=True, text=True)
    if run.returncode or read_arrow(output)["num_volumes"].to_pylist() != [num_volumes]:
        raise RuntimeError(f"parcellate refused the run: {run.stderr}")
    return int(run.stdout) / 1024


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(bold: Path, mask: Path, num_volumes: int, repeats: int) -> dict[str, float]:
    """Every number; nilearn's two roads are walked once."""
    atlas, settings = load_atlas("AAL"), Parcellate()
    return {
        "inflate_s": seconds(lambda: inflate(bold), repeats),
        "parcellate_s": seconds(lambda: parcellate(bold, mask, atlas, settings, {}), repeats),
        "masker_s": seconds(lambda: masker(str(bold), mask), 1),
        "voxelwise_s": seconds(lambda: voxelwise(bold, mask, num_volumes), 1),
        "peak_mb": peak_mb(bold, mask, num_volumes),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(*write_run(Path(folder), options.volumes), options.volumes, options.repeats)
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    peak = found.pop("peak_mb")
    for name, value in found.items():
        inflating, ours = value / found["inflate_s"], value / found["parcellate_s"]
        line = (
            f"{name.removesuffix('_s'):<12}{value:8.2f} s   {inflating:6.1f} × bare inflating {ours:6.1f} × parcellate"
        )
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"peak memory of parcellate {peak:.0f} MB over {options.volumes} volumes\n")


if __name__ == "__main__":
    main()
