"""Probe: what networks pretrained on series know, asked of people they have not seen and without teaching them more."""

# Shapes: U units of people, R regions.

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lcm.atlas import load_atlas
from lcm.config import Probe
from lcm.evaluation.attention_groups import everyone, groups
from lcm.evaluation.network_identification import network_table
from lcm.evaluation.probe_answers import FoldAnswers, Looks, ask_fold
from lcm.evaluation.probe_folds import open_fold
from lcm.evaluation.region_networks import networks_of
from lcm.probe_tables import (
    ATTENTION_FILE,
    EMBEDDING,
    EXAMPLES,
    NETWORKS,
    NETWORKS_FILE,
    RECONSTRUCTION,
    REGION_ATTENTION,
    write_embedding,
    write_examples,
    write_moments,
)
from lcm.tables import FOLDS, Table, read_tsv, write_tsv
from lcm.training.data import add_table_flags, tables_of
from lcm.training.machine import add_place_flags, machine_of
from lcm.training.weights import Unanswerable

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--protocol", required=True, help="name of the protocol in config.yaml")
    parser.add_argument("--model", required=True, help="name of the model in config.yaml")
    add_table_flags(parser)
    parser.add_argument("--weights", type=Path, required=True, help="folder with fold-0, fold-1, … of pretrain")
    parser.add_argument("--atlas", required=True, help="atlas of the recordings, for the networks of its regions")
    add_place_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the tables")


def methods(settings: Probe) -> str:
    """Sentences for a paper's methods section."""
    ratios = ", ".join(f"{ratio:.0%}" for ratio in settings.mask_ratios)
    named = (
        f" Within one window of each recording, the functional network of {settings.test_share:.0%} of the regions was told by "
        f"the {settings.neighbours} nearest neighbours among the others, by what the network makes of a region, by its series "
        "and by its place."
        if settings.networks
        else ""
    )
    contrasts = f", and compared between levels of {', '.join(settings.contrasts)}" if settings.contrasts else ""
    return (
        f"Pretrained networks of series were asked about people they had not seen to fill in windows of which {ratios} was "
        "hidden at random. R² is that of all hidden frames of all people together, on the scale of each region's median and "
        "interquartile range over the training people; the training median and a line between the visible frames of the "
        f"region answered about the same frames.{named} Attention of the summary token was averaged over heads and scans of a "
        f"person{contrasts}; embeddings were laid out by {settings.map.upper()}. Intervals are 95 % percentile intervals of "
        f"{settings.num_bootstraps} bootstrap resamples of people."
    )


def main(options: argparse.Namespace) -> None:
    """Write the five tables; one that the network cannot answer has no rows."""
    settings: Probe = options.settings
    names = {"protocol": options.protocol, "model": options.model}
    # Read before any network is asked: a wrong name should cost no hours.
    network_of = networks_of(settings.networks, load_atlas(options.atlas)) if settings.networks else {}
    folds = ask_folds(options, network_of)
    filled, places = (_joined([getattr(fold, name) for fold in folds]) for name in ("reconstruction", "embedding"))
    # Of one fold; where cohorts are left out, the first may hold nobody out.
    shown = next((fold.examples for fold in folds if len(fold.examples)), pd.DataFrame())
    write_moments(filled.assign(**names), options.output / RECONSTRUCTION)
    write_examples(shown.assign(**names), options.output / EXAMPLES)
    write_embedding(places.assign(**names), options.output / EMBEDDING)
    tables: dict[str, tuple[pd.DataFrame, Table]] = {
        NETWORKS_FILE: (network_rows(folds, network_of, settings), NETWORKS),
        ATTENTION_FILE: (attention_rows(folds, settings), REGION_ATTENTION),
    }
    for name, (frame, table) in tables.items():
        write_tsv(frame.assign(**names).reindex(columns=list(table.columns)), options.output / name, table)


def ask_folds(options: argparse.Namespace, network_of: Mapping[str, str]) -> list[FoldAnswers]:
    """Every fold's answers; a fold whose network could not be fitted is left out, and the log says why."""
    tables = tables_of(options)
    found = []
    for fold in sorted({int(number) for number in read_tsv(tables.folds, FOLDS)["fold"]}):
        try:
            opened = open_fold(tables, options.weights, fold, machine_of(options))
        except Unanswerable as reason:
            log.warning("fold %d: not run: %s", fold, reason)
            continue
        found.append(ask_fold(opened, network_of, options.settings))
    return found


def network_rows(folds: Sequence[FoldAnswers], network_of: Mapping[str, str], settings: Probe) -> pd.DataFrame:
    """Rows of the `networks` table without the names of the row: held-out people of all folds together."""
    if not folds:
        return pd.DataFrame()
    return network_table(
        _joined([fold.accuracies for fold in folds]),
        [network_of.get(region) for region in folds[0].regions],
        neighbours=settings.neighbours,
        num_bootstraps=settings.num_bootstraps,
        seed=settings.seed,
    )


def attention_rows(folds: Sequence[FoldAnswers], settings: Probe) -> pd.DataFrame:
    """Rows of the `region attention` table without the names of the row: held-out people of all folds together."""
    asked = [fold for fold in folds if fold.looks]
    if not asked:
        return pd.DataFrame()
    together = {name: _pooled([fold.looks[name] for fold in asked]) for name in asked[0].looks}
    tables = [everyone(together.pop(None).shares_UR, asked[0].regions)]
    tables += [
        groups(
            str(name),
            found.shares_UR,
            found.level_U,
            asked[0].regions,
            num_bootstraps=settings.num_bootstraps,
            seed=settings.seed,
        )
        for name, found in together.items()
    ]
    return _joined(tables)


def _pooled(answers: Sequence[Looks]) -> Looks:
    """The people of all folds, each of whom is held out in one."""
    levels = tuple(level for answer in answers for level in answer.level_U)
    return Looks(levels, np.concatenate([answer.shares_UR for answer in answers]))


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    there = [table for table in tables if len(table)]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame()
