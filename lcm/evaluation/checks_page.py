"""The checks of the page: whom weights had seen, what embeddings give away, who was tested in each fold, what rows cost."""

from __future__ import annotations

import pandas as pd

from lcm.evaluation.suppression import mark
from lcm.evaluation.text_table import TextTable, count_text, number_text

OVERLAP_COLUMNS = ("Corpus", "Protocol", "Task", "Models", "Test people", "Seen", "Folds with any", "Status")
DECODED_COLUMNS = (
    "Model",
    "Protocol",
    "Task",
    "Decoded",
    "Metric",
    "Mean over folds",
    "Lowest",
    "Highest",
    "Chance",
    "Folds",
)
COST_COLUMNS = (
    "Model",
    "Protocol",
    "Task",
    "Device",
    "Parameters",
    "Pretraining (s)",
    "Finetuning (s)",
    "Pretraining (ms a scan)",
    "Finetuning (ms a scan)",
)


def overlap_table(overlap: pd.DataFrame, *, min_cell: int = 0) -> TextTable:
    """The `overlap` table as corpus by test: a row a corpus, protocol and task, models with the same numbers together.

    `min_cell`: people from 1 to below it are hidden, as a public page asks.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for (protocol, corpus, task, model), own in overlap.groupby(["protocol", "corpus", "task", "model"], sort=False):
        seen = own["num_seen"].astype("Float64")
        total = None if seen.isna().any() else int(seen.sum())
        status = "; ".join(dict.fromkeys(own["status"].astype(str)))
        numbers = _shown(int(own["num_test"].sum()), min_cell), _shown(total, min_cell)
        folds = f"{int((seen.fillna(0) > 0).sum())} of {len(own)}"
        key = (str(corpus), str(protocol), str(task), *numbers, folds, status)
        found.setdefault(key, []).append(str(model))
    rows = [[*key[:3], ", ".join(models), *key[3:]] for key, models in found.items()]
    caption = (
        "Test people of a fold among the people whom the weights tested on them learned from (training, pretraining) or were "
        "chosen by (choice), summed over folds."
    )
    return TextTable("overlap", caption, OVERLAP_COLUMNS, 4, rows)


def _shown(count: int | None, min_cell: int) -> str:
    return mark(min_cell) if count is not None and 0 < count < min_cell else count_text(count)


def decodability_table(decodability: pd.DataFrame) -> TextTable:
    """The `decodability` table, means over folds."""
    keys = ["model", "protocol", "task", "decoded", "metric"]
    rows = [
        [
            *(str(part) for part in key),
            *(number_text(value, 3) for value in (own["value"].mean(), own["value"].min(), own["value"].max())),
            number_text(own["chance"].mean(), 3),
            str(len(own)),
        ]
        for key, own in decodability[decodability["value"].notna()].groupby(keys, sort=False)
    ]
    caption = "Site and head motion read by a linear model from a network's embedding of people it has not seen."
    return TextTable("decodability", caption, DECODED_COLUMNS, 5, rows)


def not_decoded(decodability: pd.DataFrame) -> list[str]:
    """What was not run, a sentence for each reason."""
    rows = decodability[decodability["value"].isna()].fillna({"note": "not run"})
    keys = ["protocol", "model", "task", "decoded", "note"]
    return [
        f"{protocol}, {model}, {task}: {decoded}: {note}."
        for (protocol, model, task, decoded, note), _ in rows.groupby(keys, sort=False)
    ]


def cost_table(costs: pd.DataFrame) -> TextTable:
    """The `costs` table."""
    numbers = ("pretrain_seconds", "finetune_seconds", "pretrain_ms_per_scan", "finetune_ms_per_scan")
    rows = [
        [
            *(str(row[name]) for name in ("model", "protocol", "task")),
            "–" if pd.isna(row["device"]) else str(row["device"]),
            "n/a" if pd.isna(row["num_parameters"]) else f"{int(row['num_parameters']):,}",
            *(number_text(row[name], 1) for name in numbers),
        ]
        for row in costs.to_dict("records")
    ]
    caption = "Seconds are summed over folds, milliseconds a scan and epoch; n/a where nothing was trained or nobody measured."
    return TextTable("costs", caption, COST_COLUMNS, 4, rows)


def fold_table(task: str, predictions: pd.DataFrame, *, min_cell: int = 0) -> TextTable:
    """Test people of one model by fold and level, and the people whom that fold's weights learned from.

    `min_cell`: on a public page a table with a count from 1 to below it has no rows, since its sums stand elsewhere.
    """
    levels = list(predictions["levels"].iloc[0]) if len(predictions) else []
    rows, counts = [], []
    for fold, own in predictions.groupby("fold", sort=True):
        found = [int((own["truth"] == level).sum()) for level in levels] or [len(own)]
        counts += [*found, own["person_id"].nunique()]
        train = own["num_train"].iloc[0]
        rows.append([str(fold), *map(str, found), str(own["person_id"].nunique()), count_text(train)])
    if any(0 < count < min_cell for count in counts):
        rows = []
    columns = ("Fold", *(levels or ["Answers"]), "Test people", "People behind the weights")
    caption = "Test people of each fold by level; the same for every model that was not refused."
    return TextTable(f"folds-{task}", caption, columns, 1, rows)
