"""Figures of the paper: what is drawn is the numbers' own, what is not known says so, and every point is in words."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lcm.evaluation.paper_answers import HONEST, OPTIMISTIC, StudyAnswers, read_answers
from lcm.evaluation.paper_figures import FIGURES, paper_figure
from lcm.evaluation.paper_files import PaperSection, write_paper, write_sections
from lcm.evaluation.paper_tables import PUBLISHED, paper_table
from lcm.result_tables import read_predictions, write_predictions
from tests.planted_paper import plant_costs, plant_row


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LCM of three depths in two data sets, the pretrained one in three tasks, the same unfinetuned for sex and age."""
    folder = tmp_path_factory.mktemp("results")
    for protocol in ("honest", "paper"):
        for depth, wrong in {4: 4, 20: 3, 32: 2}.items():
            plant_row(folder, protocol, f"lcm-{depth}", "autism", wrong)
        for task in ("autism", "ppmi"):
            plant_row(folder, protocol, "lcm-pre-1234", task, 2, num_layers=32)
        for task in ("sex-hcpa", "age-hcpa"):
            plant_row(folder, protocol, "lcm-as-pretrained", task, 3)
        plant_costs(folder, protocol, "lcm-pre-1234", "autism", 12.5, 5 * 3600.0)
    return folder


@pytest.fixture(scope="module")
def answers(results: Path) -> StudyAnswers:
    return read_answers(results)


def _points(numbers: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    for name, value in wanted.items():
        numbers = numbers[numbers[name] == value]
    return numbers


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_an_image_of_some_size_a_caption_and_its_numbers_in_words(answers: StudyAnswers, name: str):
    figure = paper_figure(name, answers)
    content = base64.b64decode(figure.uri.removeprefix("data:image/png;base64,"))
    width, height = struct.unpack(">II", content[16:24])
    assert min(width, height) > 250
    assert len(figure.caption) > 100
    assert figure.alt.count(";") > 3
    if name != "figure-7":
        assert figure.alt.count(";") == figure.numbers["value"].notna().sum() - 1


def test_figure_2_says_that_it_is_assumed_and_shows_the_stored_folds(answers: StudyAnswers):
    figure = paper_figure("figure-2", answers)
    assert "(assumed)" in figure.caption
    assert "does not say what Figure 2 shows" in " ".join(figure.caption.split())
    sex = _points(figure.numbers, panel="weighted F1 of sex (%)", source=PUBLISHED).set_index("label")["value"]
    assert sex["ABIDE"] == pytest.approx(87.34, abs=0.005)
    age = _points(figure.numbers, panel="RMSE of age (years)").set_index(["label", "source"])["value"]
    assert age["HCPYA", PUBLISHED] == pytest.approx(3.59, abs=0.005)
    # Every answer is planted three years too high.
    assert age["HCPA", HONEST] == pytest.approx(3.0)


def test_figure_2_takes_the_root_after_the_mean_over_folds_as_the_stored_ages_do(tmp_path: Path):
    plant_row(tmp_path, "honest", "lcm-as-pretrained", "age-hcpa", 3)
    path = tmp_path / "evaluate" / "honest" / "lcm-as-pretrained" / "age-hcpa" / "predictions.parquet"
    predictions = read_predictions(path)
    off = predictions["fold"].map({0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 10.0})
    scores = [[truth + by] for truth, by in zip(predictions["truth"].astype(float), off, strict=True)]
    write_predictions(predictions.assign(scores=scores), path)
    figure = paper_figure("figure-2", read_answers(tmp_path))
    own = _points(figure.numbers, panel="RMSE of age (years)", source=HONEST).set_index("label").loc["HCPA"]
    assert own["value"] == pytest.approx(np.sqrt((1 + 4 + 9 + 16 + 100) / 5))
    assert np.isnan(own["spread"])


def test_figure_3_has_hours_of_one_fold_and_lines_where_hours_are_not_known(answers: StudyAnswers):
    numbers = paper_figure("figure-3", answers).numbers
    ours = _points(numbers, label="LCM-1175M", source=OPTIMISTIC).iloc[0]
    assert ours["x"] == pytest.approx(1.0)
    assert ours["value"] == pytest.approx(answers.over_folds(OPTIMISTIC, "lcm-pre-1234", "autism", _weighted_f1).value)
    published = _points(numbers, source=PUBLISHED).set_index("label")
    assert published.loc["LCM-1175M", "x"] == pytest.approx(13.09 * 10036 * 200 / 3.6e6)
    assert np.isnan(published.loc["LCM-735M", "x"])
    note = _points(numbers, label="LCM-735M", source=HONEST)["note"].iloc[0]
    assert note == "not run: no row lcm-pre-1234-20 in this study"


def _weighted_f1(predictions: pd.DataFrame) -> float:
    from sklearn.metrics import f1_score

    return 100 * f1_score(predictions["truth"], predictions["prediction"], average="weighted")


def test_a_pretraining_of_seconds_stays_on_the_axis(tmp_path: Path):
    plant_row(tmp_path, "honest", "lcm-pre-1234", "autism", 2)
    plant_costs(tmp_path, "honest", "lcm-pre-1234", "autism", 1.0, 20.0)
    figure = paper_figure("figure-3", read_answers(tmp_path))
    assert _points(figure.numbers, source=HONEST)["x"].iloc[0] == pytest.approx(20 / 3600 / 5)


def test_scaling_is_at_fixed_depth_and_figure_6_has_the_same_scores_by_parameters(answers: StudyAnswers):
    depth = paper_figure("scaling", answers).numbers
    abide = _points(depth, panel="ABIDE", source=PUBLISHED).set_index("x")["value"]
    # The log's rows, not Table 3's, whose big model has 24 layers here.
    assert abide[32] == pytest.approx(70.58, abs=0.005)
    assert abide[24] == pytest.approx(69.58, abs=0.005)
    ours = _points(depth, panel="ABIDE", source=HONEST).set_index("x")["value"]
    assert ours.dropna().index.tolist() == [4, 20, 32]
    assert ours.dropna().is_monotonic_increasing
    parameters = paper_figure("figure-6", answers).numbers
    assert parameters["value"].equals(depth["value"])
    assert set(_points(parameters, label="32 layers")["x"]) == {1175681027}
    assert "none: fewer than three depths" in paper_figure("figure-6", answers).caption
    hcpya = _points(depth, panel="HCPYA", source=PUBLISHED)["x"].tolist()
    assert 20 not in hcpya


def test_figure_7_reads_the_layer_of_the_true_class(results: Path, answers: StudyAnswers):
    figure = paper_figure("figure-7", answers)
    predictions = read_predictions(results / "evaluate" / "honest" / "lcm-pre-1234" / "ppmi" / "predictions.parquet")
    own = predictions[predictions["truth"] == "swedd"]
    layers = [row.layers[2] for row in own.itertuples()]
    found = _points(figure.numbers, label="SWEDD", source=HONEST).iloc[0]
    assert (found["low"], found["value"], found["high"]) == tuple(np.quantile(layers, [0.25, 0.5, 0.75]))
    assert f"SWEDD, honest: median layer {np.median(layers):.0f} of {len(layers)} people" in figure.alt
    assert "mostly layers 1 to 15" in figure.alt
    assert "Alzheimer's" not in set(figure.numbers["label"])


def test_figure_7_of_a_public_page_shows_no_single_person(results: Path):
    few = read_answers(results, min_cell=6)
    figure = paper_figure("figure-7", few)
    # Five people have each of PPMI's rarer levels, forty-five are its controls, which the figure leaves out.
    assert not {"SWEDD", "Prodromal"} & set(figure.numbers["label"])
    assert figure.uri != paper_figure("figure-7", read_answers(results)).uri


def test_a_study_without_any_of_the_rows_draws_what_is_published_and_says_why(tmp_path: Path):
    plant_row(tmp_path, "honest", "ridge", "autism", 1)
    written = write_paper(tmp_path, tmp_path / "tables", ["figure-6", "figure-7"])
    assert [path.name for path in written] == ["figure-6.html", "figure-7.html"]
    text = written[0].read_text(encoding="utf-8")
    assert "Ours, optimistic: not run: no optimistic protocol in this study." in text
    assert 'alt="' in text
    assert "not run: no row with layers" in written[1].read_text(encoding="utf-8")
    assert (tmp_path / "tables" / "figure-7.png").read_bytes()[:4] == b"\x89PNG"
    numbers = pd.read_csv(tmp_path / "tables" / "figure-6.csv")
    assert numbers.loc[numbers["source"] != PUBLISHED, "value"].isna().all()


def test_the_sections_of_a_page_are_written_as_the_flag_writes_them(
    results: Path, answers: StudyAnswers, tmp_path: Path
):
    section = PaperSection("Table 8", paper_table("8", answers), (paper_figure("figure-3", answers),))
    write_sections([section], tmp_path / "page")
    write_paper(results, tmp_path / "flag", ["8", "figure-3"])
    names = sorted(path.name for path in (tmp_path / "page").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "flag").iterdir())
    for name in names:
        assert (tmp_path / "page" / name).read_bytes() == (tmp_path / "flag" / name).read_bytes()
