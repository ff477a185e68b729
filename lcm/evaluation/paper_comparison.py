"""Two rows of a table compared over the folds they share: by the paper's t test and by the one that can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcm.evaluation.comparisons import corrected_t
from lcm.evaluation.paper_answers import MEASURES, StudyAnswers, fold_values


@dataclass(frozen=True)
class PairedTest:
    """A difference of weighted F1, in percent, of two models over the same folds."""

    model: str
    reference: str
    difference: float
    num_folds: int
    p: float
    """Of a paired t test, which takes folds for independent."""
    p_corrected: float
    """Of Nadeau and Bengio's (2003) t, which counts that folds share training people."""


def compared(answers: StudyAnswers, kind: str, model: str, references: Sequence[str], task: str) -> list[PairedTest]:
    """The model against every other that answered the same folds of a task, the one with the best mean first."""
    protocol = answers.protocols[kind]
    if protocol is None or answers.missing(kind, model, task) is not None:
        return []
    own = answers.predictions(protocol, model, task)
    own_K = fold_values(own, MEASURES["f1_weighted"])
    trained = own.groupby("fold")["num_train"].first().astype(float)
    ratio = float((own.groupby("fold")["person_id"].nunique() / trained).mean())
    found = []
    for reference in references:
        if answers.missing(kind, reference, task) is not None:
            continue
        other = answers.predictions(protocol, reference, task)
        if set(other["fold"]) != set(own["fold"]):
            continue
        other_K = fold_values(other, MEASURES["f1_weighted"])
        difference_K = own_K - other_K
        p, corrected = corrected_t(difference_K, 0.0), corrected_t(difference_K, ratio)
        test = PairedTest(model, reference, float(difference_K.mean()), len(difference_K), p, corrected)
        found.append((float(other_K.mean()), test))
    return [test for _, test in sorted(found, key=lambda pair: -pair[0])]
