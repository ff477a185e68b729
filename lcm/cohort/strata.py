"""Strata: the groups of people that a fold holds, and the order in which a cohort's groups are dealt to folds."""

# Shapes: G groups, that is rows of the table of groups.

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.vocabulary import read_vocabulary
from lcm.tables import hashed_names

if TYPE_CHECKING:
    import pandas as pd


def read_groups(bei: pd.DataFrame) -> pd.DataFrame:
    """One row a group of the BEI table, sorted by id: group_id, cohort, num_people, stratum.

    A group of several cohorts counts in the first by name. `stratum` (int) numbers what differs in diagnosis, site, sex
    or num_people, in that order. A group that says several things, because a person converts between visits or a family
    has two sexes, is a stratum of its own: the set of them. Only observed cells count. Raises ValueError when a person
    has two groups or two sexes.
    """
    _check_people(bei)
    by_group = bei.groupby("group_id")
    groups = by_group["cohort"].min().to_frame().assign(num_people=by_group["person_id"].nunique())
    names = [name for name, variable in read_vocabulary().items() if variable.group == "diagnosis"] + ["site", "sex"]
    for name in names:
        groups[name] = _said(bei, name).reindex(groups.index, fill_value="")
    # Equal sizes stand together, so that families of all sizes are dealt out as evenly as single people.
    groups["stratum"] = groups.groupby([*names, "num_people"]).ngroup()
    return groups[["cohort", "num_people", "stratum"]].reset_index()


def _observed(bei: pd.DataFrame, name: str) -> pd.Series:
    return bei[name].where(bei[f"{name}_source"] == "observed")


def _said(bei: pd.DataFrame, name: str) -> pd.Series:
    """By group, the values observed in it, sorted and joined; a group of which none is known is left out."""
    said = bei[["group_id"]].assign(value=_observed(bei, name)).dropna().drop_duplicates()
    said = said.sort_values(["group_id", "value"])
    return (said["value"] + "|").groupby(said["group_id"]).sum()


def _check_people(bei: pd.DataFrame) -> None:
    for said, cells in {"belong to several groups": bei["group_id"], "have two sexes": _observed(bei, "sex")}.items():
        count = cells.groupby(bei["person_id"]).nunique()
        torn = count.index[count > 1]
        if len(torn):
            raise ValueError(
                f"bei.tsv: {len(torn)} people {said} (sha256 of their ids begins {hashed_names(torn)}); "
                "mend the linkage table or the cohort's own"
            )


def generator_of(cohort: str, *numbers: int) -> np.random.Generator:
    """Randomness of one cohort, which other cohorts of the study do not touch."""
    return np.random.default_rng([*numbers, zlib.crc32(cohort.encode())])


def by_cohort(groups: pd.DataFrame) -> dict[str, np.ndarray]:
    """Cohort → positions of its groups, in the order of their ids."""
    return {str(cohort): np.asarray(places) for cohort, places in groups.groupby("cohort").indices.items()}


def in_order(stratum_G: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Positions (G) of groups stratum by stratum, shuffled within."""
    return np.lexsort([generator.random(len(stratum_G)), stratum_G])
