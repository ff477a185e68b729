"""Simulate: the demo study, eight small cohorts in their own layouts, with effects planted in known edges."""

from __future__ import annotations

import argparse
import io
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lcm.atlas import Atlas, load_atlas
from lcm.cohort.simulated_anatomy import Tissue, centered_grid, draw_head, load_tissue, t1_weighted
from lcm.cohort.simulated_images import (
    MOTION,
    echo_planar,
    mni_maps,
    motion_trace,
    moving_run,
    preprocessed_run,
    slice_times,
    write_columns,
    write_json,
    write_nifti,
)
from lcm.cohort.simulated_people import (
    PLANS,
    SHORT_RUN,
    YEARS_PER_AGE_UNIT,
    ZERO_REGION,
    Person,
    describe_defects,
    lacks_t1w,
    recruit,
    shift_amounts,
)
from lcm.cohort.simulated_phenotypes import ABIDE_FILE_SITES, write_phenotypes
from lcm.cohort.simulated_series import (
    EFFECT_REGIONS,
    Array,
    base_correlation,
    describe_effects,
    effect_edges,
    generator,
    individual_correlation,
    region_series,
    shifted_correlation,
    site_component,
)
from lcm.config import Simulate

log = logging.getLogger(__name__)

RAW, DERIVATIVES, SERIES, PHENOTYPES = "bids", "fmriprep", "series", "phenotypes"
"""Folders of a cohort: its scans in one of three layouts, and beside them its tables."""


@dataclass(frozen=True)
class World:
    """What all cohorts share: the atlas, the base connectome and the edges that each BEI moves."""

    settings: Simulate
    atlas: Atlas

    @cached_property
    def base(self) -> Array:
        """Correlation (R×R) at every effect's reference level."""
        return base_correlation(self.atlas.names, self.settings.seed)

    @cached_property
    def edges(self) -> dict[str, Array]:
        """Signs (R×R) of the edges of each BEI."""
        return {bei: effect_edges(bei, self.atlas.names) for bei in EFFECT_REGIONS}

    @cached_property
    def tissue(self) -> Tissue:
        """The template's tissue maps."""
        return load_tissue(self.atlas)

    def random(self, person: Person, *names: str) -> np.random.Generator:
        """Random numbers of one person and purpose."""
        return generator(self.settings.seed, person.cohort, person.label, *names)

    def series(self, person: Person, task: str) -> Array:
        """One run's region series (T×R), unit variance; the person's own connectome is the same in all runs."""
        amounts = shift_amounts(person, task, self.settings.effect, self.settings.seed)
        expected = shifted_correlation(self.base, self.edges, amounts)
        site = site_component(self.atlas.num_regions, self.settings.seed, person.cohort + person.site)
        own = individual_correlation(expected, site, self.random(person, "connectome"))
        rng = self.random(person, task, "series")
        return region_series(own, self.settings.num_volumes, self.settings.tr_s, rng)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the stage's own flags."""
    parser.add_argument("--output", type=Path, required=True, help="folder for the eight cohorts and truth.json")


def main(options: argparse.Namespace) -> None:
    """Write every cohort into a hidden folder, move it into place when complete, and write truth.json last."""
    output: Path = options.output
    settings: Simulate = options.settings
    world = World(settings, load_atlas("AAL"))
    output.mkdir(parents=True, exist_ok=True)
    (output / "truth.json").unlink(missing_ok=True)
    for cohort in PLANS:
        partial = output / f".{cohort}"
        shutil.rmtree(partial, ignore_errors=True)
        write_cohort(world, cohort, partial)
        shutil.rmtree(output / cohort, ignore_errors=True)
        partial.replace(output / cohort)
        log.info("%s: written", cohort)
    truth = output / ".truth.json"
    write_json(truth, describe(world, output))
    truth.replace(output / "truth.json")


def write_cohort(world: World, cohort: str, folder: Path) -> None:
    """One cohort's scans and tables below `folder`."""
    settings = world.settings
    counts = {"HCPA": settings.raw_people, "HCPYA": settings.derivative_people}
    people = recruit(cohort, counts.get(cohort, settings.series_people), settings.seed)
    scanned = [person for person in people if person.tasks]
    LAYOUTS[cohort](world, scanned, folder)
    write_phenotypes(cohort, people, folder / PHENOTYPES, generator(settings.seed, cohort, "tables"))


def describe(world: World, output: Path) -> dict[str, object]:
    """The content of truth.json: seed, planted effects, planted defects and the motion of the raw runs."""
    traces = sorted(output.glob("*/motion/*.tsv"))
    return {
        "settings": world.settings.model_dump(),
        "atlas": world.atlas.name,
        "levels": {
            "sex": "female minus male",
            "age": f"{YEARS_PER_AGE_UNIT:g} years more, linear from the age of 5",
            "cognitive_state": "any task minus rest",
            "diagnosis": "case minus control",
        },
        "doses": {cohort: dict(plan.doses) for cohort, plan in PLANS.items() if plan.doses},
        "effects": describe_effects(world.base, world.atlas.names, world.settings.effect),
        "defects": describe_defects(),
        "motion": {
            "convention": "of the head, in RAS+: turned about the middle of the grid by Rz·Ry·Rx (rad), then shifted (mm); "
            "a correction is the inverse",
            "files": {trace.stem.removesuffix("_motion"): str(trace.relative_to(output)) for trace in traces},
        },
    }


def _write_raw(world: World, people: list[Person], folder: Path) -> None:
    """Raw BIDS: T1w and BOLD in the person's own space; the trace of each run lies beside the dataset, not in it."""
    settings, scans = world.settings, folder / RAW
    write_json(
        scans / "dataset_description.json",
        {"Name": "Simulated HCP-Aging", "BIDSVersion": "1.10.0", "DatasetType": "raw"},
    )
    labels = "".join(f"sub-{person.label}\n" for person in people)
    (scans / "participants.tsv").write_text("participant_id\n" + labels, encoding="utf-8")
    for person in people:
        head, subject = draw_head(world.random(person, "head")), scans / f"sub-{person.label}"
        if not lacks_t1w(person, len(people)):
            t1_grid, t1_image = t1_weighted(world.tissue, head, world.random(person, "t1w"))
            write_nifti(subject / "anat" / f"sub-{person.label}_T1w.nii.gz", t1_image, t1_grid.affine)
            write_json(subject / "anat" / f"sub-{person.label}_T1w.json", {"RepetitionTime": 2.5, "EchoTime": 0.0022})
        grid = centered_grid(settings.voxel_mm, flip_x=True)
        maps = echo_planar(world.tissue, head, grid)
        for task in person.tasks:
            scan = f"sub-{person.label}_task-{task}"
            rng = world.random(person, task, "image")
            motion = motion_trace(settings.num_volumes, rng)
            series = world.series(person, task)
            times_s = slice_times(grid.shape[2], settings.tr_s)
            run = moving_run(maps, grid, series, motion, tr_s=settings.tr_s, slice_times_s=times_s, rng=rng)
            write_nifti(subject / "func" / f"{scan}_bold.nii.gz", run, grid.affine, settings.tr_s)
            sidecar = {"RepetitionTime": settings.tr_s, "TaskName": task, "EchoTime": 0.03, "SliceTiming": times_s}
            write_json(subject / "func" / f"{scan}_bold.json", sidecar)
            write_columns(folder / "motion" / f"{scan}_motion.tsv", dict(zip(MOTION, motion.T, strict=True)))


def _write_derivatives(world: World, people: list[Person], folder: Path) -> None:
    """Output of fMRIPrep: BOLD in MNI space, brain mask, confounds."""
    settings, scans = world.settings, folder / DERIVATIVES
    description = {
        "Name": "Simulated HCP Young Adult",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "fMRIPrep", "Version": "simulated"}],
    }
    write_json(scans / "dataset_description.json", description)
    grid, maps = mni_maps(world.tissue, settings.voxel_mm)
    for person in people:
        for task in person.tasks:
            rng = world.random(person, task, "image")
            motion = motion_trace(settings.num_volumes, rng)
            run, mask, columns = preprocessed_run(
                maps, grid, world.series(person, task), motion, tr_s=settings.tr_s, rng=rng
            )
            scan = scans / f"sub-{person.label}" / "func" / f"sub-{person.label}_task-{task}"
            space = f"{scan.name}_space-MNI152NLin2009cAsym_res-2"
            write_nifti(scan.with_name(f"{space}_desc-preproc_bold.nii.gz"), run, grid.affine, settings.tr_s)
            write_nifti(scan.with_name(f"{space}_desc-brain_mask.nii.gz"), mask.astype(np.uint8), grid.affine)
            sidecar = {"RepetitionTime": settings.tr_s, "TaskName": task, "SkullStripped": False}
            write_json(scan.with_name(f"{space}_desc-preproc_bold.json"), sidecar)
            write_columns(scan.with_name(f"{scan.name}_desc-confounds_timeseries.tsv"), columns)


def ready_series(world: World, person: Person) -> Array:
    """A person's region series (T×R) as a cohort shares them: z-scored, with the defects planned for this person."""
    series = world.series(person, "")
    position, volumes = SHORT_RUN.get(person.cohort, (-1, 0))
    if person.position == position:
        series = series[:volumes]
    series = (series - series.mean(0)) / series.std(0)
    position, region = ZERO_REGION.get(person.cohort, (-1, ""))
    if person.position == position:
        series[:, world.atlas.names.index(region)] = 0.0
    return series


def _write_matlab(world: World, people: list[Person], folder: Path) -> None:
    """`sub-<id>/sub-<id>_AAL116_features_timeseries.mat`, MATLAB v5, key `data` (T×R)."""
    from scipy.io import savemat

    for person in people:
        stream = io.BytesIO()
        # Steps of 1/4096 leave most bits of a double zero, and the file compresses to a third.
        series = np.round(ready_series(world, person) * 4096) / 4096
        savemat(stream, {"data": series}, format="5", do_compression=True)
        content = bytearray(stream.getvalue())
        # The first 116 bytes are free text that holds the time of writing.
        content[:116] = b"MATLAB 5.0 MAT-file, simulated".ljust(116)
        path = folder / SERIES / f"sub-{person.label}" / f"sub-{person.label}_AAL116_features_timeseries.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(content))


def _write_pcp(world: World, people: list[Person], folder: Path) -> None:
    """`<SITE>_<7 digits>_rois_aal.1D`: a header of `#<region id>`, then tab-separated rows, one a volume."""
    (folder / SERIES).mkdir(parents=True)
    header = "\t".join(f"#{region}" for region in world.atlas.ids)
    for person in people:
        rows = ["\t".join(f"{value:.6f}" for value in row) for row in (10.0 * ready_series(world, person)).tolist()]
        path = folder / SERIES / f"{ABIDE_FILE_SITES[person.site]}_{person.label}_rois_aal.1D"
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


LAYOUTS: dict[str, Callable[[World, list[Person], Path], None]] = {
    "HCPA": _write_raw,
    "HCPYA": _write_derivatives,
    "ADNI": _write_matlab,
    "PPMI": _write_matlab,
    "ABIDE": _write_pcp,
    "Taowu": _write_matlab,
    "Neurocon": _write_matlab,
    "SZ": _write_matlab,
}
"""Cohort → the layout in which it shares its scans."""
