"""The rows that read no connectome: what site, motion, age and sex alone say about a target.

A connectome that answers no better than these may have answered by them. Levels are told apart by logistic regression,
a continuous target is regressed by ridge, the penalty chosen on validation scans. Of training scans are the sites and
sexes that have a column (an unseen one is zero in all of them), and mean and deviation of every number. A missing number
is that mean, and a column of its own says so where some training scans miss it.
"""

# Shapes: N scans, C columns of the design, L levels (1 for a continuous target).

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from lcm.models.labelled import NUMBERS, Labelled, Lacking, Scans, check_labelled
from lcm.models.ridge_path import RidgePath
from lcm.models.softmax_path import SoftmaxPath

PENALTIES = np.logspace(3, -2, 11)
"""Columns have a variance of at most one, and there are few: the grid runs from a near-constant answer to a free one."""


@dataclass(frozen=True)
class Confounds:
    """Arrays: coefficient_CL, intercept_L, penalty (1,), continuous (1,), and the design's, by covariate.

    Those are `names.*` (UTF-8, a line each), or `mean.*`, `scale.*` and `missing.*` (1,), 1 where there is an indicator.
    """

    state: dict[str, np.ndarray]
    columns: ClassVar[tuple[str, ...]] = ()
    """Covariates that this row reads."""
    needed: ClassVar[tuple[str, ...]] = ()
    """Covariates without which it would not be what its name says; where it is empty, one of `columns` is enough."""

    @classmethod
    def fit(cls, training: Labelled, validation: Labelled, num_levels: int) -> Self:
        """Fit on training scans, choose the penalty on validation scans; `num_levels` 0 means continuous.

        Raises Lacking where a needed covariate is missing for everybody, or there is nothing that differs.
        """
        check_labelled("confounds", training, validation, num_levels)
        design = cls._design(training.scans)
        features_NC, asked_NC = _features(training.scans, design), _features(validation.scans, design)
        if num_levels:
            level = SoftmaxPath(features_NC, training.target_N).best(PENALTIES, asked_NC, validation.target_N)
            return cls(design | _linear(level.coefficient_FL, level.intercept_L, level.penalty, continuous=0.0))
        path = RidgePath(features_NC, training.target_N.astype(np.float64)[:, None])
        line = path.best(PENALTIES, asked_NC, validation.target_N[:, None])
        return cls(design | _linear(line.coefficient_FO, line.intercept_O, line.penalty, continuous=1.0))

    def refit(self, everyone: Labelled, num_levels: int) -> Self:
        """The same penalty; design and coefficients by all these scans."""
        design, penalty = self._design(everyone.scans), float(self.state["penalty"][0])
        features_NC = _features(everyone.scans, design)
        if num_levels:
            level = SoftmaxPath(features_NC, everyone.target_N).at(penalty)
            return type(self)(design | _linear(level.coefficient_FL, level.intercept_L, penalty, continuous=0.0))
        line = RidgePath(features_NC, everyone.target_N.astype(np.float64)[:, None]).at(penalty)
        return type(self)(design | _linear(line.coefficient_FO, line.intercept_O, penalty, continuous=1.0))

    def predict(self, scans: Scans) -> np.ndarray:
        """Probabilities of the levels, (N, L), or one column of values for a continuous target."""
        from scipy.special import softmax

        outputs_NL = _features(scans, self.state) @ self.state["coefficient_CL"] + self.state["intercept_L"]
        return outputs_NL if self.state["continuous"][0] else softmax(outputs_NL, axis=1)

    @classmethod
    def _design(cls, training: Scans) -> dict[str, np.ndarray]:
        """The design's arrays, by training scans alone."""
        present = [name for name in cls.columns if name in training.covariates]
        known = [name for name in present if _known(training.covariates[name]).any()]
        absent = [name for name in cls.needed if name in present and name not in known]
        if absent or not known:
            raise Lacking(f"no training scan has {', '.join(absent or cls.columns)}, apart from what is asked")
        design: dict[str, np.ndarray] = {}
        for name in known:
            design |= _numbers(name, training) if name in NUMBERS else _names(name, training)
        if not np.ptp(_features(training, design), axis=0).any():
            raise Lacking(f"{', '.join(known)} is the same for every training scan")
        return design


class Site(Confounds):
    """Where a person was scanned, and nothing else."""

    columns = needed = ("site",)


class Motion(Confounds):
    """Mean framewise displacement and the number of kept volumes."""

    columns = ("mean_fd_mm", "num_kept")
    # Without censoring kept volumes are the length of the run: a site's protocol, not motion.
    needed = ("mean_fd_mm",)


class AgeSex(Confounds):
    """Age and sex; of the two the one that is not asked."""

    columns = needed = ("age", "sex")


class AllConfounds(Confounds):
    """Whatever is known of site, motion, age and sex."""

    columns = ("site", "mean_fd_mm", "num_kept", "age", "sex")


def _known(cells_N: np.ndarray) -> np.ndarray:
    if cells_N.dtype == object:
        return np.array([cell is not None for cell in cells_N], dtype=bool)
    return np.isfinite(cells_N)


def _names(name: str, scans: Scans) -> dict[str, np.ndarray]:
    """A column a name, sorted."""
    cells_N = scans.covariates[name]
    lines = "\n".join(sorted(set(cells_N[_known(cells_N)])))
    return {f"names.{name}": np.frombuffer(lines.encode("utf-8"), dtype=np.uint8)}


def _numbers(name: str, scans: Scans) -> dict[str, np.ndarray]:
    cells_N = scans.covariates[name]
    known_N = _known(cells_N)
    scale = float(cells_N[known_N].std())
    return {
        f"mean.{name}": np.array([cells_N[known_N].mean()]),
        f"scale.{name}": np.array([scale if scale > 0 else 1.0]),
        f"missing.{name}": np.array([float(not known_N.all())]),
    }


def _features(scans: Scans, design: dict[str, np.ndarray]) -> np.ndarray:
    """The design's columns of some scans, (N, C); a covariate that these scans lack is missing for all of them."""
    columns = []
    for name in AllConfounds.columns:
        if f"names.{name}" in design:
            cells_N = scans.covariates.get(name, np.full(len(scans.edges_NE), None))
            known = design[f"names.{name}"].tobytes().decode("utf-8").split("\n")
            columns += [(cells_N == level).astype(np.float64) for level in known]
        elif f"mean.{name}" in design:
            cells_N = scans.covariates.get(name, np.full(len(scans.edges_NE), np.nan))
            missing_N = ~_known(cells_N)
            columns.append(np.where(missing_N, 0.0, (cells_N - design[f"mean.{name}"]) / design[f"scale.{name}"]))
            if design[f"missing.{name}"][0]:
                columns.append(missing_N.astype(np.float64))
    return np.stack(columns, axis=1)


def _linear(
    coefficient_CL: np.ndarray, intercept_L: np.ndarray, penalty: float, *, continuous: float
) -> dict[str, np.ndarray]:
    return {
        "coefficient_CL": coefficient_CL,
        "intercept_L": intercept_L,
        "penalty": np.array([penalty]),
        "continuous": np.array([continuous]),
    }
