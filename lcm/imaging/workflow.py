"""The nipype graph of one participant: one anatomical pass a T1w, then five nodes a run, from raw BOLD to MNI and confounds."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lcm.imaging.machine_faults import refuse_machine_fault
from lcm.imaging.slice_timing import SliceTimes
from lcm.imaging.tissues import anatomy_stem

if TYPE_CHECKING:
    from nipype import Node, Workflow


log = logging.getLogger(__name__)
_STEPS = ("motion", "register", "resample", "confounds", "figure")


@dataclasses.dataclass(frozen=True)
class Run:
    """What the graph needs to know of a run: its files in, its files out (absolute paths) and its timing."""

    scan: str
    bold: str
    t1w: str | None
    tr_s: float
    slice_timing: SliceTimes | str
    """Text: why nothing is corrected."""
    bold_out: str
    mask_out: str
    confounds_out: str
    figure_out: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a run: the reason it failed, or its QC numbers."""

    error: str | None = None
    slice_timing: str | None = None
    num_non_steady: int | None = None
    mean_fd_mm: float | None = None
    dice_template: float | None = None
    dice_t1w: float | None = None


# ── nodes ───────────────────────────────────────────────────────────────────────────────────────
# nipype's Function executes the source of a node function alone, in a folder of its own (the current directory): these take and
# give builtin types and import what they use.


def prepare_anatomy(t1w: str, stem: str, settings: str) -> tuple:
    """T1w → (brain image file, transforms from template points to T1w points, Dice of its brain mask, file of its tissues).

    The Dice is with the template, in its space. The tissues are masks of CSF and white matter on the grid of the BOLD's output.
    The T1w's own derivatives go below `stem`.
    """
    from pathlib import Path

    import ants
    import nibabel as nib
    import numpy as np

    from lcm.config import Preprocess
    from lcm.imaging import registration, tissues

    options, folder = Preprocess.model_validate_json(settings), Path.cwd()
    template = registration.load_template(options.template, options.registration_mm)
    image = nib.Nifti1Image.from_filename(t1w)
    values = np.squeeze(image.get_fdata(dtype=np.float32))
    if values.ndim != 3 or not np.isfinite(values).all():
        raise ValueError(f"a T1w needs three dimensions and finite voxels, found shape {values.shape}")
    spacing_mm = np.maximum(np.linalg.norm(image.affine[:3, :3], axis=0), options.registration_mm)
    head = ants.resample_image(
        registration.to_ants(values, image.affine), tuple(spacing_mm.tolist()), use_voxels=False, interp_type=0
    )
    head = registration.correct_bias(head, None, 4)
    mask = registration.brain_mask_of_head(head, template, options.seed, folder)
    brain = head * mask
    transforms = registration.match_to_template(brain, template, options, folder, same_contrast=True)
    fixed = registration.to_ants(template.brain, template.affine)
    in_template = ants.apply_transforms(fixed, mask, transforms, interpolator="nearestNeighbor").numpy() > 0
    probabilities = tissues.segment(brain, mask, folder)
    tissues.write_anatomy(head, probabilities, in_template, transforms, template, stem)
    tissue_file, brain_file = str(folder / "tissues.npz"), str(folder / "brain.nii.gz")
    grid = registration.load_template(options.template, options.resolution_mm)
    found = tissues.to_template(tissues.pure_tissues(probabilities, mask), mask, transforms, grid)
    np.savez(tissue_file, csf=found["csf"], white_matter=found["white_matter"])
    ants.image_write(brain, brain_file)
    return brain_file, transforms, registration.dice(in_template, template.mask), tissue_file


def correct_motion(bold: str) -> tuple:
    """BOLD → (an .npz of realigned mean, matrices reference→volume, parameters and non-steady count; that count)."""
    from pathlib import Path

    import numpy as np

    from lcm.imaging.motion import estimate_motion
    from lcm.imaging.regressors import NUM_VOLUMES_JUDGED, count_non_steady
    from lcm.imaging.run_image import RunImage

    run = RunImage(Path(bold))
    num_non_steady = count_non_steady(run.first_means(NUM_VOLUMES_JUDGED))
    found = estimate_motion(run, num_non_steady)
    path = Path.cwd() / "motion.npz"
    np.savez(
        path,
        reference=found.reference,
        affine=run.affine,
        matrices_T44=found.matrices_T44,
        parameters_T6=found.parameters_T6,
        num_non_steady=num_non_steady,
    )
    return str(path), num_non_steady


def register_run(motion: str, settings: str, brain: str = "", anatomy: list = []) -> tuple:  # noqa: B006 - nipype copies defaults
    """Mean BOLD → (transforms from template points to points of the mean BOLD, file of its brain mask)."""
    from pathlib import Path

    import ants
    import numpy as np

    from lcm.config import Preprocess
    from lcm.imaging import registration

    options, folder = Preprocess.model_validate_json(settings), Path.cwd()
    with np.load(motion, allow_pickle=False) as stored:
        reference, affine = stored["reference"], stored["affine"]
    bold_brain, mask = registration.brain_of_bold(reference, affine)
    moving = registration.to_ants(bold_brain, affine)
    mask_file = folder / "mask.npy"
    np.save(mask_file, mask)
    if brain:
        to_bold = registration.match_bold_to_t1w(moving, ants.image_read(brain), options.seed, folder)
        # ANTs applies the list to a template point from the first to the last: template → T1w → BOLD.
        return [*anatomy, *to_bold], str(mask_file)
    template = registration.load_template(options.template, options.registration_mm)
    return registration.match_to_template(moving, template, options, folder, same_contrast=False), str(mask_file)


def resample_run(run: str, motion: str, transforms: list, bold_mask: str, settings: str, threads: int) -> tuple:
    """One interpolation of every volume onto the MNI grid → (BOLD, mask, mean image file, Dice, slice timing).

    The Dice is that of BOLD mask and template. Slice timing is corrected before, in a copy that goes; the text says how.
    """
    import json
    from pathlib import Path

    import numpy as np

    from lcm.config import Preprocess
    from lcm.imaging import registration
    from lcm.imaging.resampling import resample_volumes, write_brain_mask
    from lcm.imaging.run_image import RunImage, open_run_writer
    from lcm.imaging.slice_timing import SliceTimes, correct
    from lcm.tables import write_atomically

    files, options = json.loads(run), Preprocess.model_validate_json(settings)
    template = registration.load_template(options.template, options.resolution_mm)
    with np.load(motion, allow_pickle=False) as stored:
        reference, affine, matrices_T44 = stored["reference"], stored["affine"], stored["matrices_T44"]
        num_non_steady = int(stored["num_non_steady"])
    points_3P = registration.sampling_points(template.mask.shape, template.affine, transforms, Path.cwd())
    mask = np.load(bold_mask, allow_pickle=False)
    brain, overlap = write_brain_mask(mask, affine, points_3P, template, Path(files["mask_out"]))
    image, timing, copy = RunImage(Path(files["bold"])), files["slice_timing"], Path.cwd() / "corrected.nii"
    if not isinstance(timing, str):
        image, timing = correct(image, SliceTimes(**timing), files["tr_s"], num_non_steady, copy, threads)
    # Four times the brightest tissue leaves room for artefacts, and the step of int16 stays near 0.02 % of the signal.
    limit = 4.0 * float(np.percentile(reference[mask], 99))
    shape = (*brain.shape, image.num_volumes)
    with (
        write_atomically(Path(files["bold_out"])) as temporary,
        open_run_writer(temporary, shape, template.affine, files["tr_s"], limit) as writer,
    ):
        mean = resample_volumes(image, matrices_T44, points_3P[:, brain.ravel()], brain, writer, threads)
    # As large as the run in float32: those of all runs would pile up to the end of the job.
    copy.unlink(missing_ok=True)
    mean_file = str(Path.cwd() / "mean.npy")
    np.save(mean_file, mean)
    return files["bold_out"], files["mask_out"], mean_file, overlap, timing


def extract_confounds(bold: str, mask: str, motion: str, run: str, tissues: str = "") -> float:
    """Confounds table and sidecar of a run in MNI space → mean FD (mm). `tissues`: file of the T1w's masks, if there is one."""
    import json
    from pathlib import Path

    import nibabel as nib
    import numpy as np

    from lcm.imaging.motion import framewise_displacement
    from lcm.imaging.regressors import write_confounds

    with np.load(motion, allow_pickle=False) as stored:
        parameters_T6, num_non_steady = stored["parameters_T6"], int(stored["num_non_steady"])
    brain = np.asanyarray(nib.Nifti1Image.from_filename(mask).dataobj) > 0
    image, files = nib.Nifti1Image.from_filename(bold), json.loads(run)
    of_t1w = dict(np.load(tissues, allow_pickle=False)) if tissues else {}
    found = (parameters_T6, num_non_steady)
    write_confounds(image, brain, found, files["tr_s"], of_t1w, Path(files["confounds_out"]))
    return float(np.nanmean(framewise_displacement(parameters_T6)))


def draw_registration(mean: str, run: str, settings: str) -> str:
    """The template's contours over the mean BOLD in MNI space → the figure's file."""
    import json
    from pathlib import Path

    import numpy as np

    from lcm.config import Preprocess
    from lcm.imaging.registration import load_template
    from lcm.imaging.registration_figure import draw

    files, options = json.loads(run), Preprocess.model_validate_json(settings)
    grid = load_template(options.template, options.resolution_mm)
    fine = load_template(options.template, 1.0)
    draw(np.load(mean, allow_pickle=False), grid, fine, Path(files["figure_out"]))
    return str(files["figure_out"])


# ── the graph ───────────────────────────────────────────────────────────────────────────────────


def _node(function: object, name: str, outputs: list[str], **inputs: object) -> Node:
    from nipype import Function, Node

    interface = Function(function=function, output_names=outputs)
    node = Node(interface, name=name)
    for key, value in inputs.items():
        setattr(node.inputs, key, value)
    return node


def participant_workflow(runs: list[Run], settings: str, folder: Path, threads: int) -> Workflow:
    """The graph of all runs of a participant; runs of one T1w share its anatomical pass.

    `settings` is the JSON of the stage's section. Nodes of run i are named `run<i>_<step>`, those of a T1w `anatomy<i>`.
    """
    # Nipype asks the network for its latest version and makes ~/.nipype unless told otherwise before it is imported.
    os.environ.setdefault("NO_ET", "1")
    os.environ.setdefault("NIPYPE_CONFIG_DIR", str(folder / "nipype"))
    # With two threads ITK adds a metric's parts in the order they come: the same registration twice differs.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    from nipype import Workflow

    # Its own handler writes every line a second time, to stdout.
    logging.getLogger("nipype").handlers.clear()
    graph = Workflow(name="graph", base_dir=str(folder))
    graph.config["execution"] = {
        "crashdump_dir": str(folder / "crash"),
        "crashfile_format": "txt",
        "stop_on_first_crash": "false",
        "hash_method": "timestamp",
        "remove_unnecessary_outputs": "false",
        "check_version": "false",
    }
    anatomies: dict[str, Node] = {}
    for t1w, name in _anatomy_names(runs).items():
        outputs, run = ["brain", "transforms", "dice", "tissues"], next(run for run in runs if run.t1w == t1w)
        stem = anatomy_stem(t1w, run.scan, Path(run.figure_out).parents[2])
        anatomies[t1w] = _node(prepare_anatomy, name, outputs, t1w=t1w, stem=stem, settings=settings)
    for number, run in enumerate(runs):
        _add_run(graph, run, f"run{number}", settings, anatomies.get(run.t1w or ""), threads)
    return graph


def _anatomy_names(runs: list[Run]) -> dict[str, str]:
    """T1w → name of its node."""
    return {t1w: f"anatomy{number}" for number, t1w in enumerate(sorted({run.t1w for run in runs if run.t1w}))}


def execute(runs: list[Run], settings: str, folder: Path, threads: int) -> dict[str, Result]:
    """Run the graph below `folder`; the result of every scan. A node that fails stops the nodes behind it only.

    Raises OSError where it failed through the machine, such as a full disk.
    Nodes run one after another. `threads` work on the volumes of a run; what they give does not depend on their number.
    """
    from threadpoolctl import threadpool_limits

    graph = participant_workflow(runs, settings, folder, threads)
    started: set[str] = set()
    outputs: dict[str, object] = {}
    errors: dict[str, str] = {}

    def watch(node: Node, status: str) -> None:
        # nipype says "end" of nodes it skipped, too.
        if status == "start":
            started.add(node.name)
        elif node.name in started and status == "exception":
            errors[node.name] = _reason(node)
        elif node.name in started:
            outputs[node.name] = node.result.outputs

    try:
        # BLAS sums in another order with another number of threads.
        with threadpool_limits(limits=1):
            graph.run(plugin="Linear", plugin_args={"status_callback": watch})
    except Exception:
        # The first node's error, raised again once all others have run; a run's outcome tells it. Any other error is ours.
        if not errors:
            raise
    for reason in errors.values():
        refuse_machine_fault(reason)
    for t1w, name in _anatomy_names(runs).items():
        if name in outputs:
            log.info("%s: Dice of its brain with the template %.3f", Path(t1w).name, outputs[name].dice)  # type: ignore[attr-defined]
    return {run.scan: _result(number, run, _anatomy_names(runs), outputs, errors) for number, run in enumerate(runs)}


def _reason(node: Node) -> str:
    """The last line of the traceback that nipype keeps, with the name of the step; paths, which name people, cut out."""
    try:
        trace = node.result.runtime.traceback
    except (OSError, AttributeError):
        return f"{node.name.partition('_')[2] or 'anatomy'}: no traceback was kept"
    text = "".join(trace) if isinstance(trace, list) else str(trace)
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "unknown error").strip()
    last = re.sub(r"['\"]?[^\s'\"]*/[^\s'\"]*['\"]?", "(path)", last)
    return f"{node.name.partition('_')[2] or 'anatomy'}: {last.removeprefix('ValueError: ')}"


def _result(
    number: int, run: Run, anatomies: dict[str, str], outputs: dict[str, object], errors: dict[str, str]
) -> Result:
    steps = [anatomies.get(run.t1w or ""), *(f"run{number}_{step}" for step in _STEPS)]
    for step in steps:
        if step in errors:
            return Result(error=errors[step])
    anatomy = outputs.get(anatomies.get(run.t1w or "", ""))
    return Result(
        slice_timing=outputs[f"run{number}_resample"].slice_timing,  # type: ignore[attr-defined]
        num_non_steady=outputs[f"run{number}_motion"].num_non_steady,  # type: ignore[attr-defined]
        dice_t1w=anatomy.dice if anatomy else None,  # type: ignore[attr-defined]
        mean_fd_mm=outputs[f"run{number}_confounds"].mean_fd_mm,  # type: ignore[attr-defined]
        dice_template=outputs[f"run{number}_resample"].dice,  # type: ignore[attr-defined]
    )


def _add_run(graph: Workflow, run: Run, name: str, settings: str, anatomy: Node | None, threads: int) -> None:
    files = json.dumps(dataclasses.asdict(run))
    motion = _node(correct_motion, f"{name}_motion", ["motion", "num_non_steady"], bold=run.bold)
    register = _node(register_run, f"{name}_register", ["transforms", "bold_mask"], settings=settings)
    outputs = ["bold", "mask", "mean", "dice", "slice_timing"]
    resample = _node(resample_run, f"{name}_resample", outputs, run=files, settings=settings, threads=threads)
    confounds = _node(extract_confounds, f"{name}_confounds", ["mean_fd_mm"], run=files)
    figure = _node(draw_registration, f"{name}_figure", ["figure"], run=files, settings=settings)
    if anatomy is not None:
        graph.connect([(anatomy, register, [("brain", "brain"), ("transforms", "anatomy")])])
        graph.connect([(anatomy, confounds, [("tissues", "tissues")])])
    graph.connect(
        [
            (motion, register, [("motion", "motion")]),
            (motion, resample, [("motion", "motion")]),
            (register, resample, [("transforms", "transforms"), ("bold_mask", "bold_mask")]),
            (motion, confounds, [("motion", "motion")]),
            (resample, confounds, [("bold", "bold"), ("mask", "mask")]),
            (resample, figure, [("mean", "mean")]),
        ]
    )
