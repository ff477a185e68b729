"""Quality of each dataset's scans, read from the tables the imaging stages left: numbers, one example, no images opened.

Shape suffixes: T volumes, R regions, E edges, N scans.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lcm.tables import OK, RUNS, atlas_name, read_arrow, read_tsv, region_names, square

HEMISPHERES = (("_L", "_R"), ("-L", "-R"), (" L", " R"))
"""How atlases mark a region's two sides at the end of its name."""


@dataclass
class Quality:
    """What one dataset's connectome, denoise, parcellate and preprocess tables say about its usable scans."""

    dataset: str
    atlas: str
    strategy: str
    regions: list[str]
    scans: pd.DataFrame
    """One row a usable scan: tr_s, num_volumes, num_kept, mean_fd_mm (NaN where unknown), mean_fc."""
    mean_fc_RR: np.ndarray
    coverage_NR: np.ndarray
    example: Example | None = None
    overlays: list[Path] = field(default_factory=list)
    dice_template: float = float("nan")

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


def inspect(results: Path, dataset: str, batches: list[str], *, num_overlays: int) -> Quality | None:
    """Read a dataset's tables; None when none of its scans is usable."""
    tables = [read_arrow(results / "correlate" / dataset / f"{batch}.arrow") for batch in batches]
    rows, coverages = [], []
    num_regions = len(region_names(tables[0]))
    total = np.zeros(num_regions * (num_regions - 1) // 2)
    counts = np.zeros(len(total), dtype=int)
    for table in tables:
        usable = table.filter([outcome == OK for outcome in table["outcome"].to_pylist()])
        if usable.num_rows == 0:
            continue
        fc_NE = usable["fc"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        fc_NE = fc_NE.reshape(usable.num_rows, -1).astype(float)
        # Means of Fisher z, as everywhere in the field; the clip keeps identical regions (r = 1) finite.
        z_NE = np.arctanh(np.clip(fc_NE, -0.999999, 0.999999))
        total = total + np.nansum(z_NE, axis=0)
        counts = counts + np.isfinite(z_NE).sum(axis=0)
        frame = usable.select(["tr_s", "num_volumes", "num_kept", "mean_fd_mm"]).to_pandas().astype(float)
        rows.append(frame.assign(mean_fc=_row_means(fc_NE)))
        coverages += [np.asarray(row, dtype=float) for row in usable["coverage"].to_pylist() if row is not None]
    if not rows:
        return None
    regions = region_names(tables[0])
    mean_E = np.tanh(np.divide(total, counts, out=np.full(len(total), np.nan), where=counts > 0))
    return Quality(
        dataset=dataset,
        atlas=atlas_name(tables[0]),
        strategy=(tables[0].schema.metadata.get(b"strategy") or b"n/a").decode(),
        regions=regions,
        scans=pd.concat(rows, ignore_index=True),
        mean_fc_RR=square(mean_E[None], len(regions))[0],
        coverage_NR=np.stack(coverages) if coverages else np.empty((0, len(regions))),
        example=_example(results, dataset, batches, len(regions)),
        overlays=_overlays(results, dataset)[:num_overlays],
        dice_template=_dice(results, dataset),
    )


def _row_means(fc_NE: np.ndarray) -> np.ndarray:
    defined_NE = np.isfinite(fc_NE)
    counts_N = defined_NE.sum(axis=1)
    sums_N = np.where(defined_NE, fc_NE, 0.0).sum(axis=1)
    return np.divide(sums_N, counts_N, out=np.full(len(fc_NE), np.nan), where=counts_N > 0)


def _example(results: Path, dataset: str, batches: list[str], num_regions: int) -> Example | None:
    """The usable scan whose motion is nearest the dataset's median (the first where motion is unknown)."""
    for batch in batches:
        path = results / "denoise" / dataset / f"{batch}.arrow"
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


def _overlays(results: Path, dataset: str) -> list[Path]:
    return sorted((results / "preprocess" / dataset / "figures").glob("*_desc-registration.png"))


def _dice(results: Path, dataset: str) -> float:
    tables = [read_tsv(path, RUNS) for path in sorted((results / "preprocess" / dataset).glob("*_runs.tsv"))]
    dice = pd.concat(tables)["dice_template"].dropna() if tables else pd.Series(dtype=float)
    return float(dice.median()) if len(dice) else float("nan")


def censoring_limit(results: Path, dataset: str, batches: list[str]) -> float | None:
    """The framewise displacement above which volumes were censored, from the record beside the denoised table."""
    for batch in batches:
        path = results / "denoise" / dataset / f"{batch}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))["settings"].get("fd_mm")
    return None
