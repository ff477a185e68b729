"""Points of a paper's figures: published, ours as the paper does and ours honest, told apart by marker and colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lcm.evaluation.figures import BLUE, INK, ORANGE, finished
from lcm.evaluation.paper_answers import HONEST, OPTIMISTIC, Entry, StudyAnswers
from lcm.evaluation.paper_tables import PUBLISHED, SOURCES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERS = ("panel", "label", "x", "source", "value", "spread", "low", "high", "note")
"""Columns of a figure's numbers: a row a point, or the reason why there is none in `note`."""
STYLES = {PUBLISHED: (INK, "D"), OPTIMISTIC: (ORANGE, "s"), HONEST: (BLUE, "o")}
"""Colour and marker of a source: told apart without colour too."""


@dataclass(frozen=True)
class PaperFigure:
    """One figure as a PNG data URI, the text that stands for it and the numbers behind it."""

    name: str
    title: str
    caption: str
    alt: str
    uri: str
    numbers: pd.DataFrame


def point(panel: str, label: str, x: float, source: str, entry: Entry) -> tuple[Any, ...]:
    """One row of the numbers."""
    return (
        panel,
        label,
        x,
        source,
        entry.value,
        entry.spread,
        entry.low,
        entry.high,
        entry.reason or entry.note,
    )


def numbers_of(points: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """The rows as a table with the columns NUMBERS."""
    return pd.DataFrame(list(points), columns=list(NUMBERS))


def known(source: str, answers: StudyAnswers) -> str:
    """The source as a legend names it."""
    if source == PUBLISHED:
        return PUBLISHED
    return f"ours, {answers.protocols[source]}{' (optimistic)' if source == OPTIMISTIC else ''}"


def _bars(drawn: pd.DataFrame) -> np.ndarray:
    """Reach below and above each point: its interval where it has one, else its deviation, else nothing; shape (2, points)."""
    value, low, high = (drawn[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
    spread = drawn["spread"].fillna(0.0).to_numpy(dtype=float)
    below = np.where(np.isfinite(low), value - low, spread)
    above = np.where(np.isfinite(high), high - value, spread)
    return np.maximum(np.stack([below, above]), 0.0)


def scatter(axes: Axes, numbers: pd.DataFrame, answers: StudyAnswers, *, shift: float = 0.0) -> None:
    """Points with their reach, a marker a source, each source `shift` to the right of the one before."""
    for place, source in enumerate(SOURCES):
        drawn = numbers[(numbers["source"] == source) & numbers["value"].notna()]
        if drawn.empty:
            continue
        colour, marker = STYLES[source]
        axes.errorbar(
            drawn["x"].to_numpy(dtype=float) + shift * (place - 1),
            drawn["value"],
            yerr=_bars(drawn),
            fmt=marker,
            color=colour,
            markersize=4.5,
            linewidth=1.1,
            label=known(source, answers),
        )


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend above all panels, a line a source."""
    found: dict[str, Any] = {}
    for own in axes:
        for handle, label in zip(*own.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()), list(found), loc="outside upper left", ncols=3, frameon=False, fontsize=8, labelcolor=INK
    )


def _absent(numbers: pd.DataFrame) -> str:
    """Which sources have no point, as a sentence of the caption; empty where all have some."""
    told = []
    for source in (OPTIMISTIC, HONEST):
        own = numbers[numbers["source"] == source]
        if not own.empty and own["value"].isna().all():
            told.append(f"Ours, {source}: {own['note'].iloc[0]}.")
    return " ".join(told)


def _said(numbers: pd.DataFrame) -> str:
    """Every point in words, for who does not see it."""
    points = numbers[numbers["value"].notna()]
    return "; ".join(
        f"{row.panel + ', ' if row.panel else ''}{row.label}, {row.source}: {row.value:.1f}"
        for row in points.itertuples()
    )


def paper_figure_of(name: str, title: str, prose: str, numbers: pd.DataFrame, drawn: Figure) -> PaperFigure:
    """The drawing with its caption, which says what has not run, and its numbers in words."""
    caption = f"{title}. {prose.strip()} {_absent(numbers)}".strip()
    return PaperFigure(name, title, caption, f"{title}. {_said(numbers)}.", finished(drawn), numbers)
