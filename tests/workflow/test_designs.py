"""Every split design, a linkage table, ComBat and a public report, through the whole workflow on two small cohorts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.model_selection import KFold

from lcm.atlas import load_atlas
from lcm.result_tables import SCORES
from lcm.tables import BEI, FOLDS, TABLE_ONE, TEST, TRAIN, UNUSED, VALIDATION, read_tsv
from lcm.training.weights import hash_people, read_manifest

from .conftest import REPOSITORY, SmallStudy

COHORTS = ("north", "south")
NUM_PEOPLE, NUM_VOLUMES = 24, 60
LINKED = {"north": "p00", "south": "p05"}
"""One person by two names, a man without the disease in both cohorts; the linkage table says so."""


def people_of(cohort: str) -> pd.DataFrame:
    """The participants table: sex, diagnosis and site in every combination, three times each."""
    place_N = np.arange(NUM_PEOPLE)
    ids = [f"sub-p{place:02d}" for place in place_N]
    frame = pd.DataFrame({"participant_id": ids, "age": 40 + place_N})
    # The first of the north and the sixth of the south are alike, as one person must be.
    shifted_N = place_N if cohort == "north" else place_N - 5
    return frame.assign(
        sex=np.where(shifted_N % 2 == 0, "male", "female"),
        diagnosis=np.where(shifted_N // 2 % 2 == 0, "HC", "PD"),
        site=np.where(shifted_N // 4 % 2 == 0, "old", "new"),
    )


def write_cohort(folder: Path, cohort: str) -> None:
    """Ready series, a participants table and the cohort's own source file."""
    regions = load_atlas("AAL").names
    random = np.random.default_rng(COHORTS.index(cohort))
    people = people_of(cohort)
    for person in people.itertuples():
        series_TR = random.standard_normal((NUM_VOLUMES, len(regions)))
        series_TR[:, :8] += random.standard_normal((NUM_VOLUMES, 1)) * (person.diagnosis == "PD")
        series_TR[:, 20:28] += random.standard_normal((NUM_VOLUMES, 1)) * (person.site == "new")
        path = folder / cohort / person.participant_id / f"{person.participant_id}_task-rest_timeseries.tsv"
        path.parent.mkdir(parents=True)
        pd.DataFrame(series_TR, columns=list(regions)).to_csv(path, sep="\t", index=False, float_format="%.4f")
    people.to_csv(folder / cohort / "participants.tsv", sep="\t", index=False)
    source = yaml.safe_load((REPOSITORY / "lcm/cohort/sources/generic.yaml").read_text(encoding="utf-8"))
    levels = {"HC": "control", "PD": "parkinsons"}
    source["beis"]["parkinsons"] = {"table": "participants", "column": "diagnosis", "levels": levels}
    (folder / f"{cohort}.yaml").write_text(yaml.safe_dump(source), encoding="utf-8")


@pytest.fixture
def two_cohorts(small_study: SmallStudy) -> SmallStudy:
    """Forty-seven people in two cohorts of two sites each, one of them in both; ridge on one task."""
    folder, config = small_study.folder, small_study.config
    config["datasets"] = {}
    for cohort in COHORTS:
        write_cohort(folder, cohort)
        config["datasets"][cohort.upper()] = {
            "path": cohort,
            "input": "series",
            "cohort": f"{cohort}.yaml",
            "phenotypes": cohort,
            "pattern": "sub-*/*_timeseries.tsv",
            "tr_s": 2.0,
            "denoised": True,
        }
    rows = "".join(f"{cohort}\t{label}\tA\n" for cohort, label in LINKED.items())
    (folder / "linkage.tsv").write_text("cohort\tid\tperson\n" + rows, encoding="utf-8")
    config["harmonize"] |= {"pseudo_labels": {}, "linkage": "linkage.tsv"}
    config["tasks"] = {"parkinsons": {"target": "parkinsons", "levels": ["control", "parkinsons"]}}
    config["models"] = {"ridge": {"architecture": "ridge"}}
    config["report"] |= {"share": "public"}
    return small_study


def finish(study: SmallStudy) -> set[str]:
    """Run to the end and return the stages that ran."""
    run = study.snakemake()
    logs = "\n".join(path.read_text() for path in (study.folder / "logs").rglob("*.log"))
    assert run.returncode == 0, run.stdout + run.stderr + logs
    return set(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", run.stdout + run.stderr)) - {"all"}


def roles(study: SmallStudy) -> pd.DataFrame:
    """Role of each person (row) in each fold (column), with cohorts and sites of the person as sets."""
    results = study.folder / "results"
    folds = read_tsv(results / "split/honest/folds.tsv", FOLDS).pivot(index="person_id", columns="fold", values="role")
    by_person = read_tsv(results / "harmonize/bei.tsv", BEI).groupby("person_id")
    sites = by_person.apply(lambda own: frozenset(own["cohort"] + ":" + own["site"]))
    return folds.assign(cohorts=by_person["cohort"].apply(frozenset), sites=sites)


def check_learned_from(study: SmallStudy, table: pd.DataFrame) -> None:
    """Each fold's model was tuned on its validation people, fitted on them and its training people, and on no one else."""
    for fold in (column for column in table if isinstance(column, int)):
        manifest = read_manifest(study.folder / f"results/finetune/honest/ridge/parkinsons/fold-{fold}")
        people = {role: hash_people(table.index[table[fold] == role]) for role in (TRAIN, VALIDATION)}
        assert manifest.training_people == tuple(sorted({*people[TRAIN], *people[VALIDATION]}))
        assert manifest.validation_people == people[VALIDATION]


def check_table_one(study: SmallStudy) -> None:
    """Table 1 says of every cohort and group what pandas says of the participants table."""
    table = read_tsv(study.folder / "results/report/table_one.tsv", TABLE_ONE)
    shown = {
        tuple(row[:5]): row[5] for row in table.astype("object").where(table.notna(), None).itertuples(index=False)
    }
    for cohort in COHORTS:
        people = people_of(cohort)
        groups = {"all": people, "parkinsons: control": people[people["diagnosis"] == "HC"]}
        for group, own in (groups | {"parkinsons: parkinsons": people[people["diagnosis"] == "PD"]}).items():
            assert shown[cohort, group, "people", None, "n"] == str(len(own))
            assert shown[cohort, group, "sex", "male", "n"] == str((own["sex"] == "male").sum())
            assert shown[cohort, group, "site", "old", "percent"] == f"{100 * (own['site'] == 'old').mean():.1f}"
            assert shown[cohort, group, "age", None, "mean"] == f"{own['age'].mean():.2f}"
            assert shown[cohort, group, "age", None, "sd"] == f"{own['age'].std():.2f}"
            assert shown[cohort, group, "age", None, "q3"] == f"{own['age'].quantile(0.75):.2f}"


def test_every_design_runs_from_scans_to_the_report_and_keeps_its_promise(two_cohorts: SmallStudy):
    study, results = two_cohorts, two_cohorts.folder / "results"
    combat = {"min_people": 2, "covariates": ["sex"]}
    study.config["finetune"]["combat"] = combat
    assert finish(study) == {"index", "correlate", "harmonize", "split", "finetune", "evaluate", "report"}
    table = roles(study)
    linked = table[table["cohorts"].map(len) == 2]
    assert linked.index.tolist() == ["linked:A"]
    assert len(table) == 2 * NUM_PEOPLE - 1
    assert ((table[[0, 1]] == TEST).sum(axis=1) == 1).all()
    check_learned_from(study, table)
    manifest = read_manifest(results / "finetune/honest/ridge/parkinsons/fold-0")
    assert set(manifest.combat_sites) == {"north:new", "north:old", "south:new", "south:old"}
    page = (results / "report/index.html").read_text(encoding="utf-8")
    assert "ComBat (neuroCombat), fitted on the same training people, the effects of sex kept" in page
    one = read_tsv(results / "report/table_one.tsv", TABLE_ONE).set_index(["cohort", "group", "variable", "statistic"])
    assert one.loc[("north", "all", "people", "n"), "value"] == str(NUM_PEOPLE)

    # Another design splits again, and no table of people or images is made again for it.
    study.config["split"] |= {"design": "leave-site-out", "num_folds": 4}
    assert finish(study) == {"split", "finetune", "evaluate", "report"}
    table = roles(study)
    tested_sites = [frozenset().union(*table.loc[table[fold] == TEST, "sites"]) for fold in range(4)]
    for fold in range(4):
        others = table[table[fold].isin([TRAIN, VALIDATION])]
        own = table.loc[(table[fold] == TEST) & ~table.index.isin(linked.index), "sites"]
        assert own.nunique() == 1
        assert not any(sites & own.iloc[0] for sites in others["sites"])
    assert len(frozenset().union(*tested_sites)) == 4
    assert sorted(table.loc["linked:A", [0, 1, 2, 3]]).count(UNUSED) == 1
    check_learned_from(study, table)
    for fold in range(4):
        corrected = set(read_manifest(results / f"finetune/honest/ridge/parkinsons/fold-{fold}").combat_sites)
        trained = table.loc[table[fold] == TRAIN, "sites"]
        assert corrected <= frozenset().union(*trained)

    study.config["split"] |= {"design": "cross-cohort", "num_folds": 2, "test_cohorts": [["south"]]}
    finish(study)
    table = roles(study)
    assert set(table.loc[table[0] == TEST, "cohorts"]) == {frozenset({"south"}), frozenset(COHORTS)}
    assert set(table.loc[table[0] != TEST, "cohorts"]) == {frozenset({"north"})}
    check_learned_from(study, table)
    scores = read_tsv(results / "evaluate/honest/ridge/parkinsons/scores.tsv", SCORES)
    scores = scores[scores["subset"] == "all"]
    assert set(scores.loc[scores["cohort"] == "all", "num_people"]) == {NUM_PEOPLE}
    assert scores.set_index(["cohort", "metric"]).loc[("all", "auroc"), "value"] > 0.9

    study.config["split"] |= {"design": "kfold", "test_cohorts": [], "cohort_folds": {"south": 3}}
    study.config["finetune"]["combat"] = None
    study.config["report"]["share"] = "private"
    assert finish(study) == {"split", "finetune", "evaluate", "report"}
    assert not read_manifest(results / "finetune/honest/ridge/parkinsons/fold-0").combat_sites
    check_table_one(study)
    table = roles(study)
    people = np.array(["linked:A", *(f"north:p{place:02d}" for place in range(1, NUM_PEOPLE))])
    for fold, (_, tested) in enumerate(KFold(2, shuffle=True, random_state=142857).split(people)):
        in_north = table["cohorts"].map(lambda own: "north" in own)
        assert set(table.index[(table[fold] == TEST) & in_north]) == set(people[tested])
    check_learned_from(study, table)

    # What a phenotype table, a cohort's file or the linkage table says reaches the folds, and no connectome.
    after_people = {"harmonize": 1, "split": 1, "finetune": 2, "evaluate": 1, "report": 1}
    for name, old, new in [
        ("linkage.tsv", "A\n", "B\n"),
        ("south.yaml", "PD: parkinsons", "PD: prodromal"),
        ("south/participants.tsv", "\tHC\t", "\tPD\t"),
    ]:
        path, text = study.folder / name, (study.folder / name).read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        planned = study.planned()
        # A table inside the dataset's folder is seen by the index too, which looks for images there.
        jobs = after_people | ({"index": 1} if "/" in name else {})
        assert {stage: count for stage, count in planned.items() if stage not in ("all", "total")} == jobs, name
        path.write_text(text, encoding="utf-8")
