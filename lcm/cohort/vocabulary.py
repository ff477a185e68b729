"""The harmonised vocabulary as frozen types: which BEIs exist, their levels, units and plausible ranges."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Entry(BaseModel):
    """Base of everything read from the YAML of this room: frozen, and an unknown key is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Level(Entry):
    """One value of a categorical BEI."""

    definition: str
    term: str | None = Field(default=None, description="URL of the concept in an ontology")


class Variable(Entry):
    """One BEI: what it means and which values a cell may hold."""

    kind: Literal["categorical", "continuous", "label"] = Field(
        description="label: a name that means nothing beyond its cohort, such as a site"
    )
    role: Literal["target", "covariate"]
    group: Literal["demographic", "state", "diagnosis", "acquisition"]
    origin: Literal["table", "task"] = Field(
        default="table", description="table: a phenotype table; task: the scan's task or events"
    )
    definition: str
    term: str | None = Field(default=None, description="URL of the concept in an ontology")
    levels: dict[str, Level] = Field(default_factory=dict, description="categorical only; the reference level first")
    unit: str | None = Field(default=None, description="continuous only")
    range: tuple[float, float] | None = Field(default=None, description="continuous only: plausible values, inclusive")

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Variable:
        continuous = self.unit is not None and self.range is not None
        if self.kind == "categorical" and (not self.levels or self.unit or self.range):
            raise ValueError("a categorical BEI has levels, and neither unit nor range")
        if self.kind == "continuous" and (self.levels or not continuous):
            raise ValueError("a continuous BEI has a unit and a range, and no levels")
        if self.kind == "label" and (self.levels or self.unit or self.range or self.role == "target"):
            raise ValueError("a label has neither levels, unit nor range, and is a covariate")
        return self


@cache
def read_vocabulary() -> dict[str, Variable]:
    """Every BEI of vocabulary.yaml by name, in the order of the columns of bei.tsv."""
    text = Path(__file__).with_name("vocabulary.yaml").read_text(encoding="utf-8")
    return {name: Variable.model_validate(entry) for name, entry in yaml.safe_load(text).items()}
