"""config/paper.yaml: the paper's study asks every row and task that a published table compares with, by the paper's rules."""

from __future__ import annotations

import pytest
import yaml

from lcm.config import Study, read_study
from lcm.evaluation.published import (
    TABLES,
    DepthFigure,
    LayerFigure,
    SexAndAge,
    TimeFigure,
    read_parameters,
    read_published,
    read_table,
)
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(yaml.safe_load((REPOSITORY / "config" / "paper.yaml").read_text(encoding="utf-8")))


def test_every_table_and_figure_finds_its_rows_and_tasks(study: Study):
    models, tasks = set(), set()
    for number in TABLES:
        table = read_table(number)
        for name, column in table.columns.items():
            tasks |= set(column.tasks)
            models |= {row.beside(name) for row in table.rows}
    ages, depths = read_published("lcm_figure_2", SexAndAge), read_published("lcm_figure_6", DepthFigure)
    layers, hours = read_published("lcm_figure_7", LayerFigure), read_published("lcm_figure_3", TimeFigure)
    models |= {ages.model, layers.model, *depths.models.values(), *(point.model for point in hours.points)}
    for columns in (ages.columns, depths.panels):
        tasks |= {task for column in columns.values() for task in column.tasks}
    for one in layers.classes:
        assert one.level in study.tasks[one.task].levels
    assert models - {None} <= set(study.models)
    assert tasks | {hours.task} <= set(study.tasks)
    assert {f"ridge{column.suffix}" for column in read_table("4").columns.values()} <= set(study.models)


def test_its_two_protocols_are_the_authors_and_an_honest_one(study: Study):
    assert list(study.protocols) == ["honest", "paper"]
    authors = study.split_of("paper")
    assert study.protocols["paper"].select == "test"
    assert (authors.design, authors.num_folds, authors.seed) == ("kfold", 5, 142857)
    assert authors.cohort_folds == dict.fromkeys(("ppmi", "abide", "taowu", "neurocon"), 10)
    assert study.protocols["honest"].select == "validation"
    assert study.split_of("honest").validation_share > 0


def test_its_cohorts_and_tasks_are_the_papers(study: Study):
    assert len(study.datasets) == 8
    tasks = study.tasks
    assert len(tasks["cognitive-state-hcpa"].levels) == 4
    assert len(tasks["cognitive-state-hcpya"].levels) == 7
    assert len(tasks["ppmi"].levels) == 4
    for task in tasks.values():
        assert set(task.cohorts) <= {dataset.cohort_name for dataset in study.datasets.values()}
    assert "schizophrenia" not in study.pretrain.targets


def test_its_rows_are_trained_as_the_paper_says(study: Study):
    pretrain = study.pretrain_of("lcm-pre-1234", "honest")
    assert (pretrain.learning_rate, pretrain.batch_size, pretrain.max_epochs, pretrain.weight_decay) == (
        1e-4,
        128,
        200,
        0,
    )
    assert (pretrain.first_stage_epochs, pretrain.loss_weights) == (5, {"age": 1e-4})
    assert (pretrain.patience, pretrain.precision, pretrain.pseudo_weight) == (50, "32-true", 1.0)
    finetune = study.finetune_of("lcm-pre-1234", "paper")
    same = ("learning_rate", "batch_size", "max_epochs", "weight_decay", "patience", "first_stage_epochs", "precision")
    assert all(getattr(finetune, name) == getattr(pretrain, name) for name in same)
    assert (finetune.trunk, finetune.stages, finetune.keep, finetune.refit) == ("train", "both", "best-on-test", False)
    sets = {"1": "cognitive_state", "2": "alzheimers", "3": "parkinsons", "4": "autism"}
    for name in ("1", "134", "123", "124", "1234"):
        targets = study.pretrain_of(f"lcm-pre-{name}", "honest").targets
        assert set(targets) == {"sex", "age", *(sets[digit] for digit in name)}
        na_levels = study.pretrain_of(f"lcm-pre-{name}", "honest").na_levels
        assert sorted(na_levels) == sorted(sets[digit] for digit in name)
    for depth in read_parameters().lcm:
        assert study.models[f"lcm-{depth}"].size == {"num_layers": depth}
        assert study.finetune_of(f"lcm-{depth}", "paper").stages == "last_layer"
    assert study.finetune_of("lcm-as-pretrained", "paper").max_epochs == 0
    assert study.models["lcm-pre-1234-8"].size == "small"
    assert [study.finetune_of(f"lcm-share-{share}", "paper").train_share for share in (10, 50)] == [0.1, 0.5]
    stages = [
        study.finetune_of(f"lcm-{name}", "paper").stages for name in ("last-layer", "first-stage", "second-stage")
    ]
    assert stages == ["last_layer", "first", "second"]


def test_who_lies_in_the_scanner_without_a_task_rests_and_nobody_is_healthy_by_default(study: Study):
    clinical = ("adni", "ppmi", "abide", "taowu", "neurocon")
    assert study.harmonize.pseudo_labels == {cohort: {"cognitive_state": "rest"} for cohort in clinical}
    assert not study.correlate.fisher_z
    assert study.correlate.window_volumes == 500
