"""A cohort as data: the typed form of sources/<name>.yaml, and the reader of the tables that it describes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from lcm.cohort.vocabulary import Entry, read_vocabulary

if TYPE_CHECKING:
    import pandas as pd

SOURCES = Path(__file__).with_name("sources")
STATE = "cognitive_state"
"""The BEI that comes from a scan's task, not from a phenotype table."""

_WHOLE_NUMBER = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?")


def canonical(cell: object) -> str:
    """The form in which codes are compared: stripped, case-folded, `1`, `01` and `1.0` alike."""
    text = str(cell).strip().casefold()
    match = _WHOLE_NUMBER.fullmatch(text)
    return match[1].replace("+", "") + match[2] if match else text


def canonical_cells(cells: pd.Series) -> pd.Series:
    """`canonical` of every cell, computed once for each distinct one."""
    return cells.map({cell: canonical(cell) for cell in cells.unique()})


Code = Annotated[str, BeforeValidator(canonical)]
Levels = dict[Code, str | None]
"""Code → level; null sets a known code aside, which makes the cell missing and counts it."""


class PersonId(Entry):
    """How the cohort writes a person; applied to the tables and to the scans, so that both spellings meet."""

    pattern: str = Field(description="regular expression with a group `id`, matched against the whole lower-case label")
    remove: str = Field(default="", description="regular expression of what is taken out first")
    strip_zeros: bool = Field(default=False, description="leading zeros mean nothing")

    @model_validator(mode="after")
    def _pattern_has_an_id(self) -> PersonId:
        if "id" not in re.compile(self.pattern).groupindex:
            raise ValueError(f"pattern {self.pattern!r} has no group (?P<id>…)")
        return self

    def normalise(self, label: str) -> str | None:
        """The person's key, or None for a label that is not one of this cohort; `sub-` is optional."""
        text = str(label).strip().lower().removeprefix("sub-")
        text = re.sub(self.remove, "", text) if self.remove else text
        text = text.removesuffix(".0")
        match = re.fullmatch(self.pattern, text)
        if match is None:
            return None
        return (match["id"].lstrip("0") or "0") if self.strip_zeros else match["id"]


class Visit(Entry):
    """A table with a row a visit: the earliest is read."""

    column: str
    order: tuple[Code, ...] = Field(description="visit codes, earliest first; a code not listed comes last")


class Table(Entry):
    """One file of the cohort."""

    file: str = Field(description="glob inside the phenotype folder; exactly one file must match")
    format: Literal["text", "feather"] = "text"
    separator: Literal[",", "\t"] = ","
    encoding: str = Field(default="latin-1", description="of a text file that is neither UTF-8 nor marked UTF-16")
    description_rows: int = Field(default=0, ge=0, description="rows below the header that describe columns")
    person: str = Field(description="column that names the person; the empty string is a column without a name")
    visit: Visit | None = None


class Column(Entry):
    """Where a BEI (or the site) comes from."""

    table: str
    column: str
    optional: bool = Field(default=False, description="a table without this column leaves the BEI missing")
    extract: str | None = Field(default=None, description="regular expression; its first group is the code")
    levels: Levels = Field(default_factory=dict)
    policies: dict[str, Levels] = Field(default_factory=dict, description="named alternatives to `levels`")
    default_policy: str | None = None
    unit: Literal["years", "months"] | None = Field(default=None, description="continuous only")
    values: dict[Code, float] = Field(
        default_factory=dict, description="continuous only: cells that are no plain number, in the vocabulary's unit"
    )

    @model_validator(mode="after")
    def _one_way_to_read_a_code(self) -> Column:
        if self.policies and (self.levels or self.default_policy not in self.policies):
            raise ValueError(
                f"policies {sorted(self.policies)} need a default_policy among them, and no `levels` beside"
            )
        if self.extract is not None and re.compile(self.extract).groups < 1:
            raise ValueError(f"extract {self.extract!r} has no group")
        return self


class Drop(Entry):
    """Rows that are no participants of the study."""

    table: str
    column: str
    values: tuple[Code, ...]
    reason: str


class Source(Entry):
    """One cohort: its people, tables, codes, missing values, label policy, terms of use and traps."""

    title: str
    description: str
    licence: str
    rows_may_be_exported: bool = Field(description="whether the data use terms let rows leave the lab")
    person: PersonId
    tables: dict[str, Table]
    missing: tuple[Code, ...] = Field(description="cells that say nothing, in any column")
    drop: tuple[Drop, ...] = ()
    site: Column | None = None
    beis: dict[str, Column]
    tasks: Levels = Field(default_factory=dict, description="task of the file name → cognitive state")
    traps: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _words_are_known(self) -> Source:
        vocabulary = read_vocabulary()
        for name, column in self.beis.items():
            if name not in vocabulary or name == STATE:
                raise ValueError(f"beis.{name}: not a BEI that a table can hold; known: {', '.join(vocabulary)}")
            variable = vocabulary[name]
            if (variable.kind == "continuous") != (column.unit is not None):
                raise ValueError(f"beis.{name}: a {variable.kind} BEI has {'a' if variable.unit else 'no'} unit")
            for levels in (column.levels, *column.policies.values()):
                _check_levels(f"beis.{name}", levels, set(variable.levels))
        _check_levels("tasks", self.tasks, set(vocabulary[STATE].levels))
        used = [entry.table for entry in (*self.beis.values(), *([self.site] if self.site else []))]
        for table in (*used, *(drop.table for drop in self.drop)):
            if table not in self.tables:
                raise ValueError(f"table {table!r} is not among tables: {', '.join(self.tables)}")
        return self

    def columns(self, table: str) -> tuple[list[str], list[str]]:
        """Columns this source reads from one of its tables: required, optional; each once."""
        read = [*self.beis.values(), *([self.site] if self.site else [])]
        required = [self.tables[table].person, *(drop.column for drop in self.drop if drop.table == table)]
        required += [column.column for column in read if column.table == table and not column.optional]
        visit = self.tables[table].visit
        required += [visit.column] if visit else []
        optional = [column.column for column in read if column.table == table and column.optional]
        return list(dict.fromkeys(required)), [name for name in dict.fromkeys(optional) if name not in required]

    def levels(self, bei: str, policy: str | None) -> Levels:
        """Code → level of a categorical BEI under the named policy, or the default one."""
        column = self.beis[bei]
        if not column.policies:
            return column.levels
        return column.policies.get(policy or "", column.policies[column.default_policy or ""])


def _check_levels(where: str, levels: Levels, known: set[str]) -> None:
    strangers = sorted({level for level in levels.values() if level is not None} - known)
    if strangers:
        raise ValueError(
            f"{where}: level {', '.join(strangers)} is not in vocabulary.yaml; known: {', '.join(sorted(known))}"
        )


def source_names() -> list[str]:
    """Names of the cohorts that lcm/cohort/sources describes."""
    return sorted(path.stem for path in SOURCES.glob("*.yaml"))


@cache
def read_source(name: str) -> Source:
    """The source of a cohort by name. Raises ValueError for an unknown name and for a file that breaks a rule."""
    path = SOURCES / f"{name}.yaml"
    if name not in source_names():
        raise ValueError(f"cohort {name!r}: no such file in lcm/cohort/sources; known: {', '.join(source_names())}")
    try:
        return Source.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"lcm/cohort/sources/{path.name}: {error}") from None


# ── the cohort's own tables ─────────────────────────────────────────────────────────────────────


def find_table(folder: Path, table: Table) -> Path:
    """The one file of the folder that the table's glob matches. Raises ValueError with what is there instead."""
    found = sorted(path for path in folder.glob(table.file) if path.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder}: several files match {table.file} ({names}); keep the one to be used")
    there = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
    raise ValueError(f"{folder}: no file matches {table.file}; there: {there or 'nothing'}")


def read_table(path: Path, table: Table, required: Iterable[str], optional: Iterable[str] = ()) -> pd.DataFrame:
    """The named columns as stripped text, blank where a cell is empty; an absent optional column is blank throughout.

    Column names are compared without surrounding spaces. Raises ValueError naming file and column.
    """
    frame = _read_feather(path) if table.format == "feather" else _read_text(path, table)
    names = list(frame.columns)
    for name in required:
        if names.count(name) != 1:
            problem = "no column" if name not in names else f"{names.count(name)} columns"
            raise ValueError(f"{path}: {problem} {name!r}; columns there: {_listed(names)}")
    present = [name for name in optional if name in names]
    chosen = frame[[*required, *present]].fillna("").apply(lambda column: column.str.strip())
    return chosen.assign(**{name: "" for name in optional if name not in present}).reset_index(drop=True)


def _listed(names: list[str], most: int = 40) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _read_feather(path: Path) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_feather(path)
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame.astype("str").where(frame.notna(), "")


def _read_text(path: Path, table: Table) -> pd.DataFrame:
    import pandas as pd

    content = path.read_bytes()
    # Taowu's file ends its lines with CR alone; one kind of line end spares the parser the guess.
    text = _decode(content, table.encoding).replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
    header = next(csv.reader(io.StringIO(text), delimiter=table.separator), None)
    if header is None:
        raise ValueError(f"{path}: the file is empty")
    try:
        frame = pd.read_csv(
            io.StringIO(text), sep=table.separator, header=None, dtype="str", keep_default_na=False, na_filter=False,
            skip_blank_lines=True, names=range(len(header)), index_col=False, on_bad_lines="error",
        )  # fmt: skip
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: not a table of {len(header)} columns ({str(error).strip()})") from None
    frame = frame.iloc[1:].fillna("")
    frame.columns = [name.strip() for name in header]
    return frame


def _decode(content: bytes, otherwise: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode(otherwise)
