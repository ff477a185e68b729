"""Quality of each dataset's scans, read from the tables the imaging stages left: numbers, one example, no images opened.

Shape suffixes: T volumes, R regions, E edges, N scans.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml

from lcm.array_tables import atlas_name, region_names, square
from lcm.tables import OK, read_arrow

if TYPE_CHECKING:
    import pyarrow as pa

HEMISPHERES = (("_L", "_R"), ("-L", "-R"), (" L", " R"))
"""How atlases mark a region's two sides at the end of its name."""

UNBOUNDED = ("covariance", "tangent")
"""Kinds of connectivity that are no correlations: their mean is taken as it is, not over Fisher z."""


@dataclass
class Quality:
    """What one dataset's connectome, denoise, parcellate and preprocess tables say about its usable scans."""

    dataset: str
    atlas: str
    strategy: str
    kind: str
    """Kind of connectivity, e.g. correlation."""
    regions: list[str]
    scans: pd.DataFrame
    """One row a usable scan: tr_s, num_volumes, num_kept, residual_dof, mean_fd_mm (NaN where unknown), mean_fc."""
    mean_fc_RR: np.ndarray
    coverage_NR: np.ndarray
    example: Example | None = None
    overlays: list[Path] = field(default_factory=list)

    @property
    def homotopic_fc(self) -> float:
        """Mean FC of each region with its mirror region; NaN for an atlas whose names have no sides."""
        place = {name: index for index, name in enumerate(self.regions)}
        pairs = [
            (place[name], place[name.removesuffix(left) + right])
            for left, right in HEMISPHERES
            for name in self.regions
            if name.endswith(left) and name.removesuffix(left) + right in place
        ]
        values = np.array([self.mean_fc_RR[pair] for pair in pairs])
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def median(self, column: str) -> float:
        """Median of a column of `scans`, NaN where no scan has it."""
        return float(self.scans[column].median()) if self.scans[column].notna().any() else float("nan")


@dataclass(frozen=True)
class Example:
    """The series of one scan before (None: only the denoised series was given) and after denoising."""

    before_TR: np.ndarray | None
    after_TR: np.ndarray
    fd_mm_T: np.ndarray | None
    kept_T: np.ndarray


def inspect(results: Path, strategy: str, dataset: str, batches: list[str], *, num_overlays: int) -> Quality | None:
    """Read a dataset's tables under one strategy; None when none of its scans is usable."""
    tables = [read_arrow(results / "correlate" / strategy / dataset / f"{batch}.arrow") for batch in batches]
    regions, metadata = region_names(tables[0]), tables[0].schema.metadata
    kind = metadata.get(b"kind", b"correlation").decode()
    totals_E = np.zeros(len(regions) * (len(regions) - 1) // 2)
    counts_E = np.zeros(len(totals_E), dtype=int)
    frames, coverages = [], []
    for table in tables:
        usable = table.filter([outcome == OK for outcome in table["outcome"].to_pylist()])
        if usable.num_rows == 0:
            continue
        fc_NE = edges(usable)
        values_NE = fc_NE if kind in UNBOUNDED or metadata.get(b"fisher_z") == b"true" else fisher_z(fc_NE)
        totals_E = totals_E + np.nansum(values_NE, axis=0)
        counts_E = counts_E + np.isfinite(values_NE).sum(axis=0)
        frame = _scan_numbers(usable, _row_means(values_NE if kind in UNBOUNDED else np.tanh(values_NE)))
        frames.append(frame)
        covered = usable["coverage"].take(frame["row"].to_list()).to_pylist()
        coverages += [np.asarray(row, dtype=float) for row in covered if row is not None]
    if not frames:
        return None
    mean_E = np.divide(totals_E, counts_E, out=np.full(len(totals_E), np.nan), where=counts_E > 0)
    return Quality(
        dataset=dataset,
        atlas=atlas_name(tables[0]),
        strategy=(metadata.get(b"strategy") or b"n/a").decode(),
        kind=kind,
        regions=regions,
        scans=pd.concat(frames, ignore_index=True),
        mean_fc_RR=square((mean_E if kind in UNBOUNDED else np.tanh(mean_E))[None], len(regions))[0],
        coverage_NR=np.stack(coverages) if coverages else np.empty((0, len(regions))),
        example=_example(results, strategy, dataset, batches, len(regions)),
        overlays=_overlays(results, dataset, {scan for table in tables for scan in table["scan"].to_pylist()})[
            :num_overlays
        ],
    )


def edges(usable: pa.Table) -> np.ndarray:
    """The `fc` of connectome rows that are all ok, N×E in float64."""
    flat = usable["fc"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(usable.num_rows, -1).astype(float)


def fisher_z(fc_NE: np.ndarray) -> np.ndarray:
    """Fisher z, the scale on which the field takes means; the clip keeps identical regions (r = 1) finite."""
    return np.arctanh(np.clip(fc_NE, -0.999999, 0.999999))


def _scan_numbers(usable: pa.Table, mean_fc_N: np.ndarray) -> pd.DataFrame:
    """One row a scan, in order of appearance, from one row a window; `row` is the scan's first row in `usable`.

    Kept volumes are added up over windows, the run's own numbers are taken once, mean FC is averaged.
    """
    columns = ["scan", "tr_s", "num_volumes", "num_kept", "residual_dof", "mean_fd_mm"]
    frame = usable.select(columns).to_pandas().assign(mean_fc=mean_fc_N, row=np.arange(usable.num_rows))
    once = dict.fromkeys(("row", "tr_s", "num_volumes", "residual_dof", "mean_fd_mm"), "first")
    grouped = (
        frame.groupby("scan", sort=False).agg(once | {"num_kept": "sum", "mean_fc": "mean"}).reset_index(drop=True)
    )
    return grouped.astype(dict.fromkeys(grouped.columns.drop("row"), float))


def _row_means(fc_NE: np.ndarray) -> np.ndarray:
    defined_NE = np.isfinite(fc_NE)
    counts_N = defined_NE.sum(axis=1)
    sums_N = np.where(defined_NE, fc_NE, 0.0).sum(axis=1)
    return np.divide(sums_N, counts_N, out=np.full(len(fc_NE), np.nan), where=counts_N > 0)


def _example(results: Path, strategy: str, dataset: str, batches: list[str], num_regions: int) -> Example | None:
    """The usable scan whose motion is nearest the dataset's median (the first where motion is unknown)."""
    for batch in batches:
        path = results / "denoise" / strategy / dataset / f"{batch}.arrow"
        if not path.is_file():
            continue
        table = read_arrow(path)
        light = table.select(["scan", "outcome", "mean_fd_mm"]).to_pandas()
        usable = light[light["outcome"] == OK]
        if usable.empty:
            continue
        distance = (usable["mean_fd_mm"] - usable["mean_fd_mm"].median()).abs()
        row = int(distance.idxmin()) if distance.notna().any() else int(usable.index[0])
        found = table.slice(row, 1).select(["fd_mm", "kept", "series"]).to_pylist()[0]
        after_TR = np.asarray(found["series"], dtype=float).reshape(-1, num_regions)
        return Example(
            before_TR=_series_before(
                results / "parcellate" / dataset / f"{batch}.arrow", light["scan"][row], num_regions
            ),
            after_TR=after_TR,
            fd_mm_T=None if found["fd_mm"] is None else np.asarray(found["fd_mm"], dtype=float),
            kept_T=np.ones(len(after_TR), bool) if found["kept"] is None else np.asarray(found["kept"], bool),
        )
    return None


def _series_before(path: Path, scan: str, num_regions: int) -> np.ndarray | None:
    if not path.is_file():
        return None
    table = read_arrow(path)
    names = table["scan"].to_pylist()
    if scan not in names:
        return None
    series = table.slice(names.index(scan), 1)["series"].to_pylist()[0]
    return None if series is None else np.asarray(series, dtype=float).reshape(-1, num_regions)


def _overlays(results: Path, dataset: str, scans: set[str]) -> list[Path]:
    """Figures of the study's scans; those of people who left it may lie beside them."""
    ending = "_desc-registration.png"
    found = sorted((results / "preprocess" / dataset).glob(f"*/figures/*{ending}"), key=lambda path: path.name)
    return [path for path in found if path.name.removesuffix(ending) in scans]


def censoring_limit(results: Path, strategy: str, dataset: str, batches: list[str]) -> float | None:
    """The framewise displacement above which volumes were censored: the strategy's own, else the study's.

    Read from the record beside the denoised table and from the strategy file that it names; None where nothing says so.
    """
    for batch in batches:
        path = results / "denoise" / strategy / dataset / f"{batch}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            own = Path(record["inputs"]["strategy"]["path"])
            if not own.is_file():
                return None
            settings = yaml.safe_load(own.read_text(encoding="utf-8")).get("settings") or {}
            return settings.get("fd_mm", record["settings"]["fd_mm"])
    return None
