"""Figures of how good answers are: curves with bands, confusion matrices, predicted against true values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lcm.evaluation.figures import INK, MUTED, RULE, blank, finished, plain, style_of
from lcm.evaluation.performance import Confusion, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = (0, (2, 2))
WIDE = 8.2
"""Inches of a figure that takes two places of the page, so that its text is as large as that of two others."""
PALE_BLUE = "#7fb2de"
"""The darkest cell of a matrix: the text on it has a contrast over 4.5."""


def curves(
    named: Mapping[str, Curve], *, label: str, value_label: str, chance: float | None, diagonal: bool = False
) -> str:
    """Lines with bands on the unit square, a legend of the names below; `chance` is a level line, `diagonal` another."""
    figure = blank(4.0, 3.7 + 0.19 * len(named))
    axes = figure.subplots()
    if diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=DASHES)
    if chance is not None:
        axes.axhline(chance, color=MUTED, linewidth=0.9, linestyle=DASHES)
    for number, (name, curve) in enumerate(named.items()):
        _line(axes, name, curve, number)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=label, ylabel=value_label)
    figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=8, labelcolor=INK)
    plain(axes)
    return finished(figure)


def _line(axes: Axes, name: str, curve: Curve, number: int) -> None:
    colour, dash = style_of(number)
    axes.fill_between(curve.x_P, curve.low_P, curve.high_P, color=colour, alpha=0.13, linewidth=0)
    axes.plot(curve.x_P, curve.y_P, color=colour, linestyle=dash, linewidth=1.7, label=name)


def points(named: Mapping[str, Curve], *, label: str, value_label: str, unit_square: bool) -> str:
    """Points with bars joined by a line, against the diagonal on which what was predicted is what came true."""
    figure = blank(4.0, 3.7 + 0.19 * len(named))
    axes = figure.subplots()
    values = np.concatenate([np.concatenate([c.x_P, c.y_P, c.low_P, c.high_P]) for c in named.values()])
    low, high = (0.0, 1.0) if unit_square else (float(np.nanmin(values)), float(np.nanmax(values)))
    margin = 0.02 * (high - low) or 1.0
    axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, linestyle=DASHES)
    for number, (name, curve) in enumerate(named.items()):
        colour, dash = style_of(number)
        bars = np.clip(np.stack([curve.y_P - curve.low_P, curve.high_P - curve.y_P]), 0, None)
        axes.errorbar(
            curve.x_P,
            curve.y_P,
            yerr=np.nan_to_num(bars),
            color=colour,
            linestyle=dash,
            linewidth=1.4,
            elinewidth=0.9,
            marker="o",
            markersize=3.5,
            label=name,
        )
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), xlabel=label, ylabel=value_label)
    axes.set_aspect("equal")
    figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=8, labelcolor=INK)
    plain(axes)
    return finished(figure)


def confusions(named: Mapping[str, Confusion]) -> str:
    """A matrix a name: true levels down, named levels across, people and the share of the true level in each cell."""
    levels = next(iter(named.values())).levels
    side = max(2.3, 0.62 * len(levels) + 0.8)
    columns = max(1, min(int(WIDE // side), len(named)))
    rows = math.ceil(len(named) / columns)
    figure = blank(max(WIDE, side + 0.9), rows * (side + 0.35))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, axes in enumerate(grid):
        axes.set_visible(place < len(named))
    for axes, (name, found) in zip(grid, named.items(), strict=False):
        _matrix(axes, name, found)
    return finished(figure)


def _matrix(axes: Axes, name: str, found: Confusion) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    total_L1 = np.maximum(found.counts_LL.sum(axis=1, keepdims=True), 1)
    share_LL = found.counts_LL / total_L1
    axes.imshow(share_LL, cmap=LinearSegmentedColormap.from_list("share", ["#ffffff", PALE_BLUE]), vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(share_LL):
        text = f"{found.counts_LL[row, column]}\n{100 * share:.0f} %"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=INK)
    places = range(len(found.levels))
    slant = 30 if max(len(level) for level in found.levels) * len(found.levels) > 24 else 0
    axes.set_xticks(places, found.levels, rotation=slant, ha="right" if slant else "center")
    axes.set_yticks(places, found.levels)
    axes.set_title(name, fontsize=9, color=INK)
    axes.set(xlabel="named", ylabel="true")
    plain(axes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for edge in np.arange(len(found.levels) + 1) - 0.5:
        axes.axhline(edge, color=RULE, linewidth=0.6)
        axes.axvline(edge, color=RULE, linewidth=0.6)
