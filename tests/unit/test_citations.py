"""Citations: a reference stands in the list just when what it is for ran, and its number points to it."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from lcm.config import SETTINGS, STAGE_ROOMS, Evaluate
from lcm.evaluation.citations import REPORT, Facts, citations, read_references
from lcm.evaluation.evaluate import methods as evaluate_methods
from lcm.evaluation.methods_page import methods
from lcm.evaluation.metrics import CALIBRATION, CLASSIFICATION, REGRESSION
from lcm.evaluation.records import MethodsText, StageRecord
from lcm.evaluation.subsets import LOW_MOTION, MATCHED
from lcm.imaging.strategy import read_strategy
from lcm.models import MODELS
from tests.conftest import REPOSITORY

STRATEGIES = REPOSITORY / "lcm" / "imaging" / "confounds"


def record(stage: str, **settings: object) -> StageRecord:
    return StageRecord(stage, 1, 1.0, 1, [settings], [MethodsText(f"Text of {stage}.")], {})


def cited(stage: str, facts: Facts) -> str:
    references = read_references()
    found = citations(references, facts, [stage])
    return " ".join(found.references[number - 1].text for number in found.numbers[stage])


def test_every_reference_names_stages_strategies_and_architectures_that_exist():
    strategies = {path.stem for path in STRATEGIES.glob("*.yaml")}
    for reference in read_references():
        assert reference.cite, reference.text
        for cite in reference.cite:
            assert cite.stage in STAGE_ROOMS
            assert cite.strategies <= strategies
            assert cite.architectures <= set(MODELS)
            assert cite.metrics <= {*CLASSIFICATION, *CALIBRATION, *REGRESSION}
            assert cite.compared <= {"auroc", "mae"}
            assert cite.subsets <= {LOW_MOTION, MATCHED}
            assert cite.setting or not cite.allowed
            if cite.setting:
                asked = SETTINGS[cite.stage].model_fields[cite.setting]
                assert set(cite.allowed) <= set(get_args(asked.annotation))


def test_dois_are_well_formed_and_nothing_is_listed_twice():
    references = read_references()
    dois = [reference.doi for reference in references if reference.doi]
    assert all(re.fullmatch(r"10\.\d{4,9}/\S+", doi) for doi in dois)
    assert len(set(dois)) == len(dois)
    assert len({reference.text for reference in references}) == len(references)


@pytest.mark.parametrize("path", sorted(STRATEGIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_a_strategy_cites_is_in_the_list_where_it_ran(path):
    own = read_strategy(path)
    references = read_references()
    found = citations(references, Facts([record("denoise")], {"strategies": [own.name]}), ["denoise"])
    listed = {reference.doi for reference in found.references}
    assert {doi.rstrip(";") for doi in re.findall(r"doi:(\S+)", own.citation)} <= listed
    assert ("10.48550/arXiv.2211.12421" in listed) == ("Xu et al. 2023" in own.citation)


def test_a_reference_is_cited_only_where_its_stage_ran():
    raw = {"inputs": ["bids"]}
    assert "Nipype" in cited("preprocess", Facts([record("preprocess", backend="builtin")], raw))
    assert cited("preprocess", Facts([], raw)) == ""


def test_settings_choose_between_references():
    raw = {"inputs": ["bids"]}
    own = cited("preprocess", Facts([record("preprocess", backend="builtin", normalization="affine")], raw))
    theirs = cited("preprocess", Facts([record("preprocess", backend="fmriprep", normalization="SyN")], raw))
    assert "fMRIPrep" not in own
    assert "fMRIPrep" in theirs
    assert not any(words in theirs for words in ("Nipype", "N4ITK", "Symmetric diffeomorphic"))
    # The skull is stripped by a deformable registration whatever the normalisation is.
    assert "Symmetric diffeomorphic" in own


def test_images_that_came_corrected_cite_who_corrected_them_and_not_the_backend():
    ran = [record("preprocess", backend="builtin", normalization="SyN")]
    said = cited("preprocess", Facts(ran, {"inputs": ["hcp"]}))
    assert "Human Connectome Project" in said
    assert not any(words in said for words in ("UK Biobank", "Nipype", "N4ITK", "Symmetric diffeomorphic"))


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize(("combat", "is_cited"), [(None, False), ({"min_people": 5}, True)])
def test_combat_is_cited_where_it_was_fitted(stage, combat, is_cited):
    said = cited(stage, Facts([record(stage, combat=combat)]))
    assert ("empirical Bayes" in said) == is_cited
    assert ("Harmonization of cortical thickness" in said) == is_cited


def test_the_rule_of_the_authors_is_cited_whatever_the_models():
    assert "Large Connectome Model" in cited("finetune", Facts([record("finetune", keep="best-on-test")]))
    assert "Large Connectome Model" not in cited("finetune", Facts([record("finetune", keep="best")]))


def test_tests_of_comparisons_are_cited_where_models_were_compared():
    assert not any(words in cited(REPORT, Facts([])) for words in ("Holm", "Nadeau", "DeLong"))
    said = cited(REPORT, Facts([], {"compared": ["mae"]}))
    assert "Holm" in said
    assert "DeLong" not in said
    assert "DeLong" in cited(REPORT, Facts([], {"compared": ["auroc"]}))


def test_the_text_says_what_is_cited_beside_it():
    said = evaluate_methods(Evaluate())
    assert all(words in said for words in ("Youden", "expected calibration error", "slope", "bootstrap"))
    assert "Hanley" in methods([], {"metrics": ["auroc"]}, []).paragraphs[-1].texts[0].text
    assert "Hanley" not in methods([], {"metrics": ["mae"]}, []).paragraphs[-1].texts[0].text


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
    found = methods(ran, {"strategies": ["36P"], "compared": ["auroc"]}, ["DeLong within folds"])
    assert [part.stage for part in found.paragraphs] == ["index", "denoise", "finetune", REPORT]
    met = [number for part in found.paragraphs for number in part.numbers]
    assert list(dict.fromkeys(met)) == list(range(1, len(found.references) + 1))
    assert "DeLong within folds" in found.paragraphs[-1].texts[0].text
    assert any("Holm" in reference.text for reference in found.references)
