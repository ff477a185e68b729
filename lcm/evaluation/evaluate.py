"""Evaluate: every fold's model answers once for its own test people; predictions, a row a person, and tables of them."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lcm.config import Evaluate, Model, Task
from lcm.evaluation.fold_answers import Asked, FoldAnswers, ask_fold
from lcm.evaluation.metrics import LISTED, UNKNOWN, not_run, score
from lcm.evaluation.subsets import CALIPER, LOW_MOTION, MATCHED, low_motion, matched
from lcm.models import architecture
from lcm.result_tables import (
    BALANCE,
    COSTS,
    DECODABILITY,
    OVERLAP,
    SCORES,
    TOKEN_ATTENTION,
    write_predictions,
)
from lcm.tables import FOLDS, Table, read_tsv, write_tsv
from lcm.training.data import add_table_flags, tables_of
from lcm.training.machine import add_place_flags, machine_of
from lcm.training.weights import Manifest, Unanswerable

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--protocol", required=True, help="name of the protocol in config.yaml")
    parser.add_argument(
        "--select", choices=("validation", "test"), required=True, help="who chose the epoch, as the protocol says"
    )
    parser.add_argument("--model", required=True, help="name of the model in config.yaml")
    parser.add_argument("--model-definition", required=True, help="its entry in config.yaml, as JSON")
    parser.add_argument("--task", required=True, help="name of the task in config.yaml")
    parser.add_argument("--definition", required=True, help="the task's block of config.yaml, as JSON")
    add_table_flags(parser)
    parser.add_argument("--weights", type=Path, required=True, help="folder with fold-0, fold-1, … of finetune")
    parser.add_argument(
        "--pretrained", type=Path, nargs="?", help="the same of pretrain, where those began with weights of this study"
    )
    add_place_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder for predictions.parquet and the tables")


def main(options: argparse.Namespace) -> None:
    """Write the predictions and every table of them; of a task that cannot be answered, no prediction and the reason."""
    settings: Evaluate = options.settings
    names = {"protocol": options.protocol, "model": options.model, "task": options.task}
    group = architecture(Model.model_validate(json.loads(options.model_definition)).architecture).group
    folds: list[FoldAnswers] = []
    predictions, balance = pd.DataFrame(), pd.DataFrame()
    try:
        folds = ask_folds(options)
        predictions = _joined([fold.predictions for fold in folds]).assign(**names, select=options.select)
        known = UNKNOWN if any(fold.manifest.people == UNKNOWN for fold in folds) else LISTED
        scores, balance = scores_of(predictions, settings, training_people=known)
    except Unanswerable as reason:
        log.warning("not run: %s", reason)
        scores = not_run(str(reason), **names, select=options.select, group=group)
    write_predictions(predictions, options.output / "predictions.parquet")
    tables: dict[str, tuple[pd.DataFrame, Table]] = {
        "scores": (scores, SCORES),
        "balance": (balance, BALANCE),
        "overlap": (_joined([fold.overlap for fold in folds]), OVERLAP),
        "decodability": (_joined([fold.decodability for fold in folds]), DECODABILITY),
        "attention": (attention_of(folds), TOKEN_ATTENTION),
        "costs": (costs_of(folds), COSTS),
    }
    for name, (frame, table) in tables.items():
        named = frame.assign(**names).reindex(columns=list(table.columns))
        write_tsv(named, options.output / f"{name}.tsv", table)


def methods(settings: Evaluate) -> str:
    """One sentence for a paper's methods section."""
    decoded = (
        " From networks' embeddings of test people, site and tertile of head motion were predicted by logistic regression on "
        "those of training people."
        if settings.decode_embeddings
        else ""
    )
    return (
        "Every test person was predicted once, by the model of the fold that tests them; scores of several scans "
        "of a person were averaged. AUROC and average precision compare people of one fold. Sensitivity and specificity take "
        "the threshold with the highest Youden's J among the fold's validation people; calibration is told by expected "
        "calibration error and by slope and intercept of a logistic recalibration. Intervals are 95 % intervals "
        f"from {settings.num_bootstraps} bootstrap resamples of people, stratified by level and fold, with the variance "
        f"doubled where folds trained on each other's test people; p values are from {settings.num_permutations} permutations "
        "of the labels within cohort, site and fold, doubled alike. Scores were repeated among people with a mean framewise "
        f"displacement of at most {settings.low_motion_fd_mm:g} mm, and among pairs of people of two levels alike in age, sex "
        f"and mean framewise displacement (within {CALIPER:g} SD, of one fold and, where possible, site).{decoded}"
    )


def ask_folds(options: argparse.Namespace) -> list[FoldAnswers]:
    """Every fold's answers about its own test people.

    Raises what `ask_fold` does, and Unanswerable when no fold has a labelled test person.
    """
    task = Task.model_validate(json.loads(options.definition))
    asked = Asked(
        tables=tables_of(options),
        task=task,
        select=options.select,
        weights=options.weights,
        pretrained=options.pretrained,
        decodes=options.settings.decode_embeddings,
        machine=machine_of(options),
    )
    numbers = sorted({int(fold) for fold in read_tsv(asked.tables.folds, FOLDS)["fold"]})
    folds = [answers for answers in (ask_fold(asked, number) for number in numbers) if answers is not None]
    if not folds:
        raise Unanswerable(f"no test person with a connectome is labelled ({task.target})")
    return folds


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The folds' rows, one table below the other."""
    there = [table for table in tables if len(table)]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame()


def scores_of(
    predictions: pd.DataFrame, settings: Evaluate, *, training_people: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The `scores` table for everyone and for the subsets, and how alike the levels are in the matched one.

    A subset that nobody is in has one row that says why. `predictions`: rows of one model and task.
    """
    scored = partial(
        score,
        num_bootstraps=settings.num_bootstraps,
        num_permutations=settings.num_permutations,
        seed=settings.seed,
        training_people=training_people,
    )
    parts = [scored(predictions)]
    balance = pd.DataFrame()
    names = predictions[["protocol", "select", "model", "group", "task"]].iloc[0].to_dict()
    for subset in (LOW_MOTION, MATCHED):
        try:
            if subset == MATCHED:
                people, balance = matched(predictions)
            else:
                people = low_motion(predictions, settings.low_motion_fd_mm)
        except ValueError as reason:
            log.info("subset %s: %s", subset, reason)
            parts.append(not_run(str(reason), **names, subset=subset))
            continue
        parts.append(scored(people, subset=subset))
    return pd.concat(parts, ignore_index=True), balance


def attention_of(folds: Sequence[FoldAnswers]) -> pd.DataFrame:
    """Rows of the `token attention` table without the names of the row: mean over the test people of all folds."""
    asked = [fold for fold in folds if fold.attention_UKR is not None]
    if not asked:
        return pd.DataFrame()
    mean_KR = np.concatenate([fold.attention_UKR for fold in asked]).mean(axis=0)
    levels = list(asked[0].predictions["levels"].iloc[0]) or [None]
    num_people = _joined([fold.predictions for fold in asked])["person_id"].nunique()
    parts = [
        pd.DataFrame({"level": level, "region": asked[0].manifest.regions, "share": share_R.round(9)})
        for level, share_R in zip(levels, mean_KR, strict=True)
    ]
    return pd.concat(parts, ignore_index=True).assign(num_people=num_people)


def costs_of(folds: Sequence[FoldAnswers]) -> pd.DataFrame:
    """The one row of the `costs` table without the names of the row; none where nothing was fitted."""
    if not folds:
        return pd.DataFrame()
    finetuned = [fold.manifest for fold in folds]
    pretrained = [fold.pretrained for fold in folds if fold.pretrained is not None]
    row: dict[str, float | str | None] = {
        "device": ", ".join(sorted({manifest.device for manifest in finetuned} - {""})) or None,
        "num_parameters": finetuned[0].results.get("num_parameters"),
    }
    for stage, manifests in (("pretrain", pretrained), ("finetune", finetuned)):
        seconds, speed = (_known(manifests, name) for name in ("seconds", "ms_per_scan"))
        row[f"{stage}_seconds"] = sum(seconds) if seconds else None
        row[f"{stage}_ms_per_scan"] = sum(speed) / len(speed) if speed else None
    return pd.DataFrame([row])


def _known(manifests: Sequence[Manifest], name: str) -> list[float]:
    """A number of the bundles that all of them tell; of a part of them a sum would mislead."""
    found = [manifest.results[name] for manifest in manifests if name in manifest.results]
    return found if len(found) == len(manifests) else []
