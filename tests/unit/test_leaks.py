"""Leaks that flatter a benchmark, planted: each is refused, leaves no trace in the weights, or is shown by a row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from lcm.config import Model, Task
from lcm.models import MODELS, architecture
from lcm.models.labelled import Labelled, Scans, together
from lcm.tables import BEI, FOLDS, read_arrow, read_tsv, write_arrow, write_tsv
from lcm.training.data import labels_of, read_cohort, tables_of
from lcm.training.estimators import fit_estimator
from lcm.training.inference import was_seen
from lcm.training.weights import WEIGHTS, read_manifest
from tests.asking import scores_of

ESTIMATORS = [name for name, entry in MODELS.items() if entry.kind == "estimator"]
SEX = {"target": "sex", "levels": ["female", "male"]}
REFIT = {"refit": True}


def people_of(study, role: str):
    return read_cohort(tables_of(study.flags()), fold=0, roles=(role,))


def remake(study, change) -> None:
    """Every FC table with cells that `change(scan, column name, cell)` gives."""
    for path in sorted((study.folder / "correlate").rglob("*.arrow")):
        table = read_arrow(path)
        rows = table.to_pylist()
        names = ("fc", "mean_fd_mm", "num_kept", "shrinkage")
        changed = [row | {name: change(row["scan"], name, row[name]) for name in names} for row in rows]
        write_arrow(type(table).from_pylist(changed, schema=table.schema), path)


def give_everybody_motion(study) -> None:
    generator = np.random.default_rng(5)
    fresh = {"mean_fd_mm": lambda: generator.gamma(4, 0.05), "shrinkage": lambda: generator.uniform(0.05, 0.3)}
    remake(study, lambda _, name, cell: fresh[name]() if name in fresh else cell)


def poison(study, scans: set[str]) -> None:
    """Garbage wherever anything is known of these scans: edges, motion, shrinkage, age, and the other sex."""
    garbage = {"fc": [7.0] * 45, "mean_fd_mm": 19.0, "num_kept": 1, "shrinkage": 0.99}
    remake(study, lambda scan, name, cell: garbage[name] if scan in scans else cell)
    bei = read_tsv(study.folder / "bei.tsv", BEI).astype({"site": object})
    here = bei["scan"].isin(scans)
    bei.loc[here, "age"], bei.loc[here, "site"] = "109", "nowhere"
    bei.loc[here, "sex"] = bei.loc[here, "sex"].map({"male": "female", "female": "male"})
    write_tsv(bei, study.folder / "bei.tsv", BEI)


def alike(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_garbage_in_the_test_people_leaves_no_trace_in_an_estimator(study, name):
    give_everybody_motion(study)

    def fitted() -> dict[str, np.ndarray]:
        cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train", "validation"))
        return fit_estimator(Model(architecture=name), Task.model_validate(SEX), cohort, refit=True).arrays

    before = fitted()
    poison(study, set(people_of(study, "test").rows["scan"]))
    assert alike(fitted(), before)
    # The same garbage in people who teach is not overlooked.
    poison(study, set(people_of(study, "train").rows["scan"].iloc[:3]))
    assert not alike(fitted(), before)


def test_garbage_in_the_test_people_leaves_no_trace_in_a_perceptron(study, run_stage):
    size = {"num_layers": 1, "width": 8, "reads": "edges", "edges": "standard"}
    settings = {"max_epochs": 1, "batch_size": 8}
    model = {"architecture": "mlp", "size": size}
    before = load_file(run_stage("finetune", "before", settings, model=model, task=SEX) / WEIGHTS)
    poison(study, set(people_of(study, "test").rows["scan"]))
    assert alike(load_file(run_stage("finetune", "after", settings, model=model, task=SEX) / WEIGHTS), before)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scaler_components_and_reference_are_the_training_scans_alone(name):
    """Validation scans choose; what was fitted does not move as long as they choose the same."""
    generator = np.random.default_rng(0)
    covariates = {
        "site": np.array(["ab:1", "ab:2"], dtype=object)[generator.integers(0, 2, 60)],
        "sex": np.array(["female", "male"], dtype=object)[generator.integers(0, 2, 60)],
        "age": generator.normal(40, 10, 60),
        "mean_fd_mm": generator.gamma(4, 0.05, 60),
        "num_kept": generator.normal(180, 20, 60),
    }
    scans = Scans(np.tanh(generator.normal(0, 0.3, (60, 21))), generator.uniform(0.1, 0.2, 60), covariates)
    target_N = (np.arange(60) % 2).astype(float)

    def part(first: int, last: int) -> Labelled:
        cells = {key: cells_N[first:last] for key, cells_N in covariates.items()}
        return Labelled(Scans(scans.edges_NE[first:last], scans.shrinkage_N[first:last], cells), target_N[first:last])

    training, validation = part(0, 40), part(40, 60)
    loaded = architecture(name).load()
    # Twice the same validation scans: every mean over them, and so every choice, stays.
    once, twice = (loaded.fit(training, judging, 2).state for judging in (validation, together(validation, validation)))
    chosen = {"sigmoid_2L", "sharpness"}
    for key in set(once) - chosen:
        np.testing.assert_allclose(once[key], twice[key], err_msg=key)


def test_a_person_with_two_roles_is_refused(study, run_stage):
    path = study.folder / "folds.tsv"
    folds = read_tsv(path, FOLDS)
    tested = folds[(folds["fold"] == 0) & (folds["role"] == "test")].head(1)
    pd.concat([folds, tested.assign(role="train")]).to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match="folds"):
        run_stage("finetune", "out", {}, model={"architecture": "ridge"}, task=SEX)


def test_a_bundle_lists_everyone_whom_refitting_has_seen(study, run_stage):
    folder = run_stage("finetune", "out", REFIT, model={"architecture": "ridge"}, task=SEX)
    for role, seen in (("train", True), ("validation", True), ("test", False)):
        assert set(was_seen(read_manifest(folder), people_of(study, role).rows["person_id"])) == {seen}, role


def test_a_site_that_gives_the_label_away_is_shown_by_its_own_row(study, run_stage):
    path = study.folder / "bei.tsv"
    bei = read_tsv(path, BEI).astype({"site": object})
    generator = np.random.default_rng(3)
    # Men were scanned in two places, women in two others; nothing of it is in the connectomes of this study.
    place = generator.integers(0, 2, len(bei))
    bei["site"] = [f"{sex}-{number}" for sex, number in zip(bei["sex"], place, strict=True)]
    write_tsv(bei, path, BEI)
    noise = {scan: np.tanh(generator.normal(0, 0.3, 45)).tolist() for scan in bei["scan"]}
    remake(study, lambda scan, name, cell: noise[scan] if name == "fc" else cell)
    cohort = people_of(study, "test")
    truth_N = labels_of(cohort, "sex", ("female", "male")).value_N
    found = {}
    for name in ("site", "all-confounds", "ridge", "age-sex"):
        folder = run_stage("finetune", name, {}, model={"architecture": name}, task=SEX)
        found[name] = roc_auc_score(truth_N, scores_of(folder, cohort)[:, 1])
    assert found["site"] > 0.99
    assert found["all-confounds"] > 0.99
    # 20 test people: chance scatters by 0.13.
    assert max(found["ridge"], found["age-sex"]) < 0.9
