"""Head motion: planted rigid motion is found again, and FD is Power's formula."""

from __future__ import annotations

import numpy as np
import pytest

from lcm.imaging.motion import estimate_motion, framewise_displacement, image_centre, rigid_matrix, rigid_parameters
from tests.moving_head import head, moving_run, planted_motion


class _Run:
    def __init__(self, data: np.ndarray, affine: np.ndarray) -> None:
        self.data, self.affine, self.num_volumes = data, affine, data.shape[3]

    def volume(self, index: int) -> np.ndarray:
        return self.data[..., index].astype(np.float32)


@pytest.fixture(scope="module")
def found() -> tuple[np.ndarray, np.ndarray]:
    """Estimated and planted parameters (volume → reference) of 40 volumes at 4 mm."""
    _, bold, affine = head(4.0)
    planted = planted_motion(40, seed=3)
    motion = estimate_motion(_Run(moving_run(bold, affine, planted, seed=4), affine), 0)
    centre = image_centre(affine, bold.shape)
    inverse = [rigid_parameters(np.linalg.inv(rigid_matrix(p, centre)), centre) for p in planted]
    return motion.parameters_T6, np.stack(inverse)


def test_planted_motion_is_found_within_a_twentieth_of_a_millimetre(found):
    estimated, planted = found
    error = (estimated - estimated[0]) - (planted - planted[0])
    assert np.abs(error[:, :3]).max() < 0.05
    assert 50 * np.abs(error[:, 3:]).max() < 0.1


def test_fd_follows_the_planted_trace(found):
    estimated, planted = (framewise_displacement(p)[1:] for p in found)
    assert np.corrcoef(estimated, planted)[0, 1] > 0.99
    assert estimated.mean() == pytest.approx(planted.mean(), rel=0.1)


def test_fd_is_that_of_nipype(tmp_path):
    from nipype.algorithms.confounds import FramewiseDisplacement

    parameters = planted_motion(30, seed=5)
    path = tmp_path / "par.txt"
    np.savetxt(path, parameters)
    node = FramewiseDisplacement(in_file=str(path), parameter_source="SPM", out_file=str(tmp_path / "fd.txt"))
    reference = np.loadtxt(node.run().outputs.out_file, skiprows=1)
    assert np.isnan(framewise_displacement(parameters)[0])
    np.testing.assert_allclose(framewise_displacement(parameters)[1:], reference, atol=1e-6)


def test_fd_of_one_degree_is_its_arc_at_50_mm():
    parameters = np.zeros((2, 6))
    parameters[1, 3] = np.deg2rad(1)
    assert framewise_displacement(parameters)[1] == pytest.approx(50 * np.pi / 180)


def test_parameters_and_matrices_are_inverse_to_each_other():
    centre = np.array([3.0, -20.0, 11.0])
    parameters = np.array([1.0, -2.0, 0.5, 0.02, -0.1, 0.3])
    np.testing.assert_allclose(rigid_parameters(rigid_matrix(parameters, centre), centre), parameters, atol=1e-12)


def test_an_mcflirt_matrix_has_its_own_angles_with_the_sign_of_x_changed():
    # A .par line and its MAT file, both of one mcflirt run (neurostars.org/t/3839); FSL's x runs to the left.
    fsl_rot = np.array([0.000388147, -0.000175142, 0.000708284])
    matrix = np.array(
        [[1, 0.000708, 0.000175, 0], [-0.000708, 1, 0.000388, 0], [-0.000175, -0.000388, 1, 0], [0, 0, 0, 1]]
    )
    flip = np.diag([-1.0, 1, 1, 1])
    ours = rigid_parameters(flip @ matrix @ flip, np.zeros(3))[3:]
    np.testing.assert_allclose(ours, fsl_rot * [-1, 1, 1], atol=1e-6)


def test_a_still_head_has_no_motion():
    _, bold, affine = head(4.0)
    run = _Run(np.repeat(bold[..., None], 6, axis=3).astype(np.int16), affine)
    assert np.abs(estimate_motion(run, 0).parameters_T6).max() < 1e-4


def test_an_empty_image_is_refused():
    with pytest.raises(ValueError, match="no head"):
        estimate_motion(_Run(np.zeros((20, 20, 20, 6), np.int16), np.diag([4.0, 4, 4, 1])), 0)
