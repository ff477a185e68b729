"""Mean connectomes of diagnostic groups and how they differ from controls, one figure a cohort and diagnosis.

Shape suffixes: N people, E edges, R regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lcm.array_tables import region_names, square
from lcm.evaluation import figures
from lcm.evaluation.quality import UNBOUNDED, fisher_z
from lcm.evaluation.quality_page import FigureView, number
from lcm.evaluation.site_effects import read_edges
from lcm.evaluation.study_people import observed
from lcm.evaluation.table_one import Variable
from lcm.tables import read_arrow

MIN_PEOPLE = 5
"""People of a level under which its mean is not drawn."""


def group_means(
    results: Path,
    strategy: str,
    batches: Mapping[str, Sequence[str]],
    people: pd.DataFrame,
    variables: Mapping[str, Variable],
    *,
    min_people: int = MIN_PEOPLE,
) -> list[FigureView]:
    """The figures of every cohort in which two levels of an observed diagnosis have `min_people` people or more.

    `people` has one row a person of a cohort, as `first_visits` gives them, of the datasets of `batches`.
    """
    views = []
    for cohort, diagnosis, own in _grouped(people, variables, max(min_people, MIN_PEOPLE)):
        used = {name: batches[name] for name in own["dataset"].unique()}
        first = read_arrow(results / "correlate" / strategy / _first(used))
        kind = first.schema.metadata.get(b"kind", b"correlation").decode()
        edges_NE = read_edges(results, strategy, used, own)
        is_bounded = kind not in UNBOUNDED
        if is_bounded and first.schema.metadata.get(b"fisher_z") != b"true":
            edges_NE = fisher_z(edges_NE)
        levels = [level for level in variables[diagnosis].levels if level in set(own["level"])]
        means = {level: _mean(edges_NE[own["level"] == level], is_bounded=is_bounded) for level in levels}
        counts = own["level"].value_counts()
        views.append(_view(cohort, diagnosis, means, {name: int(counts[name]) for name in levels}, region_names(first)))
    return views


def _first(batches: Mapping[str, Sequence[str]]) -> str:
    dataset, names = next(iter(batches.items()))
    return f"{dataset}/{names[0]}.arrow"


def _grouped(
    people: pd.DataFrame, variables: Mapping[str, Variable], min_people: int
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for cohort, own in people.groupby("cohort", sort=True):
        for name, variable in variables.items():
            if variable.group != "diagnosis":
                continue
            cells = observed(own, name)
            counts = cells.value_counts()
            levels = [level for level in variable.levels if counts.get(level, 0) >= min_people]
            if len(levels) > 1:
                yield str(cohort), name, own.assign(level=cells)[cells.isin(levels)].reset_index(drop=True)


def _mean(edges_NE: NDArray[np.float64], *, is_bounded: bool) -> NDArray[np.float64]:
    known_NE = np.isfinite(edges_NE)
    counts_E = known_NE.sum(axis=0)
    sums_E = np.where(known_NE, edges_NE, 0.0).sum(axis=0)
    mean_E = np.divide(sums_E, counts_E, out=np.full(len(sums_E), np.nan), where=counts_E > 0)
    return np.tanh(mean_E) if is_bounded else mean_E


def _view(
    cohort: str,
    diagnosis: str,
    means: Mapping[str, NDArray[np.float64]],
    counts: Mapping[str, int],
    regions: Sequence[str],
) -> FigureView:
    reference, *others = means
    panels = {f"{level} (n = {counts[level]})": _square(mean_E, len(regions)) for level, mean_E in means.items()}
    differences = {level: means[level] - means[reference] for level in others}
    shifts = {f"{level} − {reference}": _square(shift_E, len(regions)) for level, shift_E in differences.items()}
    said = "; ".join(_in_words(level, reference, shift_E, regions) for level, shift_E in differences.items())
    people = ", ".join(f"{count} {level}" for level, count in counts.items())
    return FigureView(
        f"{cohort}, {diagnosis}",
        figures.connectomes(panels, shifts),
        f"Mean connectomes of {cohort} by {diagnosis} ({people}), and their differences. {said}.",
        f"Mean connectivity by observed {diagnosis} ({people}), means over Fisher z where values are correlations; then "
        f"differences. {said}. Groups may differ in site, age and head motion too: nothing here is adjusted or tested.",
        is_wide=True,
    )


def _square(edges_E: NDArray[np.float64], num_regions: int) -> NDArray[np.float64]:
    square_RR = square(edges_E[None].astype(np.float32), num_regions)[0].astype(float)
    np.fill_diagonal(square_RR, np.nan)
    return square_RR


def _in_words(level: str, reference: str, shift_E: NDArray[np.float64], regions: Sequence[str]) -> str:
    if not np.isfinite(shift_E).any():
        return f"{level} less {reference}: no edge has a value"
    rows, columns = np.triu_indices(len(regions), k=1)
    place = int(np.nanargmax(np.abs(shift_E)))
    return (
        f"{level} less {reference}: mean over edges {_signed(float(np.nanmean(shift_E)))}, largest "
        f"{_signed(float(shift_E[place]))} between {regions[rows[place]]} and {regions[columns[place]]}"
    )


def _signed(value: float) -> str:
    return number(value, 2).replace("-", "−")
