"""Split: put every person of the study into folds by the design asked for, families whole, once for all models."""

# Shapes: G groups (families, else people), P people, K folds.

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.designs import DESIGNS
from lcm.cohort.strata import by_cohort, generator_of, in_order, read_groups
from lcm.config import Split
from lcm.tables import BEI, FOLDS, TEST, TRAIN, UNUSED, VALIDATION, hashed, read_tsv, write_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TEST_EVERYONE = ("stratified", "leave-site-out")
"""Designs that test every person of the study once; the others leave some out."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `lcm split`."""
    parser.add_argument("--bei", type=Path, required=True, help="results/harmonize/bei.tsv")
    parser.add_argument("--output", type=Path, required=True, help="the fold table to write, folds.tsv")


def main(options: argparse.Namespace) -> None:
    """Write folds.tsv."""
    folds = split(read_tsv(options.bei, BEI), options.settings)
    write_tsv(folds, options.output, FOLDS)
    _log_counts(folds)


def methods(settings: Split) -> str:
    """What this stage did, in a few sentences for a paper."""
    tested = {
        "stratified": f"People were split into {settings.count} folds, stratified by cohort, diagnosis, site and sex",
        "leave-site-out": (
            f"Whole sites were tested, packed into {settings.count} folds of about equal numbers of people; people of "
            "unknown site and of cohorts with one site were split by cohort, diagnosis and sex, so their site was trained on"
        ),
        "cross-cohort": "Whole cohorts were tested: "
        + ", ".join(f"{' and '.join(cohorts)} in fold {fold}" for fold, cohorts in enumerate(settings.test_cohorts)),
        "kfold": (
            f"People of each cohort were split by scikit-learn's KFold over their sorted ids, shuffled with seed "
            f"{settings.seed} and without strata, into {settings.count} folds"
            + "".join(f" ({number} in {cohort})" for cohort, number in sorted(settings.cohort_folds.items()))
            + f", of which the first {settings.count} were tested"
        ),
    }[settings.design]
    return (
        f"{tested}. Members of a known family, and a person's scans in several cohorts, were on one side of each fold; "
        f"who had scans in the test sets of several folds was tested in the first and left out of the others. "
        f"{_validating(settings)}"
    )


def _validating(settings: Split) -> str:
    if settings.validation_share == 0:
        return (
            "Nobody was kept for validation: the tested people themselves chose the epoch, which flatters every score."
        )
    return (
        f"{settings.validation_share:.0%} of each fold's training people, stratified by cohort, diagnosis, site and sex, "
        "were kept for validation."
    )


def split(bei: pd.DataFrame, settings: Split) -> pd.DataFrame:
    """The fold table: person_id, group_id, fold (0..K-1), role; K rows a person, sorted by person and fold.

    Groups are dealt, not people: who shares a group_id shares every role. Validation groups are drawn from a fold's
    training groups, evenly over their strata, whatever the design. A cohort's stratified folds depend on its own people
    and the seed alone, not on which other cohorts are in the study, where no group is in both.

    Raises ValueError when a person's rows disagree, when the design does not fit the study, or when there are too few
    people for every fold to have all three roles.
    """
    if bei.empty:
        raise ValueError("bei.tsv holds no one to split")
    groups = read_groups(bei)
    role_GK = _roles(groups, DESIGNS[settings.design](bei, groups, settings), settings)
    untested = int(((role_GK == TEST).sum(axis=1) != 1).sum())
    if settings.design in TEST_EVERYONE and untested:
        raise ValueError(f"design {settings.design} tests everyone once, but {untested} groups of people are not")
    folds = _rows_of_people(bei, groups, role_GK)
    for fold in range(settings.count):
        needed = (TRAIN, VALIDATION, TEST) if settings.validation_share else (TRAIN, TEST)
        absent = [role for role in needed if role not in role_GK[:, fold]]
        if absent:
            raise ValueError(
                f"fold {fold} has no one to {' or '.join(absent)}: {bei['person_id'].nunique()} people are too few for "
                f"{settings.count} folds with {', '.join(needed)} each; lower split.num_folds or add people"
            )
    return folds


def _roles(groups: pd.DataFrame, asked_GK: np.ndarray, settings: Split) -> np.ndarray:
    """Role (G, K) of every group in every fold, from what the folds ask about (lcm.cohort.designs)."""
    again_GK = asked_GK & (asked_GK.cumsum(axis=1) > 1)
    role_GK = np.select([again_GK, asked_GK], [UNUSED, TEST], TRAIN).astype(object)
    if settings.validation_share == 0:
        return role_GK
    stratum_G = groups["stratum"].to_numpy()
    for cohort, places in by_cohort(groups).items():
        for fold in range(settings.count):
            # Not the design's own numbers: they have put these groups into an order before.
            generator = generator_of(cohort, settings.seed, 1 + fold)
            rest = places[role_GK[places, fold] == TRAIN]
            ordered = rest[in_order(stratum_G[rest], generator)]
            role_GK[ordered[_spread(len(ordered), settings.validation_share, generator.random())], fold] = VALIDATION
    for fold in range(settings.count):
        _let_one_validate(groups, role_GK[:, fold])
    return role_GK


def _let_one_validate(groups: pd.DataFrame, role_G: np.ndarray) -> None:
    """In a study so small that the share of its training groups rounds to none, one of them validates all the same."""
    train = groups["group_id"][role_G == TRAIN]
    if VALIDATION not in role_G and len(train) > 1:
        role_G[min(train.index, key=lambda place: hashed(str(train[place])))] = VALIDATION


def _spread(count: int, share: float, start: float) -> np.ndarray:
    """Mask [count] that takes `share` of the places evenly, beginning somewhere in the first stride (0 ≤ start < 1)."""
    steps = np.floor(np.arange(count + 1) * share + start)
    return np.diff(steps) > 0


def _rows_of_people(bei: pd.DataFrame, groups: pd.DataFrame, role_GK: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    people = bei[["person_id", "group_id"]].drop_duplicates().sort_values("person_id")
    role_PK = role_GK[groups.set_index("group_id").index.get_indexer(people["group_id"])]
    num_folds = role_GK.shape[1]
    rows = people.loc[people.index.repeat(num_folds)].reset_index(drop=True)
    fold = pd.Series(np.tile(np.arange(num_folds), len(people)))
    return rows.assign(fold=fold, role=role_PK.ravel())


def _log_counts(folds: pd.DataFrame) -> None:
    for fold, rows in folds.groupby("fold"):
        counts = rows["role"].value_counts().sort_index()
        log.info("fold %s: %s people", fold, ", ".join(f"{count} {role}" for role, count in counts.items()))
    people = folds.drop_duplicates("person_id")
    members = people.groupby("group_id").size()
    tested = folds.loc[folds["role"] == TEST, "person_id"].nunique()
    log.info(
        "%d people: %d families kept together (%d people), %d people never tested",
        len(people), int((members > 1).sum()), int(members[members > 1].sum()), len(people) - tested,
    )  # fmt: skip
