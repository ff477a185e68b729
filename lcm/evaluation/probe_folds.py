"""One fold's pretrained network and the people that it is probed with: those held out, and those of other datasets."""

# Shapes: N recordings, M of them.

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcm.models.series_network import SeriesNetwork
from lcm.probe_tables import EXTERNAL, HELD_OUT
from lcm.tables import BEI, TEST, read_tsv
from lcm.training.data import ROLES, Cohort, Tables, read_cohort
from lcm.training.inference import was_seen
from lcm.training.machine import STANDARD, Machine
from lcm.training.networks import build_network, load_arrays, ready
from lcm.training.weights import Manifest, load_bundle, read_manifest

log = logging.getLogger(__name__)

PREPROCESSING = ("preprocessing",)
"""Datasets that pretraining never saw may well be preprocessed in another way; that is what external means."""


class OpenFold(NamedTuple):
    """A network in evaluation, where it shall compute, and the scans that it may be asked about."""

    fold: int
    manifest: Manifest
    network: SeriesNetwork
    parts: dict[str, Cohort]
    """HELD_OUT and, where pretraining left datasets out, EXTERNAL; a part without a scan is not there."""


def open_fold(tables: Tables, weights: Path, fold: int, machine: Machine = STANDARD) -> OpenFold:
    """The bundle of pretrain of that fold, on whom it has not seen.

    Raises ValueError when it is of another fold, is no network of series, or has seen somebody who is asked about, and
    Unanswerable when there is none because nothing could be fitted.
    """
    folder = weights / f"fold-{fold}"
    manifest = read_manifest(folder)
    if manifest.fold != fold:
        raise ValueError(f"{folder}: trained on fold {manifest.fold}, asked about fold {fold}; its test people differ")
    cohorts = parts_of(tables, fold, tuple(manifest.settings.get("datasets", ())))
    for part, cohort in cohorts.items():
        _check_unseen(folder, manifest, cohort, part)
    first = next(iter(cohorts.values()))
    _, arrays = load_bundle(folder, first, allow=PREPROCESSING)
    network: Any = build_network(manifest.resolved_model, len(manifest.regions), manifest.tokens, seed=0)
    if not isinstance(network, SeriesNetwork):
        raise ValueError(f"{folder}: {manifest.model.architecture} reads connectomes; networks of series are probed")
    load_arrays(network, arrays)
    ready(network, machine.place())
    return OpenFold(fold, manifest, network, {part: cohort for part, cohort in cohorts.items() if len(cohort.rows)})


def parts_of(tables: Tables, fold: int, learned: Sequence[str]) -> dict[str, Cohort]:
    """The fold's test people of the datasets `learned` from (none named: of all), and everyone of the other datasets."""
    parts = {HELD_OUT: read_cohort(tables, fold=fold, roles=(TEST,), datasets=learned)}
    rows = read_tsv(tables.bei, BEI)
    others = sorted(set(rows["dataset"]) - set(learned)) if learned else []
    if others:
        external = read_cohort(tables, fold=fold, roles=ROLES, datasets=others)
        # Who has scans in both kinds of datasets is external to neither.
        known = rows.loc[rows["dataset"].isin(learned), "person_id"]
        parts[EXTERNAL] = external.keep(~external.rows["person_id"].isin(known).to_numpy())
    return parts


def _check_unseen(folder: Path, manifest: Manifest, cohort: Cohort, part: str) -> None:
    """Raise ValueError when the weights, or those they began with, have seen one of the people."""
    people = sorted(set(cohort.rows["person_id"]))
    num_seen = int(was_seen(manifest, people).sum())
    if num_seen:
        raise ValueError(
            f"{folder}: {num_seen} of the {len(people)} {part} people were seen in pretraining; what a network knows of them "
            "is no probe. Run pretrain on these folds, or leave their datasets out"
        )
    if manifest.people == "unknown":
        log.warning("%s: imported weights, which may have seen anybody", folder)


def some(cohort: Cohort, most: int, seed: int) -> Cohort:
    """The cohort, or `most` of its scans drawn by chance, in their own order."""
    if len(cohort.rows) <= most:
        return cohort
    chosen_N = np.zeros(len(cohort.rows), dtype=bool)
    chosen_N[np.random.default_rng(seed).permutation(len(cohort.rows))[:most]] = True
    return cohort.keep(chosen_N)
