"""Citations: a reference stands in the list just when what it is for ran, and its number points to it."""

from __future__ import annotations

import re

import pytest

from lcm.config import STAGE_ROOMS
from lcm.evaluation.citations import REPORT, Facts, citations, read_references
from lcm.evaluation.methods_page import methods
from lcm.evaluation.records import MethodsText, StageRecord
from lcm.models import MODELS
from tests.conftest import REPOSITORY


def record(stage: str, **settings: object) -> StageRecord:
    return StageRecord(stage, 1, 1.0, 1, [settings], [MethodsText(f"Text of {stage}.")], {})


def cited(stage: str, facts: Facts) -> str:
    references = read_references()
    found = citations(references, facts, [stage])
    return " ".join(found.references[number - 1].text for number in found.numbers[stage])


def test_every_reference_names_stages_strategies_and_architectures_that_exist():
    strategies = {path.stem for path in (REPOSITORY / "lcm" / "imaging" / "confounds").glob("*.yaml")}
    for reference in read_references():
        assert reference.cite, reference.text
        for cite in reference.cite:
            assert cite.stage in STAGE_ROOMS
            assert cite.strategies <= strategies
            assert cite.architectures <= set(MODELS)
            assert bool(cite.setting) == bool(cite.allowed)


def test_dois_are_well_formed_and_nothing_is_listed_twice():
    references = read_references()
    dois = [reference.doi for reference in references if reference.doi]
    assert all(re.fullmatch(r"10\.\d{4,9}/\S+", doi) for doi in dois)
    assert len(set(dois)) == len(dois)
    assert len({reference.text for reference in references}) == len(references)


def test_a_reference_is_cited_only_where_its_stage_ran():
    assert "Nipype" in cited("preprocess", Facts([record("preprocess", backend="builtin")]))
    assert cited("preprocess", Facts([])) == ""


def test_settings_choose_between_references():
    own = cited("preprocess", Facts([record("preprocess", backend="builtin", normalization="SyN")]))
    theirs = cited("preprocess", Facts([record("preprocess", backend="fmriprep", normalization="SyN")]))
    assert "fMRIPrep" not in own
    assert "fMRIPrep" in theirs
    assert "Nipype" not in theirs


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("architectures", "tangent", "Ledoit"), ("architectures", "lcm", "Large Connectome Model")],
)
def test_a_models_reference_needs_the_model(name, value, words):
    ran = [record("finetune")]
    assert words in cited("finetune", Facts(ran, {name: [value]}))
    assert words not in cited("finetune", Facts(ran, {name: ["majority"]}))


def test_numbers_follow_the_order_of_the_text_and_point_into_the_list():
    ran = [record("index"), record("denoise"), record("finetune")]
    found = methods(ran, {"strategies": ["36P"], "tables": ["comparisons"]}, ["DeLong within folds"])
    assert [part.stage for part in found.paragraphs] == ["index", "denoise", "finetune", REPORT]
    met = [number for part in found.paragraphs for number in part.numbers]
    assert list(dict.fromkeys(met)) == list(range(1, len(found.references) + 1))
    assert "DeLong within folds" in found.paragraphs[-1].texts[0].text
    assert any("Holm" in reference.text for reference in found.references)
