"""Split designs: which groups of people each fold asks about."""

# Shapes: G groups, K folds. `asked_GK` is true where a fold tests something of the group: the group itself, one of its
# sites or one of its cohorts. The first such fold of a group tests it; a later one neither tests it nor learns from it.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.strata import by_cohort, generator_of, in_order
from lcm.config import Split

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def stratified(_bei: pd.DataFrame, groups: pd.DataFrame, settings: Split) -> np.ndarray:
    """asked_GK: every K-th group of a cohort, in the order of strata, is tested together.

    So the folds' shares of any run of that order - a cohort, a diagnosis in it, a site in that diagnosis, a sex in that
    site - are within one group of equal, however small the run.
    """
    fold_G = np.empty(len(groups), dtype=int)
    stratum_G = groups["stratum"].to_numpy()
    for cohort, places in by_cohort(groups).items():
        generator = generator_of(cohort, settings.seed)
        ordered = places[in_order(stratum_G[places], generator)]
        # A cohort begins at a fold of its own, or the first folds would collect every cohort's odd group.
        fold_G[ordered] = (np.arange(len(ordered)) + generator.integers(settings.count)) % settings.count
    return _asked_once(fold_G, settings)


def leave_site_out(bei: pd.DataFrame, groups: pd.DataFrame, settings: Split) -> np.ndarray:
    """asked_GK: whole sites are tested, the largest dealt first, each to the fold with the fewest people so far.

    A site is a cohort's own name of it. Cohorts with fewer than two sites, and people whose site is unknown, are dealt
    as `stratified` does. A group of several sites is tested with all its scans, also those of sites that others of this
    fold are trained on. Raises ValueError when there are fewer sites than folds.
    """
    sites = bei[["group_id", "person_id", "cohort", "site"]].dropna(subset="site").drop_duplicates()
    sites = sites[sites.groupby("cohort")["site"].transform("nunique") > 1]
    num_people = sites.groupby(["cohort", "site"])["person_id"].nunique().sort_values(ascending=False, kind="stable")
    if len(num_people) < settings.count:
        raise ValueError(
            f"bei.tsv, column site: cohorts with two or more sites have {len(num_people)} in all, too few for "
            f"{settings.count} folds of whole sites; lower split.num_folds or choose another split.design"
        )
    fold_of_site = dict(zip(num_people.index, _pack(num_people, settings.count), strict=True))
    fold = [fold_of_site[site] for site in zip(sites["cohort"], sites["site"], strict=True)]
    asked_GK = np.zeros((len(groups), settings.count), dtype=bool)
    asked_GK[_places(groups, sites["group_id"]), fold] = True
    rest_G = ~asked_GK.any(axis=1)
    asked_GK[rest_G] = stratified(bei, groups[rest_G], settings)
    log.info(
        "%d sites in %d folds; %d people of unknown site or of cohorts with one site were split by stratum",
        len(num_people), settings.count, int(groups.loc[rest_G, "num_people"].sum()),
    )  # fmt: skip
    return asked_GK


def _pack(sizes: Iterable[int], num_folds: int) -> list[int]:
    """Fold of each size, in the order given: always the emptiest one, the first among equals."""
    filled_K = np.zeros(num_folds, dtype=int)
    folds = []
    for size in sizes:
        folds.append(int(filled_K.argmin()))
        filled_K[folds[-1]] += size
    return folds


def cross_cohort(bei: pd.DataFrame, groups: pd.DataFrame, settings: Split) -> np.ndarray:
    """asked_GK: fold k tests the groups with a scan in test_cohorts[k]; some may never be tested.

    Raises ValueError for a cohort that the study does not have, or that two folds test.
    """
    wanted = [cohort for cohorts in settings.test_cohorts for cohort in cohorts]
    _check_cohorts("test_cohorts", wanted, bei)
    twice = sorted({cohort for cohort in wanted if wanted.count(cohort) > 1})
    if twice:
        raise ValueError(f"split.test_cohorts: {', '.join(twice)} is there more than once; a person is tested once")
    asked_GK = np.zeros((len(groups), settings.count), dtype=bool)
    for fold, cohorts in enumerate(settings.test_cohorts):
        asked_GK[_places(groups, bei.loc[bei["cohort"].isin(cohorts), "group_id"]), fold] = True
    return asked_GK


def kfold(bei: pd.DataFrame, groups: pd.DataFrame, settings: Split) -> np.ndarray:
    """asked_GK: scikit-learn's shuffled KFold over a cohort's sorted ids, as the LCM authors call it (models.md §1.1).

    A cohort has cohort_folds folds, else num_folds, of which the first num_folds are tested. The authors split people;
    where that would tear a group, its members follow the first of them, and the log counts who moved. Raises ValueError
    for an unknown cohort, or one with fewer people than folds.
    """
    from sklearn.model_selection import KFold

    _check_cohorts("cohort_folds", settings.cohort_folds, bei)
    people = bei.groupby(["cohort", "person_id"], as_index=False).agg(
        id=("participant_id", "min"), group_id=("group_id", "first")
    )
    people = people.sort_values(["cohort", "id", "person_id"], ignore_index=True)
    fold_P = np.empty(len(people), dtype=int)
    for cohort, places in by_cohort(people).items():
        num_folds = settings.cohort_folds.get(cohort, settings.count)
        if len(places) < num_folds:
            raise ValueError(f"cohort {cohort}: {len(places)} people are too few for its {num_folds} folds")
        folds = KFold(num_folds, shuffle=True, random_state=settings.seed).split(places)
        for fold, (_, tested) in enumerate(folds):
            fold_P[places[tested]] = fold
    first = people.assign(fold=fold_P).drop_duplicates("group_id").set_index("group_id")["fold"]
    moved = int((people["group_id"].map(first) != fold_P).sum())
    log.info("%d people moved to the fold of their family or of their first cohort (0: as the authors split)", moved)
    return _asked_once(groups["group_id"].map(first).to_numpy(), settings)


def _asked_once(fold_G: np.ndarray, settings: Split) -> np.ndarray:
    """asked_GK of groups with one fold each; a fold beyond the last asks about no one."""
    return fold_G[:, None] == np.arange(settings.count)


def _places(groups: pd.DataFrame, group_ids: pd.Series) -> np.ndarray:
    return groups.set_index("group_id").index.get_indexer(group_ids)


def _check_cohorts(field: str, wanted: Iterable[str], bei: pd.DataFrame) -> None:
    known = sorted(set(bei["cohort"]))
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ValueError(f"split.{field}: no cohort {', '.join(unknown)}; the study has: {', '.join(known)}")


DESIGNS: dict[str, Callable[[pd.DataFrame, pd.DataFrame, Split], np.ndarray]] = {
    "stratified": stratified,
    "leave-site-out": leave_site_out,
    "cross-cohort": cross_cohort,
    "kfold": kfold,
}
