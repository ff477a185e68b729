"""ComBat inside a fold: it rests on training people alone, travels with the weights, and is off unless asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file

from lcm.combat import FittedCombat, sites_of
from lcm.config import Combat, Evaluate, Finetune, Pretrain, read_study
from lcm.evaluation.evaluate import main as evaluate
from lcm.models.labelled import Scans
from lcm.models.ridge import Ridge
from lcm.result_tables import SCORES
from lcm.tables import BEI, FOLDS, read_arrow, read_tsv, write_tsv
from lcm.training import finetune, pretrain
from lcm.training.data import read_cohort, tables_of
from lcm.training.site_correction import PREFIX, correct, weights_alone
from lcm.training.weights import WEIGHTS, read_manifest
from tests.asking import scores_of

SEX = {"target": "sex", "levels": ["female", "male"]}
RIDGE = {"architecture": "ridge"}
PRETRAINED = {
    "architecture": "lcm",
    "start": "pretrained",
    "size": {"num_layers": 1, "width": 16, "num_heads": 2, "feedforward": 16},
}
ON = {"combat": {"covariates": ["age"], "min_people": 3}}


def of_role(study, role: str):
    return read_cohort(tables_of(study.flags()), fold=0, roles=(role,))


def edit_connectomes(study, rewrite_connectomes, change) -> None:
    """Rewrite every FC table; `change` gets the edges and the scans' rows of the BEI table."""
    bei = read_tsv(study.folder / "bei.tsv", BEI).set_index(["dataset", "scan"])
    for path in sorted((study.folder / "correlate").rglob("*.arrow")):
        table = read_arrow(path)
        scans, edges_NE = table["scan"].to_pylist(), np.array(table["fc"].to_pylist())
        rows = bei.loc[[(path.parent.name, scan) for scan in scans]]
        rewrite_connectomes(path, scans, change(edges_NE, rows))


@pytest.fixture
def confounded(study, rewrite_connectomes):
    """One cohort of two sites, whose edges differ, and one fold.

    Seven men in eight, and one woman in eight, learn at the north site; among test people it is the other way round, so
    that whoever learns the site is wrong about them.
    """
    folds = read_tsv(study.folder / "folds.tsv", FOLDS)
    folds = folds[folds["fold"] == 0]
    write_tsv(folds, study.folder / "folds.tsv", FOLDS)
    bei = read_tsv(study.folder / "bei.tsv", BEI)
    role = bei["person_id"].map(folds.set_index("person_id")["role"])
    turn = bei.groupby([role, bei["sex"]]).cumcount() % 8
    usual = np.where(bei["sex"] == "male", "north", "south")
    other = np.where(bei["sex"] == "male", "south", "north")
    site = np.where((turn == 0) ^ (role == "test"), other, usual)
    write_tsv(bei.assign(cohort="aaa", site=site, site_source="observed"), study.folder / "bei.tsv", BEI)
    generator = np.random.default_rng(3)
    shift_E = generator.normal(0, 10, 45)

    def change(edges_NE, rows):
        north_N = (rows["site"] == "north").to_numpy()
        return edges_NE + generator.normal(0, 0.2, edges_NE.shape) + shift_E * north_N[:, None]

    edit_connectomes(study, rewrite_connectomes, change)
    return study


def auroc(study, run_stage, settings: dict) -> float:
    run_stage("finetune", "finetune/fold-0", settings, model=RIDGE, task=SEX)
    output = study.folder / "evaluate"
    options = study.flags(
        protocol="honest",
        select="validation",
        model="ridge",
        model_definition=json.dumps(RIDGE),
        pretrained=None,
        task="question",
        definition=json.dumps(SEX),
        weights=study.folder / "finetune",
        output=output,
        settings=Evaluate(num_bootstraps=100),
    )
    evaluate(options)
    scores = read_tsv(output / "scores.tsv", SCORES).set_index(["subset", "cohort", "metric"])
    return float(scores.loc[("all", "all", "auroc"), "value"])


def test_combat_gives_back_the_auroc_that_a_confounded_site_took(confounded, run_stage):
    assert auroc(confounded, run_stage, {}) < 0.7
    assert auroc(confounded, run_stage, ON) > 0.95


def test_it_is_off_unless_asked_for_and_then_touches_nothing(study, run_stage):
    assert Finetune().combat is None
    assert Pretrain().combat is None
    cohort = of_role(study, "train")
    corrected = correct(cohort, None, ("sex",))
    assert corrected.cohort is cohort
    assert not corrected.arrays
    folder = run_stage("finetune", "out", {}, model=RIDGE, task=SEX)
    assert not [name for name in load_file(folder / WEIGHTS) if name.startswith(PREFIX)]
    assert read_manifest(folder).combat_sites == {}


def test_the_manifest_counts_training_people_by_site(confounded, run_stage):
    manifest = read_manifest(run_stage("finetune", "out", ON, model=RIDGE, task=SEX))
    counts = of_role(confounded, "train").rows.groupby("site")["person_id"].nunique()
    assert manifest.combat_sites == {f"aaa:{site}": count for site, count in counts.items()}
    assert manifest.settings["combat"]["covariates"] == ["age"]


@pytest.mark.parametrize("role", ["test", "validation"])
def test_whatever_other_people_are_the_estimates_stay_bit_by_bit(confounded, run_stage, rewrite_connectomes, role):
    before = load_file(run_stage("finetune", "before", ON, model=RIDGE, task=SEX) / WEIGHTS)
    path = confounded.folder / "bei.tsv"
    bei = read_tsv(path, BEI)
    others = set(of_role(confounded, role).rows["person_id"])
    theirs = bei["person_id"].isin(others)
    bei.loc[theirs, "sex"] = bei.loc[theirs, "sex"].map({"female": "male", "male": "female"})
    bei.loc[theirs, ["age", "site"]] = "99", "elsewhere"
    write_tsv(bei, path, BEI)

    def change(edges_NE, rows):
        return np.where(rows["person_id"].isin(others).to_numpy()[:, None], 5.0, edges_NE)

    edit_connectomes(confounded, rewrite_connectomes, change)
    after = load_file(run_stage("finetune", "after", ON, model=RIDGE, task=SEX) / WEIGHTS)
    estimates = [name for name in before if name.startswith(PREFIX)]
    assert estimates
    for name in estimates:
        np.testing.assert_array_equal(after[name], before[name])


def test_the_sex_of_test_people_never_enters_even_where_it_is_a_covariate(confounded, run_stage):
    settings = {"combat": {"covariates": ["age", "sex"], "allow_target": True, "min_people": 3}}
    folder = run_stage("finetune", "out", settings, model=RIDGE, task=SEX)
    before = scores_of(folder, of_role(confounded, "test"))
    path = confounded.folder / "bei.tsv"
    bei = read_tsv(path, BEI)
    write_tsv(bei.assign(sex=bei["sex"].map({"female": "male", "male": "female"})), path, BEI)
    np.testing.assert_array_equal(scores_of(folder, of_role(confounded, "test")), before)


def test_test_people_are_corrected_by_the_bundles_own_estimates(confounded, run_stage):
    folder = run_stage("finetune", "out", {"combat": {"min_people": 3}}, model=RIDGE, task=SEX)
    arrays, cohort = load_file(folder / WEIGHTS), of_role(confounded, "test")
    fitted = FittedCombat.from_arrays({name.removeprefix(PREFIX): arrays[name] for name in arrays if PREFIX in name})
    corrected_NE = fitted.transform(cohort.edges_NE, sites_of(cohort.rows), pd.DataFrame(index=cohort.rows.index))
    ridge = Ridge(weights_alone(arrays))
    np.testing.assert_array_equal(scores_of(folder, cohort), ridge.predict(Scans.of_edges(corrected_NE)))
    assert not np.allclose(
        ridge.predict(Scans.of_edges(corrected_NE)), ridge.predict(Scans.of_edges(cohort.edges_NE)), atol=0.01
    )


def test_a_site_counts_its_people_not_their_scans(confounded):
    cohort, combat = of_role(confounded, "train"), Combat(min_people=3)
    rows = cohort.rows.assign(person_id=cohort.rows["person_id"].mask(cohort.rows["site"] == "north", "one"))
    assert set(correct(cohort, combat, ()).people_of_site) == {"aaa:north", "aaa:south"}
    assert correct(replace(cohort, rows=rows), combat, ()).people_of_site == {}


def test_an_assumed_covariate_counts_as_missing(confounded):
    cohort = of_role(confounded, "train")
    rows, some = cohort.rows, pd.Series(np.arange(len(cohort.rows)) % 3 == 0)
    assumed = rows.assign(age=rows["age"].mask(some, "99"), age_source=rows["age_source"].mask(some, "pseudo"))
    unknown = rows.assign(age=rows["age"].mask(some), age_source=rows["age_source"].mask(some, "missing"))
    combat = Combat(covariates=("age",), min_people=3)
    first, second, observed = (
        correct(replace(cohort, rows=table), combat, ("sex",)).cohort.edges_NE for table in (assumed, unknown, rows)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, observed)


@pytest.mark.parametrize(("stage", "more"), [("finetune", {}), ("pretrain", {"targets": ["sex", "age"]})])
def test_a_target_among_the_covariates_is_refused_unless_asked_for(confounded, run_stage, stage, more):
    def run(**allowed: bool):
        combat = {"covariates": ["age", "sex"], "min_people": 3, **allowed}
        settings = {"combat": combat, "max_epochs": 1, **more}
        if stage == "pretrain":
            return run_stage(stage, "out", settings, model=PRETRAINED)
        return run_stage(stage, "out", settings, model=RIDGE, task=SEX)

    with pytest.raises(ValueError, match=rf"{stage}\.combat\.covariates holds .*'sex'.*allow_target"):
        run()
    assert len(read_manifest(run(allow_target=True)).combat_sites) == 2


def test_a_study_that_would_fail_at_combat_is_refused_before_it_begins():
    config = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text(encoding="utf-8"))
    on = {"covariates": ["education"]}
    assert read_study(config | {stage: config[stage] | {"combat": on} for stage in ("pretrain", "finetune")})
    with pytest.raises(ValueError, match=r"pretrain\.combat and finetune\.combat differ"):
        read_study(config | {"finetune": config["finetune"] | {"combat": on}})
    target = next(iter(config["tasks"].values()))["target"]
    both = {stage: config[stage] | {"combat": {"covariates": [target]}} for stage in ("pretrain", "finetune")}
    with pytest.raises(ValueError, match=rf"finetune\.combat\.covariates holds \['{target}'\]"):
        read_study(config | both)


def test_a_network_pretrained_with_combat_is_finetuned_with_the_same_and_answers(confounded, run_stage):
    settings = {"combat": {"min_people": 3}, "max_epochs": 1}
    weights = run_stage("pretrain", "pre", settings | {"targets": ["sex"]}, model=PRETRAINED)
    with pytest.raises(ValueError, match=r"learned with combat .*, and here combat is None"):
        run_stage("finetune", "off", {"max_epochs": 1}, model=PRETRAINED, task=SEX, weights=weights)
    folder = run_stage("finetune", "on", settings, model=PRETRAINED, task=SEX, weights=weights)
    np.testing.assert_allclose(scores_of(folder, of_role(confounded, "test")).sum(axis=1), 1, atol=1e-6)


def test_pretrained_weights_go_on_with_the_connectivity_they_learned_from(confounded, run_stage):
    settings = {"combat": {"min_people": 3}, "max_epochs": 1}
    weights = run_stage("pretrain", "pre", settings | {"targets": ["sex"]}, model=PRETRAINED)
    few = settings | {"train_share": 0.5}
    folder = run_stage("finetune", "few", few, model=PRETRAINED, task=SEX, weights=weights)
    # Half of the people would give other estimates, and the connectomes would not be those that the weights know.
    theirs, ours = (load_file(path / WEIGHTS) for path in (weights, folder))
    for name in (name for name in theirs if name.startswith(PREFIX)):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert read_manifest(folder).combat_sites == read_manifest(weights).combat_sites


def test_few_shot_estimates_rest_on_the_few(confounded, run_stage):
    manifest = read_manifest(run_stage("finetune", "out", ON | {"train_share": 0.5}, model=RIDGE, task=SEX))
    assert sum(manifest.combat_sites.values()) == len(manifest.training_people) < 20


def test_a_covariate_that_the_bei_table_lacks_is_an_error(confounded, run_stage):
    with pytest.raises(ValueError, match=r"combat\.covariates: the BEI table has no column \['motion'\]"):
        run_stage("finetune", "out", {"combat": {"covariates": ["motion"]}}, model=RIDGE, task=SEX)


@pytest.mark.parametrize(("stage", "settings"), [(finetune, Finetune), (pretrain, Pretrain)])
def test_the_methods_text_says_what_was_done_and_is_silent_otherwise(stage, settings):
    assert "ComBat" not in stage.methods(settings())
    said = stage.methods(settings.model_validate(ON))
    assert "ComBat (neuroCombat)" in said
    assert "age kept; sites with fewer than 3" in said
