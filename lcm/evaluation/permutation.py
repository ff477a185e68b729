"""Permutation test of a row: how often labels exchanged within sites would have scored as well.

Within cohort, site and fold, truths are exchanged between people whose predictions stay. What a model knows of sites then
survives the exchange, so that only what it knows within them counts. What it should not have seen in training does not show
here: that would take fitting it again. Shape suffixes: N answers, L levels, P permutations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from lcm.evaluation.answers import MISSING, Answers


class Permutation(NamedTuple):
    """`p` (one-sided) of the row's AUROC, or r of a continuous target, and the `mean` of it over permutations."""

    p: float
    mean: float


def strata_of(predictions: pd.DataFrame) -> np.ndarray:
    """Who may exchange truths, as numbers (N): people of one cohort, site and fold; answers of one person, if several."""
    repeated = predictions["person_id"].duplicated(keep=False)
    person = predictions["person_id"].where(repeated, "").astype(str)
    site = predictions["site"].astype("object").where(predictions["site"].notna(), "")
    return np.asarray(predictions.groupby([predictions["cohort"], site, predictions["fold"], person]).ngroup())


def permutation_test(answers: Answers, stratum_N: np.ndarray, *, num_permutations: int, seed: int) -> Permutation:
    """Exchange truths within strata; MISSING where the statistic is, and where a person has several numbers.

    A person's ages at several visits cannot be other people's, and exchanged among themselves they keep what tells people
    apart.

    The exchange leaves out that folds trained on each other's test people, as a bootstrap does: its deviations from
    their mean are multiplied by √`Answers.reuse` (decision 16). Conservative for models far from linear in their labels. Where
    sites share no level the exchange changes nothing and p is 1.
    """
    contribution_NV, value_N = _contributions(answers)
    several_numbers = not answers.levels and len(np.unique(answers.person_N)) < len(value_N)
    if several_numbers or not np.isfinite(contribution_NV).all():
        return Permutation(MISSING, MISSING)
    here_N = np.arange(len(value_N))
    if answers.levels:
        observed, constant = float(contribution_NV[here_N, value_N].sum()), _constant(answers)
    else:
        observed, constant = float(contribution_NV[:, 0] @ value_N), 0.0
    random = np.random.default_rng(seed)
    permuted_P = np.zeros(num_permutations)
    for stratum in np.unique(stratum_N):
        people = np.flatnonzero(stratum_N == stratum)
        values_PN = random.permuted(np.tile(value_N[people], (num_permutations, 1)), axis=1)
        if answers.levels:
            permuted_P += contribution_NV[people, values_PN].sum(axis=1)
        else:
            permuted_P += values_PN @ contribution_NV[people, 0]
    mean = float(permuted_P.mean())
    widened_P = mean + np.sqrt(answers.reuse) * (permuted_P - mean)
    at_least = int(np.sum(widened_P >= observed - 1e-9))
    return Permutation((1 + at_least) / (1 + num_permutations), mean - constant)


def _contributions(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """What each answer adds to the statistic for each truth it may have (N×L, N×1 where continuous), and its truth (N).

    Within folds AUROC is a sum of the positive people's midranks less a constant, and r a sum of centred products over
    a constant: exchanges within folds change neither constant.
    """
    from scipy.stats import rankdata

    if not answers.levels:
        return _centred_products(answers)
    contribution_NL = np.zeros((len(answers.truth_N), len(answers.levels)))
    asked = 0
    for level in answers.questions:
        folds = _folds_of(answers, level)
        num_pairs = sum(float(truth.sum() * (~truth).sum()) for _, truth in folds)
        for here_N, _ in folds:
            contribution_NL[here_N, level] = rankdata(answers.scores_NL[here_N, level], method="average") / num_pairs
        asked += bool(folds)
    return contribution_NL / (asked or MISSING), answers.truth_N


def _folds_of(answers: Answers, level: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every fold that has people with and without the level: who is in it (N), and which of them have it."""
    folds = []
    for fold in np.unique(answers.fold_N):
        here_N = answers.fold_N == fold
        truth = answers.truth_N[here_N] == level
        if truth.any() and not truth.all():
            folds.append((here_N, truth))
    return folds


def _constant(answers: Answers) -> float:
    """What the sum of midranks exceeds AUROC by."""
    values = []
    for level in answers.questions:
        folds = _folds_of(answers, level)
        if folds:
            lowest = sum(float(truth.sum() * (truth.sum() + 1) / 2) for _, truth in folds)
            values.append(lowest / sum(float(truth.sum() * (~truth).sum()) for _, truth in folds))
    return float(np.mean(values))


def _centred_products(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    from lcm.evaluation.metrics import centred, r

    truth_N, value_N = (centred(column_N, answers.fold_N) for column_N in (answers.truth_N, answers.scores_NL[:, 0]))
    if not np.isfinite(r(answers)):
        return np.full((len(truth_N), 1), MISSING), truth_N
    return value_N[:, None] / np.sqrt(np.sum(truth_N**2) * np.sum(value_N**2)), truth_N
