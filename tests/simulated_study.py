"""A study whose truth is known: normal edges, two levels that differ in a few of them, and models fitted fold by fold.

Shape suffixes: N people, E edges, L levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from lcm.models.labelled import Labelled, Scans, together
from lcm.models.logistic import Logistic
from lcm.models.ridge import Ridge

MODELS = {
    "ridge": (Ridge, slice(None)),
    "logistic": (Logistic, slice(None)),
    "even edges": (Ridge, slice(0, None, 2)),
    "odd edges": (Ridge, slice(1, None, 2)),
}
"""Each model and the edges that it is shown: the last two are as good as each other on average."""
LEVELS = ("control", "autism")
NUM_SITES = 2
VALIDATION_SHARE = 0.2


class Study(NamedTuple):
    """`predictions` of every model, and the AUROC that its fitted models have in the population, mean over folds."""

    predictions: pd.DataFrame
    auroc: dict[str, float]


def simulate(
    seed: int,
    *,
    num_people: int,
    num_edges: int,
    effect: float = 0.0,
    decay: float = 0.0,
    num_leaked: int = 0,
    num_folds: int = 5,
    models: tuple[str, ...] = ("ridge",),
) -> Study:
    """Half of the people have each level; the levels' means are `effect` apart, along a random line.

    Edges have variance 1 on average; that of their j-th principal axis falls as j^-`decay` (0: independent edges). Folds
    are stratified by level. A fifth of each fold's training people choose the penalty, then all of them fit. With
    `num_leaked` models see that many edges, those in which the levels of all people differ most: a leak.
    """
    random = np.random.default_rng(seed)
    shift_E = random.normal(size=num_edges)
    shift_E *= effect / np.linalg.norm(shift_E)
    level_N = random.permutation(np.arange(num_people) % 2)
    axes_EE = _axes(random, num_edges, decay)
    edges_NE = random.normal(size=(num_people, num_edges)) @ axes_EE + level_N[:, None] * shift_E
    fold_N = np.empty(num_people, dtype=int)
    for level in (0, 1):
        people = random.permutation(np.flatnonzero(level_N == level))
        fold_N[people] = np.arange(len(people)) % num_folds
    site_N = random.integers(0, NUM_SITES, num_people)
    parts, found = [], {}
    contrast_E = np.abs(edges_NE[level_N == 1].mean(axis=0) - edges_NE[level_N == 0].mean(axis=0))
    for model in models:
        kind, seen = MODELS[model]
        seen = np.argsort(-contrast_E)[:num_leaked] if num_leaked else np.arange(num_edges)[seen]
        seen_NE, seen_shift_E = edges_NE[:, seen].astype(np.float32), shift_E[seen]
        probability_N, areas = np.empty(num_people), []
        for fold in range(num_folds):
            tested = fold_N == fold
            learning = random.permutation(np.flatnonzero(~tested))
            fitted = _fitted(kind, seen_NE, level_N, learning)
            probability_N[tested] = fitted.predict(Scans.of_edges(seen_NE[tested]))[:, 1]
            line_E = np.diff(fitted.state["coefficient_EL"], axis=1)[:, 0] / fitted.state["scale_E"]
            spread = np.sum((axes_EE[:, seen] @ line_E) ** 2)
            areas.append(norm.cdf(line_E @ seen_shift_E / np.sqrt(2 * spread)))
        found[model] = float(np.mean(areas))
        parts.append(_predictions(model, level_N, fold_N, site_N, probability_N))
    return Study(pd.concat(parts, ignore_index=True), found)


def _axes(random: np.random.Generator, num_edges: int, decay: float) -> np.ndarray:
    """Principal axes (rows) times their standard deviations, (E, E)."""
    if decay == 0:
        return np.eye(num_edges)
    variance_E = np.arange(1, num_edges + 1) ** -decay
    rotation_EE = np.linalg.qr(random.normal(size=(num_edges, num_edges)))[0]
    return np.sqrt(variance_E / variance_E.mean())[:, None] * rotation_EE


def _fitted(
    kind: type[Ridge | Logistic], edges_NE: np.ndarray, level_N: np.ndarray, learning: np.ndarray
) -> Ridge | Logistic:
    num_validation = round(VALIDATION_SHARE * len(learning))
    validation, training = (
        Labelled(Scans.of_edges(edges_NE[places]), level_N[places])
        for places in (learning[:num_validation], learning[num_validation:])
    )
    return kind.fit(training, validation, len(LEVELS)).refit(together(training, validation), len(LEVELS))


def _predictions(
    model: str, level_N: np.ndarray, fold_N: np.ndarray, site_N: np.ndarray, probability_N: np.ndarray
) -> pd.DataFrame:
    named = {"protocol": "honest", "select": "validation", "model": model, "group": "linear", "task": "autism"}
    num_people = len(level_N)
    people = {
        "person_id": [f"p{place:03d}" for place in range(num_people)],
        "cohort": "abide",
        "site": [f"site-{site}" for site in site_N],
        "num_train": num_people - np.bincount(fold_N)[fold_N],
        "truth": np.array(LEVELS)[level_N],
        "levels": [list(LEVELS)] * num_people,
        "scores": np.stack([1 - probability_N, probability_N], axis=1).tolist(),
        "threshold": 0.5,
    }
    return pd.DataFrame({**named, "fold": fold_N, **people})
