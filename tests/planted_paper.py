"""Predictions of a small study in the paper's two protocols, with answers that are right as often as they are planted to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lcm.result_tables import COSTS, write_predictions
from lcm.tables import write_tsv

NUM_FOLDS = 5
LEVELS = {
    "alzheimers": ("control", "alzheimers"),
    "autism": ("control", "autism"),
    "ppmi": ("control", "prodromal", "swedd", "parkinsons"),
    "taowu": ("control", "parkinsons"),
    "neurocon": ("control", "parkinsons"),
    "schizophrenia": ("control", "schizophrenia"),
    "sex-hcpa": ("female", "male"),
    "sex-abide": ("female", "male"),
    "cognitive-state-hcpa": ("rest", "vismotor", "carit", "facename"),
    "age-hcpa": (),
}
PEOPLE = {"taowu": 40, "neurocon": 40}
"""Where not 60."""
GROUPS = {"majority": "reference", "site": "confound", "ridge": "linear"}
"""Where not network."""
PROTOCOLS = {"honest": "validation", "paper": "test"}


def plant_row(results: Path, protocol: str, model: str, task: str, wrong: int, *, num_layers: int = 0) -> pd.DataFrame:
    """Write and return one table: in every fold the first `wrong` people are answered wrongly, in folds 1 and 3 one more."""
    levels, num = list(LEVELS[task]), PEOPLE.get(task, 60)
    person = np.arange(num)
    fold, place = person % NUM_FOLDS, person // NUM_FOLDS
    # A majority of the first level, and every level in every fold.
    truth = np.where(place % 3 == 0, place // 3 % max(len(levels), 1), 0)
    answer = np.where(place < wrong + fold % 2, (truth + 1) % max(len(levels), 1), truth)
    if model == "majority":
        answer = np.zeros(num, dtype=int)
    people = pd.DataFrame(
        {
            "protocol": protocol,
            "select": PROTOCOLS[protocol],
            "model": model,
            "architecture": model.split("-")[0],
            "group": GROUPS.get(model.split("-share")[0], "network"),
            "task": task,
            "fold": fold,
            "person_id": [f"{task}:{p}" for p in person],
            "cohort": task.rpartition("-")[2],
            "site": "here",
            "num_scans": 1,
            "num_train": num - num // NUM_FOLDS,
        }
    )
    if levels:
        scores = np.where(np.arange(len(levels)) == answer[:, None], 0.7, 0.3 / (len(levels) - 1))
        people = people.assign(truth=[levels[t] for t in truth], prediction=[levels[a] for a in answer])
    else:
        age = 20.0 + person
        scores = (age + wrong)[:, None]
        people = people.assign(truth=[repr(float(a)) for a in age], prediction=[repr(float(s)) for s in scores[:, 0]])
    people = people.assign(levels=[levels] * num, scores=scores.tolist())
    if num_layers and levels:
        depth = 1 + (person[:, None] + 7 * np.arange(len(levels))) % num_layers
        people = people.assign(layers=depth.tolist())
    write_predictions(people, results / "evaluate" / protocol / model / task / "predictions.parquet")
    return people


def plant_costs(results: Path, protocol: str, model: str, task: str, ms: float, seconds: float) -> None:
    """Write what a row took."""
    row = {"protocol": protocol, "model": model, "task": task, "device": "test device", "num_parameters": 1_175_000_000}
    row |= {"pretrain_seconds": seconds, "finetune_seconds": 60.0}
    row |= {"pretrain_ms_per_scan": ms, "finetune_ms_per_scan": 2 * ms}
    write_tsv(pd.DataFrame([row]), results / "evaluate" / protocol / model / task / "costs.tsv", COSTS)


def plant_paper(results: Path) -> Path:
    """Rows of the tables under both protocols: fewer wrong answers the deeper, and one fewer where the tested choose."""
    depths = {f"lcm-{depth}": 4 - depth // 10 for depth in (4, 8, 20, 32)}
    wrong = {"majority": 0, "site": 5, "ridge": 3, **depths, "lcm-pre-1": 3, "lcm-pre-1234": 2, "lcm-as-pretrained": 3}
    shares = {"lcm-share-10": 4, "lcm-share-50": 3, "ridge-share-10": 5, "ridge-share-50": 4}
    for protocol in PROTOCOLS:
        fewer = int(protocol == "paper")
        for model, errors in wrong.items():
            for task in LEVELS:
                if model == "lcm-as-pretrained" and not task.startswith(("sex", "age")):
                    continue
                layers = 32 if model.startswith("lcm-pre") else 0
                plant_row(results, protocol, model, task, max(errors - fewer, 0), num_layers=layers)
        for model, errors in shares.items():
            plant_row(results, protocol, model, "schizophrenia", errors - fewer)
        plant_costs(results, protocol, "lcm-pre-1234", "autism", 12.5, 36000.0)
    return results
