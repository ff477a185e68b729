"""The plan: inputs follow from the configuration and the index, and nothing is walked where it must not be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lcm.cohort.source import source_path
from lcm.plan import Plan, listing
from lcm.tables import SCANS
from tests.conftest import REPOSITORY

CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8")) | {"protocols": {"honest": {}}}
# Networks of series have tests of their own (test_plan_series).
CONFIG |= {"models": {name: model for name, model in CONFIG["models"].items() if model["architecture"] != "brainlm"}}
CONFIG |= {"forecasters": {}, "forecast": None, "probe": None}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The demo's plan over an index of four rows."""
    rows = [
        {
            "dataset": "HCPA",
            "batch": "0",
            "participant_id": "sub-1",
            "input": "bids",
            "bold": "b1",
            "t1w": "t1",
            "outcome": "ok",
        },
        {
            "dataset": "HCPA",
            "batch": "0",
            "participant_id": "sub-1",
            "input": "bids",
            "bold": "b2",
            "t1w": "t1",
            "outcome": "ok",
        },
        {
            "dataset": "HCPA",
            "batch": "0",
            "participant_id": "sub-2",
            "input": "bids",
            "bold": "b3",
            "outcome": "failed: x",
        },
        {"dataset": "ADNI", "batch": "1", "participant_id": "sub-3", "input": "series", "series": "s", "outcome": "ok"},
    ]
    lines = ["\t".join(SCANS.columns), *("\t".join(row.get(c, "n/a") for c in SCANS.columns) for row in rows)]
    (tmp_path / "scans.tsv").write_text("\n".join(lines) + "\n")
    return Plan(CONFIG, lambda: str(tmp_path / "scans.tsv"), walk=False)


def test_a_participant_brings_each_image_once_and_none_of_a_refused_run(plan: Plan):
    assert plan.raw_images(SimpleNamespace(dataset="HCPA", participant="sub-1")) == ["b1", "b2", "t1"]
    assert plan.raw_images(SimpleNamespace(dataset="HCPA", participant="sub-2")) == []


def test_only_people_with_a_usable_raw_run_are_preprocessed(plan: Plan):
    found = plan.preprocessed(SimpleNamespace(dataset="HCPA", batch="0"))
    assert found == ["results/preprocess/HCPA/sub-1"]
    assert plan.preprocessed(SimpleNamespace(dataset="ADNI", batch="1")) == []


def test_a_batch_takes_the_road_of_its_dataset(plan: Plan):
    raw = SimpleNamespace(dataset="HCPA", batch="0", strategy="24P")
    ready = SimpleNamespace(dataset="ADNI", batch="1", strategy="9P")
    assert plan.parcellated(raw) == "results/parcellate/HCPA/0.arrow"
    assert plan.denoised(raw) == "results/denoise/24P/HCPA/0.arrow"
    assert plan.parcellated(ready) == plan.denoised(ready) == []


def test_models_learn_from_the_first_strategy_and_the_report_sees_all(plan: Plan):
    first = ["results/correlate/9P/ADNI/1.arrow", "results/correlate/9P/HCPA/0.arrow"]
    assert plan.connectomes(None) == first
    # ADNI comes denoised: there is nothing to compare
    others = [f"results/correlate/{strategy}/HCPA/0.arrow" for strategy in ("24P", "none")]
    assert plan.all_connectomes(None) == [*first, *others]
    assert Path(plan.strategy(SimpleNamespace(strategy="24P"))).name == "24P.yaml"


def test_only_the_datasets_asked_for_are_exported_and_a_denoised_one_once(plan: Plan):
    first, second = (f"results/export/HCPA.batches/{strategy}/0.tsv" for strategy in ("9P", "24P"))
    assert plan.exported(None) == [first]
    indexed = plan._indexed
    every = Plan(CONFIG | {"export": {"strategies": ["9P", "24P"]}}, indexed, walk=False)
    assert every.exported(None) == ["results/export/ADNI.batches/9P/1.tsv", first, second]
    assert Plan(CONFIG | {"export": None}, indexed, walk=False).exported(None) == []
    with pytest.raises(ValueError, match=r"export\.datasets has no 'HCP'; known: HCPA"):
        Plan(CONFIG | {"export": {"datasets": ["HCP"]}}, indexed, walk=False)
    with pytest.raises(ValueError, match=r"export\.strategies has no '36P'; known: 9P, 24P, none"):
        Plan(CONFIG | {"export": {"strategies": ["36P"]}}, indexed, walk=False)


def test_a_bundle_is_asked_about_its_datasets_and_by_persons_where_tables_know_them(plan: Plan):
    asked = {"bundles": {"shared": "results/finetune/honest/lcm/sex/fold-0"}, "datasets": ["HCPA"], "allow": []}
    plan = Plan(CONFIG | {"predict": asked}, plan._indexed, walk=False)
    assert plan.predicted == ["results/predict/shared/predictions.tsv"]
    assert plan.bundle(SimpleNamespace(bundle="shared")) == "results/finetune/honest/lcm/sex/fold-0"
    shared = SimpleNamespace(bundle="shared")
    assert plan.asked_scans(shared) == ["results/correlate/9P/HCPA/0.arrow"]
    assert plan.asked_reading(shared) == "--connectomes results/correlate/9P"
    assert plan.described(None) == "results/harmonize/bei.tsv"
    # Another bundle must not change what this one is given.
    assert json.loads(plan.settings("predict")) == {"datasets": ["HCPA"], "allow": []}
    with pytest.raises(ValueError, match=r"predict\.bundles has no 'other'; known: shared"):
        plan.bundle(SimpleNamespace(bundle="other"))


def test_scans_of_nobody_knows_whom_need_no_bei_table(plan: Plan):
    unknown = {name: dataset | {"phenotypes": None} for name, dataset in CONFIG["datasets"].items()}
    asked = {"datasets": unknown, "predict": {"bundles": {"x": "results/pretrain/honest/lcm/fold-0"}}}
    assert Plan(CONFIG | asked, plan._indexed, walk=False).described(None) == []
    assert plan.predicted == []


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        ({"bundles": {"x": "nowhere"}}, "predict.bundles.x: no bundle in nowhere (a folder with manifest.json"),
        (
            {"bundles": {"x": "results/finetune/honest/lmc/sex/fold-0"}},
            "predict.bundles.x: this study does not make results",
        ),
        (
            {"bundles": {"x": "results/finetune/honest/lcm/sex/fold-9"}},
            "fold-9, but e.g. results/finetune/honest/majority/sex/fold-0",
        ),
        (
            {"bundles": {"x": "results/pretrain/honest/lcm-scratch/fold-0"}},
            "does not make results/pretrain/honest/lcm-scratch/fold-0",
        ),
        ({"bundles": {}, "datasets": ["LAB"]}, "predict.datasets has no 'LAB'; known: HCPA"),
    ],
)
def test_a_bundle_or_dataset_that_is_not_there_stops_before_the_first_job(predict: dict, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan(CONFIG | {"predict": predict}, str, walk=False)


def test_the_reference_of_the_tangent_space_is_a_file_that_connectomes_depend_on():
    correlate = CONFIG["correlate"] | {"kind": "tangent", "reference": "reference.tsv"}
    assert Plan(CONFIG | {"correlate": correlate}, str, walk=False).reference == "reference.tsv"
    assert Plan(CONFIG, str, walk=False).reference == []


def test_a_labs_own_strategy_file_lies_under_its_name(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("name: mine\ndescription: d\ncitation: c\n")
    plan = Plan(CONFIG | {"strategies": [str(tmp_path / "mine.yaml"), "9P"]}, str, walk=False)
    assert plan.strategies["mine"] == str(tmp_path / "mine.yaml")
    assert plan.connectome_folder == "results/correlate/mine"


def test_two_strategies_of_one_name_are_refused(tmp_path: Path):
    (tmp_path / "9P.yaml").write_text("name: 9P\ndescription: d\ncitation: c\n")
    with pytest.raises(ValueError, match="have one name"):
        Plan(CONFIG | {"strategies": ["9P", str(tmp_path / "9P.yaml")]}, str, walk=False)


def test_only_a_pretrained_model_waits_for_its_folds_weights(plan: Plan):
    assert (
        plan.pretrained(SimpleNamespace(protocol="honest", model="lcm", fold="2"))
        == "results/pretrain/honest/lcm/fold-2"
    )
    assert plan.pretrained(SimpleNamespace(protocol="honest", model="ridge", fold="2")) == []


def test_a_model_starts_from_its_own_weights_another_models_or_a_folder(tmp_path: Path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "manifest.json").write_text("{}")
    lcm = CONFIG["models"]["lcm"]
    models = {
        "lcm": lcm,
        "frozen": lcm | {"start": "lcm", "finetune": {"trunk": "freeze", "train_share": 0.1}},
        "published": lcm | {"start": str(tmp_path / "published")},
        "longer": lcm | {"pretrain": {"init_from": str(tmp_path / "published"), "max_epochs": 99}},
    }
    plan = Plan(CONFIG | {"models": models}, str, walk=False)
    starts = {name: plan.pretrained(SimpleNamespace(protocol="honest", model=name, fold="1")) for name in models}
    assert starts == {
        "lcm": "results/pretrain/honest/lcm/fold-1",
        "frozen": "results/pretrain/honest/lcm/fold-1",
        "published": str(tmp_path / "published"),
        "longer": "results/pretrain/honest/longer/fold-1",
    }
    assert plan.begun_from(SimpleNamespace(protocol="honest", model="longer")) == str(tmp_path / "published")
    assert plan.begun_from(SimpleNamespace(protocol="honest", model="lcm")) == []
    own = json.loads(plan.finetune_settings(SimpleNamespace(protocol="honest", model="frozen")))
    assert own == CONFIG["finetune"] | {"trunk": "freeze", "train_share": 0.1}
    assert json.loads(plan.finetune_settings(SimpleNamespace(protocol="honest", model="lcm"))) == CONFIG["finetune"]
    assert json.loads(plan.pretrain_settings(SimpleNamespace(protocol="honest", model="longer")))["max_epochs"] == 99
    # What a model has of its own reaches its job as settings; the definition stays as it was, and so do other jobs.
    assert set(json.loads(plan.model(SimpleNamespace(protocol="honest", model="frozen")))) == {
        "architecture",
        "start",
        "size",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "pretrain"}, "models.lcm.start is 'pretrain', and no model of that name has `start: pretrained`"),
        ({"start": "./nowhere"}, "model lcm: no bundle in ./nowhere"),
        ({"pretrain": {"init_from": "weights/x"}}, "model lcm: no bundle in weights/x"),
        ({"size": "huge"}, "architecture 'lcm' has no size 'huge'; it has: tiny, small, mid, big"),
        ({"finetune": {"trunks": "freeze"}}, "models.lcm.finetune.trunks: Extra inputs are not permitted"),
        ({"pretrain": {"devices": 2}}, "models.lcm.pretrain.devices: Extra inputs are not permitted"),
        ({"pretrain": {"na_levels": ["iq"]}}, "na_levels has ['iq'], which no target is"),
        ({"finetune": {"combat": {}}}, "models.lcm: pretrain.combat and finetune.combat differ"),
        ({"architecture": "ridge", "size": {}}, "model lcm: ridge has no weights to start from"),
        ({"start": "scratch", "pretrain": {"seed": 1}}, "models.lcm.pretrain has seed, and its start is 'scratch'"),
        (
            {"start": "scratch", "finetune": {"trunk": "freeze"}},
            "models.lcm.finetune.trunk is freeze, and from scratch",
        ),
    ],
)
def test_a_model_that_cannot_begin_is_refused_before_the_first_job(change, message):
    config = CONFIG | {"models": {"lcm": CONFIG["models"]["lcm"] | change}}
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan(config, str, walk=False)


def test_a_misspelt_size_stops_before_the_first_job():
    models = {"lcm": CONFIG["models"]["lcm"] | {"size": {"widht": 64}}}
    with pytest.raises(ValueError, match=r"architecture 'lcm' has no size \['widht'\]; it takes: num_layers, width"):
        Plan(CONFIG | {"models": models}, str, walk=True)


def test_an_unknown_architecture_is_told_by_its_model_where_sizes_are_checked_too():
    models = {"lcm": CONFIG["models"]["lcm"] | {"architecture": "lmc"}}
    with pytest.raises(ValueError, match="model lcm: no architecture 'lmc'"):
        Plan(CONFIG | {"models": models}, str, walk=True)


def test_planning_leaves_torch_out_of_snakemakes_memory():
    code = "import json, sys; from lcm.plan import Plan; Plan(json.load(sys.stdin), str, walk=True)"
    code += "; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(CONFIG), capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"


def test_images_are_not_parcellated_by_a_table_alone(tmp_path: Path):
    table = tmp_path / "atlas-One_dseg.tsv"
    table.write_text("index\tname\n1\tall\n")
    series = {name: d for name, d in CONFIG["datasets"].items() if d["input"] == "series"}
    config = CONFIG | {"parcellate": CONFIG["parcellate"] | {"atlas": str(table)}, "export": None, "datasets": series}
    pseudo = {d["cohort"]: {"cognitive_state": "rest"} for d in series.values()}
    config["harmonize"] = CONFIG["harmonize"] | {"pseudo_labels": pseudo}
    assert Plan(config, str, walk=False).atlas == [str(table)]
    with pytest.raises(ValueError, match="a label table without an image"):
        Plan(config | {"datasets": series | {"HCPA": CONFIG["datasets"]["HCPA"]}}, str, walk=False)


def test_two_models_share_weights_only_if_they_are_of_one_size():
    lcm = CONFIG["models"]["lcm"]
    config = CONFIG | {"models": {"lcm": lcm, "wide": lcm | {"start": "lcm", "size": {"num_layers": 9}}}}
    with pytest.raises(ValueError, match=r"models.wide starts from 'lcm', and its architecture or size is another"):
        Plan(config, str, walk=False)


def test_every_model_meets_every_task_on_every_fold(plan: Plan):
    assert len(plan.scores(None)) == len(CONFIG["models"]) * len(CONFIG["tasks"])
    assert (
        len(plan.finetuned(SimpleNamespace(protocol="honest", model="lcm", task="sex"))) == CONFIG["split"]["num_folds"]
    )


def test_a_covariate_is_predicted_only_on_purpose():
    task = {"target": "iq", "levels": [], "cohorts": [], "allow_covariate": True}
    assert Plan(CONFIG | {"tasks": {"iq": task}}, str, walk=False).study.tasks["iq"].target == "iq"


def test_a_cross_cohort_study_has_a_fold_for_each_set_of_tested_cohorts():
    split = CONFIG["split"] | {"design": "cross-cohort", "test_cohorts": [["taowu", "neurocon"], ["adni"]]}
    plan = Plan(CONFIG | {"split": split}, str, walk=False)
    folds = plan.finetuned(SimpleNamespace(protocol="honest", model="lcm", task="sex"))
    assert folds == [f"results/finetune/honest/lcm/sex/fold-{fold}" for fold in (0, 1)]


def _with_cohorts(folder: Path, *files: str) -> dict:
    """Settings of a study of a dataset for each cohort file, with one task."""
    sets = {f"LAB{i}": {"path": str(folder), "input": "bids", "cohort": file} for i, file in enumerate(files)}
    return CONFIG | {"datasets": sets, "tasks": {"sex": CONFIG["tasks"]["sex"]}, "export": None}


def test_a_labs_own_cohort_file_is_an_input_and_goes_by_its_stem(tmp_path: Path):
    mine = shutil.copy(source_path("generic"), tmp_path / "mine.yaml")
    config = _with_cohorts(tmp_path, str(mine), "abide")
    config["tasks"]["sex"] = config["tasks"]["sex"] | {"cohorts": ["mine"]}
    plan = Plan(config, str, walk=False)
    assert plan.sources == sorted([str(mine), str(source_path("abide"))])


def test_two_cohort_files_of_one_name_are_refused(tmp_path: Path):
    mine = shutil.copy(source_path("generic"), tmp_path / "generic.yaml")
    with pytest.raises(ValueError, match=r"datasets\.LAB1: .* are two files of one name"):
        Plan(_with_cohorts(tmp_path, "generic", str(mine)), str, walk=False)


def test_the_linkage_table_is_an_input_where_one_is_given(tmp_path: Path):
    (tmp_path / "linkage.tsv").touch()
    config = CONFIG | {"harmonize": CONFIG["harmonize"] | {"linkage": str(tmp_path / "linkage.tsv")}}
    assert Plan(config, str, walk=False).linkage == str(tmp_path / "linkage.tsv")
    assert Plan(CONFIG, str, walk=False).linkage == []


def test_the_check_before_the_images_does_not_depend_on_how_labels_are_chosen():
    other = CONFIG["harmonize"] | {"pseudo_labels": {}, "policies": {"adni": "mci_apart"}}
    assert Plan(CONFIG | {"harmonize": other}, str, walk=False).checked == Plan(CONFIG, str, walk=False).checked
    strict = CONFIG["harmonize"] | {"max_refused_share": 0.01}
    assert Plan(CONFIG | {"harmonize": strict}, str, walk=False).checked != Plan(CONFIG, str, walk=False).checked


def test_a_job_elsewhere_does_not_walk_the_data(tmp_path: Path):
    lab = {"LAB": {"path": str(tmp_path), "input": "bids", "cohort": "generic"}}
    config = CONFIG | {"datasets": lab, "tasks": {"sex": CONFIG["tasks"]["sex"]}, "export": None}
    assert Plan(config, str, walk=False).listing == ""
    assert Plan(config, str, walk=True).listing == listing([str(tmp_path)])


def test_the_listing_sees_a_new_file_and_a_changed_one(tmp_path: Path):
    path = tmp_path / "sub-1" / "bold.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"x")
    before = listing([str(tmp_path)])
    assert listing([str(tmp_path)]) == before
    path.write_bytes(b"xy")
    changed = listing([str(tmp_path)])
    (tmp_path / "new").touch()
    assert len({before, changed, listing([str(tmp_path)])}) == 3


def test_the_listing_enters_every_folder_but_linked_ones_and_goes_on_where_there_is_none(tmp_path: Path):
    for place in ("data/sub-2/ses-1/func/a", "data/sub-1/b", "data/c", "elsewhere/d"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    data = str(tmp_path / "data")
    listed = {listing([data])}
    for place in ("data/sub-2/ses-1/func/a", "data/sub-1/b", "data/c"):
        os.utime(tmp_path / place, ns=(1, 1))
        listed.add(listing([data]))
    assert len(listed) == 4
    os.utime(tmp_path / "elsewhere" / "d", ns=(1, 1))
    assert listing([data]) in listed
    assert listing([data, str(tmp_path / "absent")]) == listing([data])


def test_the_listing_bears_a_link_without_content(tmp_path: Path):
    (tmp_path / "bold.nii.gz").symlink_to(tmp_path / "absent")
    before = listing([str(tmp_path)])
    (tmp_path / "absent").write_bytes(b"fetched")
    assert listing([str(tmp_path)]) != before


def test_changed_events_are_read_again_by_a_cohort_that_reads_them(tmp_path: Path):
    with_events = yaml.safe_load(source_path("generic").read_text(encoding="utf-8"))
    with_events["events"] = {"face": "emotion"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_events), encoding="utf-8")
    bold, events = tmp_path / "sub-1_task-hariri_bold.nii.gz", tmp_path / "sub-1_task-hariri_events.tsv"
    row = {"dataset": "LAB0", "participant_id": "sub-1", "scan": "sub-1_task-hariri", "bold": str(bold)}
    lines = ["\t".join(SCANS.columns), "\t".join(row.get(c, "n/a") for c in SCANS.columns)]
    (tmp_path / "scans.tsv").write_text("\n".join(lines) + "\n")

    def hashes(source: str) -> set[str]:
        found = set()
        for text in ("onset\ttrial_type\n", "onset\ttrial_type\n1\tface\n"):
            events.write_text(text)
            plan = Plan(_with_cohorts(tmp_path, source), lambda: str(tmp_path / "scans.tsv"), walk=False)
            found.add(plan.events(SimpleNamespace()))
        return found

    assert len(hashes(str(tmp_path / "mine.yaml"))) == 2
    assert len(hashes("generic")) == 1


def test_a_corrected_repetition_time_changes_what_preprocess_is_given(tmp_path: Path):
    def timing(tr_s: str) -> str:
        row = {"dataset": "HCPA", "participant_id": "sub-1", "scan": "sub-1_task-rest", "tr_s": tr_s, "outcome": "ok"}
        lines = ["\t".join(SCANS.columns), "\t".join(row.get(c, "n/a") for c in SCANS.columns)]
        path = tmp_path / f"{tr_s}.tsv"
        path.write_text("\n".join(lines) + "\n")
        plan = Plan(CONFIG, lambda: str(path), walk=False)
        return plan.raw_timing(SimpleNamespace(dataset="HCPA", participant="sub-1"))

    assert timing("2.0") != timing("0.72")


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("strategies", ["99P"], "99P: no such file; shipped: 24P"),
        ("parcellate", {"atlas": "Foo"}, "Foo"),
        ("datasets", {"cohort": "abcd"}, "cohort 'abcd': no such file"),
        ("datasets", {"path": "nowhere"}, "dataset LAB: no such folder: nowhere"),
        ("datasets", {"phenotypes": "nowhere"}, "dataset LAB: no such folder: nowhere"),
    ],
)
def test_a_name_behind_which_nothing_stands_stops_before_the_first_job(tmp_path: Path, section, change, words):
    dataset = {"path": str(tmp_path), "input": "bids", "cohort": "generic"}
    config = CONFIG | {"datasets": {"LAB": dataset | (change if section == "datasets" else {})}}
    if section != "datasets":
        config[section] = CONFIG[section] | change if isinstance(change, dict) else change
    with pytest.raises(ValueError, match=words):
        Plan(config, str, walk=False)


@pytest.mark.parametrize(
    ("block", "entry", "change", "message"),
    [
        (
            "tasks",
            "autism",
            {"levels": ["control", "autsim"]},
            "task autism: levels has no 'autsim'; known: autism, control",
        ),
        (
            "tasks",
            "sex",
            {"levels": ["male", "male"]},
            "tasks.sex: Value error, levels has male, male; give two or more",
        ),
        ("tasks", "sex", {"levels": ["male"]}, "tasks.sex: Value error, levels has male; give two or more"),
        ("tasks", "sex", {"target": "gender"}, "task sex: target has no 'gender'"),
        ("tasks", "sex", {"cohorts": ["abide3"]}, "task sex: cohorts has no 'abide3'"),
        ("tasks", "sex", {"datasets": ["LAB"]}, "task sex: datasets has no 'LAB'"),
        ("models", "ridge", {"architecture": "rigde"}, "model ridge: no architecture 'rigde'; known: majority, site"),
        ("pretrain", "targets", ["sex", "mood"], "pretrain.targets: 'mood' is no BEI"),
        ("pretrain", "targets", ["sex", "iq"], "pretrain.targets: 'iq' is a covariate"),
        ("tasks", "age", {"target": "iq"}, "task age: 'iq' is a covariate: it is there to describe people"),
        (
            "tasks",
            "age",
            {"target": "site", "allow_covariate": True},
            "task age: 'site' cannot be predicted: its values are",
        ),
        ("tasks", "age", {"target": "scanner", "allow_covariate": True}, "task age: 'scanner' cannot be predicted"),
        ("harmonize", "linkage", "nowhere.tsv", "harmonize.linkage: no such file: nowhere.tsv"),
        ("harmonize", "policies", {"adni": "papers"}, "harmonize.policies.adni: papers; known: "),
        (
            "harmonize",
            "pseudo_labels",
            {"hcpa": {"autism": "healthy"}},
            "harmonize.pseudo_labels.hcpa: autism = healthy",
        ),
    ],
)
def test_a_task_or_model_that_names_what_does_not_exist_or_must_not_be_learned_is_refused(
    block, entry, change, message
):
    changed = CONFIG[block][entry] | change if isinstance(change, dict) else change
    config = CONFIG | {block: CONFIG[block] | {entry: changed}}
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan(config, str, walk=False)


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("split", {"design": "kfold", "cohort_folds": {"abid": 5}}, "split.cohort_folds has no 'abid'; known: abide"),
        ("split", {"design": "cross-cohort", "test_cohorts": [["taowo"]]}, "split.test_cohorts has no 'taowo'"),
        ("finetune", {"combat": {"covariates": ["edu"]}}, "finetune.combat.covariates has no 'edu'; known: age"),
        ("finetune", {"combat": {"covariates": ["site"]}}, "finetune.combat.covariates has no 'site'"),
    ],
)
def test_a_tested_cohort_or_a_covariate_that_is_none_is_refused_before_the_first_job(stage, change, message):
    config = CONFIG | {"models": {"ridge": CONFIG["models"]["ridge"]}, stage: CONFIG[stage] | change}
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan(config, str, walk=False)


def test_a_band_that_is_closed_is_refused():
    with pytest.raises(ValueError, match=r"denoise: Value error, low_hz 0\.1 must be below high_hz 0\.08"):
        Plan(CONFIG | {"denoise": CONFIG["denoise"] | {"low_hz": 0.1}}, str, walk=False)
