"""Evaluate: every fold's model answers once for its own test people; predictions and scores, a row a person."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lcm.config import Evaluate, Task
from lcm.evaluation.metrics import LISTED, UNKNOWN, not_run, score
from lcm.tables import FOLDS, SCORES, read_tsv, write_atomically, write_tsv
from lcm.training.data import Cohort, Tables, add_table_flags, labels_of, read_cohort, tables_of
from lcm.training.inference import predict
from lcm.training.weights import Unanswerable, read_manifest

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--model", required=True, help="name of the model in config.yaml")
    parser.add_argument("--task", required=True, help="name of the task in config.yaml")
    parser.add_argument("--definition", required=True, help="the task's block of config.yaml, as JSON")
    add_table_flags(parser)
    parser.add_argument("--weights", type=Path, required=True, help="folder with fold-0, fold-1, … of finetune")
    parser.add_argument("--output", type=Path, required=True, help="folder for predictions.parquet and scores.tsv")


def main(options: argparse.Namespace) -> None:
    """Write predictions.parquet and scores.tsv; of a task that cannot be answered, no prediction and the reason."""
    task = Task.model_validate(json.loads(options.definition))
    settings: Evaluate = options.settings
    try:
        predictions = predict_test_people(tables_of(options), task, options.weights)
        predictions = predictions.assign(model=options.model, task=options.task)
        known = _known_training(options.weights, predictions["fold"].unique())
        scores = score(predictions, num_bootstraps=settings.num_bootstraps, seed=settings.seed, training_people=known)
    except Unanswerable as reason:
        log.warning("not run: %s", reason)
        predictions, scores = pd.DataFrame(), not_run(options.model, options.task, str(reason))
    write_predictions(predictions, options.output / "predictions.parquet")
    write_tsv(scores, options.output / "scores.tsv", SCORES)


def methods(settings: Evaluate) -> str:
    """One sentence for a paper's methods section."""
    return (
        "Every test person was predicted once, by the model of the fold that tests them; scores of several scans "
        "of a person were averaged. AUROC and average precision compare people of one fold. Intervals are 95 % percentile "
        f"intervals of {settings.num_bootstraps} bootstrap resamples of people, stratified by level and fold."
    )


def _known_training(weights: Path, folds: Iterable[int]) -> str:
    """Whether the bundle of every fold that answered lists whom it has seen."""
    bundles = [read_manifest(weights / f"fold-{fold}") for fold in folds]
    return UNKNOWN if any(bundle.people == UNKNOWN for bundle in bundles) else LISTED


def predict_test_people(tables: Tables, task: Task, weights: Path) -> pd.DataFrame:
    """Predictions of every fold's test people by that fold's bundle, `weights`/fold-<k>.

    Returns one row a person (and level, where a person's scans have several, as with cognitive states): fold, person_id,
    cohort, site, num_scans, truth, prediction, levels, scores. People without a label are left out and counted in the
    log. Raises ValueError when a bundle answers another task or fold, or has seen one of its test people, and
    Unanswerable when a fold with labelled test people could not be fitted, or no fold has any.
    """
    parts = []
    for fold in sorted(set(read_tsv(tables.folds, FOLDS)["fold"])):
        cohort = read_cohort(tables, fold=int(fold), roles=("test",), cohorts=task.cohorts, datasets=task.datasets)
        labelled_N = labels_of(cohort, task.target, task.levels).weight_N > 0
        answered = cohort.keep(labelled_N)
        num_left_out = cohort.rows["person_id"].nunique() - answered.rows["person_id"].nunique()
        log.info(
            "fold %d: %d people tested, %d without a label", fold, answered.rows["person_id"].nunique(), num_left_out
        )
        # A fold that asks nobody needs no model, so that one that could not be fitted does not silence the others.
        if labelled_N.any():
            bundle = weights / f"fold-{fold}"
            _check_bundle(bundle, task, int(fold))
            # Under leave-site-out or cross-cohort no training person need have had the test people's preprocessing.
            scores_NL = predict(bundle, answered, allow=("preprocessing",))
            parts.append(_rows_of_people(answered, task, scores_NL).assign(fold=int(fold)))
    if not parts:
        raise Unanswerable(f"no test person with a connectome is labelled ({task.target})")
    return pd.concat(parts, ignore_index=True)


def _check_bundle(bundle: Path, task: Task, fold: int) -> None:
    manifest = read_manifest(bundle)
    if manifest.fold != fold:
        raise ValueError(f"{bundle}: trained on fold {manifest.fold}, asked about fold {fold}; its test people differ")
    if manifest.task is None or (manifest.task.target, manifest.task.levels) != (task.target, task.levels):
        raise ValueError(f"{bundle}: trained for another target or other levels than {task.target} {list(task.levels)}")


def _rows_of_people(cohort: Cohort, task: Task, scores_NL: np.ndarray) -> pd.DataFrame:
    """One row a person and truth, with the mean of the scores of the person's scans."""
    truth = cohort.rows[task.target]
    scans = cohort.rows[["person_id", "cohort", "site", "dataset", "scan"]].assign(
        truth=truth if task.levels else truth.astype(float).map(repr),
        place=np.arange(len(scores_NL)),
    )
    rows = []
    for (person_id, said), own in scans.groupby(["person_id", "truth"], sort=True):
        mean_L = scores_NL[own["place"]].mean(axis=0)
        prediction = task.levels[int(np.argmax(mean_L))] if task.levels else repr(float(mean_L[0]))
        rows.append(
            {
                "person_id": person_id,
                "cohort": own["cohort"].iloc[0],
                "site": own["site"].iloc[0],
                "num_scans": len(own.drop_duplicates(["dataset", "scan"])),
                "truth": said,
                "prediction": prediction,
                "levels": list(task.levels),
                "scores": mean_L.tolist(),
            }
        )
    return pd.DataFrame(rows)


def write_predictions(predictions: pd.DataFrame, path: Path) -> None:
    """Write the `predictions` table: one row a person, levels and scores as lists."""
    import pyarrow as pa
    import pyarrow.parquet

    text, count = pa.string(), pa.int32()
    kinds = {"model": text, "task": text, "fold": count, "person_id": text, "cohort": text, "site": text}
    kinds |= {"num_scans": count, "truth": text, "prediction": text}
    kinds |= {"levels": pa.list_(pa.string()), "scores": pa.list_(pa.float64())}
    # A table without rows has columns of no type, which Arrow would take for numbers.
    columns = predictions.reindex(columns=list(kinds)).astype("object")
    table = pa.Table.from_pandas(columns, schema=pa.schema(kinds.items()), preserve_index=False)
    with write_atomically(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")
