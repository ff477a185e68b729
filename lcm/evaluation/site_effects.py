"""How well site and head motion are predicted from connectivity, before ComBat and after it.

What a ridge can read off connectivity, another model can use instead of the disease. The people are split by folds of this
diagnostic alone, stratified by site, whatever the design of the study: where whole sites are tested, nobody could name an
unseen one. Shape suffixes: N people, E edges.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lcm.array_tables import region_names
from lcm.evaluation.quality import edges
from lcm.tables import OK, SITE_EFFECTS, read_arrow

NUM_FOLDS = 5
SEED = 142857
"""The study's; the folds of this diagnostic are not the study's."""
MIN_SITE_PEOPLE = 10
"""A site with fewer people is not asked about: two in each fold at least."""
MIN_PEOPLE = 30
"""Below this a correlation of predicted with true motion has a 95 % interval wider than ±0.36 where there is none."""
MAX_PEOPLE = 1000
"""Drawn at random from a larger cohort, since the cost of a ridge grows with the cube of its people."""
COMBAT_MIN_PEOPLE = 5
"""People a site needs among a fold's training people for ComBat to correct it; as in the settings of training."""
PENALTIES = tuple(np.logspace(-3, 3, 7))
"""Relative to the mean squared length of a person's edges; chosen among training people by leave-one-out."""
SITE, MOTION = "site", "motion"
METRIC = {SITE: "balanced_accuracy", MOTION: "r"}
POOLED = "all"
"""The cohort name of the rows over the whole study, where a site is `<cohort>:<site>`."""


def site_effects(people: pd.DataFrame, edges_NE: NDArray[np.float32]) -> pd.DataFrame:
    """The `site_effects` table: each cohort, then all of them together where there are several.

    `people` has a row a person: person_id, group_id, cohort, site (None where unknown) and mean_fd_mm; `edges_NE` their
    connectivity, NaN where an edge has no value. What cannot be asked has a row whose note begins `not run:`.
    """
    from lcm.combat import sites_of

    people = people.assign(named_site=sites_of(people)).reset_index(drop=True)
    asked = [(str(cohort), people["cohort"].to_numpy() == cohort) for cohort in people["cohort"].unique()]
    if len(asked) > 1:
        asked.append((POOLED, np.ones(len(people), dtype=bool)))
    rows = []
    for cohort, mask_N in asked:
        place_N = _drawn(np.flatnonzero(mask_N))
        own = people.iloc[place_N].reset_index(drop=True)
        # In one cohort an unknown site is nobody's site; in the whole study a cohort that names none is one.
        site = own["named_site"] if cohort == POOLED else own["named_site"].where(own["site"].notna(), None)
        own = own.assign(asked_site=site.astype("object"))
        for predicted in (SITE, MOTION):
            rows += [{"cohort": cohort} | row for row in _rows(own, edges_NE[place_N], predicted)]
    return pd.DataFrame(rows, columns=list(SITE_EFFECTS.columns))


def drawn(people: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_PEOPLE of each cohort, in the order of `people`: whose connectivity is worth reading."""
    place_N = [_drawn(np.flatnonzero(people["cohort"] == cohort)) for cohort in people["cohort"].unique()]
    return people.iloc[np.sort(np.concatenate(place_N))] if place_N else people


def _drawn(place_N: NDArray[np.int_]) -> NDArray[np.int_]:
    if len(place_N) <= MAX_PEOPLE:
        return place_N
    return np.sort(np.random.default_rng(SEED).choice(place_N, MAX_PEOPLE, replace=False))


def _rows(people: pd.DataFrame, edges_NE: NDArray[np.float32], predicted: str) -> list[dict[str, Any]]:
    """The rows of one cohort and one question, before ComBat (`off`) and after (`on`)."""
    counts = people["asked_site"].value_counts()
    sites = sorted(counts.index[counts >= MIN_SITE_PEOPLE])
    known_N = people["asked_site"].isin(sites) if predicted == SITE else people["mean_fd_mm"].notna()
    own, own_NE = people[known_N], edges_NE[known_N.to_numpy()]
    chance = (1 / len(sites) if sites else None) if predicted == SITE else 0.0
    rows = []
    for combat in ("off", "on"):
        reason = _refusal(own, sites, predicted, combat)
        value = None if reason else _value(own, own_NE, predicted, combat=combat == "on")
        note = f"not run: {reason}" if reason else None
        rows.append({"predicted": predicted, "combat": combat, "metric": METRIC[predicted], "value": value})
        rows[-1] |= {"chance": chance, "num_people": len(own), "num_sites": len(sites), "note": note}
    return rows


def _refusal(people: pd.DataFrame, sites: Sequence[str], predicted: str, combat: str) -> str | None:
    """Why a row cannot be computed; None where it can."""
    if len(sites) < 2 and (predicted == SITE or combat == "on"):
        return f"{len(sites)} sites with {MIN_SITE_PEOPLE} people or more, 2 needed"
    if predicted == MOTION and len(people) < MIN_PEOPLE:
        return f"{len(people)} people with known head motion, {MIN_PEOPLE} needed"
    if predicted == MOTION and people["mean_fd_mm"].nunique() < 2:
        return "head motion is the same for everyone"
    return None


def _value(people: pd.DataFrame, edges_NE: NDArray[np.float32], predicted: str, *, combat: bool) -> float:
    """Balanced accuracy of the site, or r of predicted and true mean FD, over people who were in no training fold."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold

    strata = people["asked_site"].fillna("").to_numpy(dtype=object)
    truth_N = strata if predicted == SITE else people["mean_fd_mm"].to_numpy(dtype=float)
    answer_N, expected_N = truth_N.copy(), truth_N.copy()
    splitter = StratifiedGroupKFold(n_splits=NUM_FOLDS, shuffle=True, random_state=SEED)
    with warnings.catch_warnings():
        # Sites too small to be asked about may be in fewer folds than there are.
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = list(splitter.split(edges_NE, strata.astype(str), people["group_id"]))
    for train_N, test_N in folds:
        train_NE, test_NE = _prepared(edges_NE, people["named_site"].to_numpy(), train_N, test_N, combat=combat)
        answer_N[test_N] = _ridge(predicted).fit(train_NE, truth_N[train_N]).predict(test_NE)
        if predicted == MOTION:
            # Folds have their own models, so people are compared with those of their fold alone.
            answer_N[test_N] -= answer_N[test_N].mean()
            expected_N[test_N] -= expected_N[test_N].mean()
    if predicted == SITE:
        return float(balanced_accuracy_score(truth_N.astype(str), answer_N.astype(str)))
    if np.ptp(answer_N) == 0:
        return 0.0
    return float(np.corrcoef(expected_N, answer_N)[0, 1])


def _ridge(predicted: str) -> Any:
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV

    if predicted == SITE:
        return RidgeClassifierCV(alphas=PENALTIES, class_weight="balanced")
    return RidgeCV(alphas=PENALTIES)


def _prepared(
    edges_NE: NDArray[np.float32],
    site_N: NDArray[np.object_],
    train_N: NDArray[np.int_],
    test_N: NDArray[np.int_],
    *,
    combat: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of training and test people: filled, corrected, centred and scaled by what training people alone say."""
    known_NE = np.isfinite(edges_NE[train_N])
    mean_E = np.where(known_NE, edges_NE[train_N], 0).sum(axis=0) / np.maximum(known_NE.sum(axis=0), 1)
    filled_NE = np.where(np.isfinite(edges_NE), edges_NE, mean_E.astype(np.float32))
    if combat:
        from lcm.combat import fit_combat

        none = pd.DataFrame(index=range(len(edges_NE)))
        fitted = fit_combat(filled_NE[train_N], site_N[train_N], none.iloc[train_N], min_people=COMBAT_MIN_PEOPLE)
        filled_NE = fitted.transform(filled_NE, site_N, none)
    centred_NE = filled_NE.astype(np.float64) - filled_NE[train_N].mean(axis=0, dtype=np.float64)
    scale = np.sqrt((centred_NE[train_N] ** 2).sum(axis=1).mean()) or 1.0
    return centred_NE[train_N] / scale, centred_NE[test_N] / scale


def read_edges(results: Path, strategy: str, batches: Mapping[str, Sequence[str]], scans: pd.DataFrame) -> Any:
    """Connectivity (N×E, float32) of usable scans, a row a row of `scans` (dataset, scan); windows are averaged.

    Raises ValueError when two datasets' regions differ in name or order.
    """
    found: dict[tuple[str, str], NDArray[np.float32]] = {}
    regions: list[str] | None = None
    for dataset, names in batches.items():
        wanted = set(scans.loc[scans["dataset"] == dataset, "scan"])
        for batch in names:
            table = read_arrow(results / "correlate" / strategy / dataset / f"{batch}.arrow")
            regions = regions or region_names(table)
            if region_names(table) != regions:
                raise ValueError(f"{dataset}: its regions are not those of {next(iter(batches))}; run parcellate again")
            rows = table.select(["scan", "outcome"]).to_pandas()
            rows = rows[(rows["outcome"] == OK) & rows["scan"].isin(wanted)]
            if len(rows):
                by_scan = pd.DataFrame(edges(table.take(rows.index.to_list())).astype(np.float32))
                means = by_scan.groupby(rows["scan"].to_numpy(), sort=False).mean()
                found |= {
                    (dataset, str(scan)): edges_E for scan, edges_E in zip(means.index, means.to_numpy(), strict=True)
                }
    keys = zip(scans["dataset"], scans["scan"], strict=True)
    return np.stack([found[key] for key in keys]) if len(scans) else np.empty((0, 0), dtype=np.float32)
