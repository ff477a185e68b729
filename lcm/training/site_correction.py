"""ComBat inside a fold: fitted on the training people at hand, stored with the weights, applied to whom these meet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lcm.combat import FittedCombat, fit_combat, sites_of
from lcm.config import Combat
from lcm.tables import TRAIN
from lcm.training.data import Cohort

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "combat."
"""Of ComBat's arrays in weights.safetensors."""


class Corrected(NamedTuple):
    """A cohort after ComBat, the estimates as arrays for the bundle, and how many people each site's rest on."""

    cohort: Cohort
    arrays: dict[str, np.ndarray]
    people_of_site: dict[str, int]


def methods(combat: Combat | None) -> str:
    """What a stage adds to its sentence for a paper's methods section."""
    if combat is None:
        return ""
    kept = f", the effects of {', '.join(combat.covariates)} kept" if combat.covariates else ""
    return (
        " Site effects were taken out of connectivity by ComBat (neuroCombat), fitted on the same training people"
        f"{kept}; sites with fewer than {combat.min_people} of them, and unseen ones, were left as they were."
    )


def check_covariates(combat: Combat | None, targets: Collection[str], place: str) -> None:
    """Raise ValueError when ComBat would keep the effect of what is to be predicted (Nieto et al. 2026)."""
    both = combat.forbidden(targets) if combat else []
    if both:
        raise ValueError(
            f"{place}.combat.covariates holds {both}, which is predicted here: where classes and sites go together the "
            "correction carries the answer; take it out, or set allow_target: true"
        )


def correct(cohort: Cohort, combat: Combat | None, targets: Collection[str]) -> Corrected:
    """Fit on the cohort's `train` scans, correct all; the very same cohort and no arrays where `combat` is None."""
    if combat is None:
        return Corrected(cohort, {}, {})
    training = cohort.of_role(TRAIN)
    fitted = fit_combat(
        training.edges_NE,
        sites_of(training.rows),
        _covariates(training.rows, combat, unknown=()),
        min_people=combat.min_people,
        person_N=training.rows["person_id"].tolist(),
    )
    people_of_site = dict(zip(fitted.sites, fitted.people_S.tolist(), strict=True))
    arrays = {PREFIX + name: array for name, array in fitted.arrays().items()}
    return Corrected(_transformed(cohort, fitted, combat, targets), arrays, people_of_site)


def correct_like(
    cohort: Cohort, arrays: Mapping[str, np.ndarray], combat: Combat | None, targets: Collection[str]
) -> Cohort:
    """The cohort corrected by a bundle's own estimates, which nobody of it enters; as it is where `combat` is None."""
    if combat is None:
        return cohort
    own = {name.removeprefix(PREFIX): array for name, array in estimates_alone(arrays).items()}
    return _transformed(cohort, FittedCombat.from_arrays(own), combat, targets)


def estimates_alone(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ComBat's part of a bundle's arrays, empty where it was not used."""
    return {name: array for name, array in arrays.items() if name.startswith(PREFIX)}


def weights_alone(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A bundle's arrays without ComBat's: what the model itself reads."""
    return {name: array for name, array in arrays.items() if not name.startswith(PREFIX)}


def _transformed(cohort: Cohort, fitted: FittedCombat, combat: Combat, targets: Collection[str]) -> Cohort:
    # A target that is a covariate shapes the fit; here it is unknown for everyone, so that no test answer can enter.
    covariates = _covariates(cohort.rows, combat, unknown=targets)
    return replace(cohort, edges_NE=fitted.transform(cohort.edges_NE, sites_of(cohort.rows), covariates))


def _covariates(rows: pd.DataFrame, combat: Combat, *, unknown: Collection[str]) -> pd.DataFrame:
    """The covariates' observed cells; assumed (`pseudo`) ones, and all of the columns `unknown`, are missing."""
    absent = sorted(set(combat.covariates) - set(rows))
    if absent:
        raise ValueError(
            f"combat.covariates: the BEI table has no column {absent}; take names of lcm/cohort/vocabulary.yaml"
        )
    cells = rows[list(combat.covariates)].astype("object")
    for name in combat.covariates:
        if name in unknown:
            cells[name] = None
        elif f"{name}_source" in rows:
            cells[name] = cells[name].where(rows[f"{name}_source"] == "observed")
    return cells
