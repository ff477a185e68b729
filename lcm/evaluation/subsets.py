"""Scores among people who hardly moved, and among people matched in age, sex and head motion.

Head motion, age and sex go together with disease, and a model may answer about those. People are only left out here: each
keeps the answer that was given with everyone else. Shape suffixes: N people, P pairs, C covariates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

log = logging.getLogger(__name__)

LOW_MOTION, MATCHED = "low-motion", "matched"
CALIPER = 0.25
"""Most that a pair may differ in a number, in SDs of its level. Rosenbaum & Rubin 1985 (Am Stat 39:33) take a quarter SD of
the propensity score's logit; here each covariate keeps within it."""
NUMBERS = ("age", "mean_fd_mm")
COVARIATES = (*NUMBERS, "sex")
MIN_KNOWN = 0.5
"""A covariate that fewer of a cohort's people have is not matched on there: it would leave hardly anyone."""
MIN_PAIRS = 5
"""Fewer give no score."""


class Matched(NamedTuple):
    """People of the matched subset, and how alike their levels were before and after."""

    people: pd.DataFrame
    """Rows of `predictions`: two a pair."""
    balance: pd.DataFrame
    """cohort, covariate, smd_before, smd_after, num_pairs: standardised mean differences of the second level from the
    first."""


def low_motion(predictions: pd.DataFrame, most_mm: float) -> pd.DataFrame:
    """The rows of people whose mean FD is known and at most that.

    Raises ValueError with the reason where there are none.
    """
    motion_N = predictions["mean_fd_mm"].astype(float)
    if motion_N.isna().all():
        raise ValueError("nobody's head motion is known")
    people = predictions[motion_N <= most_mm]
    if people.empty:
        raise ValueError(f"nobody's mean framewise displacement is {most_mm:g} mm or less")
    return people.reset_index(drop=True)


def matched(predictions: pd.DataFrame) -> Matched:
    """Pairs of people, one of each level, alike in age, sex and mean FD; of the same cohort and fold, and site if possible.

    In each fold of a cohort the closest pair (by standardised distance, within CALIPER in each number and of one sex) is
    taken first, then the closest of those left: at first of people who share a site, then of the others. So a person is in
    one pair at most, and the order of rows changes nothing. Raises ValueError with the reason where there is nothing to
    match: a target without two levels or that is itself one of the covariates alone, unknown covariates, too few pairs.
    """
    levels = list(predictions["levels"].iloc[0])
    if len(levels) != 2:
        raise ValueError("people are matched between two levels")
    if predictions["person_id"].duplicated().any():
        raise ValueError("the target is a state of scans, and people are their own match")
    people = predictions.sort_values("person_id", kind="stable").reset_index(drop=True)
    positive_N = (people["truth"] == levels[1]).to_numpy()
    pairs: list[tuple[int, int]] = []
    asked: dict[str, list[str]] = {}
    for cohort, own in people.groupby("cohort", sort=True):
        has_both = len(set(positive_N[own.index])) == 2
        asked[str(cohort)] = [n for n in COVARIATES if has_both and _can_be_matched(own, n, positive_N[own.index])]
        if asked[str(cohort)]:
            pairs += _pairs_of_cohort(own, positive_N, asked[str(cohort)])
    if not any(asked.values()):
        raise ValueError("age, sex and head motion are unknown, or say the level themselves")
    if len(pairs) < MIN_PAIRS:
        raise ValueError(f"{len(pairs)} pairs of people are alike in age, sex and head motion, {MIN_PAIRS} needed")
    chosen = people.loc[sorted(place for pair in pairs for place in pair)]
    log.info("%d pairs of people of %d are alike in age, sex and head motion", len(pairs), len(people))
    return Matched(chosen.reset_index(drop=True), _balance(people, chosen, positive_N, asked))


def _can_be_matched(people: pd.DataFrame, name: str, positive_N: NDArray[np.bool_]) -> bool:
    """Whether half the people have the covariate, and it is not the target: a sex is not matched between sexes."""
    known = people[name].notna()
    if known.mean() < MIN_KNOWN:
        return False
    if name in NUMBERS:
        return bool(people[name].astype(float).std() > 0)
    of_positive, of_others = (set(people.loc[known & side, name]) for side in (positive_N, ~positive_N))
    return bool(of_positive & of_others)


def _pairs_of_cohort(
    people: pd.DataFrame, positive_N: NDArray[np.bool_], names: Sequence[str]
) -> list[tuple[int, int]]:
    """Index labels of the pairs: the positive one, then the other."""
    numbers = [name for name in names if name in NUMBERS]
    spread = {name: _spread(people[name].astype(float), positive_N[people.index]) for name in numbers}
    known = people[people[list(names)].notna().all(axis=1)]
    pairs = []
    for _, fold in known.groupby("fold", sort=True):
        free = fold
        for within_site in (True, False):
            found = _closest(free, positive_N, spread, exact=[*set(names) - set(numbers), *["site"] * within_site])
            pairs += found
            free = free.drop(index=[place for pair in found for place in pair])
    return pairs


def _closest(
    people: pd.DataFrame, positive_N: NDArray[np.bool_], spread: dict[str, float], *, exact: Sequence[str]
) -> list[tuple[int, int]]:
    """Greedy pairs in the order of distance; a pair shares what is `exact`, where an unknown site is a site."""
    sides = people[positive_N[people.index]], people[~positive_N[people.index]]
    gap_CPQ = np.zeros((max(1, len(spread)), len(sides[0]), len(sides[1])))
    for place, (name, width) in enumerate(spread.items()):
        first, second = (side[name].to_numpy(dtype=float) / width for side in sides)
        gap_CPQ[place] = np.abs(first[:, None] - second[None, :])
    allowed_PQ = (gap_CPQ <= CALIPER).all(axis=0)
    for name in exact:
        first, second = (side[name].fillna("").to_numpy(dtype=object) for side in sides)
        allowed_PQ &= first[:, None] == second[None, :]
    distance_PQ = np.sqrt((gap_CPQ**2).sum(axis=0))
    candidates = np.argwhere(allowed_PQ)
    order = np.argsort(distance_PQ[allowed_PQ], kind="stable")
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for one, other in candidates[order]:
        if one not in taken[0] and other not in taken[1]:
            taken[0].add(one)
            taken[1].add(other)
            pairs.append((int(sides[0].index[one]), int(sides[1].index[other])))
    return pairs


def _spread(values: pd.Series, positive_N: NDArray[np.bool_]) -> float:
    """Root of the mean variance of the two levels, as in a standardised mean difference; 1 where nothing varies in them."""
    of_sides = [values[side].dropna() for side in (positive_N, ~positive_N)]
    variances = [float(known.var(ddof=1)) for known in of_sides if len(known) > 1]
    spread = float(np.sqrt(np.mean(variances))) if variances else 0.0
    return spread if spread > 0 else 1.0


def _balance(
    people: pd.DataFrame, chosen: pd.DataFrame, positive_N: NDArray[np.bool_], asked: dict[str, list[str]]
) -> pd.DataFrame:
    """Standardised mean differences (Austin 2009, Stat Med 28:3083) in the SD of everyone, so that only means can move."""
    rows = []
    for cohort, names in asked.items():
        before, after = people[people["cohort"] == cohort], chosen[chosen["cohort"] == cohort]
        for name in names:
            values = _as_number(people[name])
            spread = _spread(values[before.index], positive_N[before.index])
            differences = (
                (values[part.index][positive_N[part.index]].mean() - values[part.index][~positive_N[part.index]].mean())
                / spread
                for part in (before, after)
            )
            smd_before, smd_after = differences
            rows.append((cohort, name, smd_before, smd_after, len(after) // 2))
    return pd.DataFrame(rows, columns=["cohort", "covariate", "smd_before", "smd_after", "num_pairs"])


def _as_number(values: pd.Series) -> pd.Series:
    """Numbers as they are; of names, whether it is the last of them in order, and missing stays missing."""
    if values.name in NUMBERS:
        return values.astype(float)
    return (values == max(values.dropna())).astype(float).where(values.notna())
