"""A cohort's source file means what it says."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from lcm.cohort.source import (
    SOURCES,
    PersonId,
    Source,
    canonical,
    read_source,
    source_names,
)

ABIDE_TEXT = (SOURCES / "abide.yaml").read_text(encoding="utf-8")


def test_every_cohort_of_the_project_has_a_source_that_parses() -> None:
    wanted = {"hcpa", "hcpya", "adni", "ppmi", "abide", "abide2", "taowu", "neurocon", "sz", "sz-ucla", "generic"}
    assert wanted <= set(source_names())
    for name in source_names():
        source = read_source(name)
        assert source.licence
        assert source.traps
        # Public domain (PDDL); every other cohort's terms of use keep its rows in the lab.
        assert source.rows_may_be_exported == (name == "sz-ucla")


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (("1", "1.0", 1, 1.0, " 1 ", "01", "+1"), "1"),
        (("-9999", "-9999.0", -9999), "-9999"),
        (("Male", "MALE "), "male"),
        (("1.5",), "1.5"),
        (("22-25",), "22-25"),
        (("0", 0.0), "0"),
    ],
)
def test_codes_agree_however_they_are_written(cells: tuple[object, ...], code: str) -> None:
    assert {canonical(cell) for cell in cells} == {code}


@pytest.mark.parametrize(
    ("cohort", "spellings", "key"),
    [
        (
            "abide",
            ("50003", "50003.0", "0050003", "sub-0050003", "Pitt_0050003", "UM_1_0050003", "sub-UM10050003"),
            "50003",
        ),
        ("adni", ("002_S_0295", "sub-002S0295", "002s0295", "002-S-0295"), "002s0295"),
        ("neurocon", ("control032014", "sub-control032014", "Control032014 "), "control032014"),
        ("taowu", ("patient032077", "sub-patient032077"), "patient032077"),
        ("hcpa", ("HCA6000030", "sub-HCA6000030", "HCA6000030_V1_MR"), "hca6000030"),
        ("ppmi", ("3102", "sub-3102", "3102.0"), "3102"),
        ("sz", ("0040000", "40000", "sub-0040000"), "40000"),
        ("sz-ucla", ("sub-10159", "10159"), "10159"),
    ],
)
def test_a_person_has_one_key_however_written(cohort: str, spellings: tuple[str, ...], key: str) -> None:
    assert {read_source(cohort).person.normalise(label) for label in spellings} == {key}


def test_a_label_of_another_cohort_has_no_key() -> None:
    assert read_source("adni").person.normalise("sub-0050003") is None
    assert read_source("abide").person.normalise("sub-123456") is None


def test_a_person_pattern_needs_an_id() -> None:
    with pytest.raises(ValidationError, match="no group"):
        PersonId(pattern="[0-9]+")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("2: male, 2", "2: male, 2"), None),
        (("1: male", "1: man"), "man is not in vocabulary.yaml"),
        (("autism:", "autsm:"), "autsm"),
        (("unit: years", "optional: true"), "takes months or years"),
        (("{table: phenotypic, column: SITE_ID}", "{table: other, column: SITE_ID}"), "'other' is not among tables"),
        (("licence:", "license:"), "license"),
        (("pattern: '", "pattern: '("), "is no regular expression"),
        (("column: SITE_ID", "column: SITE_ID, extract: '[A-Z]+'"), "has no group"),
        (("column: SEX", "column: SEX, range: [1, 2]"), "values and range are for numbers"),
        (("unit: points", "unit: points, levels: {89+: null}"), "a continuous BEI has no levels"),
    ],
)
def test_a_source_with_a_wrong_word_is_refused_by_name(change: tuple[str, str], message: str | None) -> None:
    content = yaml.safe_load(ABIDE_TEXT.replace(*change))
    if message is None:
        Source.model_validate(content)
    else:
        with pytest.raises(ValidationError, match=message):
            Source.model_validate(content)


def test_an_unknown_cohort_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: abide, abide2, adni"):
        read_source("abyde")
