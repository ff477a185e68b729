"""Where weights start: reused, frozen or continued, never those of other people's folds, and misuse is named."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from lcm.tables import FOLDS, MISSING, read_tsv, write_tsv
from lcm.training.data import labels_of, read_cohort, tables_of
from lcm.training.weights import WEIGHTS, hash_people, read_manifest, save_bundle

TINY = {"architecture": "lcm", "size": {"num_layers": 2, "width": 16, "num_heads": 2, "feedforward": 32}}
PRETRAINED = TINY | {"start": "pretrained"}
SEX = {"target": "sex", "levels": ["female", "male"]}
AUTISM = {"target": "autism", "levels": ["control", "autism"]}
SHORT = {"max_epochs": 2, "batch_size": 8, "learning_rate": 1e-3}
TRUNK = ("region_embedding", "region_norm", "layers", "norm")


@pytest.fixture
def pretrained(run_stage):
    """A bundle of two epochs on fold 0."""
    return run_stage("pretrain", "pre", SHORT | {"targets": ["sex", "age"]}, model=PRETRAINED)


def rewrite(folder, **changed) -> None:
    """The same bundle, its manifest saying something else."""
    save_bundle(folder, load_file(folder / WEIGHTS), read_manifest(folder).model_copy(update=changed))


def moved(before, after) -> set[str]:
    """First parts of the names of arrays that training changed; appended rows are left aside."""
    first, second = (load_file(folder / WEIGHTS) for folder in (before, after))
    pairs = {name: (np.atleast_1d(first[name]), np.atleast_1d(second[name])) for name in first}
    return {name.split(".")[0] for name, (a, b) in pairs.items() if not np.array_equal(a, b[: len(a)])}


def test_a_frozen_trunk_stays_bit_for_bit_with_its_running_statistics(run_stage, pretrained):
    frozen = run_stage("finetune", "f", SHORT | {"trunk": "freeze"}, model=PRETRAINED, task=AUTISM, weights=pretrained)
    assert moved(pretrained, frozen) == {"token_embedding", "head"}
    free = run_stage("finetune", "g", SHORT, model=PRETRAINED, task=AUTISM, weights=pretrained)
    assert set(TRUNK) <= moved(pretrained, free)


def test_pretraining_may_begin_with_another_bundle_and_remembers_whom_it_saw(run_stage, pretrained):
    more = SHORT | {"targets": ["sex", "autism"], "init_from": str(pretrained), "learning_rate": 1e-12}
    folder = run_stage("pretrain", "more", more, model=PRETRAINED)
    manifest, before = read_manifest(folder), read_manifest(pretrained)
    assert manifest.tokens == (*before.tokens, "autism=autism", "autism=control")
    assert manifest.vocabulary == before.vocabulary | {"autism": ("autism", "control")}
    assert set(manifest.pretraining_people) == {*before.training_people, *before.validation_people}
    first, second = load_file(pretrained / WEIGHTS), load_file(folder / WEIGHTS)
    np.testing.assert_allclose(second["token_embedding"][:3], first["token_embedding"], atol=1e-9)


def test_weights_that_have_seen_a_tested_person_are_refused_whatever_they_are_called(study, run_stage, pretrained):
    # Fold 1 tests people 10–19 and 40–49, all of whom fold 0 trained on or chose its epoch by.
    refused = "weights of pretrain on fold %d, which have seen 20 of the 20 people whom fold 1 tests"
    with pytest.raises(ValueError, match=refused % 0):
        run_stage("finetune", "out", SHORT, model=PRETRAINED, task=SEX, weights=pretrained, fold=1)
    rewrite(pretrained, fold=1)
    with pytest.raises(ValueError, match=refused % 1):
        run_stage("finetune", "out", SHORT, model=PRETRAINED, task=SEX, weights=pretrained, fold=1)
    again = SHORT | {"targets": ["sex"], "init_from": str(pretrained)}
    with pytest.raises(ValueError, match="have seen 20 of the 20"):
        run_stage("pretrain", "out", again, model=PRETRAINED, fold=1)


def test_weights_of_other_people_serve_every_fold_whatever_theirs_was(run_stage, pretrained):
    strangers = hash_people([f"elsewhere:{i}" for i in range(40)])
    rewrite(pretrained, training_people=strangers, validation_people=())
    for fold in (0, 1):
        folder = run_stage("finetune", f"f{fold}", SHORT, model=PRETRAINED, task=SEX, weights=pretrained, fold=fold)
        assert read_manifest(folder).pretraining_people == strangers


def test_one_shared_test_person_is_enough(study, run_stage, pretrained):
    folds = read_tsv(study.folder / "folds.tsv", FOLDS)
    one = (folds["fold"] == 0) & (folds["person_id"] == "aaa:20")
    assert list(folds.loc[one, "role"]) == ["train"]
    folds.loc[one, "role"] = "test"
    folds.loc[(folds["fold"] != 0) & (folds["person_id"] == "aaa:20") & (folds["role"] == "test"), "role"] = "train"
    write_tsv(folds, study.folder / "folds.tsv", FOLDS)
    with pytest.raises(ValueError, match="have seen 1 of the 21 people whom fold 0 tests"):
        run_stage("finetune", "out", SHORT, model=PRETRAINED, task=SEX, weights=pretrained)


def test_what_was_fitted_from_weights_of_unknown_people_says_so(run_stage, pretrained):
    rewrite(pretrained, people="unknown", training_people=(), validation_people=())
    folder = run_stage("finetune", "out", SHORT, model=PRETRAINED, task=SEX, weights=pretrained)
    assert read_manifest(folder).people == "unknown"
    assert read_manifest(run_stage("finetune", "own", SHORT, model=TINY, task=SEX)).people == "listed"


def test_a_bundle_of_finetune_is_no_start(run_stage):
    task = run_stage("finetune", "task", SHORT, model=TINY, task=SEX)
    with pytest.raises(ValueError, match="weights of finetune on fold 0"):
        run_stage("finetune", "out", SHORT, model=PRETRAINED, task=SEX, weights=task)


def test_dropout_is_no_part_of_the_weights_but_width_is(run_stage, pretrained):
    other = PRETRAINED | {"size": TINY["size"] | {"dropout": 0.5}}
    assert run_stage("finetune", "out", SHORT, model=other, task=SEX, weights=pretrained).is_dir()
    wide = PRETRAINED | {"size": TINY["size"] | {"width": 32}}
    with pytest.raises(ValueError, match=r"'width': 16.*'width': 32"):
        run_stage("finetune", "out", SHORT, model=wide, task=SEX, weights=pretrained)


def test_scans_without_a_label_learn_the_level_na_where_it_is_asked_for(study, run_stage):
    settings = SHORT | {"targets": ["sex", "autism"], "na_levels": ["autism"]}
    manifest = read_manifest(run_stage("pretrain", "na", settings, model=PRETRAINED))
    assert manifest.vocabulary == {"sex": ("female", "male"), "autism": (MISSING, "autism", "control")}
    assert manifest.tokens[2:] == ("autism=n/a", "autism=autism", "autism=control")
    cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train",))
    labels = labels_of(cohort, "autism", manifest.vocabulary["autism"])
    unasked = (cohort.rows["cohort"] == "aaa").to_numpy()
    assert (labels.value_N[unasked] == 0).all()
    assert (labels.value_N[~unasked] > 0).all()
    assert (labels.weight_N == 1).all()


def test_a_continuous_bei_has_no_level_na(run_stage):
    with pytest.raises(ValueError, match="na_levels has age, which is continuous"):
        run_stage("pretrain", "na", SHORT | {"targets": ["sex", "age"], "na_levels": ["age"]}, model=PRETRAINED)


def test_pseudo_labels_teach_with_their_weight_and_become_na_without(study, run_stage):
    cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train",))
    assumed = (cohort.rows["cohort"] == "aaa").to_numpy()
    cohort.rows.loc[assumed, ["autism", "autism_source"]] = ["control", "pseudo"]
    levels = (MISSING, "autism", "control")
    heard = labels_of(cohort, "autism", levels, pseudo_weight=0.25)
    assert (heard.value_N[assumed] == 2).all()
    np.testing.assert_array_equal(heard.weight_N, np.where(assumed, 0.25, 1.0).astype(np.float32))
    unheard = labels_of(cohort, "autism", levels)
    assert (unheard.value_N[assumed] == 0).all()
    assert (unheard.weight_N == 1).all()


@pytest.mark.parametrize("stages", ["both", "first", "second", "last_layer"])
def test_every_way_of_staging_trains_and_says_which_it_was(run_stage, stages):
    folder = run_stage("finetune", stages, SHORT | {"stages": stages, "first_stage_epochs": 1}, model=TINY, task=SEX)
    assert read_manifest(folder).settings["stages"] == stages


def test_stages_lead_to_different_weights(run_stage):
    folders = {
        stages: run_stage("finetune", stages, SHORT | {"stages": stages, "first_stage_epochs": 1}, model=TINY, task=SEX)
        for stages in ("both", "first", "second", "last_layer")
    }
    contents = {(folder / WEIGHTS).read_bytes() for folder in folders.values()}
    # `both` and `first` part after epoch 1, and either may have been the best.
    assert len(contents) >= 3
