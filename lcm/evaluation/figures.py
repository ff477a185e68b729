"""Figures of the report as data URIs: arrays in, one image that a page can hold out.

Shape suffixes: T volumes, R regions. Only matplotlib's object interface is used: no window, no global state.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
INK, MUTED, BLUE, ORANGE, RULE = "#1b2733", "#566370", "#1f6fb2", "#c2410c", "#d5dce3"
"""Text, axis text, data, threshold or censored, grid: all but the grid have contrast over 4.5 on white."""

STRATEGY_COLOURS = (BLUE, ORANGE, "#00806a", "#8a4fbf", "#7a5c00", "#b5327f", "#4d6b1f", "#566370")
"""One a confound strategy, in order, then again with dashes; contrast over 4.5 on white, told apart by colour-blind eyes
with the row labels and dashes beside them."""

CARPET_LIMIT = 2.0
"""Standard deviations at which a carpet's grey ends; ±2 is the convention of carpet plots (Power 2017)."""


def uri(content: bytes, kind: str) -> str:
    """Bytes of an image as a data URI; `kind` is its MIME subtype, e.g. png or svg+xml."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image_uri(path: Path) -> str:
    """An image file on disk as a data URI (PNG, JPEG or SVG)."""
    kinds = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".svg": "svg+xml"}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: a figure must be one of {sorted(kinds)}")
    return uri(path.read_bytes(), kinds[path.suffix])


def blank(width_in: float, height_in: float) -> Figure:
    """An empty white figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white", layout="constrained")


def finished(figure: Figure) -> str:
    """The figure as a PNG data URI; the same drawing gives the same bytes."""
    buffer = BytesIO()
    # No software tag: the same input gives the same bytes.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return uri(buffer.getvalue(), "png")


def whole_ticks(axes: Axes) -> None:
    """At most six whole numbers along x."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def plain(axes: Axes) -> None:
    """Axes in the page's style: two spines, muted ticks, small labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=8, length=3)
    axes.xaxis.label.set(color=INK, size=9)
    axes.yaxis.label.set(color=INK, size=9)


def connectome(fc_RR: np.ndarray, *, limit: float, label: str) -> str:
    """Mean connectome as a matrix, blue to red over ±`limit`; regions without a value are grey, `label` names the value."""
    figure = blank(4.0, 3.4)
    axes = figure.subplots()
    image = _matrix(axes, fc_RR, limit)
    axes.set_xlabel("region")
    axes.set_ylabel("region")
    whole_ticks(axes)
    axes.set_yticks([tick for tick in axes.get_xticks() if 0 <= tick < len(fc_RR)])
    axes.set_xlim(-0.5, len(fc_RR) - 0.5)
    plain(axes)
    bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02)
    bar.set_label(label, size=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    bar.outline.set_visible(False)
    return finished(figure)


def connectomes(means: Mapping[str, np.ndarray], shifts: Mapping[str, np.ndarray]) -> str:
    """Mean connectomes (R×R each) side by side under one scale, and differences beside them under another."""
    figure = blank(2.5 * (len(means) + len(shifts)) + 0.9, 2.7)
    grid = figure.subplots(1, len(means) + len(shifts), squeeze=False)[0]
    for panels, all_axes, label in (
        (means, grid[: len(means)], "mean"),
        (shifts, grid[len(means) :], "difference"),
    ):
        limit = _limit(np.stack(list(panels.values())))
        for axes, (name, fc_RR) in zip(all_axes, panels.items(), strict=True):
            image = _matrix(axes, fc_RR, limit)
            axes.set_title(name, fontsize=9, color=INK)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=list(all_axes), shrink=0.8, pad=0.02)
        bar.set_label(label, size=8, color=INK)
        bar.ax.tick_params(labelsize=7, colors=MUTED)
        bar.outline.set_visible(False)
    return finished(figure)


def _limit(values: np.ndarray) -> float:
    """98th percentile of sizes: a few homotopic pairs would otherwise wash out the rest."""
    sizes = np.abs(values[np.isfinite(values)])
    return float(np.quantile(sizes, 0.98)) or 1.0 if len(sizes) else 1.0


def _matrix(axes: Axes, fc_RR: np.ndarray, limit: float) -> Any:
    from matplotlib import colormaps

    colours = colormaps["RdBu_r"].with_extremes(bad="#b8c0c8")
    shown_RR = np.ma.masked_invalid(fc_RR)
    return axes.imshow(shown_RR, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest", aspect="equal")


def carpet(
    before_TR: np.ndarray | None,
    after_TR: np.ndarray,
    fd_mm_T: np.ndarray | None,
    kept_T: np.ndarray,
    *,
    fd_limit_mm: float | None,
) -> str:
    """Head motion above the carpets of one scan, before (if there is one) and after denoising, on one time axis."""
    panels: list[tuple[float, Callable[[Axes], None]]] = []
    if fd_mm_T is not None:
        panels.append((0.8, lambda axes: _motion_trace(axes, fd_mm_T, kept_T, fd_limit_mm)))
    if before_TR is not None:
        panels.append((1.5, lambda axes: _carpet_panel(axes, before_TR, "before")))
    panels.append((1.5, lambda axes: _carpet_panel(axes, after_TR, "denoised")))
    figure = blank(6.4, 0.6 + 1.1 * sum(height for height, _ in panels))
    all_axes = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [h for h, _ in panels]}
    )[:, 0]
    for axes, (_, draw) in zip(all_axes, panels, strict=True):
        draw(axes)
        plain(axes)
    all_axes[-1].set_xlabel("volume")
    all_axes[-1].set_xlim(-0.5, len(after_TR) - 0.5)
    return finished(figure)


def _motion_trace(axes: Axes, fd_mm_T: np.ndarray, kept_T: np.ndarray, fd_limit_mm: float | None) -> None:
    axes.plot(fd_mm_T, color=BLUE, linewidth=1)
    dropped = np.flatnonzero(~kept_T)
    finite = fd_mm_T[np.isfinite(fd_mm_T)]
    top = max(1.2 * float(finite.max()) if len(finite) else 0.0, 1.4 * (fd_limit_mm or 0.0), 0.1)
    axes.vlines(dropped, 0, top, color=ORANGE, linewidth=1.2, alpha=0.45)
    if fd_limit_mm is not None:
        axes.axhline(fd_limit_mm, color=ORANGE, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylim(0, top)
    axes.set_ylabel("FD (mm)")


def _carpet_panel(axes: Axes, series_TR: np.ndarray, label: str) -> None:
    from matplotlib import colormaps

    axes.imshow(
        zscored(series_TR).T,
        cmap=colormaps["gray"].with_extremes(bad=ORANGE),
        vmin=-CARPET_LIMIT,
        vmax=CARPET_LIMIT,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_yticks([])
    axes.set_ylabel(f"{label}\n(regions)")


def zscored(series_TR: np.ndarray) -> np.ndarray:
    """Each region's series at mean 0 and sample standard deviation 1 over the volumes that have a value.

    A constant or missing region becomes 0; a censored volume (NaN in every region) stays NaN.
    """
    has_value_T = np.isfinite(series_TR).any(axis=1)
    kept_TR = series_TR[has_value_T]
    centred_TR = kept_TR - kept_TR.mean(axis=0)
    spread_R = centred_TR.std(axis=0, ddof=1)
    usable_R = np.isfinite(spread_R) & (spread_R > 0)
    result_TR = np.where(has_value_T[:, None], 0.0, np.full(series_TR.shape, np.nan))
    result_TR[np.ix_(has_value_T, usable_R)] = centred_TR[:, usable_R] / spread_R[usable_R]
    return result_TR


def coverage(median_R: np.ndarray, lowest_R: np.ndarray) -> str:
    """Share of every region inside the brain mask, regions from least to most covered: median and lowest scan."""
    order = np.lexsort((lowest_R, median_R))
    figure = blank(4.0, 2.4)
    axes = figure.subplots()
    axes.plot(100 * median_R[order], color=BLUE, linewidth=1.6, label="median scan")
    axes.plot(100 * lowest_R[order], color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)), label="worst scan")
    axes.set_ylim(-2, 104)
    axes.set_xlabel("regions, least covered first")
    whole_ticks(axes)
    axes.set_ylabel("coverage (%)")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    plain(axes)
    return finished(figure)


def histogram(value_N: np.ndarray, *, label: str, count_label: str, limit: float | None) -> str:
    """Histogram of one number a scan, with a dashed line at `limit` if there is one."""
    from matplotlib.ticker import MaxNLocator

    figure = blank(4.0, 2.4)
    axes = figure.subplots()
    num_bins = int(np.clip(np.ceil(2 * len(value_N) ** (1 / 3)), 4, 30))  # Rice's rule
    axes.hist(value_N, bins=num_bins, color=BLUE, edgecolor="white", linewidth=0.8)
    if limit is not None:
        axes.axvline(limit, color=ORANGE, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_xlabel(label)
    axes.set_ylabel(count_label)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    plain(axes)
    return finished(figure)


def style_of(number: int) -> tuple[str, str]:
    """Colour and line style of the strategy with that place."""
    turn, place = divmod(number, len(STRATEGY_COLOURS))
    return STRATEGY_COLOURS[place], ("-", "--", ":")[turn % 3]


def ridges(values: Mapping[str, np.ndarray], *, label: str) -> str:
    """A histogram a name, one above the other on one axis about 0, the median marked; the first name on top."""
    reach = max(0.3, math.ceil(10 * max(float(np.abs(value).max()) for value in values.values())) / 10)
    bins = np.linspace(-reach, reach, 61)
    middle = (bins[1:] + bins[:-1]) / 2
    figure = blank(4.0, 0.7 + 0.4 * len(values))
    axes = figure.subplots()
    for number, value in enumerate(values.values()):
        base, (colour, style) = len(values) - 1 - number, style_of(number)
        counts = np.histogram(value, bins)[0]
        height = 0.85 * counts / counts.max()
        axes.fill_between(middle, base, base + height, step="mid", color=colour, alpha=0.25, linewidth=0)
        axes.step(middle, base + height, where="mid", color=colour, linewidth=1.1, linestyle=style)
        axes.vlines(np.median(value), base, base + 0.85, color=colour, linewidth=2)
    axes.axvline(0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    axes.set_yticks([base + 0.3 for base in range(len(values))], list(values)[::-1])
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-0.08, len(values))
    axes.set_xlabel(label)
    plain(axes)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    return finished(figure)


def binned(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, label: str, value_label: str, num_bins: int = 10
) -> str:
    """Mean of y in bins of x that hold equally many points, a line a name; x and y of each name have one length."""
    figure = blank(4.0, 2.4 + 0.2 * math.ceil(len(curves) / 3))
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(curves.items()):
        colour, style = style_of(number)
        groups = np.array_split(np.argsort(x, kind="stable"), min(num_bins, len(x)))
        means = [(float(x[group].mean()), float(y[group].mean())) for group in groups]
        axes.plot(
            *zip(*means, strict=True),
            color=colour,
            linestyle=style,
            linewidth=1.6,
            marker="o",
            markersize=3,
            label=name,
        )
    axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    axes.set_xlabel(label)
    axes.set_ylabel(value_label)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8, labelcolor=INK)
    plain(axes)
    return finished(figure)
