"""The plan: what each rule of a study reads, worked out from the configuration and the index."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path

from lcm.atlas import load_atlas
from lcm.cohort.events import event_files
from lcm.cohort.source import canonical, read_source, source_path
from lcm.config import Predict, Study, read_study
from lcm.imaging.index import PREPARED
from lcm.imaging.strategy import read_strategy, strategy_path
from lcm.plan_checks import check_names, checked_aside
from lcm.plan_learning import LearningPlan, Wildcards

_PACKAGE = Path(__file__).parent


class Plan(LearningPlan):
    """A study's inputs. A method that takes wildcards is an input function: a rule names it, Snakemake calls it.

    `indexed` gives the path of scans.tsv and may make Snakemake wait until the checkpoint has written it; a job on
    another machine sets `walk` to False, because the data are walked once a run and not once a job.
    """

    def __init__(self, config: dict[str, object], indexed: Callable[[], str], *, walk: bool) -> None:
        self.study: Study = read_study(config)
        self._indexed = indexed
        real = [d.path for d in self.study.datasets.values() if not d.path.startswith("results/")]
        self.strategies = self._strategies()
        # A name that nothing stands behind is told first, in words of its own.
        with checked_aside(self.study) if walk else nullcontext():
            self.listing = listing(real) if walk else ""
            check_names(self.study, self.strategies)
        self.asked = self.study.predict or Predict()
        self.primary = next(iter(self.strategies))
        self.connectome_folder = f"results/correlate/{self.primary}"
        self.recording_folder = f"results/collect/{self.primary}"
        if walk:
            load_atlas(self.study.parcellate.atlas).check()
        self.atlas = load_atlas(self.study.parcellate.atlas).files
        self.reference: str | list[str] = self.study.correlate.reference or []
        self.simulated = "results/simulate/truth.json" if self.study.simulate else []
        self.sources = sorted({str(source_path(d.cohort)) for d in self.study.datasets.values()})
        self.linkage: str | list[str] = self.study.harmonize.linkage or []
        self.vocabulary = str(_PACKAGE / "cohort" / "vocabulary.yaml")
        self.page = sorted(
            str(path)
            for pattern in ("page*.html.j2", "page*.css", "page*.js", "references.yaml", "published/*.yaml")
            for path in (_PACKAGE / "evaluation").glob(pattern)
        )

    def _strategies(self) -> dict[str, str]:
        """Name of each confound strategy, under which its results lie, and its file; raises ValueError for a wrong one."""
        paths = [strategy_path(asked) for asked in self.study.strategies]
        found = {read_strategy(path).name: str(path) for path in paths}
        if len(found) < len(paths):
            raise ValueError(f"strategies: two of {', '.join(self.study.strategies)} have one name")
        return found

    # ── what goes to a stage by value ───────────────────────────────────────────────────────────

    def settings(self, stage: str) -> str:
        """A stage's section of the configuration, as JSON; empty where the study has none."""
        section = getattr(self.study, stage)
        # Which bundles predict is to ask is what to make: one more re-runs none of the others.
        return section.model_dump_json(exclude={"bundles"}) if section else ""

    @property
    def checked(self) -> str:
        """What `harmonize --check` takes of its settings, as JSON.

        The checkpoint asks for it, and another policy or pseudo label is no reason to search the disk again.
        """
        return self.study.harmonize.model_dump_json(include={"linkage", "max_refused_share"})

    @property
    def datasets(self) -> str:
        """The `datasets` block, as JSON."""
        return json.dumps({name: d.model_dump(mode="json") for name, d in self.study.datasets.items()})

    # ── files ───────────────────────────────────────────────────────────────────────────────────

    def scans(self) -> list[dict[str, str]]:
        """Rows of the index."""
        path = self._indexed()
        return _rows(path, os.stat(path).st_mtime_ns)

    def _grouped(self, column: str) -> dict[tuple[str, str], list[dict[str, str]]]:
        path = self._indexed()
        return _groups(path, os.stat(path).st_mtime_ns, column)

    def raw_images(self, wildcards: Wildcards) -> list[str]:
        """Images of a participant's usable runs, and what other pipelines left beside them."""
        kinds = ("bold", "t1w", "mask", "confounds")
        return sorted({row[kind] for row in self._usable(wildcards) for kind in kinds if row[kind] != "n/a"})

    def raw_timing(self, wildcards: Wildcards) -> str:
        """Times and fingerprints of a participant's usable runs: a corrected sidecar re-runs what no image's date shows."""
        return " ".join(f"{row['scan']}={row['tr_s']}={row['fingerprint']}" for row in self._usable(wildcards))

    def _usable(self, wildcards: Wildcards) -> list[dict[str, str]]:
        rows = self._grouped("participant_id").get((wildcards.dataset, wildcards.participant), [])
        return [row for row in rows if row["outcome"] == "ok"]

    def preprocessed(self, wildcards: Wildcards) -> list[str]:
        """Folders of the batch's participants from preprocess; none where images came with mask and confounds."""
        rows = self._grouped("batch").get((wildcards.dataset, wildcards.batch), [])
        people = sorted({r["participant_id"] for r in rows if r["input"] in PREPARED and r["outcome"] == "ok"})
        return [f"results/preprocess/{wildcards.dataset}/{person}" for person in people]

    def parcellated(self, wildcards: Wildcards) -> str | list[str]:
        """The batch's series; none for a dataset of ready series, which denoise reads itself."""
        ready = self.study.datasets[wildcards.dataset].input == "series"
        return [] if ready else f"results/parcellate/{wildcards.dataset}/{wildcards.batch}.arrow"

    def strategy(self, wildcards: Wildcards) -> str:
        """File of the confound strategy."""
        return self.strategies[wildcards.strategy]

    def denoised(self, wildcards: Wildcards) -> str | list[str]:
        """The batch's denoised series; none for series that another pipeline has denoised."""
        elsewhere = self.study.datasets[wildcards.dataset].denoised
        return [] if elsewhere else f"results/denoise/{wildcards.strategy}/{wildcards.dataset}/{wildcards.batch}.arrow"

    def all_connectomes(self, wildcards: Wildcards) -> list[str]:
        """The same by every strategy; what was denoised elsewhere has its one connectome under the first."""
        others = [
            f"results/correlate/{strategy}/{dataset}/{batch}.arrow"
            for strategy in self.strategies
            for dataset, batch in self._batches()
            if strategy != self.primary and not self.study.datasets[dataset].denoised
        ]
        return [*self.connectomes(wildcards), *others]

    def exported(self, _: Wildcards) -> list[str]:
        """Tables of the files that export writes, of the datasets asked for; none where the study exports nothing."""
        if self.study.export is None:
            return []
        asked = self.study.export.datasets or tuple(self.study.datasets)
        strategies = self.study.export.strategies or (self.primary,)
        return [
            f"results/export/{dataset}.batches/{strategy}/{batch}.tsv"
            for strategy in strategies
            for dataset, batch in self._batches()
            if dataset in asked and (strategy == self.primary or not self.study.datasets[dataset].denoised)
        ]

    def described(self, _: Wildcards) -> str | list[str]:
        """The BEI table, which knows who is one person; none where no dataset asked about has phenotype tables."""
        asked = [self.study.datasets[name] for name in self.asked.datasets or self.study.datasets]
        return "results/harmonize/bei.tsv" if any(dataset.phenotypes for dataset in asked) else []

    def source(self, wildcards: Wildcards) -> str:
        """Folder of a dataset."""
        return self.study.datasets[wildcards.dataset].path

    def _batches(self) -> list[tuple[str, str]]:
        return sorted(self._grouped("batch"))

    def phenotypes(self, _: Wildcards) -> list[str]:
        """Every file that a cohort's tables match; asked for after the index, because simulated ones do not exist before."""
        self.scans()
        return sorted(
            {
                str(path)
                for dataset in self.study.datasets.values()
                if dataset.phenotypes
                for table in read_source(dataset.cohort).tables.values()
                for path in Path(dataset.phenotypes).glob(table.file)
            }
        )

    def people(self, _: Wildcards) -> str:
        """The BEI table; asked for after the index, because Snakemake judges again only what waited for a checkpoint.

        A job that did not wait keeps its place behind an index that found what it had found before, and everything that is
        trained with it.
        """
        self.scans()
        return "results/harmonize/bei.tsv"

    def events(self, _: Wildcards) -> str:
        """Hash of the event files that are read: of runs whose task says no state, in cohorts that know trial types."""
        sources = {name: read_source(dataset.cohort) for name, dataset in self.study.datasets.items()}
        digest = hashlib.sha256()
        for row in self.scans():
            source = sources[row["dataset"]]
            if source.events and row["bold"] != "n/a" and canonical(row["task"]) not in source.tasks:
                # They lie among the images, and `index` does not look at them.
                for path in event_files(Path(row["bold"])):
                    stat = path.stat()
                    digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]


def listing(paths: Sequence[str]) -> str:
    """Hash of names, sizes and times of every file below some folders: when it changes, `index` runs again."""
    digest = hashlib.sha256()
    for root in sorted(set(paths)):
        for entry in _files(root):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                # A link whose content is missing (DataLad before `get`) is listed as the link it is.
                stat = entry.stat(follow_symlinks=False)
            digest.update(f"{entry.path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder, always in the same order; linked folders and those nobody may read are left out.

    os.walk forgets what the disk has said of each entry, and asking again doubles the time for many thousand folders.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=attrgetter("name"))
    except OSError:
        return
    for entry in entries:
        if not entry.is_dir():
            yield entry
        elif not entry.is_symlink():
            yield from _files(entry.path)


@functools.cache
def _rows(path: str, modified_ns: int) -> list[dict[str, str]]:  # noqa: ARG001 - the time is part of the cache's key
    with Path(path).open(encoding="utf-8", newline="") as stream:
        # Every job's process reads the table, and csv.DictReader would take three times as long.
        lines = csv.reader(stream, delimiter="\t")
        header = next(lines)
        # One string for all cells that say the same: a third less memory.
        return [dict(zip(header, map(sys.intern, cells), strict=True)) for cells in lines]


@functools.cache
def _groups(path: str, modified_ns: int, column: str) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Rows by dataset and a column, made once: a search for each of many thousand jobs would be quadratic."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in _rows(path, modified_ns):
        found.setdefault((row["dataset"], row[column]), []).append(row)
    return found
