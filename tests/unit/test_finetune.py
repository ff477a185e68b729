"""Finetuning: every architecture answers a task, tokens are reused or appended, and honest people only."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from lcm.config import Finetune, Task
from lcm.tables import read_arrow
from lcm.training.data import labels_of, read_cohort, tables_of
from lcm.training.finetune import answerable, few_shot, methods
from lcm.training.inference import was_seen
from lcm.training.weights import WEIGHTS, Unanswerable, read_manifest
from tests.asking import scores_of

TINY = {"architecture": "lcm", "size": {"num_layers": 2, "width": 32, "num_heads": 2, "feedforward": 32}}
AUTISM = {"target": "autism", "levels": ["control", "autism"]}
SEX = {"target": "sex", "levels": ["female", "male"]}
AGE = {"target": "age"}
LCM = {"max_epochs": 60, "patience": 60, "batch_size": 8, "learning_rate": 1e-3}
RIDGE = {"architecture": "ridge"}
STANDARD = TINY | {"size": TINY["size"] | {"edges": "standard"}}
PRETRAINED = TINY | {"start": "pretrained"}


def people_of_test(study, cohorts=()):
    return read_cohort(tables_of(study.flags()), fold=0, roles=("test",), cohorts=cohorts)


@pytest.mark.parametrize(("model", "settings"), [(RIDGE, {}), (TINY, LCM)], ids=["ridge", "lcm"])
def test_a_planted_effect_is_found_in_test_people(study, run_stage, model, settings):
    folder = run_stage("finetune", "out", settings, model=model, task=SEX)
    cohort = people_of_test(study)
    scores_NK = scores_of(folder, cohort)
    np.testing.assert_allclose(scores_NK.sum(axis=1), 1.0, atol=1e-6)
    # The planted shift is twice the noise in each of ten edges; 16 of 20 is chance with p = 0.006.
    assert (scores_NK.argmax(axis=1) == labels_of(cohort, "sex", ("female", "male")).value_N).sum() >= 16


@pytest.mark.parametrize(("model", "settings"), [(RIDGE, {}), (TINY, LCM)], ids=["ridge", "lcm"])
def test_age_is_predicted_in_years(study, run_stage, model, settings):
    folder = run_stage("finetune", "out", settings, model=model, task=AGE)
    cohort = people_of_test(study)
    predicted_N1, age_N = scores_of(folder, cohort), labels_of(cohort, "age", ()).value_N
    assert predicted_N1.shape == (20, 1)
    assert np.corrcoef(predicted_N1[:, 0], age_N)[0, 1] > 0.7
    assert abs(predicted_N1.mean() - age_N.mean()) < 8


def test_majority_gives_everybody_the_training_shares(study, run_stage):
    folder = run_stage("finetune", "out", {}, model={"architecture": "majority"}, task=SEX)
    training = read_cohort(tables_of(study.flags()), fold=0, roles=("train", "validation"))
    share = (training.rows["sex"] == "male").mean()
    np.testing.assert_allclose(scores_of(folder, people_of_test(study)), [[1 - share, share]] * 20)


def test_of_several_started_processes_one_fits_what_is_not_shared(run_stage, monkeypatch):
    """A profile's launcher serves all models of a rule; eight processes that write one bundle would mix their files."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not run_stage("finetune", "second", {}, model=RIDGE, task=SEX).exists()
    monkeypatch.setenv("RANK", "0")
    assert (run_stage("finetune", "first", {}, model=RIDGE, task=SEX) / WEIGHTS).is_file()


def test_seen_tokens_are_reused_and_unseen_ones_appended(run_stage):
    settings = LCM | {"max_epochs": 2}
    weights = run_stage("pretrain", "pre", settings | {"targets": ["sex", "age"]}, model=PRETRAINED)
    seen = run_stage("finetune", "seen", settings, model=PRETRAINED, task=SEX, weights=weights)
    assert read_manifest(seen).tokens == ("sex=female", "sex=male", "age")
    unseen = run_stage("finetune", "unseen", settings, model=PRETRAINED, task=AUTISM, weights=weights)
    manifest = read_manifest(unseen)
    assert manifest.tokens == ("sex=female", "sex=male", "age", "autism=control", "autism=autism")
    assert manifest.vocabulary["autism"] == ("control", "autism")
    assert len(manifest.pretraining_people) == 40


def test_pretrained_weights_are_where_finetuning_begins(run_stage):
    frozen = {"max_epochs": 1, "learning_rate": 1e-12}
    weights = run_stage("pretrain", "pre", LCM | {"max_epochs": 3, "targets": ["sex"]}, model=PRETRAINED)
    folder = run_stage("finetune", "out", frozen, model=PRETRAINED, task=SEX, weights=weights)
    before, after = load_file(weights / WEIGHTS), load_file(folder / WEIGHTS)
    for name in before:
        if "running" not in name and "tracked" not in name:
            np.testing.assert_allclose(after[name], before[name], atol=1e-9)


def test_weights_of_another_fold_or_size_are_refused(run_stage):
    settings = LCM | {"max_epochs": 1}
    weights = run_stage("pretrain", "pre", settings | {"targets": ["sex"]}, model=PRETRAINED, fold=1)
    with pytest.raises(ValueError, match="fold 1"):
        run_stage("finetune", "out", settings, model=PRETRAINED, task=SEX, weights=weights)
    wider = PRETRAINED | {"size": TINY["size"] | {"width": 64}}
    with pytest.raises(ValueError, match="width"):
        run_stage("finetune", "out", settings, model=wider, task=SEX, weights=weights, fold=1)


def test_start_and_weights_must_agree(run_stage, tmp_path):
    with pytest.raises(ValueError, match="pretrained"):
        run_stage("finetune", "out", {}, model=PRETRAINED, task=SEX)
    with pytest.raises(ValueError, match="scratch"):
        run_stage("finetune", "out", {}, model=RIDGE, task=SEX, weights=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        run_stage("finetune", "out", {}, model=PRETRAINED, task=SEX, weights=tmp_path / "nowhere")


def test_a_bundle_knows_whom_training_has_seen(study, run_stage):
    folder = run_stage("finetune", "out", {}, model=RIDGE, task=SEX)
    rows = read_cohort(tables_of(study.flags()), fold=0, roles=("train", "test", "validation")).rows
    np.testing.assert_array_equal(was_seen(read_manifest(folder), rows["person_id"]), rows["role"] != "test")


@pytest.mark.parametrize("model", [RIDGE, TINY, STANDARD], ids=["ridge", "lcm", "lcm on standard edges"])
def test_garbage_in_the_test_people_leaves_the_weights_bit_identical(study, run_stage, rewrite_connectomes, model):
    settings = LCM | {"max_epochs": 3}
    before = (run_stage("finetune", "before", settings, model=model, task=SEX) / WEIGHTS).read_bytes()
    poisoned = set(people_of_test(study).rows["scan"])
    for path in sorted((study.folder / "correlate").rglob("*.arrow")):
        table = read_arrow(path)
        scans, edges_NE = table["scan"].to_pylist(), np.array(table["fc"].to_pylist())
        edges_NE[[scan in poisoned for scan in scans]] = np.inf
        rewrite_connectomes(path, scans, edges_NE)
    assert (run_stage("finetune", "after", settings, model=model, task=SEX) / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize(
    ("cohorts", "roles", "reason"),
    [
        (("aaa",), ("train", "validation"), "no training person.* as control, autism"),
        (("bbb",), ("train",), "no validation person"),
    ],
)
def test_people_without_answers_cannot_answer_a_task(study, cohorts, roles, reason):
    cohort = read_cohort(tables_of(study.flags()), fold=0, roles=roles, cohorts=cohorts)
    with pytest.raises(Unanswerable, match=reason):
        answerable(cohort, Task.model_validate(AUTISM))


@pytest.mark.parametrize("model", [{"architecture": "majority"}, RIDGE, TINY], ids=["majority", "ridge", "lcm"])
def test_a_fold_that_cannot_be_fitted_says_so_in_place_of_weights(run_stage, model):
    folder = run_stage("finetune", "out", {}, model=model, task=AUTISM | {"cohorts": ["aaa"]}, fold=2)
    with pytest.raises(Unanswerable, match=r"^fold 2: no training person .* labelled as control, autism \(autism\)$"):
        read_manifest(folder)
    assert not (folder / WEIGHTS).exists()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_few_shot_keeps_that_share_of_every_level_and_all_validation_people(study, share):
    task = Task.model_validate(SEX)
    cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train", "validation"))
    kept = few_shot(cohort, task, share=share, seed=1)
    before, after = (part.of_role("train").rows["sex"].value_counts() for part in (cohort, kept))
    assert after.to_dict() == {level: max(1, round(share * n)) for level, n in before.items()}
    assert len(kept.of_role("validation").rows) == 12
    again = few_shot(cohort, task, share=share, seed=1)
    assert list(again.rows["person_id"]) == list(kept.rows["person_id"])


def test_the_methods_text_says_which_epoch_was_kept_and_what_learned():
    said = methods(Finetune())
    assert "kept the epoch, and other models the penalty, that did best on the fold's validation people." in said
    said = methods(Finetune(keep="last", trunk="freeze", train_share=0.1))
    assert "on 10% of the training people" in said
    assert "kept the last epoch, and other models the penalty that did best" in said
    assert said.endswith("of pretrained networks only tokens and head learned.")
    said = methods(Finetune(readout="svm-rbf", readout_components=200, target_transform="zscore"))
    assert "learned nothing more: svm-rbf read the first 200 principal components of their embedding." in said
    assert "Continuous targets were learned as z-scores over the training people." in said


@pytest.mark.parametrize("stopped_in", [3, 7], ids=["first fit", "second fit"])
def test_a_run_goes_on_from_the_fit_in_which_it_was_stopped(study, run_stage, monkeypatch, stopped_in):
    """Five epochs by which the threshold is chosen, and five with the validation people: the same bits either way."""
    size = {"num_layers": 1, "width": 16, "num_heads": 2, "feedforward": 16, "dropout": 0.1}
    model = {"architecture": "lcm", "size": size}
    settings = {"max_epochs": 5, "keep": "last", "batch_size": 8, "learning_rate": 1e-3}
    whole = run_stage("finetune", "whole", settings, model=model, task=SEX)
    from lcm.training import loop

    epochs, run_epoch = iter(range(1, 99)), loop._Loop.run_epoch

    def stopping(self, *arguments) -> None:
        if next(epochs) == stopped_in:
            raise KeyboardInterrupt
        run_epoch(self, *arguments)

    flags = {"model": model, "task": SEX, "checkpoint": study.folder / "checkpoint", "checkpoint_minutes": 1e-9}
    monkeypatch.setattr(loop._Loop, "run_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_stage("finetune", "stopped", settings, **flags)
    monkeypatch.undo()
    stopped = run_stage("finetune", "stopped", settings, resume="require", **flags)
    ours, theirs = load_file(stopped / WEIGHTS), load_file(whole / WEIGHTS)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert not list(study.folder.glob("checkpoint*"))
