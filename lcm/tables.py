"""Every table on disk: its columns and types, one reader, one writer, and no half-written file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

Kind = Literal["text", "optional text", "number", "optional number", "count", "optional count"]

OK = "ok"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
MISSING = "n/a"


def excluded(reason: str) -> str:
    """The outcome of a scan that a rule of the study leaves out."""
    return f"excluded: {reason}"


def failed(reason: str) -> str:
    """The outcome of a scan that could not be processed."""
    return f"failed: {reason}"


@dataclass(frozen=True)
class Table:
    """A TSV that people look at: columns in order, their kinds, and the columns that name a row."""

    name: str
    columns: dict[str, Kind]
    key: tuple[str, ...]
    more: Kind | None = None
    """Kind of further columns a file may bring (the BEIs of the vocabulary, QC numbers); None: no others."""
    check: Callable[[pd.DataFrame], None] | None = None
    """A law over several rows; raises ValueError."""


def hashed(key: str) -> str:
    """The first eight hex digits of a key's SHA-256: enough to find the row again, and it names no one."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def check_folds(folds: pd.DataFrame) -> None:
    """Stop unless each person has one role in each fold and is tested exactly once.

    Raises ValueError with hashed person keys: nothing that is trained on such a table means anything.
    """
    twice = folds.loc[folds.duplicated(["person_id", "fold"]), "person_id"].unique()
    if len(twice):
        raise ValueError(f"folds: {len(twice)} people have several roles in one fold (sha256 {hashed_names(twice)})")
    strangers = sorted(set(folds["role"]) - {TRAIN, VALIDATION, TEST})
    if strangers:
        raise ValueError(f"folds: role {', '.join(strangers)}; known: {TRAIN}, {VALIDATION}, {TEST}")
    num_folds = folds["fold"].nunique()
    by_person = folds.assign(tested=folds["role"] == TEST).groupby("person_id")
    wrong = (by_person["tested"].sum() != 1) | (by_person["fold"].count() != num_folds)
    if wrong.any():
        names = hashed_names(wrong.index[wrong])
        raise ValueError(
            f"folds: {int(wrong.sum())} people are not tested exactly once over {num_folds} folds (sha256 {names})"
        )


def hashed_names(people: Iterable[str], most: int = 5) -> str:
    """Hashes of the first few people, for an error message."""
    return ", ".join(sorted(map(hashed, people))[:most])


SCAN_KEY = ("dataset", "scan")

SCANS = Table(
    "scans",
    {
        "dataset": "text",
        "batch": "text",
        "participant_id": "text",
        "session_id": "optional text",
        "task": "optional text",
        "run": "optional text",
        "scan": "text",
        "input": "text",
        "bold": "optional text",
        "t1w": "optional text",
        "mask": "optional text",
        "confounds": "optional text",
        "series": "optional text",
        "space": "optional text",
        "tr_s": "optional number",
        "num_volumes": "optional count",
        "note": "optional text",
        "fingerprint": "text",
        "outcome": "text",
    },
    key=SCAN_KEY,
)
RUNS = Table(
    "runs",
    {
        "dataset": "text",
        "participant_id": "text",
        "scan": "text",
        "bold": "optional text",
        "mask": "optional text",
        "confounds": "optional text",
        "tr_s": "optional number",
        "num_volumes": "optional count",
        "template": "optional text",
        "slice_timing": "optional text",
        "num_non_steady": "optional count",
        "mean_fd_mm": "optional number",
        "dice_template": "optional number",
        "dice_t1w": "optional number",
        "outcome": "text",
    },
    key=SCAN_KEY,
)
BEI = Table(
    "bei",
    {
        "dataset": "text",
        "scan": "text",
        "cohort": "text",
        "participant_id": "text",
        "session_id": "optional text",
        "person_id": "text",
        "site": "optional text",
    },
    key=SCAN_KEY,
    more="optional text",
)
COHORT_FLOW = Table(
    "cohort_flow",
    {"cohort": "text", "step": "text", "reason": "optional text", "count": "count"},
    key=("cohort", "step", "reason"),
)
FOLDS = Table(
    "folds", {"person_id": "text", "fold": "count", "role": "text"}, key=("person_id", "fold"), check=check_folds
)
SCORES = Table(
    "scores",
    {
        "model": "text",
        "task": "text",
        "cohort": "text",
        "metric": "text",
        "value": "optional number",
        "ci_low": "optional number",
        "ci_high": "optional number",
        "num_people": "count",
        "num_per_level": "optional text",
    },
    key=("model", "task", "cohort", "metric"),
)
EXPORTED = Table(
    "exported",
    {
        "dataset": "text",
        "participant_id": "text",
        "scan": "text",
        "outcome": "text",
        "file": "optional text",
        "sha256": "optional text",
    },
    key=("scan", "file"),
)
OUTCOMES = Table("outcomes", {"dataset": "text", "outcome": "text", "count": "count"}, key=("dataset", "outcome"))

_DTYPES = {"text": "str", "number": "float64", "count": "Int64"}


def _schema(table: Table, columns: Sequence[str]) -> Any:
    import pandera.pandas as pa

    def column(kind: Kind) -> pa.Column:
        nullable = kind.startswith("optional ")
        return pa.Column(_DTYPES[kind.removeprefix("optional ")], nullable=nullable, coerce=True)

    known = {name: column(kind) for name, kind in table.columns.items()}
    further = {name: column(table.more) for name in columns if table.more and name not in known}
    return pa.DataFrameSchema(known | further, strict=True, unique=list(table.key), name=table.name)


def _validate(frame: pd.DataFrame, table: Table, path: Path) -> pd.DataFrame:
    """The frame with its columns typed and in order; a defect stops with file, column and count, never with a row."""
    import pandera.errors

    if table.check and set(table.columns) <= set(frame.columns):
        table.check(frame)
    try:
        valid = _schema(table, list(frame.columns)).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        # A missing or unknown column is a defect of the table: its name stands where another defect's value would.
        of_table = cases["check"].astype("str").str.startswith("column_in_")
        cases["column"] = cases["column"].where(~of_table, cases["failure_case"])
        found = cases.groupby(["column", "check"], dropna=False).size()
        lines = [f"column {column}: {check} ({count} times)" for (column, check), count in found.items()]
        raise ValueError(f"{path}: not a valid {table.name} table: {'; '.join(lines)}") from None
    further = [name for name in valid.columns if name not in table.columns]
    return valid[[*table.columns, *further]]


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path in the same folder to write to; it becomes `path` only when the block ends well and the bytes are on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffixes stay last because nibabel and others choose the format by them.
    # Jobs on several machines may write one path at a time, and their process ids may be equal.
    temporary = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def relative_path(path: str | Path) -> str:
    """A path as tables write it: relative to the working directory when below it, else absolute."""
    found = Path(path).absolute()
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)


def write_tsv(frame: pd.DataFrame, path: Path, table: Table) -> None:
    """Write a validated table; missing cells become n/a (BIDS)."""
    valid = _validate(frame, table, path)
    with write_atomically(path) as temporary:
        valid.to_csv(temporary, sep="\t", index=False, na_rep=MISSING, lineterminator="\n")


def read_tsv(path: Path, table: Table) -> pd.DataFrame:
    """Read and validate a table; n/a becomes missing, and no other text does."""
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {table.name} table")
    frame = pd.read_csv(path, sep="\t", dtype="str", na_values=[MISSING], keep_default_na=False, encoding="utf-8")
    return _validate(frame, table, path)


def write_arrow(table: pa.Table | pa.RecordBatchReader, path: Path) -> None:
    """Write an Arrow IPC file, uncompressed so that readers can map it; of a reader one batch at a time is in memory."""
    import pyarrow as pa

    batches = table.to_batches() if isinstance(table, pa.Table) else table
    with write_atomically(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow IPC file into memory; nothing is read until a column is used."""
    import pyarrow as pa

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such Arrow table")
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


# ── tables of arrays: one row a scan, regions named in the schema's metadata ────────────────────


def _array_schema(own: dict[str, pa.DataType], regions: Sequence[str], atlas: str, **more: str) -> pa.Schema:
    """Schema of a table of arrays: what names and times a scan, then the table's own columns."""
    import pyarrow as pa

    columns: dict[str, pa.DataType] = {
        "dataset": pa.string(),
        "participant_id": pa.string(),
        "scan": pa.string(),
        "outcome": pa.string(),
        "tr_s": pa.float64(),
        "num_volumes": pa.int32(),
        "coverage": pa.list_(pa.float32()),
    }
    fields = [pa.field(name, kind) for name, kind in (columns | own).items()]
    return pa.schema(fields, metadata={"regions": json.dumps(list(regions)), "atlas": atlas, **more})


def series_schema(regions: Sequence[str], atlas: str) -> pa.Schema:
    """Parcellated series: `series` is T×R, row-major, raw units; `coverage` the share of each region inside the mask.

    `inputs` is a hash of all that shaped them: the row is used again as long as it stays the same.
    """
    import pyarrow as pa

    own = {"confounds": pa.string(), "inputs": pa.string(), "series": pa.list_(pa.float64())}
    return _array_schema(own, regions, atlas)


def denoised_schema(regions: Sequence[str], atlas: str, strategy: str) -> pa.Schema:
    """Denoised series: all volumes, NaN where one was censored; `kept` marks those that may enter a connectome."""
    import pyarrow as pa

    own = {
        "num_kept": pa.int32(),
        "residual_dof": pa.float64(),
        "mean_fd_mm": pa.float64(),
        "fd_mm": pa.list_(pa.float32()),
        "kept": pa.list_(pa.bool_()),
        "series": pa.list_(pa.float32()),
    }
    return _array_schema(own, regions, atlas, strategy=strategy)


def connectome_schema(
    regions: Sequence[str], atlas: str, strategy: str, *, kind: str = "correlation", fisher_z: bool = False
) -> pa.Schema:
    """Connectomes: `fc` is the upper triangle in `numpy.triu_indices(R, k=1)` order; NaN where a region is uncovered.

    A scan has a row a window: `window` counts from 0 and `window_start` is its first volume; a whole run is window 0.
    """
    import pyarrow as pa

    num_edges = len(regions) * (len(regions) - 1) // 2
    own = {
        "num_kept": pa.int32(),
        "residual_dof": pa.float64(),
        "mean_fd_mm": pa.float64(),
        "window": pa.int32(),
        "window_start": pa.int32(),
        "fc": pa.list_(pa.float32(), num_edges),
    }
    return _array_schema(own, regions, atlas, strategy=strategy, kind=kind, fisher_z=json.dumps(fisher_z))


def square(edges_NE: NDArray[np.float32], num_regions: int) -> NDArray[np.float32]:
    """Symmetric FC matrices (N, R, R), float32, unit diagonal, from upper triangles; NaN stays NaN."""
    import numpy as np

    upper = np.triu_indices(num_regions, k=1)
    fc_NRR = np.ones((len(edges_NE), num_regions, num_regions), dtype=np.float32)
    fc_NRR[:, upper[0], upper[1]] = edges_NE
    fc_NRR[:, upper[1], upper[0]] = edges_NE
    return fc_NRR


def region_names(table: pa.Table) -> list[str]:
    """Region names, in column order, of a table of arrays."""
    return json.loads(table.schema.metadata[b"regions"])


def atlas_name(table: pa.Table) -> str:
    """Name of the atlas of a table of arrays."""
    return table.schema.metadata[b"atlas"].decode()
