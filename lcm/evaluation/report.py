"""Report: every number of a study on one page that needs no network, assembled from tables and records alone."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lcm.config import Report
from lcm.evaluation.benchmark import overview, refusals, task_tables
from lcm.evaluation.flow import (
    CohortFlow,
    cohort_flows,
    count_outcomes,
    final_outcomes,
    suppressed,
    suppressed_counts,
)
from lcm.evaluation.motion_effects import datasets_by_strategy, motion_effects
from lcm.evaluation.motion_page import COLUMNS as MOTION_COLUMNS
from lcm.evaluation.motion_page import motion_section
from lcm.evaluation.outcomes_page import outcome_rows, shares, total
from lcm.evaluation.people_page import SITE_COLUMNS, cohort_tables, label_rows, site_rows
from lcm.evaluation.preprocessing import COLUMNS as PREPROCESSING_COLUMNS
from lcm.evaluation.preprocessing import preprocessing_rows, read_runs
from lcm.evaluation.quality_page import COLUMNS, quality_cards
from lcm.evaluation.records import StageRecord, read_records
from lcm.evaluation.site_effects import MAX_PEOPLE, MIN_SITE_PEOPLE, NUM_FOLDS, drawn, read_edges, site_effects
from lcm.evaluation.study_people import first_visits, read_mean_fd, usable_scans
from lcm.evaluation.suppression import (
    HIDDEN,
    mark,
    suppress_labels,
    suppress_scores,
    suppress_site_effects,
    suppress_table_one,
)
from lcm.evaluation.table_one import VOCABULARY, Variable, read_variables, table_one
from lcm.tables import (
    BEI,
    COHORT_FLOW,
    LABELS,
    OK,
    OUTCOMES,
    SCANS,
    SCORES,
    SITE_EFFECTS,
    TABLE_ONE,
    read_tsv,
    write_atomically,
    write_tsv,
)

log = logging.getLogger(__name__)

LIMITS = (
    "An interval covers which people were drawn, not which weights training would reach again: it says nothing about "
    "another random seed, and it holds the number of people at each level fixed.",
    "AUROC, average precision and r compare people who were answered by the same fold's model, since folds have "
    "their own models.",
    "A model may use site, scanner or head motion instead of the disease. Where a ridge finds them in connectivity "
    "(section Sites), only a design that leaves whole sites or cohorts out says what is left without them.",
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
    parser.add_argument("--vocabulary", type=Path, default=VOCABULARY, help="vocabulary.yaml, for Table 1")
    parser.add_argument("--output", type=Path, required=True, help="folder for index.html and the tables beside it")
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
    study = read_study(
        options.results, options.strategies, options.atlas, options.models, options.tasks, vocabulary=options.vocabulary
    )
    if options.settings.share == "public":
        study = published(study, options.settings.min_cell)
    page = render(study, options.settings)
    write_tsv(study.scores, options.output / "benchmark.tsv", SCORES)
    write_tsv(study.counts, options.output / "outcomes.tsv", OUTCOMES)
    write_tsv(study.table_one, options.output / "table_one.tsv", TABLE_ONE)
    write_tsv(study.site_effects, options.output / "site_effects.tsv", SITE_EFFECTS)
    with write_atomically(options.output / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %d KiB", options.output / "index.html", len(page.encode()) // 1024)
    return None


def verdict(output: Path) -> int:
    """Say how many scans had which outcome and, last, where the page is; 1 when any failed."""
    counts = read_tsv(output / "outcomes.tsv", OUTCOMES)
    kind = counts["outcome"].str.split(":").str[0]
    said = ", ".join(
        f"{_at_least(counts[kind == name])} {name}" for name in ("ok", "excluded", "failed") if name in set(kind)
    )
    sys.stdout.write(f"{_at_least(counts)} scans: {said}\n{output / 'index.html'}\n")
    return int((kind == "failed").any())


def _at_least(counts: pd.DataFrame) -> str:
    """The sum of the counts that are shown, and whether there are more."""
    return f"{int(counts['count'].sum())}{' or more' if counts['count'].isna().any() else ''}"


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
    variables: dict[str, Variable]
    table_one: pd.DataFrame
    labels: pd.DataFrame
    """The `labels` table; as text in `shown_labels`."""
    shown_labels: pd.DataFrame
    site_effects: pd.DataFrame
    scores: pd.DataFrame
    records: list[StageRecord]


def read_study(
    results: Path,
    strategies: Sequence[str],
    atlas: str,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    *,
    vocabulary: Path = VOCABULARY,
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
    people = first_visits(usable_scans(bei, primary))
    people = people.merge(read_mean_fd(results, strategies[0], batches), on=["dataset", "scan"], validate="1:1")
    asked = drawn(people)
    variables = read_variables(vocabulary)
    labels = read_tsv(results / "harmonize" / "labels.tsv", LABELS)
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
        variables=variables,
        table_one=table_one(people, variables),
        labels=labels,
        shown_labels=labels.astype({"num_people": "str", "num_scans": "str"}),
        site_effects=site_effects(asked, read_edges(results, strategies[0], batches, asked)),
        scores=scores,
        records=read_records(results),
    )


def published(study: Study, min_cell: int) -> Study:
    """The study as a public page may show it: small counts hidden, datasets of few people left out of quality and motion."""
    usable = usable_scans(study.bei, study.outcomes)
    people = usable.groupby("dataset")["person_id"].nunique()
    many = set(people.index[people >= min_cell])
    return replace(
        study,
        batches={name: batches for name, batches in study.batches.items() if name in many},
        runs={name: runs for name, runs in study.runs.items() if name in many},
        counts=suppressed_counts(study.counts, min_cell),
        flows=[suppressed(flow, study.counts, min_cell) for flow in study.flows],
        table_one=suppress_table_one(study.table_one, min_cell),
        shown_labels=suppress_labels(study.labels, min_cell),
        site_effects=suppress_site_effects(
            study.site_effects, usable.groupby("cohort")["person_id"].nunique(), min_cell
        ),
        scores=suppress_scores(study.scores, min_cell),
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
    hidden = mark(settings.min_cell)
    is_public = settings.share == "public"
    site_table, site_notes = site_rows(study.site_effects, hidden)
    tasks = task_tables(study.scores, min_people=settings.min_test_people_per_level)
    effects = motion_effects(study.results, study.batches, study.outcomes_by_strategy, study.atlas)
    return environment.get_template("page.html.j2").render(
        title=settings.title,
        lead=_lead(study),
        facts=_facts(study),
        is_public=is_public,
        min_cell=settings.min_cell,
        hidden=hidden,
        is_simulated=any(record.stage == "simulate" for record in study.records),
        tasks=tasks,
        overview=overview(tasks),
        refusals=refusals(study.scores),
        min_people=settings.min_test_people_per_level,
        flows=study.flows,
        cohort_tables=cohort_tables(study.table_one, study.variables),
        labels=label_rows(study.labels, study.shown_labels, hidden),
        site_columns=SITE_COLUMNS,
        site_rows=site_table,
        site_notes=site_notes,
        site_limits={"folds": NUM_FOLDS, "people": MIN_SITE_PEOPLE, "most": MAX_PEOPLE},
        num_scans=total(study.counts["count"], HIDDEN),
        outcome_shares=shares(study.counts, hidden),
        outcome_rows=outcome_rows(study.counts, study.outcomes, hidden),
        quality_columns=COLUMNS,
        quality=quality_cards(
            study.results,
            study.primary,
            study.batches,
            num_overlays=settings.num_qc_scans,
            single_scans=not is_public,
        ),
        preprocessing_columns=PREPROCESSING_COLUMNS,
        preprocessing=preprocessing_rows(study.results, study.runs, _inputs(study)),
        motion_columns=MOTION_COLUMNS,
        motion=motion_section(effects, min_cell=settings.min_cell if is_public else 0),
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
    steps = [step for flow in study.flows for block in flow.blocks for step in block.steps]
    # A study's sum less what is shown of its cohorts would give a hidden part away.
    is_whole = study.counts["count"].notna().all() and not any(step.hidden for step in steps)
    sums = {
        "people in the study": usable_scans(study.bei, study.outcomes)["person_id"].nunique(),
        "scans indexed": len(study.scans),
        "usable connectomes": int((study.outcomes["outcome"] == OK).sum()),
    }
    return [
        *((name, str(value) if is_whole else HIDDEN) for name, value in sums.items()),
        ("cohorts", str(study.bei["cohort"].nunique())),
        ("tasks", str(study.scores["task"].nunique())),
        ("models", str(study.scores["model"].nunique())),
    ]
