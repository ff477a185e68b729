"""A cohort as data: the typed form of sources/<name>.yaml."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from lcm.cohort.vocabulary import Entry, Variable, read_vocabulary

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


def _regular(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


def _with_group(pattern: str) -> str:
    if re.compile(_regular(pattern)).groups < 1:
        raise ValueError(f"{pattern!r} has no group")
    return pattern


Pattern = Annotated[str, AfterValidator(_regular)]
Extract = Annotated[str, AfterValidator(_with_group)]
"""A regular expression whose first group is what is looked for."""


class PersonId(Entry):
    """How the cohort writes a person; applied to the tables and to the scans, so that both spellings meet."""

    pattern: Pattern = Field(
        description="regular expression with a group `id`, matched against the whole lower-case label"
    )
    remove: Pattern = Field(default="", description="regular expression of what is taken out first")
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


class When(Entry):
    """When a row was written, on one of two clocks: days since the person entered the study, or the calendar."""

    column: str
    extract: Extract | None = Field(
        default=None, description="regular expression; its first group is the number or date"
    )
    unit: Literal["days", "months", "years", "date"] = "days"
    formats: tuple[str, ...] = Field(default=("%Y-%m-%d",), description="of a date, tried in turn (strptime)")
    values: dict[Code, float] = Field(default_factory=dict, description="codes that are no plain number, in the unit")


class Visit(Entry):
    """A table with a row a visit: which row speaks for a scan.

    A scan whose session names a visit code reads the row of that code; one whose session has a time reads, for each BEI,
    the nearest row that says something; a scan without either reads the earliest visit.
    """

    column: str | None = Field(default=None, description="column of the visit code")
    order: tuple[Code, ...] = Field(default=(), description="visit codes, earliest first; one not listed comes last")
    entry: When | None = Field(default=None, description="the row's time in days since entry")
    date: When | None = Field(default=None, description="the row's calendar date")
    within_days: float | None = Field(default=None, gt=0, description="a nearest visit farther away says nothing")

    @model_validator(mode="after")
    def _rows_can_be_ordered(self) -> Visit:
        if self.column is None and self.entry is None and self.date is None:
            raise ValueError("a visit needs `column` (with `order`), `entry` or `date`")
        if self.column is None and self.order:
            raise ValueError("`order` lists codes of `column`, which is not given")
        return self


class Sessions(Entry):
    """What the session label of a scan (without `ses-`, lower case) says."""

    pattern: Pattern = Field(
        description="regular expression matched against the whole label, with one of the groups `visit` (a visit code), "
        "`days`, `months`, `years` (since entry) or `date` (YYYYMMDD)"
    )
    visits: dict[Code, Code] = Field(default_factory=dict, description="what `visit` matched → the tables' visit code")

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> Sessions:
        if not set(re.compile(self.pattern).groupindex) & {"visit", "days", "months", "years", "date"}:
            raise ValueError(f"pattern {self.pattern!r} has none of the groups visit, days, months, years, date")
        return self


class Table(Entry):
    """One file of the cohort."""

    file: str = Field(description="glob inside the phenotype folder; exactly one file must match")
    optional: bool = Field(
        default=False, description="the cohort can be read without this file; its columns say nothing then"
    )
    many: Extract | None = Field(
        default=None,
        description="the table is the union of all files that match; regular expression whose first group, searched in a "
        "file's name, is the cell of the person column (BIDS keeps a sessions.tsv a person)",
    )
    format: Literal["text", "feather"] = "text"
    separator: Literal[",", "\t"] | None = Field(
        default=",", description="null: a tab where the header line has one, else a comma"
    )
    header: tuple[str, ...] = Field(default=(), description="names of the columns of a file without a header line")
    encoding: str = Field(default="latin-1", description="of a text file that is neither UTF-8 nor marked UTF-16")
    description_rows: int = Field(default=0, ge=0, description="rows below the header that describe columns")
    person: str = Field(description="column that names the person; the empty string is a column without a name")
    aliases: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="column as this file calls it here → its names in other releases"
    )
    gather: dict[str, Pattern] = Field(
        default_factory=dict,
        description="new column → regular expression of the columns whose cells it holds, joined by `|` (arrays of codes)",
    )
    visit: Visit | None = None


class Column(Entry):
    """Where a BEI comes from, and what its cells mean."""

    table: str
    column: str
    optional: bool = Field(default=False, description="a table without this column leaves the BEI missing")
    fixed: bool = Field(default=False, description="the same at every visit: read from the earliest row that says it")
    sessions: dict[Code, str] = Field(
        default_factory=dict,
        description="session label → the column that holds that session (tables with a column a visit)",
    )
    extract: Extract | None = Field(default=None, description="regular expression; its first group is the code")
    silent: bool = Field(default=False, description="a cell in which `extract` finds nothing says nothing")
    missing: tuple[Code, ...] = Field(default=(), description="further cells that say nothing, in this column")
    levels: Levels = Field(default_factory=dict)
    policies: dict[str, Levels] = Field(
        default_factory=dict,
        description="named alternatives to `levels`; under a policy that is not among them the column is not read",
    )
    default_policy: str | None = Field(default=None, description="one of the cohort's policies, wherever it is used")
    unit: str | None = Field(default=None, description="continuous only: the vocabulary's unit, or months for years")
    range: tuple[float, float] | None = Field(
        default=None,
        description="continuous only: plausible in this cohort, in the vocabulary's unit; absent: its range",
    )
    values: dict[Code, float] = Field(
        default_factory=dict, description="continuous only: cells that are no plain number, in the vocabulary's unit"
    )
    ages_from: Literal["entry", "row"] | None = Field(
        default=None,
        description="an age in years at entry into the study, or at the row's own time: the time from there to the scan is "
        "added where both are known; absent: as it stands",
    )

    @model_validator(mode="after")
    def _one_way_to_read_a_code(self) -> Column:
        if self.policies and (self.levels or self.default_policy is None):
            raise ValueError(f"policies {sorted(self.policies)} need a default_policy, and no `levels` beside")
        if self.silent and self.extract is None:
            raise ValueError("silent is for a column with `extract`")
        return self


class Family(Entry):
    """Columns that relatives share: people who share a cell of any of them are one family."""

    table: str
    columns: tuple[str, ...]


class Drop(Entry):
    """Rows that are no participants of the study."""

    table: str
    column: str
    values: tuple[Code, ...] = Field(default=(), description="empty: every row of the table, as in a list of people")
    reason: str


def _one_or_several(columns: object) -> object:
    return columns if isinstance(columns, (list, tuple)) else (columns,)


Columns = Annotated[tuple[Column, ...], BeforeValidator(_one_or_several)]
"""The columns of a BEI: the first that says something holds; two that say different things leave the cell missing."""


class Source(Entry):
    """One cohort: its people, tables, codes, missing values, label policies, terms of use and traps."""

    title: str
    description: str
    licence: str
    rows_may_be_exported: bool = Field(description="whether the data use terms let rows leave the lab")
    person: PersonId
    sessions: Sessions | None = None
    tables: dict[str, Table]
    missing: tuple[Code, ...] = Field(description="cells that say nothing, in any column")
    drop: tuple[Drop, ...] = ()
    family: Family | None = None
    beis: dict[str, Columns]
    policies: dict[str, str] = Field(default_factory=dict, description="label policy → what it counts as what, and why")
    tasks: Levels = Field(default_factory=dict, description="task of the file name → cognitive state")
    events: Levels = Field(
        default_factory=dict, description="trial_type of a run's events → cognitive state, where the task says none"
    )
    traps: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _words_are_known(self) -> Source:
        vocabulary = read_vocabulary()
        for name, columns in self.beis.items():
            if name not in vocabulary or vocabulary[name].origin != "table":
                known = [bei for bei, variable in vocabulary.items() if variable.origin == "table"]
                raise ValueError(f"beis.{name}: not a BEI that a table can hold; known: {', '.join(known)}")
            for column in columns:
                _check_column(f"beis.{name}", column, vocabulary[name])
        for name in ("tasks", "events"):
            _check_levels(name, getattr(self, name), set(vocabulary[STATE].levels))
        used = [column.table for columns in self.beis.values() for column in columns]
        used += [drop.table for drop in self.drop] + ([self.family.table] if self.family else [])
        for table in used:
            if table not in self.tables:
                raise ValueError(f"table {table!r} is not among tables: {', '.join(self.tables)}")
        return self

    @model_validator(mode="after")
    def _policies_are_explained(self) -> Source:
        by_policy = {bei: chosen for bei, all_ in self.beis.items() if (chosen := [c for c in all_ if c.policies])}
        for bei, columns in by_policy.items():
            used = {policy for column in columns for policy in column.policies}
            defaults = {str(column.default_policy) for column in columns}
            if used != set(self.policies) or len(defaults) > 1 or not defaults <= used:
                raise ValueError(
                    f"beis.{bei}: policies {sorted(used)}, by default {sorted(defaults)}; explained under `policies`: "
                    f"{sorted(self.policies)}"
                )
        if self.policies and not by_policy:
            raise ValueError(f"policies {sorted(self.policies)} are explained, and none is used")
        return self

    def columns(self, table: str) -> tuple[list[str], list[str]]:
        """Columns this source reads from one of its tables: required, optional; each once."""
        read = [column for columns in self.beis.values() for column in columns if column.table == table]
        required = [self.tables[table].person, *(drop.column for drop in self.drop if drop.table == table)]
        required += [column.column for column in read if not column.optional]
        visit = self.tables[table].visit
        if visit is not None:
            required += [visit.column] if visit.column else []
            required += [when.column for when in (visit.entry, visit.date) if when]
        optional = [column.column for column in read if column.optional]
        optional += [name for column in read for name in column.sessions.values()]
        if self.family is not None and self.family.table == table:
            optional += self.family.columns
        return list(dict.fromkeys(required)), [name for name in dict.fromkeys(optional) if name not in required]

    def levels(self, column: Column, policy: str | None) -> Levels | None:
        """Code → level of a column under the named policy, or its default one; None where it is not read under it."""
        return column.policies.get(policy or str(column.default_policy)) if column.policies else column.levels


def _check_column(where: str, column: Column, variable: Variable) -> None:
    units = (
        {None} if variable.unit is None else {variable.unit, "months"} if variable.unit == "years" else {variable.unit}
    )
    if column.unit not in units:
        expected = " or ".join(sorted(map(str, units)))
        raise ValueError(
            f"{where}: unit {column.unit}; a {variable.kind} BEI measured in {variable.unit} takes {expected}"
        )
    if variable.kind == "label" and (column.levels or column.policies):
        raise ValueError(f"{where}: a label has no levels")
    if variable.kind != "continuous" and (column.values or column.range):
        raise ValueError(f"{where}: values and range are for numbers; a {variable.kind} BEI has neither")
    if variable.kind == "continuous" and (column.levels or column.policies):
        raise ValueError(f"{where}: a continuous BEI has no levels; cells that are no plain number go into `values`")
    if column.ages_from and variable.unit != "years":
        raise ValueError(f"{where}: ages_from is for an age in years")
    for levels in (column.levels, *column.policies.values()):
        _check_levels(where, levels, set(variable.levels))


def _check_levels(where: str, levels: Levels, known: set[str]) -> None:
    strangers = sorted({level for level in levels.values() if level is not None} - known)
    if strangers:
        raise ValueError(
            f"{where}: level {', '.join(strangers)} is not in vocabulary.yaml; known: {', '.join(sorted(known))}"
        )


def source_names() -> list[str]:
    """Names of the cohorts that lcm/cohort/sources describes."""
    return sorted(path.stem for path in SOURCES.glob("*.yaml"))


def source_path(cohort: str) -> Path:
    """File of a cohort: one of lcm/cohort/sources by name, or a YAML file of a lab's own by path."""
    if cohort.endswith((".yaml", ".yml")):
        return Path(cohort)
    if cohort not in source_names():
        raise ValueError(
            f"cohort {cohort!r}: no such file in lcm/cohort/sources; known: {', '.join(source_names())}; a file of your own "
            "is named by its path, ending in .yaml"
        )
    return SOURCES / f"{cohort}.yaml"


@cache
def read_source(cohort: str) -> Source:
    """The source of a cohort by name or path. Raises ValueError for an unknown name and for a file that breaks a rule."""
    path = source_path(cohort)
    try:
        return Source.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, UnicodeError, OSError) as error:
        raise ValueError(f"{path if path.parent != SOURCES else f'lcm/cohort/sources/{path.name}'}: {error}") from None
