"""An estimator on one task and fold: fitted, its threshold chosen, and fitted again on more people where that is asked."""

# Shapes: N scans, K levels.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lcm.config import Model, Task
from lcm.models import architecture, check_size
from lcm.models.labelled import Labelled, Lacking, together
from lcm.tables import TRAIN, VALIDATION
from lcm.training.data import Cohort, labels_of, scans_of
from lcm.training.weights import Unanswerable


class Fitted(NamedTuple):
    """What was fitted: arrays of the bundle, and its own fields of the manifest."""

    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]


def fit_estimator(model: Model, task: Task, cohort: Cohort, *, refit: bool) -> Fitted:
    """An estimator on the training people, its penalty and threshold chosen on the validation people.

    With `refit` both then teach it under the same choices. What is asked is no covariate of it. Raises Unanswerable where
    the scans lack what the estimator is fitted on.
    """
    size = check_size(model.architecture, model.size)
    entry = architecture(model.architecture)
    check_correlations(model, cohort)
    training, validation = (_labelled(cohort.of_role(role), task) for role in (TRAIN, VALIDATION))
    try:
        fitted = entry.load().fit(training, validation, len(task.levels), **size)
    except Lacking as reason:
        raise Unanswerable(f"{model.architecture}: {reason}") from None
    results = validation_threshold(cohort, task, fitted.predict(validation.scans))
    if refit:
        fitted = fitted.refit(together(training, validation), len(task.levels))
    return Fitted(fitted.state, {"vocabulary": {task.target: task.levels}, "results": results})


def check_correlations(model: Model, cohort: Cohort) -> None:
    """Unanswerable where the architecture reads correlation matrices and some of these connectomes are something else."""
    if not architecture(model.architecture).correlations:
        return
    for made in cohort.preprocessing:
        kind, fisher_z = made.get("correlate.kind", "correlation"), made.get("correlate.fisher_z", False)
        if kind != "correlation" or fisher_z:
            said = "Fisher z" if fisher_z else str(kind)
            raise Unanswerable(f"{model.architecture} reads correlations, and these connectomes are {said}")


def validation_threshold(cohort: Cohort, task: Task, scores_NK: np.ndarray) -> dict[str, float]:
    """{"threshold": youden_threshold} of the cohort's validation people; empty unless two levels are there.

    `scores_NK` holds the probabilities of their scans in the cohort's order; a person's score is the mean over the scans
    that have one answer.
    """
    if len(task.levels) != 2:
        return {}
    import pandas as pd

    validation = cohort.of_role(VALIDATION)
    truth_N = labels_of(validation, task.target, task.levels).value_N
    frame = pd.DataFrame(
        {"person": validation.rows["person_id"].to_numpy(), "truth": truth_N, "score": scores_NK[:, 1]}
    )
    people = frame.groupby(["person", "truth"], as_index=False, sort=True)["score"].mean()
    if people["truth"].nunique() < 2:
        return {}
    return {"threshold": youden_threshold(people["truth"].to_numpy(), people["score"].to_numpy())}


def youden_threshold(truth_N: np.ndarray, score_N: np.ndarray) -> float:
    """The score at or above which sensitivity + specificity − 1 is largest (Youden 1950); the highest such score of a tie.

    `truth_N` is 1 for the positive level and 0 for the other, `score_N` the positive level's. Raises ValueError where one of
    the two is absent.
    """
    from sklearn.metrics import roc_curve

    if len(set(np.asarray(truth_N).tolist())) != 2:
        raise ValueError("a threshold between two levels needs people of both")
    false, true, thresholds = roc_curve(truth_N, score_N, pos_label=1, drop_intermediate=False)
    # The first threshold is infinite, at which nobody is positive. Equal sums of other shares differ by rounding.
    return float(thresholds[1:][np.argmax(np.round(true - false, 12)[1:])])


def _labelled(cohort: Cohort, task: Task) -> Labelled:
    # Mean FD is the BEI `motion`, whichever measured it.
    asked = {"motion": "mean_fd_mm"}.get(task.target, task.target)
    scans = scans_of(cohort).without((asked,))
    return Labelled(scans, labels_of(cohort, task.target, task.levels).value_N)
