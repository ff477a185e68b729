"""The outcomes section of the page: scans of each dataset by kind of outcome, and by reason."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lcm.evaluation.flow import public
from lcm.evaluation.suppression import HIDDEN
from lcm.tables import OK


def total(counts: pd.Series, hidden: str) -> str:
    """The sum of the counts, or what stands for it where one of them is hidden."""
    return hidden if counts.isna().any() else str(int(counts.sum()))


def shares(counts: pd.DataFrame, hidden: str) -> list[dict[str, Any]]:
    """Scans of each dataset by kind of outcome, as text; `bar` has the widths, none where a count is hidden."""
    found_shares = []
    for dataset, rows in counts.groupby("dataset", sort=True):
        kind = rows["outcome"].str.split(":").str[0]
        own = {name: rows.loc[kind == name, "count"] for name in ("ok", "excluded", "failed")}
        bar = {name: int(found.sum()) for name, found in own.items()} if rows["count"].notna().all() else {}
        texts = {name: total(found, hidden) for name, found in own.items()}
        found_shares.append({"dataset": dataset, "total": total(rows["count"], HIDDEN), "bar": bar, **texts})
    return found_shares


def outcome_rows(counts: pd.DataFrame, outcomes: pd.DataFrame, hidden: str) -> list[dict[str, Any]]:
    """A row a dataset and outcome, with the stages that decided it (several may give one reason)."""
    shown = outcomes.assign(outcome=outcomes["outcome"].map(public))
    stages = shown.groupby(["dataset", "outcome"])["stage"].unique()
    return [
        {
            "dataset": dataset,
            "stage": "–" if outcome == OK else ", ".join(sorted(stages[dataset, outcome])),
            "outcome": outcome,
            "count": hidden if pd.isna(count) else str(int(count)),
        }
        for dataset, outcome, count in counts.itertuples(index=False)
    ]
