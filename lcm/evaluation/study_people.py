"""Who is in the study: one row a person of a cohort, at the first visit with a usable connectome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lcm.tables import OK, read_arrow


def usable_scans(bei: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """The rows of bei.tsv whose scan has a usable connectome under the strategy that models learned from."""
    usable = outcomes.loc[outcomes["outcome"] == OK, ["dataset", "scan"]]
    return bei.merge(usable, on=["dataset", "scan"], how="inner", validate="1:1")


def first_visits(usable: pd.DataFrame) -> pd.DataFrame:
    """One row a person and cohort: the scan at the youngest observed age, else of the first session by its label.

    Ties go by dataset and scan. `usable` has rows of bei.tsv; `num_scans` is added, the person's usable scans there.
    """
    age = pd.to_numeric(observed(usable, "age"), errors="coerce")
    ordered = usable.assign(age_years=age).sort_values(["age_years", "session_id", "dataset", "scan"], kind="stable")
    by_person = ordered.groupby(["cohort", "person_id"], sort=True)
    return by_person.head(1).assign(num_scans=by_person["scan"].transform("size")).drop(columns="age_years")


def observed(rows: pd.DataFrame, bei: str) -> pd.Series:
    """The cells of a BEI that a cohort observed; assumed and unknown ones are missing, all where it has no column."""
    if bei not in rows:
        return pd.Series(None, index=rows.index, dtype="object")
    return rows[bei].astype("object").where(rows[f"{bei}_source"] == "observed", None)


def read_mean_fd(results: Path, strategy: str, batches: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """dataset, scan and mean_fd_mm of every usable connectome; NaN where head motion is unknown."""
    parts = []
    for dataset, names in batches.items():
        for batch in names:
            table = read_arrow(results / "correlate" / strategy / dataset / f"{batch}.arrow")
            rows = table.select(["dataset", "scan", "outcome", "mean_fd_mm"]).to_pandas()
            parts.append(rows[rows["outcome"] == OK].drop(columns="outcome").drop_duplicates("scan"))
    return pd.concat(parts, ignore_index=True)
