"""fMRIPrep's official container: one participant's run through Apptainer, every output verified before it counts."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from lcm.config import Fmriprep, Preprocess
from lcm.imaging.fmriprep_outputs import Record, verified
from lcm.imaging.scratch import remove, scratch_folder
from lcm.private_folder import private_folder
from lcm.tables import OK, RUNS, excluded, failed, write_atomically

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_RESOLUTIONS = {1.0: "1", 2.0: "2"}
"""Voxel size in mm → `res-` label; TemplateFlow has these two grids of both MNI templates."""

_MOST_THREADS_A_PROCESS = 8
"""fMRIPrep's own limit of --omp-nthreads: ANTs gains little beyond it."""

_GRACE_S = 10
"""What a container has to end by itself; Slurm kills 30 s after its first signal (KillWait)."""

_TEMPLATES_IN_IMAGE = PurePosixPath("/", "home", "fmriprep", ".cache", "templateflow")
"""Where the image keeps its templates (its Dockerfile). Docker finds them by HOME, which Apptainer sets to the user's."""

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL, 128 + signal.SIGTERM)
"""What a container ends with when it, or fMRIPrep in it, was ended from outside: it says nothing of the images."""

_MARK = ".lcm_fmriprep"
"""File in a participant's outputs that says which inputs and settings made them."""


@dataclass(frozen=True)
class Mounts:
    """What the container sees of this machine; absolute paths."""

    dataset: Path
    output: Path
    work: Path
    licence: Path
    templates: Path | None


def methods(settings: Preprocess) -> str:
    """What was done to the images, for a paper."""
    image = _required(settings).image
    return (
        f"Images were preprocessed by fMRIPrep (Esteban et al. 2019; container {image}) without surface reconstruction and "
        f"resampled to {':'.join(_space(settings))}; susceptibility distortion was corrected where fMRIPrep found field maps. "
        "The text it wrote, with its version and steps, is in logs/CITATION.md of its derivatives folder."
    )


def run_fmriprep(
    scans: pd.DataFrame,
    settings: Preprocess,
    output: Path,
    scratch: Path | None = None,
    *,
    threads: int = 1,
    mem_mb: int = 8000,
) -> pd.DataFrame:
    """The runs table of one participant's rows of the scans table; `output` is the participant's folder.

    fMRIPrep writes to `derivatives_of(output)`, and what it wrote for the participant is linked into `output`: Snakemake
    deletes that before a job, and the container's hours of work stand beside it.
    A run whose outputs are missing or wrong gets its reason as outcome and the others stand, whatever the container's exit
    status was. The work folder goes only after the outputs of every run were verified. Valid outputs of the same inputs
    and settings are taken as they are: a changed line of our code costs no hours. Rows that were not ok stay as they are.

    Raises:
        ValueError: naming what cannot be met: template, resolution, licence, scratch, or no Apptainer.
        OSError: fMRIPrep was killed and runs lack outputs; or another user's folder has the name of the work folder.
    """
    import pandas as pd

    space, resolution = _space(settings)
    records = [{str(name): value for name, value in scan.items()} for scan in scans.to_dict("records")]
    rows = [_row(scan, space) for scan in records]
    for scan, row in zip(records, rows, strict=True):
        if row["outcome"] == OK:
            row["outcome"] = _verdict(scan, settings)
    waiting = [(scan, row) for scan, row in zip(records, rows, strict=True) if row["outcome"] == OK]
    if waiting:
        participant = records[0]["participant_id"]
        mounts = _mounts([scan for scan, _ in waiting], settings, output, scratch)
        made = mounts.output / participant
        asked = command(mounts, settings, participant, threads=threads, mem_mb=mem_mb)
        _begin(made, mounts.work)
        status = 0
        if not all(verified(scan, made, space, resolution)["outcome"] == OK for scan, _ in waiting):
            status = _execute(asked)
        _link(made, output)
        for scan, row in waiting:
            row |= verified(scan, output, space, resolution)
        _settle([row for _, row in waiting], mounts.work, status)
    for row in rows:
        if row["outcome"] != OK:
            log.warning("%s: %s", row["scan"], row["outcome"])
    return pd.DataFrame(rows, columns=list(RUNS.columns))


def _row(scan: Record, space: str) -> Record:
    keep = ("dataset", "participant_id", "scan", "tr_s", "num_volumes", "outcome")
    return dict.fromkeys(RUNS.columns) | {name: scan[name] for name in keep} | {"template": space}


def derivatives_of(output: Path) -> Path:
    """The derivatives folder of fMRIPrep behind a participant's folder: `results/preprocess/<dataset>.fmriprep`."""
    return output.parent.with_name(f"{output.parent.name}.fmriprep")


def _link(made: Path, output: Path) -> None:
    """Bring the participant's files into `output`: as a further name of each, or as copies where the disk has no hard links."""
    for path in sorted(made.rglob("*")):
        place = output / path.relative_to(made)
        if path.name == _MARK or path.is_dir():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            place.hardlink_to(path)
        except OSError:
            shutil.copy2(path, place)


def _begin(folder: Path, work: Path) -> None:
    """Make the work folder, and clear outputs of other inputs or settings, which must not pass for those of these."""
    mark = folder / _MARK
    if not mark.is_file() or mark.read_text(encoding="utf-8") != work.name:
        if folder.exists():
            shutil.rmtree(folder)
        with write_atomically(mark) as temporary:
            temporary.write_text(work.name, encoding="utf-8")
    private_folder(work)


def _settle(rows: list[Record], work: Path, status: int) -> None:
    """Purge the work folder when every run stands; otherwise say in the reasons that it was kept."""
    ending = f"; fMRIPrep ended with status {status}" if status else ""
    bad = [row for row in rows if row["outcome"] != OK]
    if bad and status in _KILLED:
        raise OSError(
            f"fMRIPrep was killed (status {status}), mostly for memory: another attempt goes on from {work}; give it more, "
            "e.g. set-resources: preprocess:mem_mb"
        )
    for row in bad:
        row["outcome"] += f"{ending}; its work files are kept, so that another attempt goes on from there"
    if bad:
        log.warning("%d of %d runs have no valid outputs%s; work files are in %s", len(bad), len(rows), ending, work)
        return
    if status:
        log.warning("fMRIPrep ended with status %d, but the outputs of all %d runs are valid", status, len(rows))
    remove(work)


# ── before: settings, inputs, places ────────────────────────────────────────────────────────────


def _required(settings: Preprocess) -> Fmriprep:
    if settings.fmriprep is None:
        raise ValueError("preprocess.fmriprep is missing: the backend needs at least image and licence")
    return settings.fmriprep


def _space(settings: Preprocess) -> tuple[str, str]:
    """Name and `res-` label of the asked output space; raises ValueError for one that fMRIPrep cannot write."""
    if settings.template == "nilearn":
        raise ValueError(
            "preprocess.template is nilearn, which fMRIPrep does not know: use auto or a name of TemplateFlow"
        )
    space = "MNI152NLin2009cAsym" if settings.template == "auto" else settings.template
    if settings.resolution_mm not in _RESOLUTIONS:
        raise ValueError(
            f"preprocess.resolution_mm is {settings.resolution_mm:g}; fMRIPrep writes {space} at 1 or 2 mm"
        )
    return space, f"res-{_RESOLUTIONS[settings.resolution_mm]}"


def _verdict(scan: Record, settings: Preprocess) -> str:
    """Whether fMRIPrep can be asked for a run."""
    if scan["num_volumes"] < settings.min_volumes:
        return excluded(f"{scan['num_volumes']} volumes, fewer than {settings.min_volumes}")
    if not isinstance(scan["t1w"], str):
        return failed("no T1w image, which fMRIPrep needs; the builtin backend does without")
    root = _dataset_root(scan)
    if any(_leads_out(Path(scan[column]).absolute(), root) for column in ("bold", "t1w")):
        return failed("an image is a link that leads out of its dataset, where the container sees nothing: copy it in")
    return OK


def _dataset_root(scan: Record) -> Path:
    """The folder above the participant's; absolute, with no link followed."""
    for folder in Path(scan["bold"]).absolute().parents:
        if folder.name == scan["participant_id"]:
            return folder.parent
    raise ValueError(f"{scan['bold']}: not below a folder {scan['participant_id']}, so its dataset is unknown")


def _leads_out(path: Path, root: Path) -> bool:
    """Whether a link on the way from `root` to `path` breaks where `root` has another name, as it has in the container.

    A relative link that stays inside, as DataLad's into .git/annex, does not.
    """
    below = [place for place in (path, *path.parents) if place != root and place.is_relative_to(root)]
    absolute = any(place.is_symlink() and place.readlink().is_absolute() for place in below)
    return absolute or not path.resolve().is_relative_to(root.resolve())


def _mounts(scans: list[Record], settings: Preprocess, output: Path, scratch: Path | None) -> Mounts:
    """The places to bind; raises ValueError naming the setting or flag whose place is missing."""
    asked = _required(settings)
    licence = Path(asked.licence).absolute()
    if not licence.is_file():
        raise ValueError(
            f"preprocess.fmriprep.licence: no such file: {licence} (see docs/fmriprep.md for how to get one)"
        )
    templates = os.environ.get("TEMPLATEFLOW_HOME")
    output = derivatives_of(output.absolute())
    first = scans[0]
    # One name, one set of inputs and settings: a run under it may go on where another stopped, with other threads or memory.
    identity = [asked.image, *_space(settings), *_arguments(settings), str(settings.seed), str(output)]
    identity += sorted(scan["fingerprint"] for scan in scans)
    short = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:8]
    work = scratch_folder(scratch) / f"lcm-fmriprep-{first['dataset']}-{first['participant_id']}-{short}"
    return Mounts(
        _dataset_root(first).resolve(), output, work, licence, Path(templates).absolute() if templates else None
    )


# ── the container ───────────────────────────────────────────────────────────────────────────────


def command(mounts: Mounts, settings: Preprocess, participant: str, *, threads: int, mem_mb: int) -> list[str]:
    """The command line; flags as in fMRIPrep's parser (25.2 LTS) and in apptainer-run(1).

    The user's arguments stand before ours, because argparse takes the last value of a flag that is given twice.
    """
    asked = _required(settings)
    space, resolution = _space(settings)
    binds = [
        _bind(mounts.dataset, "/data:ro"),
        _bind(mounts.output, "/out"),
        _bind(mounts.work, "/work"),
        _bind(mounts.licence, "/licence.txt:ro"),
    ]
    if mounts.templates:
        binds.append(_bind(mounts.templates, "/templateflow:ro"))
    templates = "/templateflow" if mounts.templates else str(_TEMPLATES_IN_IMAGE)
    # --containall alone gives /tmp and HOME a few megabytes of memory; --workdir puts them on scratch.
    container = [_engine(), "run", "--cleanenv", "--containall", "--workdir", str(mounts.work)]
    container += [part for bind in binds for part in ("--bind", bind)]
    # Both homes of templates are read-only, and TemplateFlow would update them.
    container += ["--env", f"TEMPLATEFLOW_HOME={templates}", "--env", "TEMPLATEFLOW_AUTOUPDATE=off", asked.image]
    ours = ["--participant-label", participant.removeprefix("sub-"), "--fs-license-file", "/licence.txt"]
    ours += ["--work-dir", "/work", "--output-spaces", f"{space}:{resolution}", "--nprocs", str(threads)]
    ours += ["--omp-nthreads", str(min(_MOST_THREADS_A_PROCESS, max(1, threads - 1))), "--mem-mb", str(mem_mb)]
    ours += ["--random-seed", str(settings.seed), "--skip-bids-validation", "--notrack", "--fs-no-reconall"]
    return [*container, "/data", "/out", "participant", *_arguments(settings), *ours]


def _engine() -> str:
    engine = shutil.which("apptainer") or shutil.which("singularity")
    if engine is None:
        raise ValueError(
            "preprocess.backend is fmriprep, but neither apptainer nor singularity is on PATH: install Apptainer (or load "
            "its module), or use backend: builtin"
        )
    return engine


def _bind(source: Path, target: str) -> str:
    if ":" in str(source) or "," in str(source):
        raise ValueError(f"{source}: Apptainer cannot bind a path with a colon or a comma; rename it or link to it")
    return f"{source}:{target}"


def _arguments(settings: Preprocess) -> list[str]:
    """The user's arguments, all they ignore under one flag, and `slicetiming` with it where slice timing is off."""
    others: list[str] = []
    ignored = [] if settings.slice_timing else ["slicetiming"]
    flag = ""
    for argument in _required(settings).arguments:
        if argument.startswith("-"):
            flag, _, value = argument.partition("=")
            # argparse takes only the last --ignore, in whichever of its two forms.
            values = [value] if value else []
        else:
            values = [argument]
        if flag == "--ignore":
            ignored += values
        else:
            others.append(argument)
    return [*others, "--ignore", *dict.fromkeys(ignored)] if ignored else others


def _execute(arguments: list[str]) -> int:
    """Exit status of the container, whose processes end with this one on SIGTERM or Ctrl-C; it logs where we do."""
    log.info("%s", " ".join(arguments))
    with _sigterm_raises():
        # A session of its own makes the container and all it starts one process group.
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            return child.wait()
        except BaseException:
            _end(child)
            raise


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's process group, by force after a while, and collect the child."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(timeout=_GRACE_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    child.wait()
