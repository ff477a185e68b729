"""Overlap: a person whom a bundle has seen is counted in the corpus they are in, and excused only where the protocol says."""

from __future__ import annotations

import pytest

from lcm.config import Model, Task
from lcm.evaluation.overlap import num_contaminated, overlap
from lcm.training.weights import Manifest, hash_people

TESTED = ["p1", "p2", "p3", "p4"]


def manifest(name: str = "lcm", keep: str = "best", **more) -> Manifest:
    people = {
        field: hash_people(more.pop(field, []))
        for field in ("training_people", "validation_people", "pretraining_people")
    }
    told = {
        "stage": "finetune",
        "name": name,
        "model": Model(architecture="lcm", start="trainer"),
        "fold": 0,
        "task": Task(target="sex", levels=("female", "male")),
        "vocabulary": {"sex": ("female", "male")},
        "atlas": "tiny",
        "regions": ("a", "b"),
        "strategies": ("9P",),
        "preprocessing": (),
        "settings": {"keep": keep},
    }
    return Manifest.model_validate(told | people | more)


def by_corpus(rows: list[dict]) -> dict[str, tuple]:
    return {row["corpus"]: (row["num_corpus"], row["num_seen"], row["status"]) for row in rows}


def test_nobody_seen_is_clean_everywhere():
    finetuned = manifest(training_people=["a", "b"], validation_people=["c"], pretraining_people=["a", "b", "c", "d"])
    trainer = manifest("trainer", training_people=["a", "b", "d"], validation_people=["c"])
    rows = overlap(finetuned, trainer, TESTED)
    assert by_corpus(rows) == {
        "training": (2, 0, "clean"),
        "choice": (1, 0, "clean"),
        "pretraining: trainer": (3, 0, "clean"),
        "pretraining choice: trainer": (1, 0, "clean"),
    }
    assert {row["num_test"] for row in rows} == {4}
    assert num_contaminated(finetuned, trainer, TESTED) == 0


@pytest.mark.parametrize("keep", ["best", "best-on-test"])
def test_a_person_fitted_on_contaminates_whoever_chooses(keep: str):
    finetuned = manifest(keep=keep, training_people=["a", "p1"])
    assert by_corpus(overlap(finetuned, None, TESTED))["training"] == (2, 1, "contaminated")
    assert num_contaminated(finetuned, None, TESTED) == 1


def test_tested_people_may_choose_only_where_the_protocol_says_so():
    chosen = {"training_people": ["a"], "validation_people": TESTED}
    assert by_corpus(overlap(manifest(keep="best-on-test", **chosen), None, TESTED))["choice"] == (4, 4, "by design")
    assert num_contaminated(manifest(keep="best-on-test", **chosen), None, TESTED) == 0
    assert by_corpus(overlap(manifest(**chosen), None, TESTED))["choice"] == (4, 4, "contaminated")
    assert num_contaminated(manifest(**chosen), None, TESTED) == 4


def test_pretraining_may_have_been_chosen_by_tested_people_only_where_both_stages_say_so():
    seen = {"training_people": ["a"], "validation_people": TESTED}
    finetuned = manifest(keep="best-on-test", pretraining_people=["a", *TESTED], **seen)
    by_test, by_others = manifest("trainer", keep="best-on-test", **seen), manifest("trainer", **seen)
    assert by_corpus(overlap(finetuned, by_test, TESTED))["pretraining choice: trainer"] == (4, 4, "by design")
    assert num_contaminated(finetuned, by_test, TESTED) == 0
    assert by_corpus(overlap(finetuned, by_others, TESTED))["pretraining choice: trainer"][2] == "contaminated"
    honest = manifest(pretraining_people=["a", *TESTED], training_people=["a"])
    assert by_corpus(overlap(honest, by_test, TESTED))["pretraining choice: trainer"][2] == "contaminated"


def test_whom_pretraining_began_with_counts_as_fitted_on():
    finetuned = manifest(pretraining_people=["a", "c", "p2"])
    trainer = manifest("trainer", training_people=["a"], validation_people=["c"], pretraining_people=["p2", "p3"])
    assert by_corpus(overlap(finetuned, trainer, TESTED))["pretraining: trainer"] == (3, 2, "contaminated")
    assert num_contaminated(finetuned, trainer, TESTED) == 2


def test_a_bundle_from_elsewhere_is_one_corpus_and_imported_weights_are_unknown():
    listed = manifest(pretraining_people=["x", "p4"], people="unknown")
    found = by_corpus(overlap(listed, None, TESTED))
    assert found["pretraining: trainer"] == (2, 1, "contaminated")
    assert found["imported weights"] == (None, None, "unknown")


def test_a_person_of_two_corpora_is_one_person():
    finetuned = manifest(training_people=["p1"], validation_people=["p1", "p2"], pretraining_people=["p2"])
    assert num_contaminated(finetuned, None, TESTED) == 2
