"""A bundle on connectomes: scores of its task, whatever the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from lcm.config import Combat, Task
from lcm.models import architecture
from lcm.training.data import Cohort
from lcm.training.site_correction import correct_like, weights_alone
from lcm.training.weights import Manifest, hash_people, load_bundle


def predict(folder: Path, cohort: Cohort, *, seen_people: Literal["refuse", "allow"] = "refuse") -> np.ndarray:
    """Scores of every scan of a cohort by a finetune bundle, float64.

    Site effects leave the connectomes by the bundle's own ComBat estimates, where it has some. Returns
    (N, K) probabilities in the order of the task's levels, or (N, 1) values for a continuous target. Raises ValueError
    for another atlas or region order, for a bundle of pretrain and, unless `seen_people` is "allow", when a scan
    belongs to a person whom fitting, choosing the epoch or pretraining has seen.
    """
    manifest, arrays = load_bundle(folder, regions=cohort.regions, atlas=cohort.atlas)
    if manifest.task is None:
        raise ValueError(f"{folder}: a bundle of pretrain answers no task; give one of finetune")
    if seen_people == "refuse":
        _check_unseen(folder, manifest, cohort)
    if manifest.settings.get("combat") is not None:
        combat = Combat.model_validate(manifest.settings["combat"])
        cohort = correct_like(cohort, arrays, combat, (manifest.task.target,))
    weights = weights_alone(arrays)
    loaded = architecture(manifest.model.architecture)
    if loaded.kind == "estimator":
        return np.asarray(loaded.load()(weights).predict(cohort.edges_NE), dtype=np.float64)
    return _predict_network(manifest, manifest.task, weights, cohort.edges_NE)


def _check_unseen(folder: Path, manifest: Manifest, cohort: Cohort) -> None:
    seen = {*manifest.training_people, *manifest.validation_people, *manifest.pretraining_people}
    shared = seen & set(hash_people(cohort.rows["person_id"]))
    if shared:
        raise ValueError(
            f"{folder}: {len(shared)} of the people asked for were seen in training; ask for the test role"
        )


def _predict_network(manifest: Manifest, task: Task, arrays: dict[str, np.ndarray], edges_NE: np.ndarray) -> np.ndarray:
    import torch

    from lcm.training.networks import build_network, connectomes, load_arrays

    network = build_network(manifest.model, len(manifest.regions), manifest.tokens, seed=0)
    load_arrays(network, arrays)
    on_cpu = manifest.settings.get("accelerator") == "cpu" or not torch.cuda.is_available()
    device = torch.device("cpu" if on_cpu else "cuda")
    network.to(device).eval()
    scores = []
    with torch.inference_mode():
        for part_NE in np.array_split(edges_NE, max(1, -(-len(edges_NE) // 256))):
            logits_LBP = network(connectomes(part_NE, len(manifest.regions)).to(device))
            scores.append(network.read_out(logits_LBP, task.target, task.levels).double().cpu().numpy())
    return np.concatenate(scores)
