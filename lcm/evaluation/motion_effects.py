"""How much of connectivity follows head motion under each confound strategy: QC–FC and its dependence on distance.

Power et al. 2012 (doi:10.1016/j.neuroimage.2011.10.018); Ciric et al. 2017 (doi:10.1016/j.neuroimage.2017.03.020).
Shape suffixes: N people, E edges (upper triangle of R regions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lcm.array_tables import region_names
from lcm.atlas import load_atlas
from lcm.evaluation.quality import edges
from lcm.tables import OK, read_arrow

if TYPE_CHECKING:
    import pyarrow as pa

MIN_PEOPLE = 10
"""Below this a correlation over people says nothing (its 95 % interval is wider than ±0.6)."""
DENOISED_ELSEWHERE = "denoised elsewhere"
"""Strategy in the schema of connectomes that no strategy of this study has touched."""


@dataclass(frozen=True)
class MotionEffect:
    """QC–FC of one dataset under one strategy."""

    dataset: str
    strategy: str
    num_scans: int
    """Usable under this strategy."""
    num_refused: int
    """Left out by this strategy: ok until denoise or correlate."""
    num_people: int
    """With a usable scan whose mean FD is known; each enters with the first one."""
    kept_share: float
    """Median over scans of kept volumes / volumes; NaN where no scan is usable."""
    residual_dof: float
    """Median over scans of the degrees of freedom that denoising left; NaN where unknown."""
    qc_fc_E: np.ndarray
    """Correlation over people of mean FD with each edge; NaN where fewer than MIN_PEOPLE have both, or one is constant."""
    people_E: np.ndarray
    """People behind each edge."""
    distance_mm_E: np.ndarray

    @property
    def median_abs(self) -> float:
        """Median of |QC–FC| over edges; NaN where there is none."""
        known = self.qc_fc_E[np.isfinite(self.qc_fc_E)]
        return float(np.median(np.abs(known))) if len(known) else float("nan")

    @property
    def share_significant(self) -> float:
        """Share of edges whose QC–FC has p < 0.05, uncorrected; NaN where there is none."""
        known = np.isfinite(self.qc_fc_E)
        p_E = p_values(self.qc_fc_E[known], self.people_E[known])
        return float((p_E < 0.05).mean()) if known.any() else float("nan")

    @property
    def distance_dependence(self) -> float:
        """Spearman correlation over edges of QC–FC with the distance of the two regions; NaN where there is none."""
        from scipy.stats import spearmanr

        known = np.isfinite(self.qc_fc_E) & np.isfinite(self.distance_mm_E)
        if known.sum() < 3:
            return float("nan")
        return float(spearmanr(self.qc_fc_E[known], self.distance_mm_E[known]).statistic)


def motion_effects(
    results: Path, batches: Mapping[str, list[str]], outcomes: Mapping[str, pd.DataFrame], atlas: str
) -> list[MotionEffect]:
    """QC–FC of every dataset under each of its strategies.

    Args:
        batches: of each dataset.
        outcomes: of each strategy, a row a scan: dataset, scan, stage, outcome.
        atlas: name or path, for the regions' centres. Raises ValueError when a region of a table is not in it.
    """
    return [
        _effect(results, dataset, strategy, names, _num_refused(said[said["dataset"] == dataset]), atlas)
        for dataset, names in batches.items()
        for strategy, said in outcomes.items()
        if (said["dataset"] == dataset).any()
    ]


def datasets_by_strategy(
    results: Path, batches: Mapping[str, Sequence[str]], strategies: Sequence[str]
) -> dict[str, list[str]]:
    """The datasets that have connectomes under each strategy: all, but series that came denoised only the first."""
    primary = {
        dataset: read_arrow(results / "correlate" / strategies[0] / dataset / f"{names[0]}.arrow").schema.metadata
        for dataset, names in batches.items()
    }
    cleaned = [name for name, metadata in primary.items() if metadata[b"strategy"].decode() != DENOISED_ELSEWHERE]
    return {strategies[0]: list(batches)} | {name: cleaned for name in strategies[1:] if cleaned}


def _num_refused(outcomes: pd.DataFrame) -> int:
    """Scans that were ok until denoise or correlate, the two stages that depend on the strategy."""
    return int(((outcomes["outcome"] != OK) & outcomes["stage"].isin(["denoise", "correlate"])).sum())


def _effect(
    results: Path, dataset: str, strategy: str, batches: list[str], num_refused: int, atlas: str
) -> MotionEffect:
    tables = [read_arrow(results / "correlate" / strategy / dataset / f"{batch}.arrow") for batch in batches]
    scans = pd.concat([_usable_scans(table) for table in tables])
    people = [_people(table) for table in tables]
    num_people = sum(rows["scan"].nunique() for rows in people)
    distance_mm_E = distances(region_names(tables[0]), atlas)
    qc_fc_E, people_E = np.full(len(distance_mm_E), np.nan), np.zeros(len(distance_mm_E), dtype=int)
    if num_people >= MIN_PEOPLE:
        qc_fc_E, people_E = qc_fc(
            _motion_and_edges(table, rows) for table, rows in zip(tables, people, strict=True) if len(rows)
        )
    return MotionEffect(
        dataset=dataset,
        strategy=tables[0].schema.metadata[b"strategy"].decode(),
        num_scans=len(scans),
        num_refused=num_refused,
        num_people=num_people,
        kept_share=float((scans["num_kept"] / scans["num_volumes"]).median()),
        residual_dof=float(scans["residual_dof"].median()),
        qc_fc_E=qc_fc_E,
        people_E=people_E,
        distance_mm_E=distance_mm_E,
    )


def _usable_scans(table: pa.Table) -> pd.DataFrame:
    """Volumes and degrees of freedom of every usable scan; the kept volumes of its windows are added up."""
    rows = table.select(["scan", "outcome", "num_kept", "num_volumes", "residual_dof"]).to_pandas()
    rows = rows[rows["outcome"] == OK].drop(columns="outcome").groupby("scan")
    return rows.agg({"num_kept": "sum", "num_volumes": "first", "residual_dof": "first"}).astype(float)


def _people(table: pa.Table) -> pd.DataFrame:
    """Rows, by position in the table, of every person's first usable scan with known motion; a window is a row.

    One scan a person, because repeated scans are not independent and would make every edge look more certain.
    """
    rows = table.select(["participant_id", "scan", "outcome", "mean_fd_mm"]).to_pandas()
    rows = rows[(rows["outcome"] == OK) & rows["mean_fd_mm"].notna()]
    return rows[rows["scan"].isin(rows.drop_duplicates("participant_id")["scan"])]


def _motion_and_edges(table: pa.Table, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Mean FD (N, mm) and connectivity (N×E) of the chosen scans; a scan's windows are averaged."""
    fc_NE = edges(table.take(rows.index.to_list()))
    by_scan = rows.groupby("scan", sort=False)["mean_fd_mm"].first()
    if len(by_scan) < len(rows):
        fc_NE = pd.DataFrame(fc_NE).groupby(rows["scan"].to_numpy(), sort=False).mean().to_numpy()
    return by_scan.to_numpy(), fc_NE


def qc_fc(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Pearson correlation over people of mean FD with each edge, and the number of people behind each.

    One pass over parts of the people (mean FD N, connectivity N×E), so that memory does not grow with them. A person
    whose edge is NaN is left out of that edge. NaN where fewer than MIN_PEOPLE are left, or FD or the edge is constant.
    """
    shift: tuple[float, np.ndarray] | None = None
    sums_KE: np.ndarray | float = 0.0
    for fd_N, fc_NE in parts:
        # Sums of squares lose digits far from zero, so both are counted from the first person.
        shift = shift or (float(fd_N[0]), np.nan_to_num(fc_NE[0]))
        known_NE = np.isfinite(fc_NE)
        x_NE = np.where(known_NE, (fd_N - shift[0])[:, None], 0.0)
        y_NE = np.where(known_NE, fc_NE - shift[1], 0.0)
        sums_KE = sums_KE + np.stack([a.sum(axis=0) for a in (known_NE, x_NE, y_NE, x_NE**2, y_NE**2, x_NE * y_NE)])
    n, x, y, xx, yy, xy = np.asarray(sums_KE)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_x, spread_y = xx - x * x / n, yy - y * y / n
        r_E = (xy - x * y / n) / np.sqrt(spread_x * spread_y)
        # Rounding leaves about 1e-16 of the sum of squares where the truth is no spread at all.
        defined_E = (n >= MIN_PEOPLE) & (spread_x > 1e-12 * xx) & (spread_y > 1e-12 * yy)
    return np.where(defined_E, np.clip(r_E, -1.0, 1.0), np.nan), n.astype(int)


def p_values(r_E: np.ndarray, people_E: np.ndarray) -> np.ndarray:
    """Two-sided p of Pearson correlations over that many people, by Student's t with n − 2 degrees of freedom."""
    from scipy.stats import t

    with np.errstate(divide="ignore"):
        return 2 * t.sf(np.abs(r_E) * np.sqrt((people_E - 2) / (1 - r_E**2)), people_E - 2)


def distances(regions: Sequence[str], atlas: str) -> np.ndarray:
    """Euclidean distance (mm) between the centres of every pair of regions, in `numpy.triu_indices(R, k=1)` order.

    NaN where the atlas is a label table that does not say where its regions are.
    """
    from scipy.spatial.distance import pdist

    loaded = load_atlas(atlas)
    place = {name: index for index, name in enumerate(loaded.names)}
    unknown = [name for name in regions if name not in place]
    if unknown:
        raise ValueError(
            f"atlas {loaded.name}: {len(unknown)} regions of the connectomes are not in it, e.g. {unknown[0]}; "
            "pass the atlas that parcellate used"
        )
    if not loaded.knows_places:
        return np.full(len(regions) * (len(regions) - 1) // 2, np.nan)
    return pdist(loaded.centres_mm()[[place[name] for name in regions]])
