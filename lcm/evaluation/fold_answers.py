"""One fold's model and the people it is tested on: their answers, where its tokens looked, and what it had seen of them."""

# Shapes: N connectomes, U units (a person and truth), K levels, R regions.

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lcm.config import Task
from lcm.evaluation.decodability import decode
from lcm.evaluation.overlap import num_contaminated, overlap
from lcm.models import architecture
from lcm.tables import TEST, TRAIN
from lcm.training.data import Cohort, Tables, labels_of, read_cohort
from lcm.training.inference import Answer, ask, embed
from lcm.training.machine import STANDARD, Machine
from lcm.training.units import mean_of_units, most_frequent
from lcm.training.weights import Manifest, load_bundle, read_manifest

log = logging.getLogger(__name__)

NUMBERS = ("age", "mean_fd_mm", "num_kept")
"""Covariates of a person that are a mean over connectomes."""
PREPROCESSING = ("preprocessing",)
"""Under leave-site-out or cross-cohort no training person need have had the test people's preprocessing."""


@dataclass(frozen=True)
class Asked:
    """What a row of the benchmark is, and where its parts lie."""

    tables: Tables
    task: Task
    select: str
    weights: Path
    """Folder with the bundles of finetune, fold-0, fold-1, …"""
    pretrained: Path | None
    """Folder with those of pretrain that they began with, where this study made them."""
    decodes: bool
    """Whether site and motion are read from a network's embedding."""
    machine: Machine = STANDARD
    """Where a network answers."""


class FoldAnswers(NamedTuple):
    """What one fold gives; tables without the names of the row."""

    manifest: Manifest
    pretrained: Manifest | None
    predictions: pd.DataFrame
    overlap: pd.DataFrame
    decodability: pd.DataFrame
    attention_UKR: NDArray[np.float64] | None
    """Shares of the regions in each level's attention, in the order of `predictions`; None of a model without any."""


def ask_fold(asked: Asked, fold: int) -> FoldAnswers | None:
    """The fold's bundle on its test people with a label; None where there are none.

    Raises ValueError when the bundle answers another task or fold, was chosen by others than `select` says, or has seen
    one of the people, and Unanswerable when there is no bundle because nothing could be fitted.
    """
    tested = _labelled(asked, fold, TEST)
    if not len(tested.rows):
        # A fold that asks nobody needs no model, so that one that could not be fitted does not silence the others.
        return None
    folder = asked.weights / f"fold-{fold}"
    _check_bundle(folder, asked, fold)
    manifest, arrays = load_bundle(folder, tested, allow=PREPROCESSING)
    pretrained = read_manifest(asked.pretrained / f"fold-{fold}") if asked.pretrained else None
    people = sorted(set(tested.rows["person_id"]))
    num_seen = num_contaminated(manifest, pretrained, people)
    if num_seen:
        raise ValueError(f"{folder}: {num_seen} of the people asked for were seen in training; ask for the test role")
    answer = ask(manifest, arrays, tested, attend=True, machine=asked.machine)[asked.task.target]
    decoded = []
    if asked.decodes and architecture(manifest.model.architecture).kind == "network":
        both = [
            (part, embed(manifest, arrays, part, asked.machine)) for part in (_labelled(asked, fold, TRAIN), tested)
        ]
        decoded = _decoded(both)
    units = _units(tested, asked.task)
    return FoldAnswers(
        manifest,
        pretrained,
        _predictions(units, answer, manifest, asked.task).assign(fold=fold),
        pd.DataFrame(overlap(manifest, pretrained, people)).assign(fold=fold),
        pd.DataFrame(decoded).assign(fold=fold),
        None if answer.attention_NKR is None else units.mean(answer.attention_NKR),
    )


def _labelled(asked: Asked, fold: int, role: str) -> Cohort:
    """The scans of the people of that role whose answer to the task was observed."""
    task = asked.task
    cohort = read_cohort(
        asked.tables, fold=fold, roles=(role,), cohorts=task.cohorts, datasets=task.datasets, filters=task.filter
    )
    labelled = cohort.keep(labels_of(cohort, task.target, task.levels).weight_N > 0)
    num_asked = labelled.rows["person_id"].nunique()
    num_left_out = cohort.rows["person_id"].nunique() - num_asked
    if role == TEST:
        log.info("fold %d: %d people tested, %d without a label", fold, num_asked, num_left_out)
    return labelled


def _check_bundle(bundle: Path, asked: Asked, fold: int) -> None:
    manifest, task = read_manifest(bundle), asked.task
    if manifest.fold != fold:
        raise ValueError(f"{bundle}: trained on fold {manifest.fold}, asked about fold {fold}; its test people differ")
    if manifest.task is None or (manifest.task.target, manifest.task.levels) != (task.target, task.levels):
        raise ValueError(f"{bundle}: trained for another target or other levels than {task.target} {list(task.levels)}")
    if manifest.select != asked.select:
        raise ValueError(
            f"{bundle}: its epoch or penalty was chosen by {manifest.select} people, and the protocol says "
            f"{asked.select}; run finetune again"
        )


# ── people ──────────────────────────────────────────────────────────────────────────────────────


class _Units(NamedTuple):
    rows: pd.DataFrame
    """A row a unit: person_id, truth, cohort, site, sex, NUMBERS, num_scans and role."""
    code_N: NDArray[np.int_]
    """Place of each connectome's unit."""

    def mean(self, values_NX: NDArray) -> NDArray[np.float64]:
        """Mean over the connectomes of each unit."""
        return mean_of_units(values_NX, self.code_N, len(self.rows))


def _units(cohort: Cohort, task: Task | None) -> _Units:
    """The people of a cohort, in order; where a task is given, a person has a unit for each truth of theirs."""
    covariates = cohort.covariates
    scans = cohort.rows[["person_id", "cohort", "site", "role", "dataset", "scan"]].assign(
        sex=covariates["sex"], **{name: covariates[name] for name in NUMBERS}
    )
    keys = ["person_id"]
    if task:
        truth = cohort.rows[task.target]
        scans = scans.assign(truth=truth if task.levels else truth.astype(float).map(repr))
        keys.append("truth")
    by_unit = scans.groupby(keys, sort=True)
    first = by_unit.agg({"sex": "first"} | dict.fromkeys(NUMBERS, "mean"))
    # Of one scan: of a person in two cohorts each might know a part, and a site is a name within its cohort.
    first = first.join(scans.drop_duplicates(keys).set_index(keys)[["cohort", "site", "role"]])
    num_scans = scans.drop_duplicates([*keys, "dataset", "scan"]).groupby(keys, sort=True).size()
    return _Units(first.assign(num_scans=num_scans).reset_index(), by_unit.ngroup().to_numpy())


def _predictions(units: _Units, answer: Answer, manifest: Manifest, task: Task) -> pd.DataFrame:
    """Rows of the `predictions` table, without the names of the row and the fold."""
    scores_UK = units.mean(answer.scores_NK)
    if task.levels:
        prediction = np.array(task.levels, dtype=object)[scores_UK.argmax(axis=1)].tolist()
    else:
        prediction = [repr(value) for value in scores_UK[:, 0].tolist()]
    layers: list[list[int] | None] = [None] * len(units.rows)
    if answer.layers_NK is not None:
        columns = [most_frequent(layer_N, units.code_N, len(units.rows)) for layer_N in answer.layers_NK.T]
        layers = np.stack(columns, axis=1).tolist()
    loaded = architecture(manifest.model.architecture)
    return units.rows.drop(columns="role").assign(
        architecture=manifest.model.architecture,
        group=loaded.group,
        num_train=len(manifest.training_people),
        prediction=prediction,
        levels=[list(task.levels)] * len(units.rows),
        scores=scores_UK.tolist(),
        threshold=manifest.results.get("threshold") if len(task.levels) == 2 else None,
        layers=layers,
    )


def _decoded(parts: Sequence[tuple[Cohort, NDArray[np.floating]]]) -> list[dict[str, Any]]:
    """What is read of site and motion from embeddings of connectomes, the mean a person."""
    people, embeddings = [], []
    for cohort, embedding_ND in parts:
        units = _units(cohort, None)
        people.append(units.rows)
        embeddings.append(units.mean(embedding_ND))
    return decode(pd.concat(people, ignore_index=True), np.concatenate(embeddings))
