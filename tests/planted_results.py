"""A small results tree with planted numbers, as the stages before `report` would have left it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lcm.array_tables import connectome_schema, denoised_schema, series_schema
from lcm.atlas import load_atlas
from lcm.evaluation.metrics import ALL, score
from lcm.evaluation.motion_effects import distances
from lcm.imaging.preprocessed import write_runs
from lcm.imaging.strategy import strategy_path
from lcm.result_tables import (
    BALANCE,
    COSTS,
    DECODABILITY,
    OVERLAP,
    SCORES,
    TOKEN_ATTENTION,
    write_predictions,
)
from lcm.tables import BEI, COHORT_FLOW, LABELS, OK, RUNS, SCANS, excluded, failed, write_arrow, write_tsv

NUM_REGIONS, NUM_VOLUMES = 20, 60
REGIONS = list(load_atlas("AAL").names[:NUM_REGIONS])
"""Ten pairs of mirror regions, left before right."""
PRIVATE = "PRIVATE"
"""Every participant label begins with it: it must never reach the page."""
STRATEGIES = ("9P", "36P")
"""Under the first, connectivity of READY follows head motion, short distances most; the second has removed it."""
HONEST, SITES, PAPER = "honest", "leave-site-out", "paper"
"""The headline's protocol, another, and one where the tested people chose the epoch."""
DATASETS = {"RAW": ("bids", "hcpa", 4), "READY": ("series", "abide", 40)}
CENSORED = (10, 11, 40)
COVERAGE = [1.0] * (NUM_REGIONS - 1) + [0.3]
PREDICTED = 0.9
"""Probability that the planted model gives the true level of all but every fifth person."""


def plant(results: Path) -> Path:
    """Write the tree below `results` and return it: RAW has one excluded and one failed scan, READY is all ok.

    Nothing is evaluated in it: see `plant_models` and `plant_all`.
    """
    scans = pd.concat([_scans(name) for name in DATASETS], ignore_index=True)
    write_tsv(scans, results / "index" / "scans.tsv", SCANS)
    for dataset, rows in scans.groupby("dataset"):
        _plant_imaging(results, str(dataset), rows)
    _plant_cohorts(results, scans)
    _plant_records(results)
    return results


def plant_models(results: Path) -> Path:
    """The tree of `plant` with three models and two tasks under the headline's protocol."""
    plant(results)
    for model in ("majority", "ridge", "lcm"):
        for task in ("autism", "age"):
            plant_model(results, model, task)
    return results


def plant_all(results: Path) -> Path:
    """The tree of `plant_models` with a network under two more protocols, and what `evaluate` says beside its scores."""
    plant_models(results)
    for protocol in (SITES, PAPER):
        plant_model(results, "lcm", "autism", protocol=protocol)
    for protocol in (HONEST, SITES, PAPER):
        plant_checks(results / "evaluate" / protocol / "lcm" / "autism")
    return results


def _scans(dataset: str) -> pd.DataFrame:
    kind, _, count = DATASETS[dataset]
    labels = [f"sub-{PRIVATE}{dataset}{index:02d}" for index in range(count)]
    frame = pd.DataFrame({"dataset": dataset, "batch": "batch-0", "participant_id": labels, "input": kind})
    frame = frame.assign(
        scan=[f"{label}_task-rest" for label in labels], tr_s=2.0, num_volumes=NUM_VOLUMES, outcome=OK, fingerprint="0"
    )
    return frame.reindex(columns=list(SCANS.columns))


def _outcomes(dataset: str, count: int, strategy: str) -> list[str]:
    outcomes = [OK] * count
    if dataset == "RAW":
        outcomes[0] = failed(f"sub-{PRIVATE}RAW00_task-rest_bold.nii.gz is truncated")
        outcomes[1] = excluded("0.5 min kept, 2 needed")
        if strategy == "36P":
            outcomes[2] = excluded("no degree of freedom left after filter and confounds")
    return outcomes


def _plant_imaging(results: Path, dataset: str, rows: pd.DataFrame) -> None:
    random = np.random.default_rng(7)
    series_NTR = [_simulated(random) for _ in range(len(rows))]
    fd_mm_N = np.linspace(0.05, 0.37, len(rows))
    if dataset == "RAW":
        outcomes = _outcomes(dataset, len(rows), STRATEGIES[0])
        _plant_series(results, rows, outcomes, series_NTR)
        _plant_preprocess(results / "preprocess" / dataset, rows, outcomes)
    for strategy in STRATEGIES:
        _plant_connectomes(results, strategy, rows, series_NTR, fd_mm_N)


def _entries(rows: pd.DataFrame, outcomes: list[str]) -> list[dict]:
    return [
        {
            "dataset": row.dataset,
            "participant_id": row.participant_id,
            "scan": row.scan,
            "outcome": outcome,
            "tr_s": 2.0,
        }
        for row, outcome in zip(rows.itertuples(), outcomes, strict=True)
    ]


def _plant_series(results: Path, rows: pd.DataFrame, outcomes: list[str], series_NTR: list[np.ndarray]) -> None:
    """Parcellate's table: the excluded scan has a series and is refused by denoise, the failed one has none."""
    planted = []
    for entry, data_TR in zip(_entries(rows, outcomes), series_NTR, strict=True):
        drift_TR = 500 + data_TR + np.linspace(0, 8, NUM_VOLUMES)[:, None]
        raw = {"outcome": OK, "num_volumes": NUM_VOLUMES, "series": drift_TR.ravel().tolist(), "coverage": COVERAGE}
        planted.append(entry if entry["outcome"].startswith("failed") else entry | raw)
    _write(planted, series_schema(REGIONS, "AAL"), results / "parcellate" / "RAW" / "batch-0.arrow")


def _plant_connectomes(
    results: Path, strategy: str, rows: pd.DataFrame, series_NTR: list[np.ndarray], fd_mm_N: np.ndarray
) -> None:
    dataset = str(rows["dataset"].iloc[0])
    slope_E = motion_slopes() if strategy == STRATEGIES[0] else 0.0
    kept = [index not in CENSORED for index in range(NUM_VOLUMES)]
    denoised, connectomes = [], []
    entries = _entries(rows, _outcomes(dataset, len(rows), strategy))
    for entry, data_TR, fd_mm in zip(entries, series_NTR, fd_mm_N, strict=True):
        numbers = {"num_volumes": NUM_VOLUMES, "num_kept": NUM_VOLUMES - 3, "coverage": COVERAGE}
        numbers |= {"mean_fd_mm": fd_mm, "residual_dof": 12.0}
        arrays = {"kept": kept, "fd_mm": np.where(kept, 0.15, 0.9).tolist(), "series": data_TR.ravel().tolist()}
        fc_E = np.corrcoef(data_TR.T)[np.triu_indices(NUM_REGIONS, k=1)] + slope_E * (fd_mm - fd_mm_N.mean())
        whole = {"window": 0, "window_start": 0, "fc": fc_E.tolist()}
        is_usable = entry["outcome"] == OK
        denoised.append(entry | numbers | arrays if is_usable else entry)
        connectomes.append(entry | numbers | whole if is_usable else entry)
    place = Path(strategy) / dataset / "batch-0.arrow"
    _write(denoised, denoised_schema(REGIONS, "AAL", strategy), results / "denoise" / place)
    _write(connectomes, connectome_schema(REGIONS, "AAL", strategy), results / "correlate" / place)


def motion_slopes() -> np.ndarray:
    """Planted change of each edge's FC (E) with mean FD, per mm: 1.5 for regions in one place, 0 at 12 cm."""
    return 1.5 * np.clip(1 - distances(REGIONS, "AAL") / 120, 0, None)


def _simulated(random: np.random.Generator) -> np.ndarray:
    """Independent regions but for mirror pairs, which share half their variance: homotopic r = 0.5."""
    shared = np.repeat(random.standard_normal((NUM_VOLUMES, NUM_REGIONS // 2)), 2, axis=1)
    return shared + random.standard_normal((NUM_VOLUMES, NUM_REGIONS))


def _write(rows: list[dict], schema: pa.Schema, path: Path) -> None:
    filled = [{name: row.get(name) for name in schema.names} for row in rows]
    write_arrow(pa.Table.from_pylist(filled, schema=schema), path)


def _plant_preprocess(folder: Path, rows: pd.DataFrame, outcomes: list[str]) -> None:
    from matplotlib.figure import Figure

    for row, outcome in zip(rows.itertuples(), outcomes, strict=True):
        said = outcome if outcome.startswith("failed") else OK
        run = {"dataset": row.dataset, "participant_id": row.participant_id, "scan": row.scan, "outcome": said}
        run |= {"dice_template": 0.93, "mean_fd_mm": 0.21, "num_volumes": NUM_VOLUMES, "tr_s": 2.0}
        run |= {
            "dice_t1w": 0.91,
            "template": "MNI152NLin2009aSym",
            "slice_timing": "corrected to 0.975 s",
            "num_non_steady": 1,
        }
        write_runs(pd.DataFrame([run]).reindex(columns=list(RUNS.columns)), folder / row.participant_id)
    figures = folder / rows["participant_id"].iloc[2] / "figures"
    figures.mkdir()
    figure = Figure(figsize=(6, 2))
    figure.subplots().imshow(np.add.outer(np.arange(30), np.arange(90)), cmap="gray")
    figure.savefig(figures / f"{rows['scan'].iloc[2]}_desc-registration.png")


def _plant_cohorts(results: Path, scans: pd.DataFrame) -> None:
    cohort = scans["dataset"].map({name: kind[1] for name, kind in DATASETS.items()})
    bei = scans[["dataset", "scan", "participant_id"]].assign(cohort=cohort, session_id=None)
    bei = bei.assign(person_id=cohort + ":" + scans["participant_id"].str.removeprefix("sub-"))
    bei["group_id"] = bei["person_id"]
    place = scans.groupby("dataset").cumcount()
    cells = {
        "sex": place.map(lambda i: "female" if i % 4 == 0 else "male"),
        "age": (20.0 + place).map(repr),
        "autism": place.map(lambda i: "autism" if i % 2 else "control").where(cohort == "abide", None),
        "alzheimers": cohort.map({"hcpa": "control", "abide": None}),
        "site": place.map(lambda i: "Pitt" if i % 3 else "Yale").where(cohort == "abide", None),
    }
    for name, values in cells.items():
        source = values.notna().map({True: "pseudo" if name == "alzheimers" else "observed", False: "missing"})
        bei = bei.assign(**{name: values, f"{name}_source": source})
    write_tsv(bei, results / "harmonize" / "bei.tsv", BEI)
    labels = [("hcpa", "sex", "female", "observed", 1, 1), ("hcpa", "sex", "male", "observed", 3, 3)]
    labels += [("hcpa", "alzheimers", "control", "pseudo", 4, 4), ("hcpa", "autism", None, "missing", 4, 4)]
    labels += [("abide", "autism", level, "observed", 20, 20) for level in ("control", "autism")]
    labels += [("abide", "age", "any", "observed", 38, 38), ("abide", "age", None, "missing", 2, 2)]
    write_tsv(pd.DataFrame(labels, columns=list(LABELS.columns)), results / "harmonize" / "labels.tsv", LABELS)
    rows = []
    for _, name, count in DATASETS.values():
        rows += [(name, "rows read", "people.csv", count + 7), (name, "rows excluded", "people.csv: later visit", 2)]
        rows += [(name, "rows kept", "people.csv", count + 5), (name, "people described", "all", count + 5)]
        rows += [(name, "people matched", "all", count), (name, "people without a scan", "all", 5)]
        rows += [(name, "scans indexed", "all", count), (name, "scans matched", "all", count)]
    rows.append(("abide", "unknown code", "people.csv: SEX = 9", 1))
    write_tsv(
        pd.DataFrame(rows, columns=list(COHORT_FLOW.columns)), results / "harmonize" / "cohort_flow.tsv", COHORT_FLOW
    )


def plant_model(results: Path, model: str, task: str, *, protocol: str = HONEST) -> None:
    """Predictions and scores of one model, over all people and over those who moved little."""
    predictions = planted_predictions(model, task, protocol=protocol)
    folder = results / "evaluate" / protocol / model / task
    write_predictions(predictions, folder / "predictions.parquet")
    still = predictions[predictions["person_id"].str[-1].isin(list("012345"))]
    scores = [
        score(rows, num_bootstraps=200, num_permutations=99, seed=0, subset=subset)
        for subset, rows in ((ALL, predictions), ("low-motion", still))
    ]
    write_tsv(pd.concat(scores, ignore_index=True), folder / "scores.tsv", SCORES)


def plant_checks(folder: Path) -> None:
    """Overlap, decodability, cost, balance and attention of a network: half of all attention is on the first region."""
    key = dict(zip(("protocol", "model", "task"), folder.parts[-3:], strict=True))
    seen, status = (14, "by design") if key["protocol"] == PAPER else (0, "clean")
    overlap = [
        key | {"fold": fold, "corpus": corpus, "num_corpus": 26, "num_test": 14, "num_seen": count, "status": said}
        for fold in range(3)
        for corpus, count, said in (("training", 0, "clean"), ("choice", seen, status))
    ]
    write_tsv(pd.DataFrame(overlap), folder / "overlap.tsv", OVERLAP)
    decoded = {"metric": "balanced accuracy", "chance": 0.5, "num_train": 26, "num_test": 14, "note": None}
    rows = [key | {"fold": fold, "decoded": "site", "value": 0.7 + 0.1 * fold} | decoded for fold in range(3)]
    rows.append(key | {"fold": 0, "decoded": "motion tertile", "value": None} | decoded | {"note": "not run: unknown"})
    write_tsv(pd.DataFrame(rows)[list(DECODABILITY.columns)], folder / "decodability.tsv", DECODABILITY)
    cost = key | {"device": "cpu", "num_parameters": 1234567, "pretrain_seconds": None, "finetune_seconds": 12.5}
    cost |= {"pretrain_ms_per_scan": None, "finetune_ms_per_scan": 1.25}
    write_tsv(pd.DataFrame([cost]), folder / "costs.tsv", COSTS)
    balance = key | {"cohort": "abide", "covariate": "age", "smd_before": 0.61, "smd_after": 0.04, "num_pairs": 12}
    write_tsv(pd.DataFrame([balance]), folder / "balance.tsv", BALANCE)
    shares = [0.5, *[0.5 / (NUM_REGIONS - 1)] * (NUM_REGIONS - 1)]
    attention = [
        key | {"level": level, "region": region, "share": share, "num_people": 40}
        for level in ("control", "autism")
        for region, share in zip(REGIONS, shares, strict=True)
    ]
    write_tsv(pd.DataFrame(attention), folder / "attention.tsv", TOKEN_ATTENTION)


def planted_predictions(model: str, task: str, num_people: int = 40, *, protocol: str = HONEST) -> pd.DataFrame:
    """Forty people in three folds, half with autism; `lcm` errs on every fifth person, `majority` knows nothing."""
    person = np.arange(num_people)
    truth = person % 2
    if task == "age":
        age = 20.0 + person
        error = {"majority": age.mean() - age, "ridge": 6.0 * (-1.0) ** person, "lcm": 3.0 * (-1.0) ** (person // 2)}
        values = {"truth": [repr(float(a)) for a in age], "scores": [[float(v)] for v in age + error[model]]}
        values |= {"levels": [[]] * num_people, "prediction": [repr(float(v)) for v in age + error[model]]}
    else:
        right = {"majority": np.where(truth == 0, 0.6, 0.4), "ridge": np.where(person % 3 == 0, 0.3, 0.8)}
        right["lcm"] = np.where(person % 5 == 0, 1 - PREDICTED, PREDICTED)
        positive = np.where(truth == 1, right[model], 1 - right[model])
        levels = ["control", "autism"]
        values = {"truth": [levels[t] for t in truth], "scores": [[1 - float(p), float(p)] for p in positive]}
        values |= {"levels": [levels] * num_people, "prediction": [levels[int(p > 0.5)] for p in positive]}
    people = {"person_id": [f"abide:{PRIVATE}{p}" for p in person], "cohort": "abide", "site": "here", "num_scans": 1}
    people |= {"num_train": 26, "threshold": None if task == "age" else 0.5}
    group = {"majority": "reference", "ridge": "linear", "lcm": "network"}[model]
    named = {"protocol": protocol, "select": "test" if protocol == PAPER else "validation", "model": model}
    named |= {"architecture": model, "group": group, "task": task}
    return pd.DataFrame({**named, "fold": person // 2 % 3, **people, **values})


def _plant_records(results: Path) -> None:
    settings = {"preprocess": {"backend": "builtin"}, "denoise": {"fd_mm": 0.5}}
    for stage, place in [
        ("index", "index/record.json"),
        ("preprocess", f"preprocess/RAW/sub-{PRIVATE}RAW00/record.json"),
        *(("denoise", f"denoise/{strategy}/RAW/batch-0.json") for strategy in STRATEGIES),
        *(("correlate", f"correlate/{strategy}/RAW/batch-0.json") for strategy in STRATEGIES),
        ("finetune", "finetune/honest/lcm/autism/fold-0/record.json"),
    ]:
        content = {"stage": stage, "settings": settings.get(stage, {"seed": 12345})}
        content |= {"inputs": {"strategy": {"path": str(strategy_path(place.split("/")[1]))}}}
        content |= {"versions": {"python": "3.11.7", "numpy": "2.4.0"}, "seconds": 1.5, "peak_mb": 210}
        content |= {"methods": f"The planted sentence of {stage}."}
        path = results / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
