"""Evaluation: each fold's model on its own test people, a row a person, and no one it has seen."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from lcm.cohort.split import split
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Evaluate, Split
from lcm.evaluation.evaluate import arguments, main, methods
from lcm.models import MODELS
from lcm.result_tables import (
    BALANCE,
    COSTS,
    DECODABILITY,
    OVERLAP,
    SCORES,
    TOKEN_ATTENTION,
    read_predictions,
)
from lcm.tables import BEI, FOLDS, Table, read_arrow, read_tsv, write_arrow, write_tsv
from lcm.training.weights import MANIFEST, WEIGHTS, read_manifest, save_bundle

SEX = {"target": "sex", "levels": ["female", "male"]}
AGE = {"target": "age"}
AUTISM = {"target": "autism", "levels": ["control", "autism"]}
RIDGE = {"architecture": "ridge"}
LCM = {"architecture": "lcm", "size": {"num_layers": 2, "width": 16, "num_heads": 2}}
QUICK = {"max_epochs": 1, "first_stage_epochs": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Path]:
    """Where bundles of a study lie that another test has made, by what they were made from."""
    folder = tmp_path_factory.mktemp("made")
    return lambda key: folder / hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def finetuned(study, run_stage, made):
    """Bundles of all folds for a task, made once from the same tables; returns the folder that holds them."""

    def finetune(task: dict, settings: dict | None = None, model: dict = RIDGE, **more):
        files = sorted(path for path in study.folder.rglob("*") if path.suffix in {".tsv", ".arrow"})
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if "evaluate" not in path.parts]
        kept, folder = made(repr([contents, task, settings, model, list(more)])), study.folder / "finetune"
        if not kept.exists():
            for fold in (0, 1, 2):
                own = {name: value(fold) for name, value in more.items()}
                run_stage("finetune", f"finetune/fold-{fold}", settings or {}, model=model, task=task, fold=fold, **own)
            shutil.copytree(folder, kept)
        return Path(shutil.copytree(kept, folder, dirs_exist_ok=True))

    return finetune


def evaluate(study, weights, task: dict, settings: dict | None = None, **more) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions, and the scores of everyone by cohort and metric."""
    output = study.folder / "evaluate"
    flags = {"protocol": "honest", "select": "validation", "model": "tiny", "task": "question", "pretrained": None}
    flags |= {"model_definition": json.dumps(more.pop("definition", RIDGE)), "definition": json.dumps(task)}
    quick = {"num_bootstraps": 100, "num_permutations": 100}
    options = study.flags(
        **flags | more, weights=weights, output=output, settings=Evaluate.model_validate(quick | (settings or {}))
    )
    main(options)
    scores = read_tsv(output / "scores.tsv", SCORES)
    everyone = scores[scores["subset"] == "all"].set_index(["cohort", "metric"])
    return read_predictions(output / "predictions.parquet"), everyone


def table(study, spec: Table, name: str) -> pd.DataFrame:
    """A table that evaluate left beside the scores."""
    return read_tsv(study.folder / "evaluate" / f"{name}.tsv", spec)


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
    with caplog.at_level("INFO"):
        predictions, _ = evaluate(study, finetuned(AUTISM), AUTISM)
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


def test_cohort_and_site_of_a_person_in_two_cohorts_belong_together(study, finetuned):
    """A site is a name within its cohort: the other cohort's would make a site that does not exist."""
    weights = finetuned(SEX)
    path = study.folder / "bei.tsv"
    bei = read_tsv(path, BEI).astype({"site": object})
    # Both are tested in fold 0; the first scan in the order of tables is of a cohort without sites.
    bei.loc[bei["person_id"] == "bbb:30", "site"] = "leuven"
    bei.loc[bei["person_id"] == "bbb:30", ["sex", "person_id"]] = [bei["sex"].iloc[0], "aaa:0"]
    write_tsv(bei, path, BEI)
    predictions, _ = evaluate(study, weights, SEX)
    person = predictions.set_index("person_id").loc["aaa:0"]
    assert (person["cohort"], person["num_scans"]) == ("aaa", 2)
    assert pd.isna(person["site"])


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
    predictions, scores = evaluate(study, finetuned(AUTISM), AUTISM)
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
    weights = finetuned(AUTISM)
    assert not (weights / "fold-2" / MANIFEST).exists()
    predictions, scores = evaluate(study, weights, AUTISM)
    assert set(predictions["fold"]) == {0, 1}
    assert scores.loc[("all", "auroc"), "num_people"] == 20


def test_people_on_no_side_of_a_fold_are_neither_learned_from_nor_asked(study, finetuned):
    path = study.folder / "folds.tsv"
    folds = read_tsv(path, FOLDS)
    aside = folds[(folds["fold"] == 0) & (folds["role"] == "train")]["person_id"].iloc[:5]
    folds.loc[(folds["fold"] == 0) & folds["person_id"].isin(aside), "role"] = "unused"
    write_tsv(folds, path, FOLDS)
    manifest = json.loads((finetuned(SEX) / "fold-0" / MANIFEST).read_text())
    # The weights are fitted once more with the 12 validation people.
    assert len(manifest["training_people"]) == 28 - 5 + 12
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


def set_motion(study, millimetres_of: dict[str, float]) -> None:
    """Mean FD of each scan, by name, in the tables of connectomes."""
    for path in (study.folder / "correlate").rglob("*.arrow"):
        arrow = read_arrow(path)
        rows = [row | {"mean_fd_mm": millimetres_of[row["dataset"] + row["scan"]]} for row in arrow.to_pylist()]
        write_arrow(type(arrow).from_pylist(rows, schema=arrow.schema), path)


def test_predictions_tell_who_people_are_and_what_answered_them(study, finetuned):
    people = study.people.assign(site=[f"site{i % 2}" for i in range(len(study.people))])
    write_tsv(people, study.folder / "bei.tsv", BEI)
    motion = {row.dataset + row.scan: 0.01 * place for place, row in enumerate(people.itertuples())}
    set_motion(study, motion)
    weights = finetuned(SEX)
    predictions, _ = evaluate(study, weights, SEX)
    asked = people.set_index("person_id").loc[predictions["person_id"]]
    assert list(predictions["site"]) == list(asked["site"])
    assert list(predictions["sex"]) == list(asked["sex"])
    np.testing.assert_allclose(predictions["age"], asked["age"].astype(float))
    np.testing.assert_allclose(
        predictions["mean_fd_mm"], [motion[row.dataset + row.scan] for row in asked.itertuples()]
    )
    assert set(predictions["num_kept"]) == {90}
    names = predictions[["protocol", "select", "model", "architecture", "group", "task"]].drop_duplicates()
    assert names.to_numpy().tolist() == [["honest", "validation", "tiny", "ridge", MODELS["ridge"].group, "question"]]
    for fold, own in predictions.groupby("fold"):
        manifest = read_manifest(weights / f"fold-{fold}")
        assert set(own["num_train"]) == {len(manifest.training_people)}
        # All 12 validation people of fold 2 are male: nobody could choose a threshold there.
        expected = manifest.results["threshold"] if fold < 2 else np.nan
        np.testing.assert_array_equal(own["threshold"], expected)
    assert predictions["layers"].isna().all()


def test_subsets_have_scores_of_their_own_and_a_reason_where_they_have_none(study, finetuned):
    weights = finetuned(SEX)
    evaluate(study, weights, SEX)
    scores = table(study, SCORES, "scores").set_index("subset")
    assert scores.loc["low-motion", "metric"] == "not run: nobody's head motion is known"
    motion = {row.dataset + row.scan: 0.1 + 0.2 * (place % 2) for place, row in enumerate(study.people.itertuples())}
    set_motion(study, motion)
    predictions, _ = evaluate(study, weights, SEX)
    scores = table(study, SCORES, "scores")
    everyone = scores[(scores["cohort"] == "all") & (scores["metric"] == "accuracy")].set_index("subset")
    low = predictions[predictions["mean_fd_mm"] <= 0.2]
    assert everyone.loc["all", "num_people"] == 60
    assert everyone.loc["low-motion", "num_people"] == len(low) == 30
    assert everyone.loc["low-motion", "value"] == pytest.approx((low["truth"] == low["prediction"]).mean())
    num_pairs = everyone.loc["matched", "num_people"] // 2
    balance = table(study, BALANCE, "balance").drop_duplicates("cohort")
    assert balance["num_pairs"].sum() == num_pairs > 5


def test_a_network_says_which_layer_answered_where_it_looked_and_what_it_cost(study, finetuned):
    definition = LCM | {"start": "scratch"}
    predictions, _ = evaluate(study, finetuned(SEX, QUICK, LCM), SEX, definition=definition)
    assert all(len(layers) == 2 and set(layers) <= {1, 2} for layers in predictions["layers"])
    attention = table(study, TOKEN_ATTENTION, "attention")
    assert attention.groupby("level")["share"].sum().to_dict() == pytest.approx({"female": 1, "male": 1}, abs=1e-6)
    assert set(attention["num_people"]) == {60}
    (cost,) = table(study, COSTS, "costs").to_dict("records")
    manifests = [read_manifest(study.folder / "finetune" / f"fold-{fold}") for fold in (0, 1, 2)]
    assert cost["finetune_seconds"] == pytest.approx(sum(manifest.results["seconds"] for manifest in manifests))
    assert cost["num_parameters"] == manifests[0].results["num_parameters"] > 1000
    assert cost["device"] == manifests[0].device
    assert np.isnan(cost["pretrain_seconds"])


def test_a_linear_row_has_neither_attention_nor_an_embedding(study, finetuned):
    evaluate(study, finetuned(SEX), SEX)
    assert table(study, TOKEN_ATTENTION, "attention").empty
    assert table(study, DECODABILITY, "decodability").empty
    assert len(table(study, COSTS, "costs")) == 1


def test_a_networks_embedding_is_asked_for_site_and_motion_of_people_it_has_not_seen(study, finetuned):
    people = study.people
    set_motion(study, {row.dataset + row.scan: 0.01 * place for place, row in enumerate(people.itertuples())})
    weights = finetuned(SEX, QUICK, LCM)
    evaluate(study, weights, SEX, definition=LCM)
    decoded = table(study, DECODABILITY, "decodability").set_index(["fold", "decoded"])
    assert set(decoded.index) == {(fold, name) for fold in (0, 1, 2) for name in ("site", "motion tertile")}
    # No cohort names a site: each is one. Of 42 people who are not tested 28 learn.
    assert decoded.loc[(0, "site"), ["num_train", "num_test", "chance"]].tolist() == [28, 20, 0.5]
    assert decoded.loc[(0, "site"), "value"] >= 0
    assert decoded.loc[(0, "motion tertile"), "note"].startswith("not run: 28 training people with known head motion")
    evaluate(study, weights, SEX, {"decode_embeddings": False}, definition=LCM)
    assert table(study, DECODABILITY, "decodability").empty


def test_honest_rows_have_seen_no_tested_person(study, finetuned):
    evaluate(study, finetuned(SEX), SEX)
    rows = table(study, OVERLAP, "overlap")
    assert set(rows["corpus"]) == {"training", "choice"}
    assert rows["num_seen"].tolist() == [0] * 6
    assert set(rows["status"]) == {"clean"}
    assert set(rows["num_test"]) == {20}


def test_pretraining_is_a_corpus_too(study, run_stage, finetuned):
    model = LCM | {"start": "pretrained"}
    for fold in (0, 1, 2):
        run_stage("pretrain", f"pretrain/fold-{fold}", QUICK | {"targets": ["sex"]}, model=model, fold=fold)
    folder = study.folder / "pretrain"
    weights = finetuned(SEX, QUICK, model, weights=lambda fold: folder / f"fold-{fold}")
    evaluate(study, weights, SEX, definition=model, pretrained=folder)
    rows = table(study, OVERLAP, "overlap").set_index(["corpus", "fold"])
    assert rows.loc[("pretraining: tiny", 0), "num_corpus"] == 28
    assert set(rows["num_seen"]) == {0}
    (cost,) = table(study, COSTS, "costs").to_dict("records")
    assert cost["pretrain_seconds"] > 0


def test_where_tested_people_choose_it_is_told_and_they_may_not_be_fitted_on(study, finetuned):
    weights = finetuned(SEX, {"keep": "best-on-test", "refit": False})
    with pytest.raises(ValueError, match="chosen by test people, and the protocol says validation"):
        evaluate(study, weights, SEX)
    predictions, scores = evaluate(study, weights, SEX, select="test", protocol="paper")
    assert set(predictions["select"]) == set(scores["select"]) == {"test"}
    rows = table(study, OVERLAP, "overlap").set_index(["corpus", "fold"])
    assert rows.loc[("choice", 0), ["num_seen", "status"]].tolist() == [20, "by design"]
    assert rows.loc[("training", 0), ["num_seen", "status"]].tolist() == [0, "clean"]
    with pytest.raises(ValueError, match="chosen by validation people, and the protocol says test"):
        evaluate(study, finetuned(SEX), SEX, select="test", protocol="paper")


def test_where_tested_people_choose_one_who_was_fitted_on_is_still_refused(study, finetuned):
    weights = finetuned(SEX, {"keep": "best-on-test", "refit": False})
    manifest = read_manifest(weights / "fold-0")
    leaked = (*manifest.training_people, manifest.validation_people[0])
    stale = manifest.model_copy(update={"training_people": leaked})
    save_bundle(weights / "fold-0", load_file(weights / "fold-0" / WEIGHTS), stale)
    with pytest.raises(ValueError, match="1 of the people"):
        evaluate(study, weights, SEX, select="test")


def test_a_filtered_task_asks_only_whom_the_filter_keeps(study, finetuned):
    task = AUTISM | {"filter": {"age": [30, 60]}}
    predictions, _ = evaluate(study, finetuned(task), task)
    asked = study.people[(study.people["age"].astype(float) >= 30) & study.people["autism"].notna()]
    assert set(predictions["person_id"]) == set(asked["person_id"])


@pytest.mark.parametrize(
    "design",
    [
        {"design": "leave-site-out", "num_folds": 3},
        {"design": "cross-cohort", "test_cohorts": [["aaa"], ["bbb"]]},
        {"design": "kfold", "num_folds": 3},
    ],
    ids=lambda design: design["design"],
)
def test_every_design_is_evaluated_by_people_who_learned_elsewhere(study, run_stage, design):
    people = study.people.assign(site=[f"site{i % 3}" for i in range(len(study.people))])
    write_tsv(people, study.folder / "bei.tsv", BEI)
    settings = Split.model_validate(design | {"validation_share": 0.2})
    others = [n for name in read_vocabulary() for n in (name, f"{name}_source") if n not in people] + ["site_source"]
    folds = split(
        people.assign(
            **dict.fromkeys(others, "missing"),
        ),
        settings,
    )
    write_tsv(folds, study.folder / "folds.tsv", FOLDS)
    for fold in range(settings.count):
        run_stage("finetune", f"finetune/fold-{fold}", {}, model=RIDGE, task=SEX, fold=fold)
    predictions, scores = evaluate(study, study.folder / "finetune", SEX)
    assert len(predictions) == 60
    assert set(table(study, OVERLAP, "overlap")["status"]) == {"clean"}
    assert scores.loc[("all", "auroc"), "value"] > 0.8
    if design["design"] != "kfold":
        column = "cohort" if design["design"] == "cross-cohort" else "site"
        assert predictions.groupby(["cohort", column])["fold"].nunique().eq(1).all()


def test_a_row_that_began_with_no_weights_of_this_study_gives_pretrained_without_a_value():
    parser = argparse.ArgumentParser()
    arguments(parser)
    named = ["protocol", "model", "model-definition", "task", "definition", "bei", "folds", "scans", "connectomes"]
    flags = [part for name in named for part in (f"--{name}", "x")] + ["--select", "test", "--weights", "w"]
    assert parser.parse_args([*flags, "--pretrained", "--output", "o"]).pretrained is None
    assert parser.parse_args([*flags, "--pretrained", "p", "--output", "o"]).pretrained == Path("p")


def test_the_methods_name_every_number_that_was_chosen():
    told = methods(Evaluate(num_bootstraps=777, num_permutations=555, low_motion_fd_mm=0.15))
    assert all(number in told for number in ("777", "555", "0.15 mm", "0.25 SD", "embeddings"))
    assert "embeddings" not in methods(Evaluate(decode_embeddings=False))
