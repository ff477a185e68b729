"""The comparisons section of the page: every row against one reference, on the same people."""

from __future__ import annotations

import pandas as pd

from lcm.evaluation.benchmark import NAMES
from lcm.evaluation.text_table import TextTable, count_text, number_text, p_text

COLUMNS = (
    "Model",
    "Task",
    "Reference",
    "Metric",
    "Difference",
    "95 % interval",
    "p",
    "p (Holm)",
    "p (corrected t)",
    "People",
    "Folds",
)


def comparison_tables(comparisons: pd.DataFrame) -> list[TextTable]:
    """A table a protocol of the `comparisons` table."""
    return [_table(str(name), own) for name, own in comparisons.groupby("protocol", sort=False)]


def not_compared(comparisons: pd.DataFrame) -> list[str]:
    """What was asked for and could not be paired, a sentence each."""
    rows = comparisons[comparisons["difference"].isna()]
    return [f"{row['protocol']}, {row['task']}, {row['model']}: {row['method']}." for row in rows.to_dict("records")]


def _table(protocol: str, comparisons: pd.DataFrame) -> TextTable:
    rows = [
        [
            str(row["model"]),
            str(row["task"]),
            str(row["reference"]),
            NAMES.get(str(row["metric"]), str(row["metric"])),
            number_text(row["difference"], 3),
            f"{number_text(row['ci_low'], 3)} to {number_text(row['ci_high'], 3)}",
            p_text(row["p"]),
            p_text(row["p_holm"]),
            p_text(row["p_corrected_t"]),
            count_text(row["num_people"]),
            count_text(row["num_folds"]),
        ]
        for row in comparisons.to_dict("records")
        if pd.notna(row["difference"])
    ]
    ran = comparisons[comparisons["difference"].notna()]
    methods = "; ".join(sorted({str(method) for method in ran["method"]})) or "none could be compared"
    caption = (
        f"Protocol {protocol}: model less reference on the same people and folds ({methods}). Holm's correction is over all "
        "rows of this table; the corrected t is Nadeau and Bengio's, over folds."
    )
    return TextTable(f"comparisons-{protocol}", caption, COLUMNS, 4, rows)
