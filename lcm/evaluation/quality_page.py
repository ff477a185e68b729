"""The quality section of the page: each dataset's numbers, figures, alternative texts and captions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcm.evaluation import figures
from lcm.evaluation.quality import UNBOUNDED, Quality, censoring_limit, inspect

COLUMNS = (
    "Dataset",
    "Scans",
    "TR (s)",
    "Volumes",
    "Kept (%)",
    "Mean FD (mm)",
    "Mean FC",
    "Homotopic FC",
    "Uncovered regions",
    "Atlas",
    "Strategy",
)
LOW_COVERAGE = 0.5


@dataclass(frozen=True)
class FigureView:
    """One image of the page with the text that stands for it."""

    title: str
    uri: str
    alt: str
    caption: str
    is_wide: bool = False


@dataclass(frozen=True)
class QualityCard:
    """One dataset on the page; `numbers` follow COLUMNS after the first."""

    dataset: str
    numbers: list[str]
    figures: list[FigureView]
    remarks: list[str]


def quality_cards(
    results: Path, strategy: str, batches: Mapping[str, list[str]], *, num_overlays: int, single_scans: bool = True
) -> list[QualityCard]:
    """One card a dataset that has usable scans under the strategy, in the order of `batches`.

    `single_scans`: with the figures in which one person's scan can be seen (carpet, registration, histogram of motion).
    """
    cards = []
    for dataset, names in batches.items():
        quality = inspect(results, strategy, dataset, names, num_overlays=num_overlays)
        if quality is not None:
            limit = censoring_limit(results, strategy, dataset, names)
            cards.append(_card(quality, limit, single_scans=single_scans))
    return cards


def number(value: float, digits: int) -> str:
    """A number for a table; NaN is n/a."""
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def _card(quality: Quality, fd_limit_mm: float | None, *, single_scans: bool) -> QualityCard:
    scans = quality.scans
    kept = float((100 * scans["num_kept"] / scans["num_volumes"]).median())
    median_R = np.nanmedian(quality.coverage_NR, axis=0) if len(quality.coverage_NR) else np.array([])
    numbers = [
        str(len(scans)),
        number(quality.median("tr_s"), 2),
        number(quality.median("num_volumes"), 0),
        number(kept, 0),
        number(quality.median("mean_fd_mm"), 2),
        number(quality.median("mean_fc"), 2),
        number(quality.homotopic_fc, 2),
        str(int(np.sum(median_R < LOW_COVERAGE))) if len(median_R) else "n/a",
        quality.atlas,
        quality.strategy,
    ]
    views = [_connectome(quality), *(_carpet(quality, fd_limit_mm) if single_scans else [])]
    views += _coverage(quality, median_R) + (_motion(quality) + _overlays(quality) if single_scans else [])
    return QualityCard(quality.dataset, numbers, views, _remarks(quality))


def _connectome(quality: Quality) -> FigureView:
    off = quality.mean_fc_RR[np.triu_indices(len(quality.regions), k=1)]
    finite = np.abs(off[np.isfinite(off)])
    # 98th percentile: a few homotopic pairs would otherwise wash out the rest.
    limit = max(0.2, math.ceil(10 * float(np.quantile(finite, 0.98))) / 10) if len(finite) else 1.0
    mean, missing = float(np.nanmean(off)) if len(finite) else math.nan, int(np.isnan(off).sum())
    measure = "Pearson r" if quality.kind == "correlation" else quality.kind
    over = "" if quality.kind in UNBOUNDED else ", mean over Fisher z"
    return FigureView(
        "Mean connectome",
        figures.connectome(quality.mean_fc_RR, limit=limit, label=f"mean {measure}"),
        f"Matrix of the mean {measure} between {len(quality.regions)} regions over {len(quality.scans)} scans of "
        f"{quality.dataset}; mean {number(mean, 2)}, homotopic {number(quality.homotopic_fc, 2)}.",
        f"{len(quality.regions)} regions of {quality.atlas}, {len(quality.scans)} scans{over}. "
        f"Region pairs without a value in any scan: {missing}.",
    )


def _carpet(quality: Quality, fd_limit_mm: float | None) -> list[FigureView]:
    example = quality.example
    if example is None:
        return []
    dropped = int((~example.kept_T).sum())
    has_motion = example.fd_mm_T is not None
    shown = "before and after denoising" if example.before_TR is not None else "after denoising (series came ready)"
    caption = f"Scan 1, regions by volumes, {shown}, ±2 SD."
    if has_motion:
        line = f" the dashed line is the limit of {fd_limit_mm:g} mm," if fd_limit_mm is not None else ""
        caption += f" Above it head motion:{line} censored volumes are shaded ({dropped} of {len(example.kept_T)})."
    uri = figures.carpet(
        example.before_TR,
        example.after_TR,
        example.fd_mm_T,
        example.kept_T,
        fd_limit_mm=fd_limit_mm if has_motion else None,
    )
    alt = f"Carpet plot of one scan of {quality.dataset}, {shown}; {dropped} of {len(example.kept_T)} volumes censored."
    return [FigureView("Carpet plot", uri, alt, caption, is_wide=True)]


def _coverage(quality: Quality, median_R: np.ndarray) -> list[FigureView]:
    if not len(median_R) or np.isnan(median_R).all():
        return []
    lowest_R = np.nanmin(quality.coverage_NR, axis=0)
    if lowest_R.min() >= 1.0:
        return []
    low = [name for name, value in zip(quality.regions, median_R, strict=True) if value < LOW_COVERAGE]
    named = (
        f" Less than half inside the mask: {', '.join(low[:6])}{' and others' if len(low) > 6 else ''}." if low else ""
    )
    return [
        FigureView(
            "Coverage",
            figures.coverage(median_R, lowest_R),
            f"Share of every region inside the brain mask in {quality.dataset}: lowest region "
            f"{100 * float(median_R.min()):.0f} percent in the median scan.",
            f"Share of each region's voxels inside the brain mask.{named}",
        )
    ]


def _motion(quality: Quality) -> list[FigureView]:
    fd_N = quality.scans["mean_fd_mm"].dropna().to_numpy()
    if not len(fd_N):
        return []
    median = float(np.median(fd_N))
    return [
        FigureView(
            "Head motion",
            figures.histogram(fd_N, label="mean FD of a scan (mm)", count_label="scans", limit=None),
            f"Histogram of mean framewise displacement over {len(fd_N)} scans of {quality.dataset}; median {median:.2f} mm.",
            f"Mean framewise displacement (Power) of {len(fd_N)} scans, median {median:.2f} mm.",
        )
    ]


def _overlays(quality: Quality) -> list[FigureView]:
    return [
        FigureView(
            f"Registration, scan {number}",
            figures.image_uri(path),
            f"Edges of the template drawn over the registered image of scan {number} of {quality.dataset}.",
            "Edges of the template over the registered image; they should follow the brain.",
            is_wide=True,
        )
        for number, path in enumerate(quality.overlays, start=1)
    ]


def _remarks(quality: Quality) -> list[str]:
    remarks = []
    if quality.scans["mean_fd_mm"].isna().all():
        remarks.append("This dataset brings no motion estimates, so no volume could be censored and motion is unknown.")
    if len(quality.coverage_NR) and np.nanmin(quality.coverage_NR) >= 1.0:
        remarks.append("Every region has a signal in every scan.")
    return remarks
