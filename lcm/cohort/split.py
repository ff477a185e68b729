"""Split: put every person of the study into folds, stratified by cohort, diagnosis and sex, once for all models."""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Split
from lcm.tables import BEI, FOLDS, TEST, TRAIN, VALIDATION, hashed, hashed_names, read_tsv, write_tsv

if TYPE_CHECKING:
    import pandas as pd


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `lcm split`."""
    parser.add_argument("--bei", type=Path, required=True, help="results/harmonize/bei.tsv")
    parser.add_argument("--output", type=Path, required=True, help="the fold table to write, folds.tsv")


def main(options: argparse.Namespace) -> None:
    """Write folds.tsv."""
    write_tsv(split(read_tsv(options.bei, BEI), options.settings), options.output, FOLDS)


def methods(settings: Split) -> str:
    """What this stage did, in a sentence or two for a paper."""
    return (
        f"People were split into {settings.num_folds} folds, stratified by cohort, diagnosis and sex; "
        f"{settings.validation_share:.0%} of each fold's training people were kept for validation."
    )


def split(bei: pd.DataFrame, settings: Split) -> pd.DataFrame:
    """The fold table: person_id, fold (0..K-1), role; K rows a person, sorted by person and fold.

    People of a cohort are ordered by diagnosis, then sex, and shuffled within; every K-th of them is tested together.
    So each fold's share of any run of that order - a cohort, a diagnosis in it, a sex in that diagnosis - is within
    one person of equal, however small the stratum: a stratum too small to split evenly is evened out with its
    neighbours of the same diagnosis, then of the same cohort. Validation people are drawn likewise from the rest.
    A cohort's folds depend on its own people and the seed alone, not on which other cohorts are in the study.

    Only observed labels stratify; a pseudo label counts as none. Raises ValueError when a person's rows disagree, or
    when there are too few people for every fold to have all three roles.
    """
    import pandas as pd

    people = _one_row_each(bei)
    parts = [_split_cohort(str(cohort), own, settings) for cohort, own in people.groupby("cohort", sort=True)]
    if not parts:
        raise ValueError("bei.tsv holds no one to split")
    folds = _with_validation(pd.concat(parts).sort_values(["person_id", "fold"]).reset_index(drop=True))
    roles = folds.groupby("fold")["role"].nunique()
    if len(roles) < settings.num_folds or (roles < 3).any():
        raise ValueError(
            f"{len(people)} people are too few for {settings.num_folds} folds with train, validation and test each; "
            "lower split.num_folds or add people"
        )
    return folds


def _one_row_each(bei: pd.DataFrame) -> pd.DataFrame:
    """person_id, cohort, diagnosis and sex, sorted by person; people scanned in several datasets come once."""
    import pandas as pd

    diagnoses = [name for name, variable in read_vocabulary().items() if variable.group == "diagnosis"]
    observed = {
        name: bei[name].where(bei[f"{name}_source"] == "observed").fillna("").astype("object")
        for name in (*diagnoses, "sex")
    }
    diagnosis = pd.Series("", index=bei.index, dtype="object")
    for name in diagnoses:
        diagnosis = diagnosis + "|" + observed[name]
    people = pd.DataFrame(
        {"person_id": bei["person_id"], "cohort": bei["cohort"], "diagnosis": diagnosis, "sex": observed["sex"]}
    ).drop_duplicates()
    torn = people.loc[people["person_id"].duplicated(), "person_id"].unique()
    if len(torn):
        raise ValueError(
            f"bei.tsv: {len(torn)} people have scans that disagree in cohort, diagnosis or sex "
            f"(sha256 of their ids begins {hashed_names(torn)}); a person's phenotype is one"
        )
    return people.sort_values("person_id").reset_index(drop=True)


def _split_cohort(cohort: str, people: pd.DataFrame, settings: Split) -> pd.DataFrame:
    """Fold rows of one cohort's people."""
    import pandas as pd

    generator = np.random.default_rng([settings.seed, zlib.crc32(cohort.encode())])
    ordered = _stratified_order(people, generator)
    # A cohort begins at a fold of its own, or the first folds would collect every cohort's odd person.
    test_fold = (np.arange(len(ordered)) + generator.integers(settings.num_folds)) % settings.num_folds
    parts = []
    for fold in range(settings.num_folds):
        role = np.where(test_fold == fold, TEST, TRAIN).astype("object")
        rest = _stratified_order(ordered[role == TRAIN], generator)
        chosen = rest[_spread(len(rest), settings.validation_share, generator.random())]
        role[ordered["person_id"].isin(chosen["person_id"])] = VALIDATION
        parts.append(pd.DataFrame({"person_id": ordered["person_id"].to_numpy(), "fold": fold, "role": role}))
    return pd.concat(parts)


def _with_validation(folds: pd.DataFrame) -> pd.DataFrame:
    """In a study so small that the share of its training people rounds to none, one of them validates all the same."""
    role = folds["role"].copy()
    for _, fold in folds.groupby("fold"):
        train = fold.index[fold["role"] == TRAIN]
        if VALIDATION not in set(fold["role"]) and len(train) > 1:
            role[min(train, key=lambda row: hashed(str(folds.loc[row, "person_id"])))] = VALIDATION
    return folds.assign(role=role)


def _stratified_order(people: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    shuffled = people.sort_values("person_id").iloc[generator.permutation(len(people))]
    return shuffled.sort_values(["diagnosis", "sex"], kind="stable")


def _spread(count: int, share: float, start: float) -> np.ndarray:
    """Mask [count] that takes `share` of the places evenly, beginning somewhere in the first stride (0 ≤ start < 1)."""
    steps = np.floor(np.arange(count + 1) * share + start)
    return np.diff(steps) > 0
