"""Comparisons of models that answered about the same people: paired differences of AUROC, or of the error of a value.

Each person is given what they add to a model's AUROC (DeLong et al. 1988, within folds, summed over several answers of a
person as in Obuchowski 1997); the variance of a difference is that of the differences of people. Shape suffixes: N answers,
P people, K folds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lcm.evaluation.answers import COVERAGE, MISSING, REUSE, Answers
from lcm.evaluation.metrics import answers_of
from lcm.result_tables import COMPARISONS

AUROC_METHOD = "DeLong within folds, variance x {factor:g}"
MAE_METHOD = "paired errors, variance x {factor:g}"
POWER = 0.8
SMALLEST_SPREAD = 1e-12


def compare(predictions: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Every other model of one protocol and task against `reference`: the `comparisons` table, `p_holm` still missing.

    `predictions`: rows of all models. The difference is model less reference, of AUROC, or of MAE for a continuous target.
    Interval and p are normal, their variance times `Answers.reuse` (decision 16), p at least `least_p`. Nothing
    is paired with a model that answered about other people, in other folds or with other levels: its row has no number, and
    the reason as its method.
    """
    own = {str(model): rows for model, rows in predictions.groupby("model", sort=True)}
    base = _rated(own.pop(reference)) if reference in own else None
    rows = []
    for model, found in own.items():
        rated = _rated(found)
        row = {"model": model, "reference": reference, **_counts(rated)}
        reason = f"{reference} did not answer" if base is None else _why_not_paired(rated, base, reference)
        if base is None or reason is not None:
            rows.append(row | {"method": f"not compared: {reason}"})
        else:
            rows.append(row | _difference(rated, base))
    first = predictions.iloc[0]
    frame = pd.DataFrame(rows).reindex(columns=list(COMPARISONS.columns))
    numbers = [name for name, kind in COMPARISONS.columns.items() if kind == "optional number"]
    return frame.assign(protocol=first["protocol"], task=first["task"]).astype(dict.fromkeys(numbers, float))


class _Rated(NamedTuple):
    """A model's rows, sorted by person, and what every comparison with it needs."""

    rows: pd.DataFrame
    answers: Answers
    share: Contributions


def _rated(rows: pd.DataFrame) -> _Rated:
    placed = rows.sort_values(["person_id", "truth"], ignore_index=True)
    answers = answers_of(placed)
    return _Rated(placed, answers, contributions(answers))


def _why_not_paired(rated: _Rated, base: _Rated, reference: str) -> str | None:
    if len(rated.rows) != len(base.rows) or (rated.rows["person_id"] != base.rows["person_id"]).any():
        return f"answered about other people than {reference}"
    for column, said in (("truth", "truths"), ("fold", "folds")):
        if (rated.rows[column] != base.rows[column]).any():
            return f"answered with other {said} than {reference}"
    return None if rated.answers.levels == base.answers.levels else f"answered with other levels than {reference}"


def _counts(rated: _Rated) -> dict[str, Any]:
    return {
        "metric": "auroc" if rated.answers.levels else "mae",
        "num_people": len(np.unique(rated.answers.person_N)),
        "num_folds": len(np.unique(rated.answers.fold_N)),
    }


def _difference(rated: _Rated, base: _Rated) -> dict[str, Any]:
    from scipy.stats import norm

    answers, own, other = rated.answers, rated.share, base.share
    difference = own.value - other.value
    spread = np.sqrt(answers.reuse * variance(answers, own.answer_N - other.answer_N))
    # People who all add alike, as one alone does, say nothing of how much others would differ.
    known = spread > SMALLEST_SPREAD or abs(difference) < SMALLEST_SPREAD
    half = float(norm.ppf((1 + COVERAGE) / 2)) * spread if known else MISSING
    return {
        "difference": difference,
        "ci_low": difference - half,
        "ci_high": difference + half,
        "p": _two_sided(difference, spread, least=least_p(answers)),
        "p_corrected_t": corrected_t(own.fold_K - other.fold_K, _test_over_train(rated, own.fold_K)),
        "method": (AUROC_METHOD if answers.levels else MAE_METHOD).format(factor=answers.reuse),
    }


def _test_over_train(rated: _Rated, fold_K: np.ndarray) -> float:
    """People tested over people behind the weights, mean over the folds in which the metric is defined."""
    folds = rated.rows.groupby("fold", sort=True)
    ratio_K = (folds["person_id"].nunique() / folds["num_train"].first().astype(float)).to_numpy()
    return float(ratio_K[np.isfinite(fold_K)].mean()) if np.isfinite(fold_K).any() else MISSING


def _two_sided(difference: float, spread: float, *, least: float) -> float:
    """Normal p of no difference, not below `least`; 1 of models that answer alike."""
    from scipy.stats import norm

    if not np.isfinite(spread) or not np.isfinite(difference):
        return MISSING
    if spread < SMALLEST_SPREAD:
        return 1.0 if abs(difference) < SMALLEST_SPREAD else least
    return max(float(2 * norm.sf(abs(difference) / spread)), least)


def least_p(answers: Answers) -> float:
    """The least two-sided p that any exact test of so many people can give: 2 over the ways to deal their answers.

    Those are the ways to deal the levels within folds, or the signs of the differences. The people of several folds count as
    `Answers.reuse` times fewer. A normal p of few people, or of a variance of 0, would be below it.
    """
    from scipy.special import gammaln

    if not answers.levels:
        num_answers = np.unique(answers.person_N).size
        return float(min(1.0, 2 * 0.5 ** (num_answers / answers.reuse)))
    log_ways = 0.0
    for fold in np.unique(answers.fold_N):
        count_L = np.bincount(answers.truth_N[answers.fold_N == fold], minlength=len(answers.levels))
        log_ways += float(gammaln(count_L.sum() + 1) - gammaln(count_L + 1).sum())
    return float(min(1.0, 2 * np.exp(-log_ways / answers.reuse)))


class Contributions(NamedTuple):
    """AUROC (or MAE) as `value`, what each answer adds to it, and the metric of each fold alone, in order of the folds.

    `answer_N` varies within a stratum as the metric does. AUROC: the share of the other side that the answer beats in its
    fold (DeLong's components), weighted as `metrics.auroc` weighs folds and questions, less the fold's own. MAE: the error
    over N. NaN where undefined.
    """

    value: float
    answer_N: np.ndarray
    fold_K: np.ndarray


def contributions(answers: Answers) -> Contributions:
    """See `Contributions`."""
    folds = [np.flatnonzero(answers.fold_N == fold) for fold in np.unique(answers.fold_N)]
    if not answers.levels:
        error_N = np.abs(answers.truth_N - answers.scores_NL[:, 0])
        fold_K = np.array([error_N[here].mean() for here in folds])
        return Contributions(float(error_N.mean()), error_N / len(error_N), fold_K)
    answer_QN, won_QK, pairs_QK = (
        np.zeros((len(answers.questions), count)) for count in (len(answers.truth_N), len(folds), len(folds))
    )
    for question, level in enumerate(answers.questions):
        for place, here in enumerate(folds):
            truth = answers.truth_N[here] == level
            num_with, num_without = int(truth.sum()), int((~truth).sum())
            if num_with and num_without:
                won_N = _pairs_won(truth, answers.scores_NL[here, level])
                area = won_N[truth].sum() / (num_with * num_without)
                answer_QN[question, here] = won_N - np.where(truth, num_without, num_with) * area
                won_QK[question, place], pairs_QK[question, place] = won_N[truth].sum(), num_with * num_without
    total_Q = pairs_QK.sum(axis=1)
    asked = total_Q > 0
    if not asked.any():
        return Contributions(MISSING, np.full(len(answers.truth_N), MISSING), np.full(len(folds), MISSING))
    defined_QK = pairs_QK > 0
    area_QK = won_QK / np.where(defined_QK, pairs_QK, 1.0)
    num_asked_K = defined_QK.sum(axis=0)
    fold_K = np.where(num_asked_K > 0, area_QK.sum(axis=0) / np.maximum(num_asked_K, 1), MISSING)
    value = float(np.mean(won_QK.sum(axis=1)[asked] / total_Q[asked]))
    return Contributions(value, (answer_QN[asked] / total_Q[asked, None]).mean(axis=0), fold_K)


def _pairs_won(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Pairs of each person with the people of the other side that rank them rightly; a tie is half a pair."""
    won = np.empty(len(score))
    for side, sign in ((truth, 1.0), (~truth, -1.0)):
        others = np.sort(sign * score[~side])
        own = sign * score[side]
        won[side] = (np.searchsorted(others, own, side="left") + np.searchsorted(others, own, side="right")) / 2
    return won


def variance(answers: Answers, contribution_N: np.ndarray) -> float:
    """Variance of a sum of contributions over people drawn as in `bootstrap.draw`: within level and fold.

    Where such strata hold single people, within level; where people answer several times, over all people.
    """
    if len(np.unique(answers.person_N)) < len(answers.person_N):
        sums_P = np.bincount(answers.person_N, weights=contribution_N)
        return float(sums_P.var(ddof=1) * len(sums_P)) if len(sums_P) > 1 else MISSING
    level_N = answers.truth_N if answers.levels else np.zeros(len(answers.truth_N), dtype=int)
    _, stratum_N, sizes = np.unique(
        np.stack([level_N, answers.fold_N]), axis=1, return_inverse=True, return_counts=True
    )
    if sizes.min() < 2:
        _, stratum_N, sizes = np.unique(level_N, return_inverse=True, return_counts=True)
    strata = [contribution_N[stratum_N == stratum] for stratum in range(len(sizes))]
    return float(sum(values.var(ddof=1) * len(values) for values in strata if len(values) > 1))


def corrected_t(difference_K: np.ndarray, test_over_train: float) -> float:
    """Two-sided p of the corrected resampled t-test over K folds (Nadeau & Bengio 2003).

    Missing of fewer than two folds, and where all folds differ by the same, which leaves no variance. Folds without a
    difference (NaN) do not count. The variance of the mean is (1/K + tested/training people) s², since folds share
    training people.
    """
    from scipy.stats import t

    difference_K = difference_K[np.isfinite(difference_K)]
    num_folds = len(difference_K)
    if num_folds < 2 or not np.isfinite(test_over_train):
        return MISSING
    spread = np.sqrt((1 / num_folds + test_over_train) * difference_K.var(ddof=1))
    if spread < SMALLEST_SPREAD:
        return 1.0 if abs(difference_K.mean()) < SMALLEST_SPREAD else MISSING
    return float(2 * t.sf(abs(difference_K.mean()) / spread, df=num_folds - 1))


def with_holm(comparisons: pd.DataFrame) -> pd.DataFrame:
    """The rows of all tasks with `p_holm`: `p` corrected over all rows of a protocol that have one (Holm 1979)."""
    corrected = comparisons.groupby("protocol")["p"].transform(lambda p: holm(p.to_numpy(dtype=float)))
    return comparisons.assign(p_holm=corrected)


def holm(p_N: np.ndarray) -> np.ndarray:
    """Holm's step-down p of each p; missing ones stay missing and do not count."""
    corrected_N = np.full(len(p_N), MISSING)
    defined = np.flatnonzero(np.isfinite(p_N))
    order = defined[np.argsort(p_N[defined], kind="stable")]
    steps = p_N[order] * np.arange(len(order), 0, -1)
    corrected_N[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected_N


def detectable_auroc(num_with: int, num_without: int, *, factor: float = REUSE) -> float:
    """The least AUROC whose 95 % interval leaves out 0.5 in 80 % of studies of that many people with and without a level.

    Variance after Hanley & McNeil (1982), times `factor` (decision 16). Missing where even 1 would not be enough.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if min(num_with, num_without) < 1:
        return MISSING

    def spread(area: float) -> float:
        both_with, both_without = area / (2 - area), 2 * area**2 / (1 + area)
        top = area * (1 - area) + (num_with - 1) * (both_with - area**2) + (num_without - 1) * (both_without - area**2)
        return float(np.sqrt(factor * top / (num_with * num_without)))

    def surplus(area: float) -> float:
        return area - 0.5 - norm.ppf((1 + COVERAGE) / 2) * spread(0.5) - norm.ppf(POWER) * spread(area)

    return float(brentq(surplus, 0.5, 1.0, xtol=1e-6)) if surplus(1.0) > 0 else MISSING
