"""Attention maps of the page: where the best network of each task looked in its test people, on a glass brain."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lcm.evaluation.benchmark import TaskTable
from lcm.evaluation.figures import image_uri
from lcm.evaluation.metrics import LOWER_IS_BETTER
from lcm.evaluation.quality_page import FigureView

MAX_MAPS = 12
"""Each takes about a second to draw; the other tasks' shares stand in results/evaluate/…/attention.tsv."""


@dataclass(frozen=True)
class AttentionMaps:
    """The figures, and why others are missing; empty where there is nothing to say."""

    figures: list[FigureView]
    note: str


def attention_maps(
    attention: pd.DataFrame, tables: Sequence[TaskTable], atlas: str, *, min_people: int = 0
) -> AttentionMaps:
    """One map a task of the `token attention` table of one protocol: of the best row that has any.

    Of two levels the positive one's token is shown, of more their mean. A map over fewer than `min_people` is left out. In
    an atlas that lacks a region nothing is drawn, and `note` says so.
    """
    from lcm.glass_brain import centres_of

    chosen = {table.task: own for table in tables if len(own := _of_best(attention, table))}
    many = {task: own for task, own in chosen.items() if int(own["num_people"].min()) >= min_people}
    shown = dict(list(many.items())[:MAX_MAPS])
    if not shown:
        return AttentionMaps([], "")
    regions = list(dict.fromkeys(next(iter(shown.values()))["region"]))
    try:
        centres_R3 = centres_of(atlas, regions)
    except ValueError as reason:
        return AttentionMaps([], f"Attention was not drawn: {reason}.")
    views = [_view(task, own, regions, centres_R3) for task, own in shown.items()]
    left = [task for task in many if task not in shown]
    return AttentionMaps(views, f"Not drawn: {', '.join(left)}." if left else "")


def _of_best(attention: pd.DataFrame, table: TaskTable) -> pd.DataFrame:
    """The rows of the model with the best first metric among those that have attention in this task."""
    own = attention[attention["task"] == table.task]
    sign = 1 if table.metrics[0] in LOWER_IS_BETTER else -1
    values = {
        row.model: sign * row.cells[0].value
        for row in table.overall
        if row.model in set(own["model"]) and row.cells[0] is not None and row.cells[0].value is not None
    }
    return own[own["model"] == min(values, key=lambda model: values[model])] if values else own.iloc[:0]


def _view(task: str, own: pd.DataFrame, regions: Sequence[str], centres_R3: np.ndarray) -> FigureView:
    from lcm.glass_brain import draw, in_words

    model, num_people = str(own["model"].iloc[0]), int(own["num_people"].min())
    levels = [level for level in dict.fromkeys(own["level"]) if pd.notna(level)]
    own = own[own["level"] == levels[-1]] if len(levels) == 2 else own
    what = f", {levels[-1]}" if len(levels) == 2 else ", mean over levels" if len(levels) > 2 else ""
    shares_R = own.groupby("region")["share"].mean().reindex(regions).to_numpy(dtype=float)
    title = f"{task}{what}: {model}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention.png"
        draw(shares_R, centres_R3, title, path)
        uri = image_uri(path)
    caption = (
        f"Attention of the task's token to each region in {num_people} test people, in multiples of an equal share. It says "
        "where the network looked, not what is altered in the brain."
    )
    return FigureView(f"{task}{what}", uri, in_words(shares_R, regions, title), caption, is_wide=True)
