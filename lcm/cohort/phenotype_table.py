"""Reading one phenotype table as its cohort published it: any line end, encoding and quoting, columns by name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lcm.cohort.source import Table

if TYPE_CHECKING:
    import pandas as pd

_ROWS_AT_ONCE = 20_000
_SPARE = 3
"""Columns read beyond the header's: a cell in one of them is a row that is too long."""


def find_table(folder: Path, table: Table) -> tuple[Path, ...]:
    """The one file of the folder that the table's glob matches (`many`: all of them); none where an optional one is absent.

    Raises ValueError with what is there instead.
    """
    found = tuple(sorted(path for path in folder.glob(table.file) if path.is_file()))
    if len(found) == 1 or (found and table.many):
        return found
    if found:
        raise ValueError(f"{folder}: {len(found)} files match {table.file} ({_tables(found)}); keep the one to be used")
    if table.optional and folder.is_dir():
        return ()
    there = _tables(folder.iterdir()) if folder.is_dir() else "no such folder"
    raise ValueError(f"{folder}: no file matches {table.file}; there: {there}")


def _tables(paths: Iterable[Path]) -> str:
    """Names of the files among the paths; those of BIDS participants, and folders, name people and are left out."""
    names = sorted(path.name for path in paths if path.is_file() and not path.name.startswith("sub-"))
    return _first_of(names) if names else "no table"


def table_name(paths: Sequence[Path], table: Table) -> str:
    """How messages and counts call the table: its file, or the glob where it is many files or none."""
    return paths[0].name if len(paths) == 1 and table.many is None else table.file


def read_table(
    paths: Sequence[Path], table: Table, required: Iterable[str], optional: Iterable[str] = ()
) -> pd.DataFrame:
    """The named columns of the table's files, one below the other, as stripped text, blank where a cell is empty.

    A column is found under its own name or one of its aliases, without surrounding spaces; `gather` makes columns of
    several. An optional column that is absent is blank throughout. Without files the frame has no rows. Raises ValueError
    naming file and column for a column that is absent or there twice, a row that is too long, a text that cannot be decoded
    and a name without a person. One of `many` files is named by its place, for its own name is a person's.
    """
    import pandas as pd

    names = [*required, *optional]
    places = [f"{table.file}, number {place} of {len(paths)} by name" for place in range(1, len(paths) + 1)]
    shown = [str(path) for path in paths] if table.many is None else places
    frames = [_read_file(path, name, table, set(required), names) for path, name in zip(paths, shown, strict=True)]
    if not frames:
        return pd.DataFrame({name: pd.Series(dtype="str") for name in names})
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


@dataclass(frozen=True)
class _Plan:
    """Which places of a file's columns each named column is made of; several are joined by `|`, none is blank."""

    places: dict[str, list[int]]

    def apply(self, rows: pd.DataFrame) -> pd.DataFrame:
        """`rows` has the places as names."""
        import pandas as pd

        made = {name: _joined(rows, places) for name, places in self.places.items()}
        return pd.DataFrame(made, index=rows.index).astype("str")


def _joined(rows: pd.DataFrame, places: list[int]) -> pd.Series:
    """Stripped cells of the places, joined by `|` where there are several, blank ones left out."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(places) < 2:
        return rows[places[0]].fillna("").str.strip() if places else pd.Series("", index=rows.index, dtype="str")
    text = pa.large_string()
    cells = [pc.utf8_trim_whitespace(pa.array(rows[place], text)) for place in places]
    said = [pc.if_else(pc.equal(cell, ""), pa.scalar(None, text), cell) for cell in cells]
    # Rows that are null throughout would be lost, so each begins with a blank that is none.
    blank = pa.array([""] * len(rows), text)
    joined = pc.binary_join_element_wise(blank, *said, pa.scalar("|", text), null_handling="skip")
    return pd.Series(pc.utf8_ltrim(joined, "|").to_numpy(zero_copy_only=False), index=rows.index)


def _read_file(path: Path, shown: str, table: Table, required: set[str], names: list[str]) -> pd.DataFrame:
    by_name = table.many is not None
    wanted = [name for name in names if not (by_name and name == table.person)]
    if table.format == "feather":
        import pandas as pd

        frame = pd.read_feather(path)
        plan = _plan(shown, table, [str(name).strip() for name in frame.columns], required, wanted)
        frame.columns = range(frame.shape[1])
        read = plan.apply(frame.astype("str").where(frame.notna(), ""))
    else:
        try:
            content = _utf8(path.read_bytes(), table.encoding)
        except (UnicodeError, LookupError) as error:
            raise ValueError(f"{shown}: cannot be decoded ({error}); see `encoding` in the cohort's file") from None
        read = _read_text(content, shown, table, required, wanted)
    if table.many is not None:
        match = re.search(table.many, path.name)
        if match is None:
            raise ValueError(f"{shown}: its name does not fit `many: {table.many}`, so it names no person")
        read.insert(0, table.person, match[1])
    return read[names].reset_index(drop=True)


def _plan(shown: str, table: Table, header: list[str], required: set[str], wanted: Iterable[str]) -> _Plan:
    places: dict[str, list[int]] = {}
    for name in wanted:
        if name in table.gather:
            places[name] = [place for place, found in enumerate(header) if re.fullmatch(table.gather[name], found)]
        else:
            known = {name, *table.aliases.get(name, ())}
            places[name] = [place for place, found in enumerate(header) if found in known]
            if len(places[name]) > 1:
                raise ValueError(f"{shown}: {len(places[name])} columns {name!r}; columns there: {_listed(header)}")
    absent = ", ".join(repr(name) for name in places if name in required and not places[name])
    if absent:
        # The first line of a file without a header is a person's row, so it is quoted only where it holds a known name.
        known_header = any(places.values())
        there = (
            f"columns there: {_listed(header)}" if known_header else "nor any other that is read; has it a header line?"
        )
        raise ValueError(f"{shown}: no column {absent}; {there}")
    return _Plan(places)


def _listed(header: list[str]) -> str:
    # A quotation mark that is not closed makes all rows below part of one name.
    return _first_of([repr(" ".join(name[:40].split("\n")[0].split())) for name in header])


def _first_of(names: list[str], most: int = 40) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _read_text(content: bytes, shown: str, table: Table, required: set[str], wanted: list[str]) -> pd.DataFrame:
    import pandas as pd

    first_line = content[: content.find(b"\n")] if b"\n" in content else content
    separator = table.separator or ("\t" if b"\t" in first_line else ",")
    try:
        first = next(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""), delimiter=separator), None)
    except csv.Error as error:
        raise ValueError(f"{shown}: its header line cannot be read ({error}); is a quotation mark open?") from None
    if first is None:
        raise ValueError(f"{shown}: the file is empty")
    header = list(table.header) or [name.strip() for name in first]
    plan = _plan(shown, table, header, required, wanted)
    spare = range(len(header), len(header) + _SPARE)
    used = sorted({place for places in plan.places.values() for place in places} | set(spare))
    # With `usecols` pandas drops cells beyond the header silently, so a line of blanks makes room for them.
    width = separator.encode() * (len(header) + _SPARE - 1) + b"\n"
    parts = []
    try:
        chunks = pd.read_csv(
            io.BytesIO(width + content), sep=separator, header=None, dtype="str", keep_default_na=False, na_filter=False,
            skip_blank_lines=True, names=range(len(header) + _SPARE), usecols=used, index_col=False,
            chunksize=_ROWS_AT_ONCE, low_memory=False,
        )  # fmt: skip
        for rows in chunks:
            if (rows[list(spare)].fillna("").apply(lambda cells: cells.str.strip()) != "").to_numpy().any():
                raise pd.errors.ParserError("a row has more cells")
            parts.append(plan.apply(rows))
    except pd.errors.ParserError as error:
        raise ValueError(f"{shown}: not a table of {len(header)} columns ({str(error).strip()})") from None
    return pd.concat(parts).iloc[1 if table.header else 2 :]


def _utf8(content: bytes, otherwise: str) -> bytes:
    """The text in UTF-8, every line ended by a line feed, without a byte order mark and leading blank lines."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        content = content.decode("utf-16").encode()
    elif not content.isascii():
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            content = content.decode(otherwise).encode()
    # Taowu's file ends its lines with CR alone; one kind of line end spares the parser the guess.
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\n")
