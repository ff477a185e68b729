"""Head motion with a known answer: CPU seconds a volume and framewise displacement of our least squares and of ANTs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import ants
import numpy as np

from lcm.imaging.motion import estimate_motion, framewise_displacement, image_centre, rigid_matrix, rigid_parameters
from lcm.imaging.registration import to_ants
from tests.moving_head import head, moving_run, planted_motion

# T volume; matrices are 4×4, reference → volume, world RAS mm.

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class _Run:
    """A run in memory, as `estimate_motion` wants it."""

    def __init__(self, data: np.ndarray, affine: np.ndarray) -> None:
        self.data, self.affine, self.num_volumes = data, affine, data.shape[3]

    def volume(self, index: int) -> np.ndarray:
        return self.data[..., index].astype(np.float32)


def ours(run: _Run, folder: Path) -> np.ndarray:
    """The project's own estimate."""
    del folder
    return estimate_motion(run, 0).matrices_T44


def ants_motion_correction(run: _Run, folder: Path) -> np.ndarray:
    """ANTsPy's `motion_correction` as it comes: rigid, mutual information, to the mean of the raw volumes."""
    spacing = [*np.linalg.norm(run.affine[:3, :3], axis=0).tolist(), 1.0]
    first = to_ants(run.volume(0), run.affine)
    direction = np.eye(4)
    direction[:3, :3] = first.direction
    image = ants.from_numpy(
        run.data.astype(np.float32), origin=[*first.origin, 0.0], spacing=spacing, direction=direction
    )
    found = ants.motion_correction(image, outprefix=str(folder / "mc"))
    return np.stack([_matrix(files) for files in found["motion_parameters"]])


def ants_rigid(run: _Run, folder: Path) -> np.ndarray:
    """ANTs' rigid registration of every volume to the mean volume, with fewer and coarser iterations: what time allows."""
    mean = np.mean([run.volume(index) for index in range(run.num_volumes)], axis=0)
    fixed, matrices = to_ants(mean, run.affine), []
    for index in range(run.num_volumes):
        found = ants.registration(
            fixed=fixed,
            moving=to_ants(run.volume(index), run.affine),
            type_of_transform="Rigid",
            outprefix=str(folder / f"rigid{index}_"),
            aff_metric="mattes",
            aff_sampling=32,
            aff_random_sampling_rate=0.2,
            aff_iterations=(20, 10),
            aff_shrink_factors=(2, 1),
            aff_smoothing_sigmas=(1, 0),
            random_seed=1,
        )
        matrices.append(_matrix(found["fwdtransforms"]))
    return np.stack(matrices)


def _matrix(files: list[str]) -> np.ndarray:
    """The matrix of ANTs' transform, read off four points."""
    transform = ants.read_transform(files[0])
    corners = np.vstack([np.zeros(3), np.eye(3)])
    moved = np.array([transform.apply_to_point(corner.tolist()) for corner in corners])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (moved[1:] - moved[0]).T, moved[0]
    return _LPS @ matrix @ _LPS


def score(method: Callable[[_Run, Path], np.ndarray], run: _Run, truth_T: np.ndarray) -> dict[str, float]:
    """CPU seconds a volume (one thread), correlation of FD with the planted trace, also without its step, and mean FD (mm)."""
    centre = image_centre(run.affine, run.data.shape)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        matrices_T44 = method(run, Path(folder))
        seconds = time.process_time() - start
    parameters_T6 = np.stack([rigid_parameters(np.linalg.inv(matrix), centre) for matrix in matrices_T44])
    fd_mm = framewise_displacement(parameters_T6)[1:]
    step = truth_T == truth_T.max()
    return {
        "seconds_per_volume": seconds / run.num_volumes,
        "fd_correlation": float(np.corrcoef(fd_mm, truth_T)[0, 1]),
        "fd_correlation_without_step": float(np.corrcoef(fd_mm[~step], truth_T[~step])[0, 1]),
        "mean_fd_mm": float(fd_mm.mean()),
    }


METHODS = {"ours": ours, "ants_motion_correction": ants_motion_correction, "ants_rigid": ants_rigid}


def main() -> None:
    """Plant, estimate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=60)
    parser.add_argument("--voxel-mm", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    _, bold, affine = head(options.voxel_mm)
    planted_T6 = planted_motion(options.volumes, options.seed)
    run = _Run(moving_run(bold, affine, planted_T6, options.seed + 1), affine)
    centre = image_centre(affine, bold.shape)
    inverse_T6 = np.stack([rigid_parameters(np.linalg.inv(rigid_matrix(p, centre)), centre) for p in planted_T6])
    truth_T = framewise_displacement(inverse_T6)[1:]
    found = {name: score(method, run, truth_T) for name, method in METHODS.items()}
    if options.json:
        sys.stdout.write(json.dumps({"true_mean_fd_mm": float(truth_T.mean()), **found}) + "\n")
        return
    sys.stdout.write(f"planted mean FD {truth_T.mean():.3f} mm, {options.volumes} volumes of {bold.shape}\n")
    for name, values in found.items():
        fd = f"FD r {values['fd_correlation']:.3f}, without the step {values['fd_correlation_without_step']:.3f}"
        line = f"{name:<24}{values['seconds_per_volume']:8.3f} s a volume   {fd}, mean {values['mean_fd_mm']:.3f} mm"
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
