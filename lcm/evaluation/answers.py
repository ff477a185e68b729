"""What a model said about people: the arrays that every metric and every interval is computed from.

Shape suffixes: N people, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MISSING = float("nan")
"""The value of a metric that cannot be computed."""
PROBABILITY_TOLERANCE = 1e-3
"""A row of scores is taken for probabilities when it sums to 1 within this; float32 softmax is off by ~1e-6."""

COVERAGE = 0.95
REUSE = 2.0
"""What the variance over people is multiplied by where folds trained on each other's test people (decision 16).

A pair of people in two folds meets twice, each once in training and once in the test. In a model linear in its labels both
meetings have the same error, which resamples of people count as independent.
"""


@dataclass(frozen=True)
class Answers:
    """What one model said about N people.

    `truth_N` is the index of a person's level, or the value of a continuous target; `scores_NL` has one column a level,
    or one column holding the predicted value; `fold_N` is the fold whose model answered; `person_N` tells people apart
    (a person answers several times when the target is a state of the scan). `threshold_N` is the score of the positive
    level of two from which on the fold calls a person positive, NaN where it has none.
    """

    truth_N: np.ndarray
    scores_NL: np.ndarray
    fold_N: np.ndarray
    person_N: np.ndarray
    levels: tuple[str, ...]
    threshold_N: np.ndarray | None = None

    @property
    def called(self) -> np.ndarray | None:
        """Whether each person (N) is called positive at their fold's threshold; None without threshold or two levels."""
        if self.threshold_N is None or len(self.levels) != 2 or not np.isfinite(self.threshold_N).all():
            return None
        return np.asarray(self.scores_NL[:, 1] >= self.threshold_N)

    @property
    def reuse(self) -> float:
        """REUSE for people of two folds or more; 1 for one fold, none of whose people trained a model that is tested here."""
        return REUSE if len(np.unique(self.fold_N)) > 1 else 1.0

    @property
    def predicted(self) -> np.ndarray:
        """Index of the level with the highest score (the first of equals), shape N."""
        return np.argmax(self.scores_NL, axis=1)

    @property
    def present(self) -> list[int]:
        """Indices of the levels that at least one person has."""
        return [level for level in range(len(self.levels)) if bool(np.any(self.truth_N == level))]

    @property
    def questions(self) -> list[int]:
        """Levels whose one-against-the-rest question is scored: the positive (last) of two, else every one present."""
        return [1] if len(self.levels) == 2 else self.present

    @property
    def are_probabilities(self) -> bool:
        """True when every row of scores lies in [0, 1] and sums to 1."""
        inside = bool(
            np.all((self.scores_NL >= -PROBABILITY_TOLERANCE) & (self.scores_NL <= 1 + PROBABILITY_TOLERANCE))
        )
        return inside and bool(np.allclose(self.scores_NL.sum(axis=1), 1.0, rtol=0.0, atol=PROBABILITY_TOLERANCE))
