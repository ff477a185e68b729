"""The stage predict: a hand-made bundle asked about a small study, against plain loops and closed forms."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from lcm.array_tables import region_names, square
from lcm.config import Combat, Model, Predict, Task
from lcm.models.large_connectome_model import LargeConnectomeModel
from lcm.models.token_network import token_names
from lcm.result_tables import ATTENTION, PEOPLE_ANSWERED, SCANS_ANSWERED, with_answers
from lcm.tables import BEI, SCANS, read_arrow, read_tsv, write_arrow, write_tsv
from lcm.training.data import read_cohort, tables_of
from lcm.training.inference import Answer
from lcm.training.networks import arrays_of
from lcm.training.predict import answers_of_units, main
from lcm.training.weights import WEIGHTS, Manifest, hash_people, learned_from, read_manifest, save_bundle, save_refusal

SIZE = {"num_layers": 3, "width": 16, "num_heads": 2, "feedforward": 8}
VOCABULARY = {"sex": ("female", "male"), "age": (), "autism": ("n/a", "control", "autism")}
ASKED = VOCABULARY | {"autism": ("control", "autism")}


@pytest.fixture
def atlas(study) -> str:
    """A table of the study's ten regions, on a line through the brain."""
    lines = [f"{i + 1}\tregion{i:02d}\t{10 * i - 50}\t0\t0" for i in range(10)]
    (study.folder / "atlas-tiny_dseg.tsv").write_text("\n".join(["index\tname\tx_mm\ty_mm\tz_mm", *lines]) + "\n")
    # The image is not read where the table has every place.
    (study.folder / "atlas-tiny_dseg.nii.gz").touch()
    return str(study.folder / "atlas-tiny_dseg.nii.gz")


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """Figure → what it would show: nilearn takes a second a figure, and has tests of its own."""
    found: dict[str, tuple] = {}

    def note(shares_R, centres_R3, title, path):
        found[path.name] = shares_R, centres_R3, title
        path.touch()

    monkeypatch.setattr("lcm.training.predict.draw", note)
    return found


@pytest.fixture
def network() -> LargeConnectomeModel:
    """Three layers whose outputs differ from scan to scan."""
    import torch

    torch.manual_seed(5)
    tokens = [token for name, levels in VOCABULARY.items() for token in token_names(name, levels)]
    network = LargeConnectomeModel(10, tokens, **SIZE)
    network.start_at(40.0)
    return network.eval()


@pytest.fixture
def make_bundle(study, network):
    """Write a bundle of the network; `seen` are people it was fitted on."""

    def make(seen=(), *, task: Task | None = None, settings: dict | None = None) -> Path:
        cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train",))
        about = learned_from(cohort) | {"training_people": hash_people(seen), "validation_people": ()}
        manifest = Manifest(
            stage="finetune" if task else "pretrain",
            name="lcm",
            model=Model(architecture="lcm", size=SIZE),
            fold=0,
            task=task,
            vocabulary=VOCABULARY,
            tokens=network.tokens,
            settings=settings or {},
            **about,
        )
        save_bundle(study.folder / "bundle", arrays_of(network), manifest)
        return study.folder / "bundle"

    return make


@pytest.fixture
def ask(study, atlas):
    """Run the stage and return its folder."""

    def run(bundle: Path, *, bei: bool = True, **settings) -> Path:
        options = study.flags(
            bundle=bundle, atlas=atlas, output=study.folder / "answers", settings=Predict.model_validate(settings)
        )
        options.bei = options.bei if bei else None
        main(options)
        return options.output

    return run


def people_of(folder: Path, questions=ASKED) -> pd.DataFrame:
    return read_tsv(folder / "predictions.tsv", with_answers(PEOPLE_ANSWERED, questions)).set_index("person_id")


def scans_of(folder: Path, questions=ASKED) -> pd.DataFrame:
    return read_tsv(folder / "scans.tsv", with_answers(SCANS_ANSWERED, questions))


def write_scan_outcome(study, dataset: str, scan: str, outcome: str) -> None:
    """Let correlate have said that of a scan."""
    for path in (study.folder / "correlate" / dataset).glob("*.arrow"):
        table = read_arrow(path)
        rows = [row | ({"outcome": outcome, "fc": None} if row["scan"] == scan else {}) for row in table.to_pylist()]
        changed = pa.Table.from_pylist(rows, schema=table.schema)
        del table
        write_arrow(changed, path)


def test_people_scans_and_attention_agree_with_plain_loops(study, network, make_bundle, ask):
    """Two scans of a person are joined here by the linkage that the BEI table would hold."""
    import torch

    bei = read_tsv(study.folder / "bei.tsv", BEI)
    bei.loc[bei["scan"] == "sub-31_task-rest", "person_id"] = "aaa:0"
    write_tsv(bei, study.folder / "bei.tsv", BEI)
    folder = ask(make_bundle())
    cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train", "validation", "test"))
    fc_NRR = torch.from_numpy(square(cohort.edges_NE, 10))
    own = [i for i, scan in enumerate(cohort.rows["scan"]) if scan in ("sub-00_task-rest", "sub-31_task-rest")]
    with torch.inference_mode():
        logits, shares = [], []
        for i in own:
            logits_L1P, shares_L1PR = network.attend(fc_NRR[i : i + 1])
            logits.append(logits_L1P[:, 0].double().numpy())
            shares.append(shares_L1PR[:, 0].numpy())
    tokens = list(network.tokens)
    male_female = [tokens.index("sex=female"), tokens.index("sex=male")]
    best = [logit_LP.max(axis=0)[male_female] for logit_LP in logits]
    probability = np.mean([np.exp(b) / np.exp(b).sum() for b in best], axis=0)
    person = people_of(folder).loc["aaa:0"]
    assert (person["num_scans"], person["outcome"]) == (2, "ok")
    assert person["sex=female"] == pytest.approx(probability[0], abs=2e-6)
    assert person["sex=male"] == pytest.approx(probability[1], abs=2e-6)
    level = int(np.argmax(probability))
    assert person["sex"] == VOCABULARY["sex"][level]
    layers = sorted(int(logit_LP[:, male_female[level]].argmax()) + 1 for logit_LP in logits)
    assert person["sex_layer"] == layers[0]
    assert person["age"] == pytest.approx(np.mean([logit_LP[:, tokens.index("age")] for logit_LP in logits]), abs=1e-4)

    table = read_arrow(folder / "attention_people.arrow").to_pandas()
    assert region_names(read_arrow(folder / "attention_people.arrow"))[3] == "region03"
    for token, (target, of_level) in {"sex=male": ("sex", "male"), "age": ("age", None)}.items():
        place = tokens.index(token)
        if of_level:
            expected = [s[logit_LP[:, place].argmax(), place] for s, logit_LP in zip(shares, logits, strict=True)]
        else:
            expected = [s[:, place].mean(axis=0) for s in shares]
        told = table["level"].isna() if of_level is None else table["level"] == of_level
        (row,) = table[(table["person_id"] == "aaa:0") & (table["target"] == target) & told]["share"]
        np.testing.assert_allclose(row, np.mean(expected, axis=0), atol=1e-6)

    scans = scans_of(folder).set_index("scan")
    assert scans.loc["sub-31_task-rest", "person_id"] == "aaa:0"
    assert scans.loc["sub-00_task-rest", "sex=male"] + scans.loc["sub-31_task-rest", "sex=male"] == pytest.approx(
        2 * probability[1], abs=4e-6
    )


def test_shares_sum_to_one_and_the_table_is_the_mean_over_people(make_bundle, ask):
    folder = ask(make_bundle())
    table = read_tsv(folder / "attention.tsv", ATTENTION)
    people = read_arrow(folder / "attention_people.arrow").to_pandas()
    assert len(people) == 60 * 5
    np.testing.assert_allclose(people["share"].map(np.sum), 1, atol=1e-5)
    sums = table.groupby(["target", "level"], dropna=False)["share"].sum()
    assert set(sums.index.get_level_values("target")) == {"sex", "age", "autism"}
    assert len(sums) == 5
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert set(table["num_people"]) == {60}
    male = people[people["level"] == "male"]["share"]
    found = table[table["level"] == "male"].set_index("region")["share"]
    assert found["region07"] == pytest.approx(np.mean([share[7] for share in male]), abs=1e-6)


def test_a_figure_a_token_with_its_words_and_none_left_from_before(study, make_bundle, ask, drawn):
    (study.folder / "answers/figures").mkdir(parents=True)
    (study.folder / "answers/figures/attention_old.png").touch()
    folder = ask(make_bundle())
    names = {path.name for path in (folder / "figures").iterdir()}
    tokens = ("sex-female", "sex-male", "age", "autism-control", "autism-autism")
    assert names == {f"attention_{token}.{end}" for token in tokens for end in ("png", "txt")}
    table = read_tsv(folder / "attention.tsv", ATTENTION)
    largest = table[table["level"] == "male"].sort_values("share").iloc[-1]["region"]
    shares_R, centres_R3, title = drawn["attention_sex-male.png"]
    np.testing.assert_allclose(shares_R, table[table["level"] == "male"]["share"])
    np.testing.assert_array_equal(centres_R3[:, 0], 10.0 * np.arange(10) - 50)
    words = (folder / "figures/attention_sex-male.txt").read_text()
    assert words.startswith(title)
    assert title == "sex=male, mean of 60 people"
    assert f"Largest: {largest} " in words


def test_the_level_that_says_no_label_is_no_answer(make_bundle, ask):
    people = people_of(ask(make_bundle()))
    assert "autism=n/a" not in people.columns
    np.testing.assert_allclose(people["autism=control"] + people["autism=autism"], 1, atol=2e-6)


def test_a_bundle_of_a_task_answers_that_alone(make_bundle, ask):
    task = Task(target="autism", levels=("control", "autism"))
    folder = ask(make_bundle(task=task))
    people = people_of(folder, {"autism": task.levels})
    assert list(people.columns) == [
        "num_scans",
        "outcome",
        "caution",
        "autism",
        "autism_layer",
        "autism=control",
        "autism=autism",
    ]
    assert set(people["autism_layer"]) <= {1, 2, 3}


def test_the_last_layer_alone_is_read_where_it_alone_was_taught(make_bundle, ask):
    people = people_of(ask(make_bundle(settings={"stages": "last_layer"})))
    assert set(people["sex_layer"]) == {3}


def test_every_scan_has_one_outcome_and_counts_add_up(study, make_bundle, ask, caplog):
    scans = read_tsv(study.folder / "scans.tsv", SCANS)
    scans.loc[scans["scan"] == "sub-02_task-rest", "outcome"] = "excluded: too short"
    write_tsv(scans, study.folder / "scans.tsv", SCANS)
    write_scan_outcome(study, "AAA", "sub-03_task-rest", "excluded: head motion")
    with caplog.at_level(logging.INFO):
        folder = ask(make_bundle(seen=["aaa:2", "aaa:4", "bbb:30"]), datasets=["AAA"])
    scans = scans_of(folder)
    assert Counter(scans["outcome"]) == {
        "ok": 27,
        "excluded: dataset not asked about": 30,
        "excluded: too short": 1,
        "excluded: head motion": 1,
        "excluded: seen in training": 1,
    }
    people = people_of(folder)
    assert len(people) == 30
    assert (people["outcome"] == "ok").sum() == people["num_scans"].sum() == 27
    # Of someone seen in training whose scan was excluded before, the first reason stands.
    assert people.loc["aaa:2", "outcome"] == "excluded: too short"
    assert people.loc["aaa:4", ["num_scans", "outcome"]].tolist() == [0, "excluded: seen in training"]
    assert people.loc["aaa:4", ["sex", "sex_layer", "sex=male", "age"]].isna().all()
    told = "60 scans in the index: 30 excluded: dataset not asked about, 27 ok"
    assert told in caplog.text
    assert "27 people answered about" in caplog.text
    assert "aaa:" not in caplog.text
    assert "sub-" not in caplog.text


def test_people_whom_training_has_seen_are_answered_about_only_if_allowed(make_bundle, ask):
    bundle = make_bundle(seen=["aaa:4"])
    assert people_of(ask(bundle)).loc["aaa:4", "outcome"] == "excluded: seen in training"
    assert people_of(ask(bundle, allow=["people"])).loc["aaa:4", "outcome"] == "ok"


def test_a_fold_that_could_not_be_fitted_answers_nobody_and_says_why(study, make_bundle, ask):
    bundle = make_bundle()
    save_refusal(bundle, "fold 0: no training person is labelled as autism (autism)")
    folder = ask(bundle, datasets=["AAA"])
    why = "excluded: nothing was fitted, fold 0: no training person is labelled as autism (autism)"
    assert Counter(scans_of(folder, {})["outcome"]) == {why: 30, "excluded: dataset not asked about": 30}
    assert set(people_of(folder, {})["outcome"]) == {why}
    assert read_tsv(folder / "attention.tsv", ATTENTION).empty


def test_nobody_left_to_answer_about_leaves_rows_with_reasons_and_no_figure(study, make_bundle, ask):
    folder = ask(make_bundle(seen=list(study.people["person_id"])))
    assert set(people_of(folder)["outcome"]) == {"excluded: seen in training"}
    assert read_tsv(folder / "attention.tsv", ATTENTION).empty
    assert list((folder / "figures").iterdir()) == []


def test_without_a_bei_table_a_person_is_a_participant_and_the_log_says_what_that_hides(make_bundle, ask, caplog):
    folder = ask(make_bundle(seen=["aaa:4"]), bei=False)
    people = people_of(folder)
    assert people.loc["AAA:sub-04", "outcome"] == "ok"
    assert set(people["caution"]) == {"whether training has seen this person is not known"}
    assert "of every answer: whether training has seen this person is not known" in caplog.text


def test_what_nobody_knows_of_imported_weights_stands_in_every_row(make_bundle, ask):
    assert people_of(ask(make_bundle()))["caution"].isna().all()
    bundle = make_bundle()
    imported = read_manifest(bundle).model_copy(
        update={"stage": "imported", "fold": None, "people": "unknown", "assumed": ("autism",)}
    )
    save_bundle(bundle, load_file(bundle / WEIGHTS), imported)
    folder = ask(bundle)
    told = "whether training has seen this person is not known; the order of the levels of autism is assumed"
    assert set(people_of(folder)["caution"]) == set(scans_of(folder)["caution"]) == {told}


def test_regions_without_a_place_cost_the_figures_and_nothing_else(study, make_bundle, caplog):
    options = study.flags(bundle=make_bundle(), atlas=None, output=study.folder / "answers", settings=Predict())
    main(options)
    assert "no figure: atlas 'tiny'" in caplog.text
    assert list((options.output / "figures").iterdir()) == []
    assert set(people_of(options.output)["outcome"]) == {"ok"}


def test_combat_with_covariates_asks_for_the_bei_table(make_bundle, ask):
    combat = Combat(covariates=("age",)).model_dump(mode="json")
    with pytest.raises(ValueError, match=r"keeps the effect of age.*give --bei"):
        ask(make_bundle(settings={"combat": combat}), bei=False)


def test_windows_of_a_scan_are_one_row_and_their_mean(study, network, make_bundle, ask, rewrite_connectomes):
    rng = np.random.default_rng(0)
    path = study.folder / "correlate/AAA/batch-0.arrow"
    names = read_arrow(path)["scan"].to_pylist()
    rewrite_connectomes(path, [names[0], names[0], *names[1:]], rng.uniform(-0.5, 0.5, (len(names) + 1, 45)))
    scans = scans_of(ask(make_bundle())).set_index("scan")
    assert scans.loc[names[0], "num_connectomes"] == 2
    assert scans.loc[names[1], "num_connectomes"] == 1
    assert people_of(study.folder / "answers").loc["aaa:0", "num_scans"] == 1


def test_an_estimator_has_answers_and_no_attention(study, make_bundle, ask):
    bundle = make_bundle()
    manifest = read_manifest(bundle)
    task = Task(target="sex", levels=("female", "male"))
    majority = {"model": Model(architecture="majority"), "task": task, "tokens": (), "stage": "finetune"}
    save_bundle(bundle, {"answer": np.array([0.3, 0.7])}, manifest.model_copy(update=majority))
    folder = ask(bundle)
    people = people_of(folder, {"sex": task.levels})
    assert set(people["sex"]) == {"male"}
    assert set(people["sex=female"]) == {0.3}
    assert people["sex_layer"].isna().all()
    assert read_tsv(folder / "attention.tsv", ATTENTION).empty
    assert list((folder / "figures").iterdir()) == []


def test_an_unknown_dataset_is_named(make_bundle, ask):
    with pytest.raises(ValueError, match=r"column dataset has no \['CCC'\]; it has: AAA, BBB"):
        ask(make_bundle(), datasets=["AAA", "CCC"])


def test_a_scan_that_the_bei_table_lacks_is_an_error(study, make_bundle, ask):
    bei = read_tsv(study.folder / "bei.tsv", BEI)
    write_tsv(bei.iloc[1:], study.folder / "bei.tsv", BEI)
    # The bundle reads the table as well.
    with pytest.raises(ValueError, match="1 scans of the index are not in it"):
        ask(make_bundle())


def test_units_take_the_mean_and_the_layer_most_of_their_connectomes_chose():
    scores_NK = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9]])
    layers_NK = np.array([[3, 1], [2, 1], [3, 2], [1, 4]])
    frame = answers_of_units(
        {
            "sex": Answer(("female", "male"), scores_NK, layers_NK),
            "age": Answer((), np.array([[10.0], [20], [60], [5]])),
        },
        np.array(["p", "p", "p", "q"], dtype=object),
    )
    assert frame.loc["p"].to_dict() == {
        "num_connectomes": 3,
        "sex": "female",
        "sex_layer": 3,
        "sex=female": pytest.approx(0.6),
        "sex=male": pytest.approx(0.4),
        "age": pytest.approx(30),
    }
    assert frame.loc["q", ["sex", "sex_layer", "age"]].tolist() == ["male", 4, 5]


def test_of_equally_frequent_layers_the_lowest_is_told():
    answer = Answer(("a", "b"), np.array([[0.6, 0.4], [0.6, 0.4]]), np.array([[3, 1], [2, 1]]))
    assert answers_of_units({"x": answer}, np.array(["p", "p"], dtype=object)).loc["p", "x_layer"] == 2
