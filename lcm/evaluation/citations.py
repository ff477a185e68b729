"""Citations of the methods text: which references what ran calls for, numbered in the order in which they are cited."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from lcm.evaluation.records import StageRecord

REFERENCES = Path(__file__).with_name("references.yaml")
REPORT = "report"
"""The stage that writes the page: it has no record yet, and has run where there is a page."""


class Cite(BaseModel):
    """Where a reference is cited: at a stage that ran, if all that is asked for holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    setting: str | None = None
    allowed: tuple[str, ...] = Field(default=(), alias="is")
    """Values of `setting`; none: whatever is not None."""
    strategies: frozenset[str] = frozenset()
    atlas: frozenset[str] = frozenset()
    architectures: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    subsets: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    compared: frozenset[str] = frozenset()


class Reference(BaseModel):
    """One entry of the references file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    doi: str | None
    cite: tuple[Cite, ...]


@dataclass(frozen=True)
class Facts:
    """What ran, by the names that `Cite` asks for; stages and their settings come from the records."""

    records: Sequence[StageRecord]
    named: Mapping[str, Collection[str]] = field(default_factory=dict)
    """strategies, atlas, architectures, metrics, subsets, inputs, compared."""


@dataclass(frozen=True)
class Citations:
    """The reference list, and the numbers (from 1) that stand at each stage."""

    references: list[Reference]
    numbers: dict[str, list[int]]


def read_references(path: Path = REFERENCES) -> list[Reference]:
    """The references file; a pydantic ValidationError names what is wrong in it."""
    return [Reference.model_validate(entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]


def citations(references: Sequence[Reference], facts: Facts, stages: Sequence[str]) -> Citations:
    """Which references are cited at each of `stages` (in that order), numbered as a reader meets them."""
    met: list[Reference] = []
    numbers: dict[str, list[int]] = {}
    for stage in stages:
        called = [ref for ref in references if any(cite.stage == stage and _holds(cite, facts) for cite in ref.cite)]
        met += [ref for ref in called if ref not in met]
        numbers[stage] = [met.index(ref) + 1 for ref in called]
    return Citations(met, numbers)


def _holds(cite: Cite, facts: Facts) -> bool:
    record = next((found for found in facts.records if found.stage == cite.stage), None)
    if record is None and cite.stage != REPORT:
        return False
    if cite.setting is not None:
        values = [_value(settings, cite.setting) for settings in record.settings] if record else []
        said = {str(value) for value in values if value is not None}
        if not (said & set(cite.allowed) if cite.allowed else said):
            return False
    asked = {name: getattr(cite, name) for name in _NAMED if getattr(cite, name)}
    return all(wanted & set(facts.named.get(name, ())) for name, wanted in asked.items())


_NAMED = ("strategies", "atlas", "architectures", "metrics", "subsets", "inputs", "compared")


def _value(settings: Mapping[str, Any], path: str) -> Any:
    found: Any = settings
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
