"""Report: every number of a study on one page that needs no network, assembled from tables and records alone."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lcm.config import Report
from lcm.evaluation.benchmark import overview, refusals, task_tables
from lcm.evaluation.flow import CohortFlow, cohort_flows, count_outcomes, final_outcomes, public
from lcm.evaluation.motion_effects import datasets_by_strategy, motion_effects
from lcm.evaluation.motion_page import COLUMNS as MOTION_COLUMNS
from lcm.evaluation.motion_page import motion_section
from lcm.evaluation.preprocessing import COLUMNS as PREPROCESSING_COLUMNS
from lcm.evaluation.preprocessing import preprocessing_rows, read_runs
from lcm.evaluation.quality_page import COLUMNS, quality_cards
from lcm.evaluation.records import StageRecord, read_records
from lcm.tables import BEI, COHORT_FLOW, OK, OUTCOMES, SCANS, SCORES, read_tsv, write_atomically, write_tsv

log = logging.getLogger(__name__)

LIMITS = (
    "An interval covers which people were drawn, not which weights training would reach again: it says nothing about "
    "another random seed, and it holds the number of people at each level fixed.",
    "AUROC, average precision and r compare people who were answered by the same fold's model, since folds have "
    "their own models.",
    "People of all sites are in every fold. A model may use site, scanner or head motion instead of the "
    "disease; leaving whole sites out, and rows from site and motion alone, would show it.",
    "People who move more also differ in age and health, so connectivity that correlates with head motion need not be an "
    "artefact, and a strategy that lowers QC–FC may also remove what a model could learn.",
    "Many rows are compared and no p value is corrected; a difference between two rows whose intervals overlap is not "
    "a finding.",
    "A row under the people limit is shown for completeness. It cannot rank models.",
    "Labels are the cohorts' own. A pseudo label is an assumption about people who were never asked.",
)
"""What a reader could wrongly conclude, first the intervals, then the design, then the labels."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with one folder a stage")
    parser.add_argument("--models", nargs="*", help="rows of the benchmark, in order; absent: all that were evaluated")
    parser.add_argument("--tasks", nargs="*", help="tasks of the benchmark, in order; absent: all that were evaluated")
    parser.add_argument(
        "--strategies",
        nargs="+",
        help="confound strategies, by the names of their folders; the first is the one that models learned from",
    )
    parser.add_argument("--atlas", default="AAL", help="atlas of the connectomes, as in parcellate.atlas")
    parser.add_argument("--output", type=Path, required=True, help="folder for index.html, benchmark.tsv, outcomes.tsv")
    parser.add_argument(
        "--verdict",
        action="store_true",
        help="only say where the page is and how the scans came out; exit code 1 when one failed",
    )


def main(options: argparse.Namespace) -> int | None:
    """Write the page and its tables, or with --verdict say in two lines what they hold."""
    if options.verdict:
        return verdict(options.output)
    if not options.strategies:
        raise ValueError(
            "--strategies is missing: name every confound strategy, first the one that models learned from"
        )
    study = read_study(options.results, options.strategies, options.atlas, options.models, options.tasks)
    page = render(study, options.settings)
    write_tsv(study.scores, options.output / "benchmark.tsv", SCORES)
    write_tsv(study.counts, options.output / "outcomes.tsv", OUTCOMES)
    with write_atomically(options.output / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %d KiB", options.output / "index.html", len(page.encode()) // 1024)
    return None


def verdict(output: Path) -> int:
    """Say how many scans had which outcome and, last, where the page is; 1 when any failed."""
    counts = read_tsv(output / "outcomes.tsv", OUTCOMES)
    kinds = counts.groupby(counts["outcome"].str.split(":").str[0])["count"].sum()
    said = ", ".join(f"{int(kinds[kind])} {kind}" for kind in ("ok", "excluded", "failed") if kind in kinds)
    sys.stdout.write(f"{int(kinds.sum())} scans: {said}\n{output / 'index.html'}\n")
    return int(kinds.get("failed", 0) > 0)


@dataclass(frozen=True)
class Study:
    """Everything the page is made of, read and checked."""

    results: Path
    atlas: str
    primary: str
    """The strategy that models learned from."""
    scans: pd.DataFrame
    batches: dict[str, list[str]]
    """Of each dataset."""
    runs: dict[str, pd.DataFrame]
    """The runs table of each dataset; empty where its images were not preprocessed here."""
    bei: pd.DataFrame
    outcomes: pd.DataFrame
    """One row a scan: dataset, scan, stage, outcome; under the primary strategy."""
    outcomes_by_strategy: dict[str, pd.DataFrame]
    """The same under every strategy, of the datasets that have it."""
    counts: pd.DataFrame
    """The `outcomes` table."""
    flows: list[CohortFlow]
    scores: pd.DataFrame
    records: list[StageRecord]


def read_study(
    results: Path,
    strategies: Sequence[str],
    atlas: str,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
) -> Study:
    """Read a study's tables; raises ValueError when outcomes or cohort flow do not add up.

    The first of `strategies` is the one that models learned from. `models` and `tasks` name what the study asks for now,
    so that one asked for earlier does not linger in the table.
    """
    scans = read_tsv(results / "index" / "scans.tsv", SCANS)
    bei = read_tsv(results / "harmonize" / "bei.tsv", BEI)
    batches = {str(name): sorted(found) for name, found in scans.groupby("dataset")["batch"].unique().items()}
    people = scans.groupby("dataset")["participant_id"]
    runs = {str(name): read_runs(results, str(name), found) for name, found in people}
    outcomes = {}
    for strategy, datasets in datasets_by_strategy(results, batches, strategies).items():
        outcomes[strategy] = final_outcomes(results, scans[scans["dataset"].isin(datasets)], runs, strategy)
    primary = outcomes[strategies[0]]
    counts = count_outcomes(primary, Counter(scans["dataset"]))
    flows = cohort_flows(read_tsv(results / "harmonize" / "cohort_flow.tsv", COHORT_FLOW), bei, primary)
    scores = read_scores(results)
    scores = scores[scores["model"].isin(models or scores["model"]) & scores["task"].isin(tasks or scores["task"])]
    return Study(
        results=results,
        atlas=atlas,
        primary=strategies[0],
        scans=scans,
        batches=batches,
        runs=runs,
        bei=bei,
        outcomes=primary,
        outcomes_by_strategy=outcomes,
        counts=counts,
        flows=flows,
        scores=scores,
        records=read_records(results),
    )


def read_scores(results: Path) -> pd.DataFrame:
    """The scores of every model and task under results/evaluate, in one table."""
    tables = [read_tsv(path, SCORES) for path in sorted((results / "evaluate").glob("*/*/scores.tsv"))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(SCORES.columns))


def render(study: Study, settings: Report) -> str:
    """The page as HTML text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    tasks = task_tables(study.scores, min_people=settings.min_test_people_per_level)
    effects = motion_effects(study.results, study.batches, study.outcomes_by_strategy, study.atlas)
    return environment.get_template("page.html.j2").render(
        title=settings.title,
        lead=_lead(study),
        facts=_facts(study),
        is_simulated=any(record.stage == "simulate" for record in study.records),
        tasks=tasks,
        overview=overview(tasks),
        refusals=refusals(study.scores),
        min_people=settings.min_test_people_per_level,
        flows=study.flows,
        num_scans=len(study.scans),
        outcome_shares=_shares(study.counts),
        outcome_rows=_outcome_rows(study.outcomes),
        quality_columns=COLUMNS,
        quality=quality_cards(study.results, study.primary, study.batches, num_overlays=settings.num_qc_scans),
        preprocessing_columns=PREPROCESSING_COLUMNS,
        preprocessing=preprocessing_rows(study.results, study.runs, _inputs(study)),
        motion_columns=MOTION_COLUMNS,
        motion=motion_section(effects),
        primary=study.primary,
        records=study.records,
        versions=sorted({item for record in study.records for item in record.versions.items()}),
        limits=LIMITS,
    )


def _lead(study: Study) -> str:
    ends = [f"{name} ({kind})" for name, kind in sorted(_inputs(study).items())]
    return f"From scans to scores in one run. Datasets: {', '.join(ends)}."


def _inputs(study: Study) -> dict[str, str]:
    return {str(name): kind for name, kind in study.scans.groupby("dataset")["input"].first().items()}


def _facts(study: Study) -> list[tuple[str, str]]:
    usable = int((study.outcomes["outcome"] == OK).sum())
    return [
        ("people", str(study.bei["person_id"].nunique())),
        ("scans indexed", str(len(study.scans))),
        ("usable connectomes", str(usable)),
        ("cohorts", str(study.bei["cohort"].nunique())),
        ("tasks", str(study.scores["task"].nunique())),
        ("models", str(study.scores["model"].nunique())),
    ]


def _shares(counts: pd.DataFrame) -> list[dict[str, Any]]:
    shares = []
    for dataset, rows in counts.groupby("dataset", sort=True):
        kinds: Counter[str] = Counter()
        for outcome, count in zip(rows["outcome"], rows["count"], strict=True):
            kinds[outcome.split(":")[0]] += int(count)
        parts = {kind: kinds[kind] for kind in ("ok", "excluded", "failed")}
        shares.append({"dataset": dataset, "total": kinds.total(), **parts})
    return shares


def _outcome_rows(outcomes: pd.DataFrame) -> list[dict[str, Any]]:
    shown = outcomes.assign(outcome=outcomes["outcome"].map(public))
    shown["stage"] = shown["stage"].where(shown["outcome"] != OK, "–")
    counted = shown.groupby(["dataset", "stage", "outcome"]).size().rename("count").reset_index()
    return [{str(name): value for name, value in row.items()} for row in counted.to_dict("records")]
