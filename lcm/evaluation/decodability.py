"""What a network's embedding still tells of people's site and head motion, by fold.

A decoder learns from the embeddings of a fold's training people and is asked about those of its test people, whom neither
it nor the network has seen. What it finds there, the network may use instead of the disease.
"""

# Shapes: N people, D embedding dimensions, S dimensions of the span, min(N, D).

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lcm.combat import sites_of
from lcm.tables import TEST, TRAIN

SITE, MOTION = "site", "motion tertile"
METRIC = {SITE: "balanced_accuracy", MOTION: "auroc"}
MIN_SITE_PEOPLE = 10
"""A site with fewer training people is not asked about."""
MIN_PEOPLE = 30
"""Training people of known head motion: ten a tertile."""
PENALTIES = tuple(np.logspace(-3, 3, 7))
"""scikit-learn's C on embeddings whose people have a mean squared length of 1; chosen by log-loss among training people."""
NUM_INNER_FOLDS = 3


def decode(people: pd.DataFrame, embedding_ND: NDArray[np.floating]) -> list[dict[str, Any]]:
    """Rows of the `decodability` table for one fold, without its names: first the site, then the tertile of head motion.

    `people` has a row a person: role (train or test), cohort, site (missing where unknown) and mean_fd_mm (NaN where
    unknown); `embedding_ND` their embeddings. What cannot be asked has a row whose note begins `not run:`.
    """
    trained_N = (people["role"] == TRAIN).to_numpy()
    tested_N = (people["role"] == TEST).to_numpy()
    rows = []
    for decoded, labelled in ((SITE, _sites(people)), (MOTION, _tertiles(people))):
        label_N, reason = labelled
        training_N, test_N = trained_N & (label_N != ""), tested_N & (label_N != "")
        row: dict[str, Any] = {"decoded": decoded, "metric": METRIC[decoded], "value": None, "chance": None}
        row |= {"num_train": int(training_N.sum()), "num_test": int(test_N.sum())}
        row["note"] = f"not run: {reason}" if reason else None
        if not reason:
            probabilities_NK, names = _decoder(embedding_ND, label_N, training_N, test_N)
            score = _recall if decoded == SITE else _auroc
            row["value"], row["chance"] = score(label_N[test_N], probabilities_NK, names)
        rows.append(row)
    return rows


def _sites(people: pd.DataFrame) -> tuple[NDArray[np.object_], str | None]:
    """Site of each person, "" where it is not asked about, and why no site can be."""
    # In one cohort an unknown site is nobody's site; among several a cohort that names none is one.
    known = people["site"].notna() if people["cohort"].nunique() == 1 else pd.Series(data=True, index=people.index)
    named = pd.Series(sites_of(people), index=people.index).where(known, "")
    counts = named[(people["role"] == TRAIN) & (named != "")].value_counts()
    sites = counts.index[counts >= MIN_SITE_PEOPLE]
    label_N = named.where(named.isin(sites), "").to_numpy(dtype=object)
    tested = named[people["role"] == TEST]
    num_tested = tested[tested.isin(sites)].nunique()
    if len(sites) < 2:
        return label_N, f"{len(sites)} sites with {MIN_SITE_PEOPLE} training people or more, 2 needed"
    if num_tested == 0 and (tested != "").any():
        return label_N, "test sites are unseen"
    if num_tested < 2:
        return label_N, f"test people are of {num_tested} of these sites, 2 needed"
    return label_N, None


def _tertiles(people: pd.DataFrame) -> tuple[NDArray[np.object_], str | None]:
    """Tertile of head motion of each person by the bounds of the training people, "" where unknown, and why not."""
    motion_N = people["mean_fd_mm"].to_numpy(dtype=float)
    training_N = motion_N[(people["role"] == TRAIN).to_numpy() & np.isfinite(motion_N)]
    if len(training_N) < MIN_PEOPLE:
        reason = f"{len(training_N)} training people with known head motion, {MIN_PEOPLE} needed"
        return np.full(len(people), "", dtype=object), reason
    low, high = np.quantile(training_N, [1 / 3, 2 / 3], method="linear")
    label_N = np.select([~np.isfinite(motion_N), motion_N <= low, motion_N <= high], ["", "low", "middle"], "high")
    tested = set(label_N[(people["role"] == TEST).to_numpy()]) - {""}
    trained = pd.Series(label_N[(people["role"] == TRAIN).to_numpy()]).value_counts().drop("", errors="ignore")
    # Ties at a bound may leave a tertile with hardly anyone, and each inner fold needs one of them.
    if len(trained) < 3 or trained.min() < NUM_INNER_FOLDS:
        return label_N.astype(object), "head motion has no three tertiles among training people"
    reason_of_test = None if len(tested) > 1 else f"test people are of {len(tested)} tertiles, 2 needed"
    return label_N.astype(object), reason_of_test


def _decoder(
    embedding_ND: NDArray[np.floating],
    label_N: NDArray[np.object_],
    training_N: NDArray[np.bool_],
    test_N: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], list[str]]:
    """Probabilities of the labels for test people, (N, K), by a logistic regression on training people, and their names."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    training_NS, test_NS = _in_span(embedding_ND[training_N], embedding_ND[test_N])
    decoder = LogisticRegressionCV(
        Cs=PENALTIES,
        l1_ratios=(0.0,),
        fit_intercept=True,
        cv=StratifiedKFold(NUM_INNER_FOLDS, shuffle=False),
        scoring="neg_log_loss",
        solver="lbfgs",
        tol=1e-4,
        max_iter=1000,
        class_weight="balanced",
        refit=True,
        use_legacy_attributes=False,
    )
    decoder.fit(training_NS, label_N[training_N].astype(str))
    return decoder.predict_proba(test_NS), list(decoder.classes_)


def _in_span(
    training_ND: NDArray[np.floating], test_ND: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Embeddings standardised by the training people's, in the span of those; an L2 penalty sees nothing beyond it."""
    mean_D = training_ND.mean(axis=0, dtype=np.float64)
    spread_D = training_ND.std(axis=0, dtype=np.float64)
    # A dimension that varies by rounding alone says nothing.
    varies_D = spread_D > 1e-6 * np.maximum(np.abs(mean_D), 1e-6)
    factor_D = np.where(varies_D, 1 / np.where(varies_D, spread_D, 1.0), 0.0) / np.sqrt(max(1, varies_D.sum()))
    training_ND, test_ND = (training_ND - mean_D) * factor_D, (test_ND - mean_D) * factor_D
    if training_ND.shape[1] <= len(training_ND):
        return training_ND, test_ND
    basis_DS, training_SN = np.linalg.qr(training_ND.T)
    return training_SN.T, test_ND @ basis_DS


def _recall(
    label_N: NDArray[np.object_], probabilities_NK: NDArray[np.float64], names: list[str]
) -> tuple[float, float]:
    """Mean recall of the sites that are tested, and what one answer for everybody scores."""
    from sklearn.metrics import recall_score

    present = sorted(set(label_N))
    answer_N = np.array(names)[probabilities_NK.argmax(axis=1)]
    recall = recall_score(
        label_N.astype(str), answer_N, labels=present, average="macro", sample_weight=None, zero_division=0.0
    )
    return float(recall), 1 / len(present)


def _auroc(
    label_N: NDArray[np.object_], probabilities_NK: NDArray[np.float64], names: list[str]
) -> tuple[float, float]:
    """Mean AUROC of each tested tertile against the others, and chance."""
    from sklearn.metrics import roc_auc_score

    areas = [
        roc_auc_score(label_N == name, probabilities_NK[:, place], average="macro", sample_weight=None, max_fpr=None)
        for place, name in enumerate(names)
        if (label_N == name).any()
    ]
    return float(np.mean(areas)), 0.5
