"""Tables of results: what models answered, how good it was, what it cost, and what was compared with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lcm.tables import SCAN_KEY, Table, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCORES = Table(
    "scores",
    {
        "protocol": "text",
        "select": "text",
        "model": "text",
        "group": "text",
        "task": "text",
        "subset": "text",
        "cohort": "text",
        "metric": "text",
        "value": "optional number",
        "ci_low": "optional number",
        "ci_high": "optional number",
        "chance": "optional number",
        "num_people": "count",
        "num_per_level": "optional text",
        "training_people": "optional text",
    },
    key=("protocol", "model", "task", "subset", "cohort", "metric"),
)
"""A row a metric. `select`: validation, or test where the tested people chose the epoch (optimistic). `group`: of the
architecture. `subset`: all, low-motion or matched. `chance`: what a guess scores, where it is known. `training_people`:
listed, or unknown where the weights came from elsewhere and may have seen the test people."""
COMPARISONS = Table(
    "comparisons",
    {
        "protocol": "text",
        "task": "text",
        "metric": "text",
        "model": "text",
        "reference": "text",
        "difference": "optional number",
        "ci_low": "optional number",
        "ci_high": "optional number",
        "p": "optional number",
        "p_holm": "optional number",
        "p_corrected_t": "optional number",
        "method": "text",
        "num_people": "count",
        "num_folds": "count",
    },
    key=("protocol", "task", "metric", "model", "reference"),
)
"""A row a model, against one reference, on the same people: `p_holm` over all rows of a protocol, `p_corrected_t` of
Nadeau and Bengio's t over folds."""
DECODABILITY = Table(
    "decodability",
    {
        "protocol": "text",
        "model": "text",
        "task": "text",
        "fold": "count",
        "decoded": "text",
        "metric": "text",
        "value": "optional number",
        "chance": "optional number",
        "num_train": "count",
        "num_test": "count",
        "note": "optional text",
    },
    key=("protocol", "model", "task", "fold", "decoded"),
)
"""How well site and head motion are read from a network's embedding of people it has not seen."""
OVERLAP = Table(
    "overlap",
    {
        "protocol": "text",
        "model": "text",
        "task": "text",
        "fold": "count",
        "corpus": "text",
        "num_corpus": "optional count",
        "num_test": "count",
        "num_seen": "optional count",
        "status": "text",
    },
    key=("protocol", "model", "task", "fold", "corpus"),
)
"""Test people of a fold who are among the people that its weights learned from or were chosen by; missing where nobody
knows."""
COSTS = Table(
    "costs",
    {
        "protocol": "text",
        "model": "text",
        "task": "text",
        "device": "optional text",
        "num_parameters": "optional count",
        "pretrain_seconds": "optional number",
        "finetune_seconds": "optional number",
        "pretrain_ms_per_scan": "optional number",
        "finetune_ms_per_scan": "optional number",
    },
    key=("protocol", "model", "task"),
)
"""What a row took, summed over folds (seconds) or their mean (ms a scan and epoch)."""
BALANCE = Table(
    "balance",
    {
        "protocol": "text",
        "model": "text",
        "task": "text",
        "cohort": "text",
        "covariate": "text",
        "smd_before": "optional number",
        "smd_after": "optional number",
        "num_pairs": "count",
    },
    key=("protocol", "model", "task", "cohort", "covariate"),
)
"""Standardised mean differences of age, sex and head motion between two levels, before and after matching."""
TOKEN_ATTENTION = Table(
    "token attention",
    {
        "protocol": "text",
        "model": "text",
        "task": "text",
        "level": "optional text",
        "region": "text",
        "share": "number",
        "num_people": "count",
    },
    key=("protocol", "model", "task", "level", "region"),
)
"""Where the tokens of a task looked in test people: shares of regions, mean over people, sum 1 a level."""
PEOPLE_ANSWERED = Table(
    "predictions",
    {"person_id": "text", "num_scans": "count", "outcome": "text", "caution": "optional text"},
    key=("person_id",),
)
"""A row a person whom a bundle was asked about; the answers' columns come from `with_answers`. `caution` says what nobody
knows of the weights."""
SCANS_ANSWERED = Table(
    "scans answered",
    {
        "dataset": "text",
        "scan": "text",
        "participant_id": "text",
        "person_id": "text",
        "num_connectomes": "count",
        "outcome": "text",
        "caution": "optional text",
    },
    key=SCAN_KEY,
)
"""A row a scan of the index, answered about or not."""
ATTENTION = Table(
    "attention",
    {"target": "text", "level": "optional text", "region": "text", "share": "number", "num_people": "count"},
    key=("target", "level", "region"),
)
"""Where each token of a network looked: shares of regions, mean over people, sum 1 a token; `level` of a continuous BEI is
missing."""


def predictions_schema() -> pa.Schema:
    """The `predictions` table: a row a person of a test fold (and truth, where a person's scans have several).

    `levels` and `scores` are lists of one length, the positive level last; of a continuous target `levels` is empty and
    `scores` the value. `threshold`: score of the positive level from which on a person is called positive, chosen by the
    fold's validation people. `layers`: the layer, from 1, that each level's score came from, of networks with layers.
    """
    import pyarrow as pa

    text, count, number = pa.string(), pa.int32(), pa.float64()
    columns = {
        **dict.fromkeys(("protocol", "select", "model", "architecture", "group", "task"), text),
        "fold": count,
        **dict.fromkeys(("person_id", "cohort", "site"), text),
        "age": number,
        "sex": text,
        "mean_fd_mm": number,
        "num_kept": number,
        "num_scans": count,
        "num_train": count,
        "truth": text,
        "prediction": text,
        "levels": pa.list_(text),
        "scores": pa.list_(number),
        "threshold": number,
        "layers": pa.list_(count),
    }
    return pa.schema(columns.items())


def write_predictions(predictions: pd.DataFrame, path: Path) -> None:
    """Write the `predictions` table; a column that is not there is missing in every row."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = predictions_schema()
    unknown = sorted(set(predictions.columns) - set(schema.names))
    if unknown:
        raise ValueError(f"{path}: predictions have columns {unknown}, which no predictions table has")
    # A table without rows has columns of no type, which Arrow would take for numbers.
    columns = predictions.reindex(columns=schema.names).astype("object")
    table = pa.Table.from_pandas(columns, schema=schema, preserve_index=False)
    with write_atomically(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a `predictions` table; ValueError for a file that is none."""
    import pyarrow.parquet

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such predictions table")
    table = pyarrow.parquet.read_table(path)
    if not table.schema.equals(predictions_schema(), check_metadata=False):
        raise ValueError(f"{path}: not a predictions table of this version; run evaluate again")
    return table.to_pandas()


def evaluated(results: Path, name: str, *, protocols: Sequence[str] = ()) -> list[Path]:
    """Files of that name that `evaluate` left for each model and task, of those protocols (none: of all), sorted."""
    found = sorted((results / "evaluate").glob(f"*/*/*/{name}"))
    return [path for path in found if not protocols or path.parts[-4] in protocols]


def with_answers(table: Table, questions: Mapping[str, Sequence[str]]) -> Table:
    """The table with the columns of a bundle's answers, for BEI → levels (none where continuous).

    A categorical BEI has its most probable level, the layer of the network that this level's score came from (counted
    from 1), and `<BEI>=<level>`, the probability of each level; a continuous one has its value.
    """
    columns = dict(table.columns)
    for name, levels in questions.items():
        columns |= {name: "optional text", f"{name}_layer": "optional count"} if levels else {name: "optional number"}
        columns |= dict.fromkeys((f"{name}={level}" for level in levels), "optional number")
    return replace(table, columns=columns)
