"""What the preprocess stage did to each dataset's runs: template, slice timing, distortion correction, overlap."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lcm.tables import OK, RUNS, read_tsv

COLUMNS = (
    "Dataset",
    "Runs",
    "Template",
    "Slice timing",
    "Distortion correction",
    "Dummy volumes",
    "Template Dice",
    "T1w Dice",
)

DISTORTION = {"builtin": "none (built-in backend)", "fmriprep": "fMRIPrep's own"}
"""By preprocess backend: the built-in one reads no field map."""
DISTORTION_OF_INPUT = {"hcp": "HCP pipelines' own", "ukb": "UK Biobank's own"}
"""Inputs whose images came corrected (Glasser et al. 2013; Alfaro-Almagro et al. 2018), whatever the backend."""


@dataclass(frozen=True)
class PreprocessingRow:
    """One dataset on the page; `cells` follow COLUMNS after the first."""

    dataset: str
    cells: list[str]
    warning: str | None


def read_runs(results: Path, dataset: str, participants: Iterable[str]) -> pd.DataFrame:
    """The runs tables of a dataset's participants in one, without the paths; empty where its images were not preprocessed here.

    Tables of people who are no longer in the study may lie beside them and do not count.
    """
    folder = results / "preprocess" / dataset
    paths = [folder / name / f"{name}_runs.tsv" for name in sorted(set(participants))]
    tables = [read_tsv(path, RUNS) for path in paths if path.is_file()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(RUNS.columns))


def preprocessing_rows(
    results: Path, runs: Mapping[str, pd.DataFrame], inputs: Mapping[str, str]
) -> list[PreprocessingRow]:
    """One row a dataset with runs tables; `inputs` gives each dataset's kind of input."""
    return [
        _row(dataset, table[table["outcome"] == OK], _distortion(results, table, inputs[dataset]))
        for dataset, table in runs.items()
        if (table["outcome"] == OK).any()
    ]


def _row(dataset: str, runs: pd.DataFrame, distortion: str) -> PreprocessingRow:
    templates = sorted(runs["template"].dropna().unique())
    cells = [
        str(len(runs)),
        _counted(runs["template"]),
        _counted(runs["slice_timing"]),
        distortion,
        _span(runs["num_non_steady"]),
        _median(runs["dice_template"]),
        _median(runs["dice_t1w"]),
    ]
    warning = (
        f"{dataset}: runs were brought to {len(templates)} templates ({', '.join(templates)}), so its regions do not lie in "
        "one space. Choose one in preprocess.template and run preprocess again."
        if len(templates) > 1
        else None
    )
    return PreprocessingRow(dataset, cells, warning)


def _counted(values: pd.Series) -> str:
    """The value all runs share, or every value with its number of runs, the most frequent first."""
    counts = values.fillna("n/a").value_counts()
    return str(counts.index[0]) if len(counts) == 1 else ", ".join(f"{text} ({n})" for text, n in counts.items())


def _span(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return "n/a"
    low, high = int(known.min()), int(known.max())
    return str(low) if low == high else f"{low}–{high}"


def _median(values: pd.Series) -> str:
    median = float(values.astype(float).median())
    return "n/a" if math.isnan(median) else f"{median:.2f}"


def _distortion(results: Path, runs: pd.DataFrame, kind: str) -> str:
    """What corrected the phase-encoding distortion, from the records beside the runs tables."""
    if kind in DISTORTION_OF_INPUT:
        return DISTORTION_OF_INPUT[kind]
    people = runs[["dataset", "participant_id"]].drop_duplicates().itertuples(index=False)
    records = [results / "preprocess" / dataset / name / "record.json" for dataset, name in people]
    read = (json.loads(path.read_text(encoding="utf-8")) for path in records if path.is_file())
    backends = {record["settings"]["backend"] for record in read}
    return ", ".join(DISTORTION[backend] for backend in sorted(backends)) or "n/a"
