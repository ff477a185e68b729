"""Where every row and every scan went: the cohort flow and the outcome counts, which must add up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lcm.tables import OK, read_arrow

SCAN_STAGES = ("index", "preprocess", "parcellate", "denoise", "correlate")
"""Stages a scan passes, in running order; a ready series enters at one of the last two."""

LEDGERS = (
    ("rows read", ("rows excluded",), "rows kept"),
    ("people described", ("people without a scan",), "people matched"),
    ("scans indexed", ("scans without a phenotype row",), "scans matched"),
)
"""The sums of the `cohort_flow` table: start, what goes, what is left."""

CELL_STEPS = ("unknown code", "implausible value", "set aside", "column absent")
"""Steps that count cells left missing; they stand beside the sums."""

_PARTICIPANT = re.compile(
    r"\b[A-Za-z]+(?:_[A-Za-z0-9]+)?_\d{7}\b"
    r"|\b(?:sub|ses)-[A-Za-z0-9]+(?:_[A-Za-z0-9]+-[A-Za-z0-9]+)*(?:_[A-Za-z0-9]+)*"
)
_FILE = re.compile(r"(?:[^\s'\"(]*/)?[^\s'\"(/]+\.(?:nii|tsv|json|mat|1D|csv|txt|npy|feather)(?:\.gz)?\b")


def public(outcome: str) -> str:
    """An outcome without file names and participant labels, so that a page may show it and equal reasons count as one."""
    return _PARTICIPANT.sub("one scan", _FILE.sub("a file", outcome)).strip()


def final_outcomes(results: Path, scans: pd.DataFrame, runs: Mapping[str, pd.DataFrame], strategy: str) -> pd.DataFrame:
    """Last outcome of every scan of the index and the stage that decided it: dataset, scan, stage, outcome.

    The last word is the connectome table's under `strategy`, where all windows of a scan say the same; `runs` holds each
    dataset's runs table. Raises ValueError when a batch's connectomes and the index do not hold the same scans: a scan
    was lost or invented.
    """
    batches = []
    for (dataset, batch), indexed in scans.groupby(["dataset", "batch"], sort=True):
        final = _outcomes(results / "correlate" / strategy / str(dataset) / f"{batch}.arrow")
        lost, invented = set(indexed["scan"]) - set(final.index), set(final.index) - set(indexed["scan"])
        if lost or invented or final.index.duplicated().any():
            raise ValueError(
                f"{dataset}, batch {batch}, strategy {strategy}: outcomes do not add up: of {len(indexed)} indexed scans "
                f"{len(lost)} have no outcome, {len(invented)} outcomes have no indexed scan, "
                f"{int(final.index.duplicated().sum())} are counted twice; run correlate of this batch again"
            )
        said = {"index": _by_scan(indexed), "preprocess": _by_scan(runs[str(dataset)])}
        said |= _said(results, strategy, str(dataset), str(batch))
        decided = _deciding_stage(said, final)
        columns = {"dataset": dataset, "scan": final.index, "stage": decided, "outcome": final.to_numpy()}
        batches.append(pd.DataFrame(columns))
    return pd.concat(batches, ignore_index=True)


def _by_scan(table: pd.DataFrame) -> pd.Series:
    return table.set_index("scan")["outcome"]


def _said(results: Path, strategy: str, dataset: str, batch: str) -> dict[str, pd.Series]:
    """Outcomes in the tables between preprocess and correlate; a ready series passes none or one of these stages."""
    tables = {"parcellate": results / "parcellate" / dataset, "denoise": results / "denoise" / strategy / dataset}
    paths = {stage: folder / f"{batch}.arrow" for stage, folder in tables.items()}
    return {stage: _outcomes(path) for stage, path in paths.items() if path.is_file()}


def _outcomes(path: Path) -> pd.Series:
    """Outcome by scan; a scan stands twice only where a row is repeated or its windows disagree."""
    table = read_arrow(path)
    rows = [name for name in ("scan", "window") if name in table.schema.names]
    frame = table.select([*rows, "outcome"]).to_pandas()
    shown = frame.duplicated(rows) | ~frame.duplicated(["scan", "outcome"])
    return _by_scan(frame[shown])


def _deciding_stage(said: Mapping[str, pd.Series], final: pd.Series) -> list[str]:
    """The first stage whose table says anything but ok, for every scan of `final`; correlate for those that are ok."""
    refused = {name: set(outcomes[outcomes != OK].index) for name, outcomes in said.items()}
    return [
        next((name for name in SCAN_STAGES if outcome != OK and scan in refused.get(name, ())), SCAN_STAGES[-1])
        for scan, outcome in final.items()
    ]


def count_outcomes(outcomes: pd.DataFrame, num_indexed: Mapping[str, int]) -> pd.DataFrame:
    """The `outcomes` table: scans of each dataset by outcome, ok first; raises ValueError unless they add up to the index."""
    shown = outcomes.assign(outcome=outcomes["outcome"].map(public))
    counts = shown.groupby(["dataset", "outcome"]).size().rename("count").reset_index()
    for dataset, expected in num_indexed.items():
        found = int(counts.loc[counts["dataset"] == dataset, "count"].sum())
        if found != expected:
            raise ValueError(f"{dataset}: outcomes do not add up: {found} outcomes for {expected} indexed scans")
    order = counts.assign(rank=(counts["outcome"] != OK).astype(int)).sort_values(["dataset", "rank", "outcome"])
    return order.drop(columns="rank").reset_index(drop=True)


@dataclass(frozen=True)
class Step:
    """One line of a cohort's flow; `kind` is start, minus, total or beside."""

    kind: str
    label: str
    count: int


@dataclass(frozen=True)
class CohortFlow:
    """A cohort from its own tables to usable connectomes."""

    cohort: str
    steps: list[Step]


def cohort_flows(flow: pd.DataFrame, bei: pd.DataFrame, outcomes: pd.DataFrame) -> list[CohortFlow]:
    """One flow a cohort, in the order of the `cohort_flow` table; raises ValueError where a sum does not hold."""
    known = outcomes.merge(bei[["dataset", "scan", "cohort"]], on=["dataset", "scan"], how="left", validate="1:1")
    if known["cohort"].isna().any():
        raise ValueError(
            f"bei.tsv: {int(known['cohort'].isna().sum())} indexed scans have no row; run harmonize again after index"
        )
    flows = []
    for cohort, rows in flow.groupby("cohort", sort=False):
        steps = [step for ledger in LEDGERS for step in _ledger(str(cohort), rows, *ledger)]
        scans = known[known["cohort"] == cohort]
        indexed = int(rows.loc[rows["step"] == "scans indexed", "count"].sum())
        if indexed != len(scans):
            raise ValueError(f"cohort {cohort}: {indexed} scans in cohort_flow.tsv, {len(scans)} with an outcome")
        beside = rows[rows["step"].isin(CELL_STEPS)]
        cells = [
            Step("beside", f"cells left missing, {row.step}: {row.reason}", int(row.count_)) for row in _named(beside)
        ]
        flows.append(CohortFlow(str(cohort), [*steps, *_to_connectomes(scans), *cells]))
    return flows


def _named(rows: pd.DataFrame) -> list[Any]:
    # `count` is a method of the tuples that itertuples makes.
    return list(rows.rename(columns={"count": "count_"}).itertuples())


def _ledger(cohort: str, rows: pd.DataFrame, start: str, minus: tuple[str, ...], total: str) -> list[Step]:
    counts = rows.groupby("step")["count"].sum()
    if start not in counts:
        return []
    gone = rows[rows["step"].isin(minus) & (rows["count"] > 0)]
    left = int(counts[start]) - int(gone["count"].sum())
    if left != int(counts.get(total, 0)):
        raise ValueError(
            f"cohort {cohort}: flow does not add up: {int(counts[start])} {start} − {int(gone['count'].sum())} "
            f"{' and '.join(minus)} is {left}, but {total} says {int(counts.get(total, 0))}"
        )
    lines = [Step("minus", _label(row.step, row.reason), int(row.count_)) for row in _named(gone)]
    return [Step("start", start, int(counts[start])), *lines, Step("total", total, left)]


def _label(step: str, reason: str) -> str:
    """What a line of the flow says: `all` is no reason, and an excluded row is explained by its reason alone."""
    if reason == "all":
        return step
    return reason if step == "rows excluded" else f"{step}: {reason}"


def _to_connectomes(scans: pd.DataFrame) -> list[Step]:
    """From the cohort's indexed scans to connectomes, by outcome."""
    counts = scans["outcome"].map(public).value_counts().sort_index()
    lines = [Step("minus", str(outcome), int(count)) for outcome, count in counts.items() if outcome != OK]
    usable = int(counts.get(OK, 0))
    return [Step("start", "scans indexed", len(scans)), *lines, Step("total", "connectomes", usable)]
