"""Inference: the bundle's task, connectome by connectome."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lcm.training.data import read_cohort, tables_of
from lcm.training.inference import predict

LCM = {"architecture": "lcm", "size": {"num_layers": 1, "width": 16, "num_heads": 2}}
SEX = {"target": "sex", "levels": ["female", "male"]}


def people_of_test(study):
    return read_cohort(tables_of(study.flags()), fold=0, roles=("test",))


@pytest.mark.parametrize("model", [LCM, {"architecture": "ridge"}], ids=["lcm", "ridge"])
def test_a_scan_scores_the_same_alone_and_in_company(study, run_stage, model):
    folder = run_stage("finetune", "out", {"max_epochs": 2}, model=model, task=SEX)
    cohort = people_of_test(study)
    alone = predict(folder, cohort.keep(np.arange(20) == 7))
    np.testing.assert_allclose(predict(folder, cohort)[7:8], alone, atol=1e-6)


def test_levels_asked_in_reverse_give_reversed_scores(study, run_stage):
    cohort = people_of_test(study)
    ridge = {"architecture": "ridge"}
    there = predict(run_stage("finetune", "a", {}, model=ridge, task=SEX), cohort)
    back = predict(run_stage("finetune", "b", {}, model=ridge, task=SEX | {"levels": ["male", "female"]}), cohort)
    np.testing.assert_allclose(there[:, ::-1], back, atol=1e-9)


def test_a_bundle_of_pretrain_answers_no_task(study, run_stage):
    folder = run_stage("pretrain", "out", {"max_epochs": 1, "targets": ["sex"]}, model=LCM | {"start": "pretrained"})
    with pytest.raises(ValueError, match="answers no task"):
        predict(folder, people_of_test(study))


def test_connectomes_of_another_region_order_are_refused(study, run_stage):
    folder = run_stage("finetune", "out", {}, model={"architecture": "ridge"}, task=SEX)
    cohort = people_of_test(study)
    with pytest.raises(ValueError, match="region 1 is"):
        predict(folder, replace(cohort, regions=cohort.regions[::-1]))
