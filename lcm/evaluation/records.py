"""The records beside the results: what ran, with which settings and versions, at what cost, and how to describe it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.config import STAGE_ROOMS

RECORD_DEPTH = 4
"""Deepest folder below a stage's that holds a record: finetune/<model>/<task>/fold-<k>/record.json."""


@dataclass(frozen=True)
class StageRecord:
    """All records of one stage, taken together."""

    stage: str
    num_jobs: int
    seconds: float
    peak_mb: int
    settings: list[dict[str, Any]]
    """Distinct settings: one, unless results of different runs lie side by side."""
    methods: list[str]
    versions: dict[str, str]


def read_records(results: Path) -> list[StageRecord]:
    """Records of every stage that left any, in running order."""
    stages = []
    for stage in STAGE_ROOMS:
        contents = [record for path in _record_paths(results / stage) if (record := _record(path, stage)) is not None]
        if contents:
            stages.append(_together(stage, contents))
    return stages


def _record_paths(folder: Path) -> list[Path]:
    return sorted(path for depth in range(RECORD_DEPTH) for path in folder.glob("*/" * depth + "*.json"))


def _record(path: Path, stage: str) -> dict[str, Any] | None:
    """The record in a JSON file; None for another kind (BIDS sidecars and manifests, which name a stage too, lie there)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it and run {stage} again") from None
    is_record = isinstance(content, dict) and content.get("stage") == stage and "seconds" in content
    return content if is_record else None


def _together(stage: str, contents: list[dict[str, Any]]) -> StageRecord:
    versions: dict[str, str] = {}
    for content in contents:
        versions |= content.get("versions", {})
    return StageRecord(
        stage=stage,
        num_jobs=len(contents),
        seconds=sum(content.get("seconds", 0.0) for content in contents),
        peak_mb=max(content.get("peak_mb", 0) for content in contents),
        settings=_distinct(content.get("settings", {}) for content in contents),
        methods=_distinct(content["methods"] for content in contents if content.get("methods")),
        versions=versions,
    )


def _distinct(values: Any) -> list[Any]:
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())
