"""A small study on disk, as correlate, harmonize, split and index would write it, with planted effects."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

NUM_REGIONS = 10
NUM_EDGES = NUM_REGIONS * (NUM_REGIONS - 1) // 2
REGIONS = [f"region{i:02d}" for i in range(NUM_REGIONS)]
NUM_PEOPLE = 60


@dataclass(frozen=True)
class StudyOnDisk:
    """Paths of the tables; `people` is the BEI table before it was written."""

    folder: Path
    people: pd.DataFrame

    def flags(self, **more: object) -> argparse.Namespace:
        """Options of a training stage."""
        return argparse.Namespace(
            bei=self.folder / "bei.tsv",
            folds=self.folder / "folds.tsv",
            scans=self.folder / "scans.tsv",
            **{"connectomes": self.folder / "correlate", "recordings": None} | more,
        )


def write_connectomes(path: Path, scans: list[str], edges_NE: np.ndarray, regions: list[str] = REGIONS) -> None:
    """An FC table in which every scan is ok."""
    import pyarrow as pa

    from lcm.array_tables import connectome_schema
    from lcm.tables import write_arrow

    schema = connectome_schema(regions, "tiny", "9P")
    columns = {
        "dataset": [path.parent.name] * len(scans),
        "participant_id": [scan.split("_")[0] for scan in scans],
        "scan": scans,
        "outcome": ["ok"] * len(scans),
        "tr_s": [2.0] * len(scans),
        "num_volumes": [100] * len(scans),
        "num_kept": [90] * len(scans),
        "residual_dof": [20.0] * len(scans),
        "mean_fd_mm": [None] * len(scans),
        "coverage": [[1.0] * len(regions)] * len(scans),
        "window": [scans[:i].count(scan) for i, scan in enumerate(scans)],
        "window_start": [0] * len(scans),
        "shrinkage": [None] * len(scans),
        "fc": list(edges_NE.astype(np.float32)),
    }
    write_arrow(pa.Table.from_pydict(columns, schema=schema), path)


def _people(generator: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Two cohorts of 30; sex shifts edges 0–9, autism 10–19, age 20–29, each by 0.6 in noise of 0.3."""
    index = np.arange(NUM_PEOPLE)
    dataset = np.where(index < NUM_PEOPLE // 2, "AAA", "BBB")
    sex, autism = generator.integers(0, 2, NUM_PEOPLE), generator.integers(0, 2, NUM_PEOPLE)
    age = generator.uniform(20, 60, NUM_PEOPLE)
    edges_NE = generator.normal(0, 0.3, (NUM_PEOPLE, NUM_EDGES))
    edges_NE[:, :10] += 0.6 * sex[:, None]
    edges_NE[:, 10:20] += 0.6 * autism[:, None]
    edges_NE[:, 20:30] += 0.6 * ((age - 40) / 12)[:, None]
    frame = pd.DataFrame(
        {
            "dataset": dataset,
            "scan": [f"sub-{i:02d}_task-rest" for i in index],
            "cohort": np.char.lower(dataset.astype(str)),
            "participant_id": [f"sub-{i:02d}" for i in index],
            "session_id": None,
            "person_id": [f"{name.lower()}:{i}" for i, name in zip(index, dataset, strict=True)],
            "site": None,
            "sex": np.array(["female", "male"])[sex],
            "age": [repr(float(x)) for x in age],
            # Cohort AAA was never asked about autism.
            "autism": np.where(dataset == "AAA", None, np.array(["control", "autism"])[autism]),
        }
    )
    frame["group_id"] = frame["person_id"]
    for name in ("sex", "age", "autism"):
        frame[f"{name}_source"] = np.where(frame[name].isna(), "missing", "observed")
    return frame, np.tanh(edges_NE)


@pytest.fixture
def study(tmp_path: Path) -> StudyOnDisk:
    """Two datasets of two batches; three folds; people 0–9 and 30–39 are test in fold 0, 10–15 and 40–45 validation."""
    from lcm.tables import BEI, FOLDS, SCANS, write_tsv

    frame, edges_NE = _people(np.random.default_rng(7))
    batch = np.where(np.arange(NUM_PEOPLE) % 2 == 0, "batch-0", "batch-1")
    for (dataset, name), rows in frame.groupby(["dataset", batch]):
        path = tmp_path / "correlate" / str(dataset) / f"{name}.arrow"
        write_connectomes(path, list(rows["scan"]), edges_NE[rows.index])
    scans = frame[["dataset", "participant_id", "scan"]].assign(batch=batch, input="series", outcome="ok")
    others = {name: None if "optional" in kind else "any" for name, kind in SCANS.columns.items() if name not in scans}
    write_tsv(scans.assign(**others), tmp_path / "scans.tsv", SCANS)
    write_tsv(frame, tmp_path / "bei.tsv", BEI)
    folds = []
    for fold in (0, 1, 2):
        place = (np.arange(NUM_PEOPLE) - 10 * fold) % 30
        role = np.select([place < 10, place < 16], ["test", "validation"], "train")
        folds.append(frame[["person_id", "group_id"]].assign(fold=fold, role=role))
    write_tsv(pd.concat(folds), tmp_path / "folds.tsv", FOLDS)
    return StudyOnDisk(tmp_path, frame)


@pytest.fixture
def rewrite_connectomes() -> Callable[..., None]:
    """The writer of one FC table, for tests that damage a study."""
    return write_connectomes


@pytest.fixture
def run_stage(study: StudyOnDisk) -> Callable[..., Path]:
    """Run pretrain or finetune on the small study and return the bundle's folder."""

    def run(stage: str, output: str, settings: dict, *, model: dict, task: dict | None = None, **more: object) -> Path:
        import importlib

        from lcm.config import SETTINGS

        options = study.flags(
            model="tiny",
            model_definition=json.dumps(model),
            fold=more.pop("fold", 0),
            output=study.folder / output,
            checkpoint=None,
            resume="auto",
            log_folder=None,
            settings=SETTINGS[stage].model_validate(settings),
            accelerator="cpu",
            **({"task": "question", "definition": json.dumps(task), "weights": None} if stage == "finetune" else {}),
        )
        vars(options).update(more)
        importlib.import_module(f"lcm.training.{stage}").main(options)
        return options.output

    return run
