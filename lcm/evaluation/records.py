"""The records beside the results: what ran, with which settings and versions, at what cost, and how to describe it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.config import STAGE_ROOMS

RECORD_DEPTH = 5
"""Depth of the deepest record below a stage's folder: finetune/<protocol>/<model>/<task>/fold-<k>/record.json."""

NAMED_FOLDERS = {"split": 1, "pretrain": 2, "finetune": 2, "evaluate": 2}
"""How many folders below a stage's name a protocol and its model."""


@dataclass(frozen=True)
class MethodsText:
    """One text for a paper, and which protocols and models it is about; empty where it is about all of them."""

    text: str
    about: str = ""


@dataclass(frozen=True)
class StageRecord:
    """All records of one stage, taken together."""

    stage: str
    num_jobs: int
    seconds: float
    peak_mb: int
    settings: list[dict[str, Any]]
    """Distinct settings: one, unless models or protocols differ or results of different runs lie side by side."""
    methods: list[MethodsText]
    versions: dict[str, str]


def read_records(results: Path) -> list[StageRecord]:
    """Records of every stage that left any, in running order, but of an earlier report: the page would tell of itself."""
    stages = []
    for stage in (stage for stage in STAGE_ROOMS if stage != "report"):
        folder = results / stage
        contents = {path: record for path in _record_paths(folder) if (record := _record(path, stage)) is not None}
        if contents:
            said = [(path.relative_to(folder).parts[:-1], record) for path, record in contents.items()]
            stages.append(_together(stage, list(contents.values()), _methods(stage, said)))
    return stages


def _record_paths(folder: Path) -> list[Path]:
    if folder.name == "preprocess":
        # A participant's record stands among dozens of sidecars of images.
        return sorted(folder.glob("*/*/record.json"))
    return sorted(path for depth in range(RECORD_DEPTH) for path in folder.glob("*/" * depth + "*.json"))


def _record(path: Path, stage: str) -> dict[str, Any] | None:
    """The record in a JSON file; None for another kind (BIDS sidecars and manifests, which name a stage too, lie there)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it and run {stage} again") from None
    is_record = isinstance(content, dict) and content.get("stage") == stage and "seconds" in content
    return content if is_record else None


def _methods(stage: str, said: list[tuple[tuple[str, ...], dict[str, Any]]]) -> list[MethodsText]:
    """The distinct texts; where there are several, each with the protocols and models whose records have it.

    `said`: of each record the folders below the stage's, and its content. Folders of a model's stages begin with protocol
    and model, those of `split` with the protocol.
    """
    depth = NAMED_FOLDERS.get(stage, 0)
    places: dict[str, set[tuple[str, ...]]] = {}
    for folders, content in said:
        if content.get("methods"):
            places.setdefault(str(content["methods"]), set()).add(folders[:depth])
    if len(places) < 2 or not depth:
        return [MethodsText(text) for text in places]
    everywhere = set().union(*places.values())
    return [MethodsText(text, _about(own, everywhere)) for text, own in places.items()]


def _about(own: set[tuple[str, ...]], everywhere: set[tuple[str, ...]]) -> str:
    """In words which protocols, and which of their models, are meant: `honest: lcm, mlp; paper`."""
    parts = []
    for protocol in sorted({place[:1] for place in own}):
        models = {place for place in own if place[:1] == protocol}
        is_whole = models == {place for place in everywhere if place[:1] == protocol}
        named = "" if is_whole else ", ".join(sorted("/".join(place[1:]) for place in models))
        parts.append(": ".join(part for part in ("/".join(protocol), named) if part))
    return "; ".join(parts)


def _together(stage: str, contents: list[dict[str, Any]], methods: list[MethodsText]) -> StageRecord:
    versions: dict[str, str] = {}
    for content in contents:
        versions |= content.get("versions", {})
    return StageRecord(
        stage=stage,
        num_jobs=len(contents),
        seconds=sum(content.get("seconds", 0.0) for content in contents),
        peak_mb=max(content.get("peak_mb", 0) for content in contents),
        settings=_distinct(content.get("settings", {}) for content in contents),
        methods=methods,
        versions=versions,
    )


def _distinct(values: Any) -> list[Any]:
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())
