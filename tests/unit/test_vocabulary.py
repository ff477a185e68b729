"""The vocabulary says which BEIs exist, what a cell may hold, and which concept of an ontology it means."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from lcm.cohort.vocabulary import Variable, read_vocabulary

TERMS = {
    "snomed": r"http://purl\.bioontology\.org/ontology/SNOMEDCT/\d+",
    "ncit": r"http://ncicb\.nci\.nih\.gov/xml/owl/EVS/Thesaurus\.owl#C\d+",
    "cognitive atlas": r"https://www\.cognitiveatlas\.org/task/id/t(?:rm|sk)_[0-9a-zA-Z]+",
}


def test_the_vocabulary_has_the_targets_and_the_covariates_with_their_levels() -> None:
    vocabulary = read_vocabulary()
    targets = [name for name, variable in vocabulary.items() if variable.role == "target"]
    assert targets == ["sex", "age", "cognitive_state", "alzheimers", "parkinsons", "autism", "schizophrenia"]
    assert [name for name in vocabulary if name not in targets] == [
        "education", "handedness", "iq", "site", "scanner", "motion",
    ]  # fmt: skip
    assert list(vocabulary["sex"].levels) == ["female", "male"]
    assert list(vocabulary["alzheimers"].levels) == ["control", "mci", "alzheimers"]
    assert list(vocabulary["parkinsons"].levels) == ["control", "parkinsons", "prodromal", "swedd"]


def test_every_variable_says_what_it_means_and_numbers_have_unit_and_range() -> None:
    for name, variable in read_vocabulary().items():
        assert len(variable.definition.split()) >= 3, name
        assert all(level.definition for level in variable.levels.values()), name
        if variable.range is not None:
            assert variable.range[0] < variable.range[1], name


def test_only_the_state_comes_from_the_task() -> None:
    origins = {name: variable.origin for name, variable in read_vocabulary().items() if variable.origin != "table"}
    assert origins == {"cognitive_state": "task"}


def test_a_variable_is_categorical_continuous_or_a_label() -> None:
    entry = {"role": "target", "group": "demographic", "definition": "x"}
    with pytest.raises(ValidationError, match="levels"):
        Variable.model_validate(entry | {"kind": "categorical"})
    with pytest.raises(ValidationError, match="unit and a range"):
        Variable.model_validate(entry | {"kind": "continuous", "levels": {"a": {"definition": "a"}}})
    with pytest.raises(ValidationError, match="is a covariate"):
        Variable.model_validate(entry | {"kind": "label"})


def test_every_diagnosis_begins_with_its_control_level() -> None:
    for variable in read_vocabulary().values():
        if variable.group == "diagnosis":
            assert next(iter(variable.levels)) == "control"


def test_a_term_is_the_url_of_a_concept_and_two_levels_never_share_one() -> None:
    for name, variable in read_vocabulary().items():
        of_levels = [level.term for level in variable.levels.values() if level.term]
        assert len(of_levels) == len(set(of_levels)), name
        for term in [*of_levels, *([variable.term] if variable.term else [])]:
            assert any(re.fullmatch(pattern, term) for pattern in TERMS.values()), f"{name}: {term}"


def test_a_task_has_a_term_of_the_cognitive_atlas_and_a_disease_one_of_snomed() -> None:
    vocabulary = read_vocabulary()
    for name, level in vocabulary["cognitive_state"].levels.items():
        if name not in ("rest", "vismotor", "facename"):
            assert level.term is not None, name
            assert "cognitiveatlas" in level.term
    for bei in ("alzheimers", "parkinsons", "autism", "schizophrenia"):
        assert vocabulary[bei].term == vocabulary[bei].levels[bei].term
        assert re.fullmatch(TERMS["snomed"], str(vocabulary[bei].term))
