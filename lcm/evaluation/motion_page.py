"""The head-motion section of the page: a row a dataset and strategy, and two figures a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lcm.evaluation import figures
from lcm.evaluation.motion_effects import MIN_PEOPLE, MotionEffect
from lcm.evaluation.quality_page import FigureView, number
from lcm.evaluation.suppression import mark

COLUMNS = (
    "Dataset",
    "Strategy",
    "Usable scans",
    "Refused scans",
    "Kept (%)",
    "Residual df",
    "People",
    "Median |r|",
    "p < 0.05 (%)",
    "Distance ρ",
)


@dataclass(frozen=True)
class MotionRow:
    """One dataset under one strategy; `cells` follow COLUMNS after the first two."""

    dataset: str
    strategy: str
    cells: list[str]


@dataclass(frozen=True)
class MotionCard:
    """The figures of one dataset."""

    dataset: str
    figures: list[FigureView]


@dataclass(frozen=True)
class MotionSection:
    """What the section shows, and what it could not."""

    rows: list[MotionRow]
    cards: list[MotionCard]
    missing: str
    """Empty where every dataset has its numbers."""


def motion_section(effects: Sequence[MotionEffect], *, min_cell: int = 0) -> MotionSection:
    """Table, figures and remarks of the section; a dataset loses its counts where one is above 0 and below `min_cell`."""
    by_dataset = [(name, list(found)) for name, found in groupby(effects, key=lambda effect: effect.dataset)]
    shown = [(name, [e for e in found if np.isfinite(e.qc_fc_E).any()]) for name, found in by_dataset]
    return MotionSection(
        rows=[row for _, found in by_dataset for row in _rows(found, min_cell)],
        cards=[MotionCard(name, _figures(name, found)) for name, found in shown if found],
        missing=_missing(by_dataset),
    )


def _missing(by_dataset: list[tuple[str, list[MotionEffect]]]) -> str:
    """The sentence that explains every n/a of the table."""
    names = []
    for dataset, effects in by_dataset:
        few = [effect.strategy for effect in effects if effect.num_people < MIN_PEOPLE]
        names += [f"{dataset} under {', '.join(few)}" if len(few) < len(effects) else dataset] if few else []
    said = [f"n/a: fewer than {MIN_PEOPLE} scans with motion: {'; '.join(names)}."] if names else []
    if any(np.isnan(effect.distance_mm_E).all() for _, effects in by_dataset for effect in effects):
        said.append("No distances: the atlas does not say where its regions are.")
    return " ".join(said)


def _rows(effects: Sequence[MotionEffect], min_cell: int) -> list[MotionRow]:
    """Rows of one dataset; strategies share its people, so that one small count hides the others too."""
    counts = [(effect.num_scans, effect.num_refused, effect.num_people) for effect in effects]
    hides = any(0 < count < min_cell for of_strategy in counts for count in of_strategy)
    texts = [tuple(mark(min_cell) if hides else str(count) for count in of_strategy) for of_strategy in counts]
    return [_row(effect, *shown) for effect, shown in zip(effects, texts, strict=True)]


def _row(effect: MotionEffect, num_scans: str, num_refused: str, num_people: str) -> MotionRow:
    cells = [
        num_scans,
        num_refused,
        number(100 * effect.kept_share, 0),
        number(effect.residual_dof, 0),
        num_people,
        number(effect.median_abs, 3),
        number(100 * effect.share_significant, 1),
        number(effect.distance_dependence, 2).replace("-", "−"),
    ]
    return MotionRow(effect.dataset, effect.strategy, cells)


def _figures(dataset: str, effects: list[MotionEffect]) -> list[FigureView]:
    places_known = np.isfinite(effects[0].distance_mm_E).any()
    return [_distribution(dataset, effects), *([_distance(dataset, effects)] if places_known else [])]


def _distribution(dataset: str, effects: list[MotionEffect]) -> FigureView:
    known = {effect.strategy: effect.qc_fc_E[np.isfinite(effect.qc_fc_E)] for effect in effects}
    said = ", ".join(f"{name} {np.median(values):.2f}".replace("-", "−") for name, values in known.items())
    return FigureView(
        "QC–FC by strategy",
        figures.ridges(known, label="QC–FC of an edge (r)"),
        f"Histograms of QC–FC over the edges of {dataset}, one a strategy; medians: {said}.",
        f"One histogram over edges a strategy, its median as a bar: {said}. Narrow and centred on 0 is better.",
    )


def _distance(dataset: str, effects: list[MotionEffect]) -> FigureView:
    known = {effect.strategy: np.isfinite(effect.qc_fc_E) for effect in effects}
    curves = {e.strategy: (e.distance_mm_E[known[e.strategy]], e.qc_fc_E[known[e.strategy]]) for e in effects}
    said = ", ".join(f"{e.strategy} {number(e.distance_dependence, 2)}".replace("-", "−") for e in effects)
    return FigureView(
        "QC–FC by distance",
        figures.binned(curves, label="distance between the two regions (mm)", value_label="mean QC–FC (r)"),
        f"Lines of mean QC–FC in ten bins of distance in {dataset}, one a strategy; Spearman correlations: {said}.",
        f"Mean over a tenth of the edges each; Spearman ρ over all edges: {said}. A flat line at 0 is better.",
    )
