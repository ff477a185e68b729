"""Inference: the bundle's task, connectome by connectome."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lcm.config import Combat
from lcm.training.data import read_cohort, tables_of
from lcm.training.inference import ask, embed
from lcm.training.site_correction import correct_like
from lcm.training.weights import load_bundle
from tests.asking import scores_of

LCM = {"architecture": "lcm", "size": {"num_layers": 1, "width": 16, "num_heads": 2}}
MLP = {"architecture": "mlp", "size": {"num_layers": 1, "width": 16, "reads": "edges"}}
SEX = {"target": "sex", "levels": ["female", "male"]}


def people_of_test(study):
    return read_cohort(tables_of(study.flags()), fold=0, roles=("test",))


@pytest.mark.parametrize("model", [LCM, MLP, {"architecture": "ridge"}], ids=["lcm", "mlp", "ridge"])
def test_a_scan_scores_the_same_alone_and_in_company(study, run_stage, model):
    folder = run_stage("finetune", "out", {"max_epochs": 2}, model=model, task=SEX)
    cohort = people_of_test(study)
    alone = scores_of(folder, cohort.keep(np.arange(20) == 7))
    np.testing.assert_allclose(scores_of(folder, cohort)[7:8], alone, atol=1e-6)


def test_levels_asked_in_reverse_give_reversed_scores(study, run_stage):
    cohort = people_of_test(study)
    ridge = {"architecture": "ridge"}
    there = scores_of(run_stage("finetune", "a", {}, model=ridge, task=SEX), cohort)
    back = scores_of(run_stage("finetune", "b", {}, model=ridge, task=SEX | {"levels": ["male", "female"]}), cohort)
    np.testing.assert_allclose(there[:, ::-1], back, atol=1e-9)


def test_connectomes_of_another_region_order_are_refused(study, run_stage):
    folder = run_stage("finetune", "out", {}, model={"architecture": "ridge"}, task=SEX)
    cohort = people_of_test(study)
    with pytest.raises(ValueError, match="region 1 is"):
        scores_of(folder, replace(cohort, regions=cohort.regions[::-1]))


MLP = {"architecture": "mlp", "size": {"num_layers": 2, "width": 16}}


@pytest.mark.parametrize(("model", "width"), [(LCM, 16), (MLP, 16)], ids=["lcm", "mlp"])
def test_an_embedding_is_a_row_a_scan_and_the_same_alone_and_in_company(study, run_stage, model, width):
    folder = run_stage("finetune", "out", {"max_epochs": 1, "refit": False}, model=model, task=SEX)
    cohort = people_of_test(study)
    manifest, arrays = load_bundle(folder, cohort)
    embedding_ND = embed(manifest, arrays, cohort)
    assert embedding_ND.shape == (20, width)
    assert np.ptp(embedding_ND, axis=0).max() > 1e-3
    alone = embed(manifest, arrays, cohort.keep(np.arange(20) == 7))
    np.testing.assert_allclose(embedding_ND[7:8], alone, atol=1e-5)


def test_a_corrected_network_embeds_corrected_connectomes(study, run_stage):
    folder = run_stage("finetune", "out", {"max_epochs": 1, "combat": {}, "refit": False}, model=LCM, task=SEX)
    cohort = people_of_test(study)
    manifest, arrays = load_bundle(folder, cohort)
    corrected = correct_like(cohort, arrays, Combat(), ("sex",))
    plain = manifest.model_copy(update={"settings": manifest.settings | {"combat": None}})
    expected = embed(plain, arrays, corrected)
    np.testing.assert_allclose(embed(manifest, arrays, cohort), expected, atol=1e-6)
    assert np.abs(embed(plain, arrays, cohort) - expected).max() > 1e-3


def test_an_estimator_has_no_embedding(study, run_stage):
    folder = run_stage("finetune", "out", {}, model={"architecture": "ridge"}, task=SEX)
    cohort = people_of_test(study)
    with pytest.raises(ValueError, match="only networks have"):
        embed(*load_bundle(folder, cohort), cohort)


@pytest.mark.parametrize(("model", "looks"), [(LCM, True), (MLP, False), ({"architecture": "ridge"}, False)])
def test_only_a_network_with_attention_says_where_it_looked(study, run_stage, model, looks):
    folder = run_stage("finetune", "out", {"max_epochs": 1}, model=model, task=SEX)
    cohort = people_of_test(study)
    answer = ask(*load_bundle(folder, cohort), cohort, attend=True)["sex"]
    assert (answer.attention_NKR is not None) == (answer.layers_NK is not None) == looks
    np.testing.assert_allclose(answer.scores_NK, scores_of(folder, cohort), atol=1e-6)
