"""Evaluation: each fold's model on its own test people, a row a person, and no one it has seen."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from lcm.config import Evaluate
from lcm.evaluation.evaluate import main
from lcm.tables import BEI, FOLDS, SCORES, read_arrow, read_tsv, write_arrow, write_tsv
from lcm.training.weights import MANIFEST, WEIGHTS, read_manifest, save_bundle

SEX = {"target": "sex", "levels": ["female", "male"]}
AGE = {"target": "age"}
RIDGE = {"architecture": "ridge"}


@pytest.fixture
def finetuned(study, run_stage):
    """Ridge bundles of all folds for a task; returns the folder that holds them."""

    def finetune(task: dict):
        for fold in (0, 1, 2):
            run_stage("finetune", f"finetune/fold-{fold}", {}, model=RIDGE, task=task, fold=fold)
        return study.folder / "finetune"

    return finetune


def evaluate(study, weights, task: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    output = study.folder / "evaluate"
    options = study.flags(
        model="tiny",
        task="question",
        definition=json.dumps(task),
        weights=weights,
        output=output,
        settings=Evaluate(num_bootstraps=100),
    )
    main(options)
    scores = read_tsv(output / "scores.tsv", SCORES)
    return pd.read_parquet(output / "predictions.parquet"), scores.set_index(["cohort", "metric"])


def test_every_test_person_has_one_row_from_the_model_of_their_fold(study, finetuned):
    predictions, _ = evaluate(study, finetuned(SEX), SEX)
    folds = read_tsv(study.folder / "folds.tsv", FOLDS)
    tested = folds[folds["role"] == "test"].set_index("person_id")["fold"].astype(int)
    assert predictions.set_index("person_id")["fold"].astype(int).sort_index().to_dict() == tested.to_dict()
    assert set(predictions["num_scans"]) == {1}
    assert all(list(levels) == ["female", "male"] for levels in predictions["levels"])


def test_a_planted_effect_is_scored_high_and_its_interval_excludes_chance(study, finetuned):
    predictions, scores = evaluate(study, finetuned(SEX), SEX)
    assert scores.loc[("all", "auroc"), "value"] > 0.9
    assert scores.loc[("all", "auroc"), "ci_low"] > 0.7
    right = (predictions["truth"] == predictions["prediction"]).mean()
    assert scores.loc[("all", "accuracy"), "value"] == pytest.approx(right)
    assert {"aaa", "bbb"} < set(scores.index.get_level_values("cohort"))


def test_a_continuous_target_has_its_number_as_truth_and_score(study, finetuned):
    predictions, scores = evaluate(study, finetuned(AGE), AGE)
    age = study.people.set_index("person_id")["age"].astype(float)
    np.testing.assert_array_equal(predictions["truth"].astype(float), age[predictions["person_id"]])
    error = predictions["scores"].str[0] - predictions["truth"].astype(float)
    assert scores.loc[("all", "mae"), "value"] == pytest.approx(error.abs().mean())


def test_people_without_a_label_are_left_out_and_counted(study, finetuned, caplog):
    autism = {"target": "autism", "levels": ["control", "autism"]}
    with caplog.at_level("INFO"):
        predictions, _ = evaluate(study, finetuned(autism), autism)
    assert set(predictions["cohort"]) == {"bbb"}
    assert "10 people tested, 10 without a label" in caplog.text


def test_scans_of_one_person_become_one_row_with_their_mean(study, finetuned):
    weights = finetuned(SEX)
    before, _ = evaluate(study, weights, SEX)
    two = before[before["fold"] == 0].iloc[:2]
    path = study.folder / "bei.tsv"
    bei = read_tsv(path, BEI).set_index("person_id", drop=False)
    first, second = two["person_id"]
    bei.loc[second, "sex"] = bei.loc[first, "sex"]
    bei.loc[second, "person_id"] = first
    write_tsv(bei, path, BEI)
    after, _ = evaluate(study, weights, SEX)
    merged = after.set_index("person_id").loc[first]
    assert merged["num_scans"] == 2
    np.testing.assert_allclose(merged["scores"], np.mean(list(two["scores"]), axis=0))


def test_a_model_that_saw_a_test_person_is_refused_with_the_number_of_people(study, finetuned):
    weights = finetuned(SEX)
    path = study.folder / "folds.tsv"
    folds = read_tsv(path, FOLDS)
    by_person = folds.set_index("person_id")
    # Three people who learned in fold 0 and are tested in fold 1 change places after training.
    trained = by_person[(by_person["fold"] == 0) & (by_person["role"] == "train")].index
    tested = by_person[(by_person["fold"] == 1) & (by_person["role"] == "test")].index
    leaked = folds["person_id"].isin(list(trained.intersection(tested))[:3])
    folds.loc[leaked, "fold"] = folds.loc[leaked, "fold"].map({0: 1, 1: 0, 2: 2})
    write_tsv(folds, path, FOLDS)
    with pytest.raises(ValueError, match="3 of the people") as refused:
        evaluate(study, weights, SEX)
    assert not any(person in str(refused.value) for person in folds["person_id"])


def test_a_bundle_of_another_fold_or_another_question_is_refused(study, finetuned):
    weights = finetuned(SEX)
    with pytest.raises(ValueError, match="another target"):
        evaluate(study, weights, {"target": "sex", "levels": ["male", "female"]})
    (weights / "fold-0").rename(weights / "kept")
    (weights / "fold-1").rename(weights / "fold-0")
    (weights / "kept").rename(weights / "fold-1")
    with pytest.raises(ValueError, match="trained on fold 1, asked about fold 0"):
        evaluate(study, weights, SEX)


def test_scores_say_whether_it_is_known_whom_the_weights_had_seen(study, finetuned):
    weights = finetuned(SEX)
    stale = read_manifest(weights / "fold-0").model_copy(update={"people": "unknown"})
    # A fold that is asked nothing, of a study that once had more of them.
    save_bundle(weights / "fold-7", load_file(weights / "fold-0" / WEIGHTS), stale)
    assert set(evaluate(study, weights, SEX)[1]["training_people"]) == {"listed"}
    save_bundle(weights / "fold-0", load_file(weights / "fold-0" / WEIGHTS), stale)
    assert set(evaluate(study, weights, SEX)[1]["training_people"]) == {"unknown"}


def test_a_task_that_one_fold_cannot_learn_is_not_run_and_says_why(study, finetuned):
    path = study.folder / "bei.tsv"
    bei, folds = read_tsv(path, BEI), read_tsv(study.folder / "folds.tsv", FOLDS)
    trained = folds[(folds["fold"] == 1) & (folds["role"] == "train")]["person_id"]
    bei.loc[bei["person_id"].isin(trained) & (bei["autism"] == "autism"), ["autism", "autism_source"]] = [
        None,
        "missing",
    ]
    write_tsv(bei, path, BEI)
    autism = {"target": "autism", "levels": ["control", "autism"]}
    predictions, scores = evaluate(study, finetuned(autism), autism)
    assert predictions.empty
    assert "truth" in predictions
    ((cohort, metric),) = scores.index
    assert cohort == "all"
    assert metric == "not run: fold 1: no training person with a connectome is labelled as autism (autism)"
    assert scores["value"].isna().all()
    assert scores["num_people"].tolist() == [0]


def test_a_fold_that_asks_nobody_of_the_task_need_not_have_been_fitted(study, finetuned):
    path = study.folder / "folds.tsv"
    folds = read_tsv(path, FOLDS)
    # Fold 2 tests cohort AAA alone, which has no autism label, and leaves BBB, which has, on no side.
    folds.loc[(folds["fold"] == 2) & folds["person_id"].str.startswith("bbb:"), "role"] = "unused"
    write_tsv(folds, path, FOLDS)
    autism = {"target": "autism", "levels": ["control", "autism"]}
    weights = finetuned(autism)
    assert not (weights / "fold-2" / MANIFEST).exists()
    predictions, scores = evaluate(study, weights, autism)
    assert set(predictions["fold"]) == {0, 1}
    assert scores.loc[("all", "auroc"), "num_people"] == 20


def test_people_on_no_side_of_a_fold_are_neither_learned_from_nor_asked(study, finetuned):
    path = study.folder / "folds.tsv"
    folds = read_tsv(path, FOLDS)
    aside = folds[(folds["fold"] == 0) & (folds["role"] == "train")]["person_id"].iloc[:5]
    folds.loc[(folds["fold"] == 0) & folds["person_id"].isin(aside), "role"] = "unused"
    write_tsv(folds, path, FOLDS)
    manifest = json.loads((finetuned(SEX) / "fold-0" / MANIFEST).read_text())
    assert len(manifest["training_people"]) == 28 - 5
    predictions, _ = evaluate(study, study.folder / "finetune", SEX)
    assert predictions.loc[predictions["fold"] == 0, "person_id"].isin(aside).sum() == 0
    assert len(predictions) == 60


def test_a_fold_whose_test_people_lost_their_scans_leaves_the_others_their_scores(study, finetuned):
    weights = finetuned(SEX)
    folds = read_tsv(study.folder / "folds.tsv", FOLDS)
    tested = folds[(folds["fold"] == 2) & (folds["role"] == "test")]["person_id"]
    lost = set(study.people.loc[study.people["person_id"].isin(tested), "scan"])
    for path in (study.folder / "correlate").rglob("*.arrow"):
        table = read_arrow(path)
        rows = [row | {"outcome": "failed: x"} if row["scan"] in lost else row for row in table.to_pylist()]
        write_arrow(type(table).from_pylist(rows, schema=table.schema), path)
    predictions, _ = evaluate(study, weights, SEX)
    assert set(predictions["fold"]) == {0, 1}


def test_a_missing_fold_stops_and_leaves_no_scores(study, finetuned):
    weights = finetuned(SEX)
    (weights / "fold-1" / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match="fold-1"):
        evaluate(study, weights, SEX)
    assert not (study.folder / "evaluate").exists()
