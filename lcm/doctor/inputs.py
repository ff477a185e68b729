"""What a study reads: configuration, datasets, phenotype tables, templates, atlas and container, before the first job."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from lcm.atlas import load_atlas
from lcm.cohort.check import check_tables
from lcm.config import Dataset, Study
from lcm.doctor.census import Census, Row
from lcm.doctor.findings import Finding
from lcm.imaging.header import ImageError, read_header
from lcm.imaging.templates import resolve_template, space_name
from lcm.plan_checks import check_sizes

_SAMPLE = 12
"""Files opened of each dataset."""

_LARGE_TABLE_BYTES = 200_000_000
"""Phenotype tables beyond this are not read here: it would take longer than all other checks."""


def setting_findings(study: Study) -> Iterator[Finding]:
    """Atlas and sizes of networks, which the plan looks at when Snakemake starts."""
    try:
        atlas = load_atlas(study.parcellate.atlas)
        atlas.check()
        form = "label table and image" if atlas.image else "label table alone"
        yield Finding("ok", "atlas", f"{atlas.name}, {atlas.num_regions} regions ({form})")
    except (OSError, ValueError) as error:
        yield Finding("stop", "atlas", str(error), "correct parcellate.atlas, or fetch the atlas's image")
    try:
        check_sizes(study)
    except ValueError as error:
        yield Finding("stop", "models", str(error), "correct the model's `size`")


def dataset_findings(study: Study, census: Census, lengths: dict[str, int]) -> Iterator[Finding]:
    """A line a dataset: people and runs, content that was not fetched, and what opening a sample said.

    Puts the typical number of volumes of what was opened into `lengths`.
    """
    for name, dataset in study.datasets.items():
        if name in census.problems:
            yield Finding("stop", f"dataset {name}", census.problems[name], "correct `path`, `input` or `pattern`")
        else:
            yield from _one_dataset(name, dataset, census, lengths)


def _one_dataset(name: str, dataset: Dataset, census: Census, lengths: dict[str, int]) -> Iterator[Finding]:
    rows, subject = census.usable(name), f"dataset {name}"
    people = len({row["participant_id"] for row in rows})
    if not rows:
        says = f"no run of input kind {dataset.input!r} in {dataset.path}"
        yield Finding("stop", subject, says, "correct `path`, `input` or `pattern`")
        return
    says = f"{people:,} people, {len(rows):,} runs ({census.source})"
    if not Path(dataset.path).is_dir() and dataset.path.startswith("results/"):
        yield Finding("ok", subject, f"{people:,} people, {len(rows):,} runs, to be simulated")
        return
    unfetched = sum(os.path.islink(_file(row)) and not os.path.exists(_file(row)) for row in rows)  # noqa: PTH110, PTH114
    if unfetched:
        says += f"; {unfetched:,} of them are links without content"
        yield Finding("stop" if unfetched == len(rows) else "warn", subject, says, "fetch them: `datalad get`")
        return
    broken = _open_sample(name, dataset, rows, lengths)
    if broken:
        opened = min(_SAMPLE, len(rows))
        says += f"; {len(broken)} of {opened} opened cannot be read, e.g. {broken[0]}"
        do = "such runs are recorded as failed; read permissions or an unfinished copy are the usual reasons"
        yield Finding("stop" if len(broken) == opened else "warn", subject, says, do)
        return
    yield Finding("ok", subject, says)


def _file(row: Row) -> str:
    series = row.get("series", "n/a")
    return row["bold"] if series == "n/a" else series


def _open_sample(name: str, dataset: Dataset, rows: list[Row], lengths: dict[str, int]) -> list[str]:
    """What is wrong with files spread over the dataset, without their names."""
    broken, volumes = [], []
    for row in rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]:
        path = Path(_file(row))
        try:
            if dataset.input == "series":
                with path.open("rb") as stream:
                    if not stream.read(64):
                        broken.append("an empty file")
            else:
                volumes.append(read_header(path).num_volumes)
        except ImageError as error:
            broken.append(str(error))
        except OSError as error:
            broken.append(error.strerror or type(error).__name__)
    if volumes:
        lengths[name] = int(median(volumes))
    return broken


def phenotype_findings(study: Study) -> Iterator[Finding]:
    """The verdict of `lcm harmonize --check`, in counts; tables that are to be simulated, or are huge, are left out."""
    asked = {name: dataset for name, dataset in study.datasets.items() if dataset.phenotypes}
    if not asked:
        yield Finding("warn", "phenotypes", "no dataset names a folder of tables", "every task will be `not run`")
        return
    there = {name: dataset for name, dataset in asked.items() if Path(dataset.phenotypes or "").is_dir()}
    for name in sorted(asked.keys() - there.keys()):
        folder = asked[name].phenotypes or ""
        if not (study.simulate and folder.startswith("results/")):
            yield Finding("stop", "phenotypes", f"dataset {name}: no such folder: {folder}", "correct `phenotypes`")
    if not there:
        return
    if sum(_weight(Path(dataset.phenotypes or "")) for dataset in there.values()) > _LARGE_TABLE_BYTES:
        yield Finding("ok", "phenotypes", "large tables, not read here: `lcm harmonize --check CONFIG` reads them")
        return
    found = check_tables(there, study.harmonize)
    for line in found.fatal:
        yield Finding("stop", "phenotypes", line, "see docs/phenotypes.md, or `lcm harmonize --check CONFIG`")
    files = f"{len(found.num_rows)} tables, {sum(found.num_rows.values()):,} rows"
    if not found.fatal:
        yield Finding("ok", "phenotypes", f"{files}, {len(found.rows)} kinds of unknown codes or implausible values")


def _weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def template_findings(study: Study, census: Census) -> Iterator[Finding]:
    """Template of the built-in preprocess, or container and licence of fMRIPrep's; silent where nothing is raw."""
    if not any(row["input"] in ("bids", "ukb") for row in census.usable()):
        return
    settings = study.preprocess
    if settings.backend == "fmriprep":
        yield from _container_findings(study)
        return
    if settings.download_templates:
        yield Finding(
            "warn", "template", "download_templates is true: the first job fetches it", "compute nodes need a network"
        )
        return
    try:
        yield Finding("ok", "template", space_name(resolve_template(settings)))
    except ValueError as error:
        yield Finding("stop", "template", str(error), "fetch it, or set preprocess.template: nilearn")


def _container_findings(study: Study) -> Iterator[Finding]:
    asked = study.preprocess.fmriprep
    if asked is None:
        return
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        do = "load its module or install it, or use backend: builtin"
        yield Finding("stop", "fMRIPrep", "neither apptainer nor singularity is on PATH", do)
    if not Path(asked.licence).is_file():
        says = f"no FreeSurfer licence: {asked.licence} (relative to {Path.cwd()})"
        yield Finding("stop", "fMRIPrep", says, "it is free: docs/fmriprep.md")
    else:
        yield Finding("ok", "fMRIPrep", f"licence found; image {asked.image.rpartition('@')[0]}")
