"""Every table on disk: its columns and types, one reader, one writer, and no half-written file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Kind = Literal["text", "optional text", "number", "optional number", "count", "optional count"]

OK = "ok"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
UNUSED = "unused"
"""Of a person with scans in the test sets of two folds: tested in one of them, on no side in the other."""
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
    """Stop unless no one is on two sides of a fold.

    The law: each person has one role in each fold, and so has each group; a person is tested in one fold at most; every
    fold has people to train, validate and test, or none of them anyone to validate (where those who are tested choose the
    epoch). Who is `unused` is on no side of that fold.
    Raises ValueError with hashed person keys: nothing that is trained on such a table means anything.
    """
    strangers = sorted(set(folds["role"].astype("str")) - {TRAIN, VALIDATION, TEST, UNUSED})
    if strangers:
        raise ValueError(f"folds: role {', '.join(strangers)}; known: {TRAIN}, {VALIDATION}, {TEST}, {UNUSED}")
    by_person = folds.assign(tested=folds["role"] == TEST).groupby("person_id")
    by_group = folds.groupby(["group_id", "fold"])
    broken = {
        "people have several rows in one fold": folds.duplicated(["person_id", "fold"]),
        "people lack a row in some fold": by_person["fold"].transform("size") < folds["fold"].nunique(),
        "people are tested in several folds": by_person["tested"].transform("sum") > 1,
        "people belong to several groups": by_person["group_id"].transform("nunique") > 1,
        "people share a group that is on several sides of one fold": by_group["role"].transform("nunique") > 1,
    }
    for law, rows in broken.items():
        people = folds.loc[rows, "person_id"].unique()
        if len(people):
            raise ValueError(f"folds: {len(people)} {law} (sha256 {hashed_names(people)})")
    needed = (TRAIN, VALIDATION, TEST) if (folds["role"] == VALIDATION).any() else (TRAIN, TEST)
    for role in needed:
        without = sorted(set(folds["fold"]) - set(folds.loc[folds["role"] == role, "fold"]))
        if without:
            raise ValueError(f"folds: fold {', '.join(map(str, without))} has no one to {role}")


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
        "group_id": "text",
    },
    key=SCAN_KEY,
    more="optional text",
)
"""`group_id` is the family where one is known, else the person: who shares it is never on two sides of a fold."""
LINKAGE = Table(
    "linkage", {"cohort": "text", "id": "text", "person": "text"}, key=("cohort", "id", "person"), more="optional text"
)
"""Who is one person across cohorts, written by the lab; of further columns `family` is read."""
COHORT_FLOW = Table(
    "cohort_flow",
    {"cohort": "text", "step": "text", "reason": "optional text", "count": "count"},
    key=("cohort", "step", "reason"),
)
FOLDS = Table(
    "folds",
    {"person_id": "text", "group_id": "text", "fold": "count", "role": "text"},
    key=("person_id", "fold"),
    check=check_folds,
)
LABELS = Table(
    "labels",
    {
        "cohort": "text",
        "bei": "text",
        "level": "optional text",
        "source": "text",
        "num_people": "count",
        "num_scans": "count",
    },
    key=("cohort", "bei", "level", "source"),
)
"""How often each level of each BEI was observed or assumed, and how often nothing is known (level n/a, source missing);
a continuous or label BEI has one level, `any`."""
CHECKED = Table(
    "checked",
    {
        "cohort": "text",
        "file": "text",
        "column": "text",
        "problem": "text",
        "value": "optional text",
        "count": "count",
    },
    key=("cohort", "file", "column", "problem", "value"),
)
"""What `lcm harmonize --check` found; a table without rows is a study whose phenotype tables hold no surprise."""
TABLE_ONE = Table(
    "table_one",
    {
        "cohort": "text",
        "group": "text",
        "variable": "text",
        "level": "optional text",
        "statistic": "text",
        "value": "optional text",
    },
    key=("cohort", "group", "variable", "level", "statistic"),
)
"""Table 1 of a paper, long: people of the study by diagnostic group; `<5*` is a suppressed cell (evaluation/suppression)."""
SITE_EFFECTS = Table(
    "site_effects",
    {
        "cohort": "text",
        "predicted": "text",
        "combat": "text",
        "metric": "text",
        "value": "optional number",
        "chance": "optional number",
        "num_people": "optional count",
        "num_sites": "optional count",
        "note": "optional text",
    },
    key=("cohort", "predicted", "combat"),
)
"""How well site and head motion are predicted from connectivity, before ComBat (`off`) and after (`on`)."""
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
OUTCOMES = Table(
    "outcomes", {"dataset": "text", "outcome": "text", "count": "optional count"}, key=("dataset", "outcome")
)
"""Scans by outcome; a count is missing where the report is public and the count small."""


FULL_DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "too large a file"}
"""What the system's errors for a write without room mean."""
_PROBE_BYTES = 1 << 16

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
    """A path in the same folder to write to; it becomes `path` only when the block ends well and the bytes are on disk.

    What killed writers of the same path left beside it is removed. Raises OSError that names `path` where the disk is
    full or the folder cannot be written to.
    """
    with _said_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path)
        temporary, descriptor = _locked(path)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except Exception as error:
        with _said_of(path):
            # safetensors has no OSError for it, and says it in the system's words.
            for code in (code for code in FULL_DISK if os.strerror(code) in str(error)):
                raise OSError(code, "") from None
            # torch says only that it failed: ask the disk itself.
            os.write(descriptor, bytes(_PROBE_BYTES))
            os.fsync(descriptor)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


def clear_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left, if its folder is there; what a living one writes is locked, and stays."""
    name = re.compile(rf"\.[0-9a-f]{{12}}\.{re.escape(path.name)}")
    beside = list(path.parent.iterdir()) if path.parent.is_dir() else []
    for leftover in [found for found in beside if name.fullmatch(found.name)]:
        # Locked, removed by another, of another user, or on a file system without locks, where nobody knows who lives.
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
            finally:
                os.close(descriptor)


def _locked(path: Path) -> tuple[Path, int]:
    """A new empty file beside `path` and its descriptor, which holds the lock until it is closed or its process dies."""
    while True:
        # The suffixes stay last because nibabel and others choose the format by them.
        # Jobs on several machines may write one path at a time, and their process ids may be equal.
        temporary = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Before the lock was ours another writer may have taken the file for a leftover.
        if temporary.exists():
            return temporary, descriptor
        os.close(descriptor)


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Errors of the disk name the file that was to be written and say what to do."""
    try:
        yield
    except OSError as error:
        reason = f"{FULL_DISK[error.errno]}; make room and start again" if error.errno in FULL_DISK else error.strerror
        raise OSError(error.errno, f"cannot be written: {reason}", str(path)) from None


def relative_path(path: str | Path) -> str:
    """A path as tables write it: relative to the working directory when below it, else absolute."""
    found = Path(path).absolute()
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)


def write_tsv(frame: pd.DataFrame, path: Path, table: Table) -> None:
    """Write a validated table; missing cells become n/a (BIDS)."""
    valid = _validate(frame, table, path)
    with write_atomically(path) as temporary:
        valid.to_csv(temporary, sep="\t", index=False, na_rep=MISSING, lineterminator="\n")


def read_tsv(path: Path, table: Table, only: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read and validate a table; n/a becomes missing, and no other text does.

    `only`: values of columns; other rows are not kept, and not validated.
    """
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such {table.name} table")
    frame = pd.read_csv(path, sep="\t", dtype="str", na_values=[MISSING], keep_default_na=False, encoding="utf-8")
    for column, value in (only or {}).items():
        frame = frame[frame[column] == value]
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
