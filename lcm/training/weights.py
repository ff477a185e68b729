"""The bundle: weights.safetensors, and the manifest.json that says what they are, whom they saw and where they fit.

Nothing here is pickled and nothing needs torch, so that a ridge bundle opens in a second. The manifest is written last:
a folder without one is not a bundle. Where nothing could be fitted the folder holds refusal.txt alone, which says why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from lcm.config import Model, Settings, Task
from lcm.tables import TRAIN, VALIDATION, write_atomically

if TYPE_CHECKING:
    from lcm.training.data import Cohort

WEIGHTS, MANIFEST, REFUSAL = "weights.safetensors", "manifest.json", "refusal.txt"


class Unanswerable(ValueError):
    """The people at hand cannot answer a task; the rest of the study goes on without it."""


class Manifest(Settings):
    """All that is known about a bundle's arrays."""

    format: Literal[1] = Field(default=1, description="version of this class")
    stage: Literal["pretrain", "finetune"] = Field(description="the stage that wrote it")
    name: str = Field(description="name of the model in config.yaml")
    model: Model = Field(description="architecture, start and size")
    fold: int = Field(ge=0, description="outer fold whose training people were used")
    task: Task | None = Field(default=None, description="finetune: the question answered")
    vocabulary: dict[str, tuple[str, ...]] = Field(
        description="BEIs with a token or an output → levels; continuous: none"
    )
    tokens: tuple[str, ...] = Field(default=(), description="network: one name per token, in row order")
    atlas: str = Field(description="atlas of the connectomes")
    regions: tuple[str, ...] = Field(description="region names in the order of the FC rows")
    strategies: tuple[str, ...] = Field(description="denoising strategies of the connectomes, sorted")
    training_people: tuple[str, ...] = Field(description="hash_person of everyone the weights were fitted on, sorted")
    validation_people: tuple[str, ...] = Field(description="hash_person of everyone the epoch was chosen on, sorted")
    pretraining_people: tuple[str, ...] = Field(
        default=(), description="finetune from pretrained weights: hash_person of everyone those had seen, sorted"
    )
    settings: dict[str, Any] = Field(description="the stage's section of config.yaml")
    combat_sites: dict[str, int] = Field(
        default_factory=dict, description="site corrected by ComBat → training people behind its estimates"
    )
    results: dict[str, float] = Field(default_factory=dict, description="best epoch and its validation loss")
    weights_sha256: str = Field(default="", description="SHA-256 of weights.safetensors; filled in by save_bundle")


def hash_person(person_id: str) -> str:
    """SHA-256 of a person id: tells overlap of two bundles without listing people."""
    return hashlib.sha256(person_id.encode()).hexdigest()


def hash_people(person_ids: Collection[str]) -> tuple[str, ...]:
    """Sorted hashes of the distinct people."""
    return tuple(sorted({hash_person(person_id) for person_id in person_ids}))


def learned_from(cohort: Cohort) -> dict[str, Any]:
    """What a manifest says of the scans behind its weights, by field."""
    return {
        "atlas": cohort.atlas,
        "regions": cohort.regions,
        "strategies": cohort.strategies,
        "training_people": hash_people(cohort.of_role(TRAIN).rows["person_id"]),
        "validation_people": hash_people(cohort.of_role(VALIDATION).rows["person_id"]),
    }


def save_bundle(folder: Path, weights: Mapping[str, np.ndarray], manifest: Manifest) -> None:
    """Write both files atomically, the manifest last."""
    from safetensors.numpy import save

    # Not ascontiguousarray, which turns a scalar into a vector of one.
    content = save({name: np.array(array, order="C") for name, array in weights.items()})
    _clear(folder)
    with write_atomically(folder / WEIGHTS) as temporary:
        temporary.write_bytes(content)
    sealed = manifest.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    with write_atomically(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(sealed.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def save_refusal(folder: Path, reason: str) -> None:
    """Say in place of a bundle why there is none; whoever reads the bundle gets the reason as Unanswerable."""
    _clear(folder)
    with write_atomically(folder / REFUSAL) as temporary:
        temporary.write_text(reason + "\n", encoding="utf-8")


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, WEIGHTS, REFUSAL):
        (folder / name).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone.

    Raises FileNotFoundError if the folder holds no bundle, ValueError if it is not of this form, Unanswerable with the
    reason if nothing could be fitted.
    """
    path = folder / MANIFEST
    if (folder / REFUSAL).is_file():
        raise Unanswerable((folder / REFUSAL).read_text(encoding="utf-8").strip())
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the stage that writes this bundle has not finished")
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        defects = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{path}: not a bundle manifest: {defects}") from None


def load_bundle(folder: Path, *, regions: Sequence[str], atlas: str) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Manifest and arrays, for connectomes of these regions.

    Raises FileNotFoundError for a missing file and ValueError when the bytes are not those the manifest was written
    for, or when the connectomes come from another atlas or have another region order.
    """
    from safetensors.numpy import load

    manifest = read_manifest(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, though {MANIFEST} is there; make the bundle again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
        raise ValueError(f"{path}: its SHA-256 is not the one in {MANIFEST}; the file was changed or cut short")
    if atlas != manifest.atlas:
        raise ValueError(f"{folder}: weights of atlas '{manifest.atlas}' cannot read connectomes of atlas '{atlas}'")
    if tuple(regions) != manifest.regions:
        raise ValueError(f"{folder}: {_first_difference(manifest.regions, regions)}; correlate in the weights' order")
    return manifest, load(content)


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if len(ours) != len(theirs):
        return f"the weights know {len(ours)} regions, the connectomes have {len(theirs)}"
    place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"region {place + 1} is '{ours[place]}' for the weights and '{theirs[place]}' in the connectomes"
