"""Published numbers as data: one YAML a table or figure of a paper and a file an audit, read and refused with its place.

Source of every number: lcm/evaluation/published/*.yaml says it in `paper` and `place`, or in `source`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from lcm.config import Settings

FOLDER = Path(__file__).with_name("published")
TABLES = ("1", "2", "3", "4", "5", "8")
"""Tables of the LCM paper (arXiv 2510.18910) whose numbers are here."""

Measured = tuple[float, float | None]
"""A value and its deviation over folds; None where none is printed."""
Kind = TypeVar("Kind", bound=Settings)


class Column(Settings):
    """One column of a printed table and what of a study answers it."""

    label: str
    tasks: tuple[str, ...] = Field(default=(), description="tasks of ours; of several the unweighted mean is printed")
    cost: Literal["pretrain_ms_per_scan", "finetune_ms_per_scan", "num_parameters"] | None = None
    suffix: str = Field(default="", description="end of the names of our rows that learned from this column's share")
    note: str | None = None


class PublishedRow(Settings):
    """One row as printed, and the model of a study that stands beside it."""

    name: str
    group: str | None = None
    model: str | None = Field(default=None, description="row of ours, in every column")
    models: dict[str, str] = Field(default_factory=dict, description="column → row of ours, where they differ")
    why: str | None = Field(default=None, description="why no row of ours stands beside it")
    origin: Literal["paper", "derived"] = "paper"
    note: str | None = None
    cells: dict[str, dict[str, Measured]]

    def beside(self, column: str) -> str | None:
        """The row of ours that this column compares with; None where there is none."""
        return self.models.get(column, self.model)


class PublishedTable(Settings):
    """A table of a paper: what it is, its columns and every number of it."""

    title: str
    paper: str
    place: str
    unit: Literal["percent", "ms and parameters"]
    prose: str
    metrics: tuple[str, ...] = Field(min_length=1)
    columns: dict[str, Column]
    rows: tuple[PublishedRow, ...]
    p: dict[str, float] = Field(default_factory=dict, description="column → p as printed")
    logged: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="row → column → row of the authors' log that holds the same number"
    )

    @model_validator(mode="after")
    def _rows_fill_the_columns(self) -> Self:
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"row {twice[0]} is there twice")
        for row in self.rows:
            self._check(row)
        return self

    def _check(self, row: PublishedRow) -> None:
        place = f"row {row.name}"
        if (row.model is None and not row.models) == (row.why is None):
            raise ValueError(f"{place}: give `model` (or `models`) or say `why` there is none, and not both")
        unknown = [name for name in (*row.cells, *row.models) if name not in self.columns]
        if unknown:
            raise ValueError(f"{place}, column {unknown[0]}: no such column; there are: {', '.join(self.columns)}")
        absent = [name for name in self.columns if name not in row.cells]
        if absent and row.origin == "paper":
            raise ValueError(f"{place}, column {absent[0]}: no cell")
        for column, cell in row.cells.items():
            if set(cell) != set(self.metrics):
                raise ValueError(f"{place}, column {column}: has {', '.join(cell)}, wanted {', '.join(self.metrics)}")
            for metric, (value, spread) in cell.items():
                if self.unit == "percent" and not (0 <= value <= 100 and 0 <= (spread or 0.0) <= 100):
                    raise ValueError(f"{place}, column {column}: {metric} {value} ± {spread} is no percentage")


class Logs(Settings):
    """Rows of the authors' log: data set → row → metric → value and deviation, in percent."""

    title: str
    source: str
    unit: Literal["percent"]
    prose: str
    metrics: tuple[str, ...]
    data: dict[str, dict[str, dict[str, Measured]]]


class StoredFolds(Settings):
    """Scores of the authors' pretrained network: data set → quantity → one number a fold (shares; squared years)."""

    title: str
    source: str
    prose: str
    data: dict[str, dict[str, tuple[float, ...]]]


class MajorityValues(Settings):
    """What one level for everyone scores: task → metric → percent, and the people that this follows from."""

    title: str
    source: str
    unit: Literal["percent"]
    prose: str
    data: dict[str, dict[str, float]]
    people: dict[str, dict[str, int]]
    men_per_woman: dict[str, float]


class DataSet(Settings):
    """One data set of the paper; None where its text does not say."""

    people: int
    classes: int
    folds: int
    connectomes: int | None = None
    men_per_woman: float | None = None
    ages: tuple[float, float] | None = None


class DataSets(Settings):
    """The paper's data sets: Table 6, and what stands in the text alone."""

    title: str
    paper: str
    place: str
    prose: str
    claimed: int
    rows: dict[str, DataSet]
    not_in_the_table: dict[str, DataSet]


class Parameters(Settings):
    """Number of parameters by depth."""

    title: str
    source: str
    prose: str
    lcm: dict[int, int]
    wide_mlp: dict[int, int]
    width: int
    feedforward: int
    per_layer: int


class SexAndAge(Settings):
    """What stands for Figure 2: cohort → its tasks, sex first, and the model."""

    title: str
    place: str
    confidence: str
    prose: str
    columns: dict[str, Column]
    model: str


class TimePoint(Settings):
    """One label of Figure 3: F1 in percent; milliseconds a sample and epochs where they are known."""

    name: str
    f1_weighted: float
    model: str | None = None
    ms: float | None = None
    epochs: int | None = None

    def gpu_hours(self, samples: int) -> float | None:
        """Hours of pretraining; None where its time is not known."""
        return None if self.ms is None or self.epochs is None else self.ms * self.epochs * samples / 3.6e6


class TimeFigure(Settings):
    """Figure 3: score of one task against hours of pretraining."""

    title: str
    place: str
    confidence: str
    prose: str
    task: str
    samples: int
    points: tuple[TimePoint, ...]


class DepthFigure(Settings):
    """Figure 6: a panel a data set, a model a depth."""

    title: str
    place: str
    confidence: str
    prose: str
    panels: dict[str, Column]
    models: dict[int, str]


class LayerClass(Settings):
    """One class of Figure 7 and what the paper says of it."""

    label: str
    task: str
    level: str
    published: str


class LayerFigure(Settings):
    """Figure 7: which layer the true class of a person is read from."""

    title: str
    place: str
    confidence: str
    prose: str
    model: str
    num_layers: int
    classes: tuple[LayerClass, ...]


def read_published(name: str, kind: type[Kind], folder: Path = FOLDER) -> Kind:
    """The file `<name>.yaml` as its type; ValueError names file, row and column of what is wrong."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in folder.glob("*.yaml")))
        raise ValueError(f"{path}: no such published table; there are: {known}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error})") from None
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [f"{_place(raw, one['loc'])}{one['msg'].removeprefix('Value error, ')}" for one in error.errors()]
        raise ValueError(f"{path}: " + "; ".join(lines)) from None


def _place(raw: Any, where: tuple[int | str, ...]) -> str:
    """Where in the file: row and column by their names, anything else by its keys."""
    if len(where) > 1 and where[0] == "rows" and isinstance(where[1], int):
        row = raw["rows"][where[1]]
        name = row.get("name", where[1] + 1) if isinstance(row, dict) else where[1] + 1
        column = f", column {where[3]}" if len(where) > 3 and where[2] == "cells" else ""
        rest = ".".join(map(str, where[4:] if column else where[2:]))
        return f"row {name}{column}{f', {rest}' if rest else ''}: "
    return f"{'.'.join(map(str, where))}: " if where else ""


def read_table(number: str) -> PublishedTable:
    """A table of the LCM paper by its number, one of TABLES."""
    return read_published(f"lcm_table_{number}", PublishedTable)


def read_logs() -> Logs:
    """The authors' log of models trained from scratch."""
    return read_published("lcm_audit_logs", Logs)


def read_folds() -> StoredFolds:
    """The stored folds of the authors' pretrained network."""
    return read_published("lcm_audit_folds", StoredFolds)


def read_majority() -> MajorityValues:
    """What the constant answer scores in the paper's data."""
    return read_published("lcm_audit_majority", MajorityValues)


def read_data_sets() -> DataSets:
    """The paper's data sets."""
    return read_published("lcm_table_6", DataSets)


def read_parameters() -> Parameters:
    """Parameters of LCM and of the perceptron by depth."""
    return read_published("lcm_audit_parameters", Parameters)
