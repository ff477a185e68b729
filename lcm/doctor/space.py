"""Room for a study: bytes and files it will write, and what the file system of its folder has and can do."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

from lcm.atlas import load_atlas
from lcm.config import Study
from lcm.doctor.census import Census, Row
from lcm.doctor.findings import Finding, Level, size
from lcm.doctor.jobs import bundles
from lcm.models import MODELS, check_size, resolve_size
from lcm.plan import PREPARED, Plan

_BOLD_BYTES_MM3 = 3.24e6
"""Compressed BOLD in MNI of one volume, times the voxel's mm³: the brain's 1.9 l at 1.7 B a voxel, as three runs had it
(the demo's, and the two raw runs of config/real.yaml: 121, 124 and 113 kB a volume at 3 mm)."""

_SURROUNDINGS = 3.0
"""fMRIPrep's BOLD is not masked, and it writes reports and transforms beside it: an assumption, not measured here."""

_CONFOUND_BYTES, _RUN_BYTES, _PERSON_BYTES = 1500, 250_000, 400_000
"""Confounds a volume; figure, mask and sidecars a run; anatomy a person."""

_FILES_A_RUN = {"bids": 6, "hcp": 4, "ukb": 6}
_FILES_A_PERSON = {"bids": 6, "hcp": 3, "ukb": 3}
_FMRIPREP_FILES = 25
_ENOUGH_VOLUMES = 300
"""Length of a run that nothing is known about."""

_SCRATCH_BYTES_A_VOXEL = 12
"""What the built-in preprocess keeps beside it while it runs, for each voxel and volume of its grid."""

_REMOTE = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "fuse.sshfs")
_CLOCK_S = 2.0


class Size(NamedTuple):
    """What something takes on disk."""

    num_bytes: float
    num_files: float


def volumes_of(study: Study, census: Census, sampled: Mapping[str, int]) -> dict[str, int]:
    """Length of a typical run of each dataset: by the index, by opened headers, by `simulate`, or _ENOUGH_VOLUMES."""
    stated: dict[str, list[int]] = {}
    for row in census.rows:
        if row["num_volumes"].isdigit():
            stated.setdefault(row["dataset"], []).append(int(row["num_volumes"]))
    unknown = study.simulate.num_volumes if study.simulate else _ENOUGH_VOLUMES
    names = {row["dataset"] for row in census.rows}
    return {name: int(median(stated[name])) if name in stated else sampled.get(name, unknown) for name in names}


def estimate(plan: Plan, jobs: Mapping[str, int], census: Census, volumes: Mapping[str, int]) -> dict[str, Size]:
    """Bytes and files of each stage of the whole study, from nothing."""
    study, rows = plan.study, census.usable()
    regions = load_atlas(study.parcellate.atlas).num_regions
    images = [row for row in rows if row["input"] != "series"]
    found = {"simulate": _simulated(study, images), "preprocess": _preprocessed(study, rows, volumes)}
    frames = sum(volumes[row["dataset"]] for row in images) * regions
    found["parcellate"] = Size(8 * frames, 2 * jobs.get("parcellate", 0))
    others = len(plan.strategies)
    own = [row for row in rows if not study.datasets[row["dataset"]].denoised]
    frames_own = others * regions * sum(volumes[row["dataset"]] for row in own)
    found["denoise"] = Size(4 * frames_own, 2 * jobs.get("denoise", 0))
    window = study.correlate.window_volumes
    each = {name: max(1, count / window) if window else 1 for name, count in volumes.items()}
    pairs = regions * (regions - 1) / 2
    copies = sum(each[row["dataset"]] * (1 if study.datasets[row["dataset"]].denoised else others) for row in rows)
    found["correlate"] = Size(4 * pairs * copies, 2 * jobs.get("correlate", 0))
    recorded = sum(volumes[row["dataset"]] for row in rows) * regions if jobs.get("collect") else 0
    found["collect"] = Size(2 * recorded, 2 * jobs.get("collect", 0))
    found["export"] = _exported(plan, jobs, rows, volumes, regions)
    found |= _learned(plan, jobs, regions)
    scans, batches = len(census.rows), len({(row["dataset"], row["batch"]) for row in census.rows})
    found["tables"] = Size(3000 * scans, 2 * batches + 30)
    found["report"] = _reported(study, rows)
    count = sum(jobs.values())
    # Log, benchmark and Snakemake's own record of a job.
    found["logs"] = Size(8000 * count, 3 * count)
    return {name: one for name, one in found.items() if one.num_files}


def _simulated(study: Study, images: list[Row]) -> Size:
    """The demo's cohorts: 8 MB a run of 120 volumes of 4 mm voxels."""
    settings = study.simulate
    if settings is None:
        return Size(0, 0)
    share = settings.num_volumes / 120 * (4 / settings.voxel_mm) ** 3
    return Size(8e6 * len(images) * share, 3 * len(images) + 6 * settings.series_people + 40)


def _preprocessed(study: Study, rows: list[Row], volumes: Mapping[str, int]) -> Size:
    settings = study.preprocess
    bold = _BOLD_BYTES_MM3 / settings.resolution_mm**3
    num_bytes = num_files = 0.0
    mine = [row for row in rows if row["input"] in PREPARED]
    container = settings.backend == "fmriprep"
    for row in mine:
        length, kind = volumes[row["dataset"]], row["input"]
        # HCP's images are taken as they come, and so are most of UK Biobank's.
        image = bold * length if kind == "bids" else 0.0
        if container and kind == "bids":
            num_bytes, num_files = num_bytes + image * _SURROUNDINGS, num_files + _FMRIPREP_FILES
        else:
            num_bytes += image + _RUN_BYTES + _CONFOUND_BYTES * length
            num_files += _FILES_A_RUN[kind]
    people = {(row["dataset"], row["participant_id"]): row["input"] for row in mine}
    num_bytes += _PERSON_BYTES * len(people)
    num_files += sum(_FMRIPREP_FILES if container else _FILES_A_PERSON[kind] for kind in people.values())
    return Size(num_bytes, num_files)


def _exported(plan: Plan, jobs: Mapping[str, int], rows: list[Row], volumes: Mapping[str, int], regions: int) -> Size:
    asked = plan.study.export
    if asked is None:
        return Size(0, 0)
    names = asked.datasets or tuple(plan.study.datasets)
    mine = [row for row in rows if row["dataset"] in names]
    strategies = len(asked.strategies or (plan.primary,))
    # Numbers as text, 11 to 13 characters each.
    num_bytes = sum(11.5 * volumes[row["dataset"]] * regions + 13 * regions**2 + 5000 for row in mine)
    return Size(strategies * num_bytes, strategies * 6 * len(mine) + 12 * len(names) + 2 * jobs.get("export", 0))


def _reported(study: Study, rows: list[Row]) -> Size:
    """The page with its figures, by the demo's: two maps a task, a few figures a dataset, and some scans' registration."""
    raw = Counter(row["dataset"] for row in rows if row["input"] == "bids")
    shown = sum(min(count, study.report.num_qc_scans) for count in raw.values())
    return Size(1.5e6 + 1e6 * len(study.tasks) + 5e5 * len(study.datasets) + 3e5 * shown, 40 + 15 * len(study.tasks))


def _learned(plan: Plan, jobs: Mapping[str, int], regions: int) -> dict[str, Size]:
    """Bundles of four files each, by the size of their network; and the files of what asks them."""
    study = plan.study
    found = {}
    for stage, num_bytes, num_files in (("evaluate", 40_000, 9), ("probe", 100_000, 8), ("predict", 1_000_000, 11)):
        found[stage] = Size(num_bytes * jobs.get(stage, 0), num_files * jobs.get(stage, 0))
    for (stage, name), count in bundles(plan).items():
        one = study.forecasters[name] if stage == "forecast" else study.models[name]
        before = found.get(stage, Size(0, 0))
        weights = _weights_bytes(one.architecture, one.size, regions) + 15_000
        found[stage] = Size(before.num_bytes + count * weights, before.num_files + 4 * count)
    return found


def _weights_bytes(architecture: str, named: str | dict[str, int | float | str], regions: int) -> float:
    """Bytes of a model's weights, in single precision: by the layers of a transformer, or eight numbers an edge."""
    if MODELS[architecture].kind == "estimator":
        return 32.0 * regions * (regions - 1) / 2
    # Defaults stand in the network's class, which only torch can load.
    sizes = resolve_size if find_spec("torch") is None else check_size
    given = {key: float(v) for key, v in sizes(architecture, named).items() if isinstance(v, int | float)}
    width = given.get("width", given.get("hidden", 0.0))
    inner, hidden = given.get("decoder_width", width), given.get("feedforward", 0.0)
    layers, decoders = given.get("num_layers", 2.0), given.get("decoder_layers", 0.0)
    # Two attentions of four square matrices, the most any of our layers has, and a feed-forward pair.
    stack = layers * (8 * width**2 + 2 * width * hidden)
    stack += decoders * (8 * inner**2 + 2 * inner * given.get("decoder_feedforward", hidden))
    return 4 * (stack + max(regions, given.get("num_frames", 0.0)) * width)


# ── what the file system has ────────────────────────────────────────────────────────────────────


def space_findings(sizes: Mapping[str, Size], folder: Path, num_scans: int, done_share: float) -> Iterator[Finding]:
    """Free bytes and inodes against the estimate, which is right within a factor of two.

    `done_share` is the part of preprocess that an earlier run has already written.
    """
    left = {name: 1 - done_share if name == "preprocess" else 1.0 for name in sizes}
    needed = sum(left[name] * one.num_bytes for name, one in sizes.items())
    files = sum(left[name] * one.num_files for name, one in sizes.items())
    largest = sorted(sizes, key=lambda name: -sizes[name].num_bytes)[:3]
    parts = ", ".join(f"{name} {size(sizes[name].num_bytes)}" for name in largest)
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    yield Finding(
        _level(free, needed),
        "space",
        f"{size(free)} free, about {size(needed)} to be written ({parts})",
        "" if free >= 2 * needed else "put the study on another disk, export less, or raise preprocess.resolution_mm",
    )
    # Some file systems (btrfs, some network ones) count no inodes and say 0.
    inodes = stat.f_favail if stat.f_files else float("inf")
    said = f"{inodes:,} can be made" if stat.f_files else "no limit known"
    yield Finding(
        _level(inodes, files),
        "files",
        f"about {files:,.0f} to be made, {files / max(1, num_scans):.3g} a scan; {said}",
        "" if inodes >= 2 * files else "ask for more inodes, or export fewer datasets: an export is six files a scan",
    )


def _level(has: float, needs: float) -> Level:
    return "stop" if has < needs / 2 else "warn" if has < 2 * needs else "ok"


def people_preprocessed(folder: Path) -> int:
    """Participants whose table of runs stands below results/preprocess; fMRIPrep's own folder beside theirs does not count."""
    return sum(1 for _ in folder.glob("*/sub-*/*_runs.tsv"))


def scratch_findings(study: Study, census: Census, volumes: Mapping[str, int], at_once: int) -> Iterator[Finding]:
    """Room for preprocess's work files in TMPDIR, so many participants at once."""
    raw = [row["dataset"] for row in census.usable() if row["input"] == "bids"]
    if not raw:
        return
    folder = Path(tempfile.gettempdir())
    grid = 3.2e6 / study.preprocess.resolution_mm**3
    needed = at_once * grid * max(volumes[name] for name in raw) * _SCRATCH_BYTES_A_VOXEL
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize
    do = "set TMPDIR to a larger node-local disk, or run fewer jobs at once" if free < 2 * needed else ""
    kind = file_system(folder)
    says = f"{size(free)} free in {folder} ({kind}), about {size(needed)} wanted by {at_once} participants at once"
    if kind == "tmpfs" and not do:
        yield Finding(
            "warn", "scratch", f"{says}; it is memory", "set TMPDIR to a disk: what lies there is missing to the jobs"
        )
        return
    yield Finding(_level(free, needed), "scratch", says, do)


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Kind of the file system that holds a folder, e.g. ext4 or nfs4; `unknown` where the machine does not tell."""
    if not mounts.is_file():
        return "unknown"
    place, best, kind = folder.resolve(), -1, "unknown"
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        point, name = line.split()[1:3]
        # Blanks of a mount point are written in octal.
        point = point.replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), name
    return kind


def folder_findings(folder: Path) -> Iterator[Finding]:
    """Whether the study's folder can be written, holds locks and agrees with this machine's clock; and where it lies.

    A file is made, locked and removed.
    """
    kind = file_system(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lcm-doctor-") as probe:
            before = time.time()
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
            modified = os.fstat(probe.fileno()).st_mtime
            lock = _lock_problem(probe.fileno())
    except OSError as error:
        says = f"nothing can be written to {folder} ({error.strerror})"
        yield Finding("stop", "folder", says, "choose another folder with --directory, or ask for write permission")
        return
    yield Finding("ok", "folder", f"{folder} can be written ({kind})")
    if lock:
        do = "never start one study twice here: nothing would keep the two apart; Lustre needs the mount option flock"
        yield Finding("warn", "locks", f"the file system refuses locks ({lock})", do)
    if abs(modified - before) > _CLOCK_S:
        says = f"the file server's clock is {modified - before:+.0f} s off this machine's"
        yield Finding("warn", "clock", says, "have both follow NTP: Snakemake compares times to see what is outdated")
    yield from _place_findings(folder, kind)


def _lock_problem(number: int) -> str | None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror
    return None


def _place_findings(folder: Path, kind: str) -> Iterator[Finding]:
    place = folder.resolve()
    if kind == "tmpfs" or place.is_relative_to("/tmp"):  # noqa: S108 - it is asked about, not written to
        yield Finding(
            "warn", "place", "the study lies in temporary storage", "move it: a restart or a cleaner takes it away"
        )
    elif place.is_relative_to(Path.home()) and kind in _REMOTE:
        do = "ask `quota -s`, and move a large study to a project or scratch folder"
        yield Finding("warn", "place", "the study lies in a home folder on the network, which mostly has a quota", do)
