"""The vocabulary says which BEIs exist and what a cell may hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lcm.cohort.vocabulary import Variable, read_vocabulary


def test_the_vocabulary_has_the_seven_variables_with_their_levels() -> None:
    vocabulary = read_vocabulary()
    assert list(vocabulary) == [
        "sex", "age", "cognitive_state", "alzheimers", "parkinsons", "autism", "schizophrenia",
    ]  # fmt: skip
    assert list(vocabulary["sex"].levels) == ["female", "male"]
    assert list(vocabulary["parkinsons"].levels) == ["control", "parkinsons", "prodromal", "swedd"]
    assert vocabulary["age"].unit == "years"


def test_a_variable_is_either_categorical_or_continuous() -> None:
    entry = {"role": "target", "group": "demographic", "definition": "x"}
    with pytest.raises(ValidationError, match="levels"):
        Variable.model_validate(entry | {"kind": "categorical"})
    with pytest.raises(ValidationError, match="unit and a range"):
        Variable.model_validate(entry | {"kind": "continuous", "levels": {"a": {"definition": "a"}}})


def test_every_diagnosis_begins_with_its_control_level() -> None:
    for variable in read_vocabulary().values():
        if variable.group == "diagnosis":
            assert next(iter(variable.levels)) == "control"
