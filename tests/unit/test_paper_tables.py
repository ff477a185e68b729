"""The paper's tables again: published, optimistic and honest numbers side by side, each from its own predictions."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel
from sklearn.metrics import accuracy_score, f1_score

from lcm.evaluation import paper_answers
from lcm.evaluation.bootstrap import draw
from lcm.evaluation.metrics import not_run, score
from lcm.evaluation.paper_answers import (
    HONEST,
    MEASURES,
    OPTIMISTIC,
    Entry,
    StudyAnswers,
    mean_entry,
    quick_scores,
    read_answers,
)
from lcm.evaluation.paper_comparison import compared
from lcm.evaluation.paper_figures import FIGURES
from lcm.evaluation.paper_files import sections, write_paper
from lcm.evaluation.paper_tables import PUBLISHED, paper_table
from lcm.evaluation.published import TABLES
from lcm.evaluation.table_files import PrintedTable
from lcm.result_tables import SCORES, read_predictions, write_predictions
from lcm.tables import write_tsv
from tests.planted_paper import NUM_FOLDS, plant_costs, plant_row

PARKINSONS = ("ppmi", "taowu", "neurocon")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two protocols; LCM errs on one person a fold less where the tested choose; Parkinson's in three cohorts."""
    folder = tmp_path_factory.mktemp("results")
    for protocol, wrong in {"honest": 3, "paper": 2}.items():
        for task in ("autism", *PARKINSONS):
            plant_row(folder, protocol, "majority", task, 0)
            plant_row(folder, protocol, "lcm-32", task, wrong + (task == "taowu"))
        plant_row(folder, protocol, "ridge", "autism", wrong + 1)
        plant_row(folder, protocol, "my_lcm", "autism", wrong)
        for model in ("lcm-share-10", "lcm-pre-1234"):
            plant_row(folder, protocol, model, "schizophrenia", wrong)
        for model in ("ridge", "ridge-share-10"):
            plant_row(folder, protocol, model, "schizophrenia", wrong + 2)
        plant_costs(folder, protocol, "lcm-pre-1234", "schizophrenia", 12.5, 3600.0)
    return folder


@pytest.fixture(scope="module")
def answers(results: Path) -> StudyAnswers:
    return read_answers(results)


@functools.cache
def _table(number: str, answers: StudyAnswers) -> PrintedTable:
    return paper_table(number, answers)


def _cells(answers: StudyAnswers, number: str, row: str, column: str) -> pd.DataFrame:
    tidy = _table(number, answers).tidy
    found = tidy[(tidy["row"] == row) & (tidy["column"] == column)]
    return found.set_index(["source", "metric"])


def _predictions(results: Path, protocol: str, model: str, task: str) -> pd.DataFrame:
    return read_predictions(results / "evaluate" / protocol / model / task / "predictions.parquet")


def _by_fold(predictions: pd.DataFrame, task_metric: str) -> list[float]:
    folds = [own for _, own in predictions.groupby("fold")]
    if task_metric == "accuracy":
        return [100 * accuracy_score(own["truth"], own["prediction"]) for own in folds]
    return [100 * f1_score(own["truth"], own["prediction"], average="weighted", zero_division=0) for own in folds]


@pytest.mark.parametrize("metric", ["accuracy", "f1_weighted"])
def test_a_cell_holds_the_published_the_optimistic_and_the_honest_number(
    results: Path, answers: StudyAnswers, metric: str
):
    cells = _cells(answers, "1", "LCM scratch", "autism")
    printed = {"accuracy": (69.65, 5.10), "f1_weighted": (69.58, 5.23)}[metric]
    assert tuple(cells.loc[(PUBLISHED, metric), ["value", "spread"]]) == printed
    folds = _by_fold(_predictions(results, "paper", "lcm-32", "autism"), metric)
    assert len(folds) == NUM_FOLDS
    found = cells.loc[(OPTIMISTIC, metric)]
    assert (found["value"], found["spread"]) == pytest.approx((np.mean(folds), np.std(folds)), abs=1e-9)
    assert found["protocol"] == "paper"
    honest = _predictions(results, "honest", "lcm-32", "autism")
    scores = score(honest, num_bootstraps=1000, num_permutations=0, seed=0)
    expected = scores[(scores["metric"] == metric) & (scores["cohort"] == "all")].iloc[0]
    found = cells.loc[(HONEST, metric)]
    assert found["protocol"] == "honest"
    assert tuple(found[["value", "low", "high"]]) == pytest.approx(
        tuple(100 * expected[["value", "ci_low", "ci_high"]]), abs=1e-9
    )


def test_protocols_are_never_mixed(answers: StudyAnswers):
    # Of twelve people a fold two are wrong where the tested choose, three where they do not, and one more in two folds.
    cells = _cells(answers, "1", "LCM scratch", "autism")
    assert cells.loc[(OPTIMISTIC, "accuracy"), "value"] == pytest.approx(100 * (60 - 2 * 5 - 2) / 60)
    assert cells.loc[(HONEST, "accuracy"), "value"] == pytest.approx(100 * (60 - 3 * 5 - 2) / 60)


@pytest.mark.parametrize("metric", ["accuracy", "f1_weighted"])
def test_parkinsons_is_the_mean_of_three_tasks_and_of_their_deviations(
    results: Path, answers: StudyAnswers, metric: str
):
    cells = _cells(answers, "1", "LCM scratch", "parkinsons")
    folds = [_by_fold(_predictions(results, "paper", "lcm-32", task), metric) for task in PARKINSONS]
    found = cells.loc[(OPTIMISTIC, metric)]
    expected = (np.mean([np.mean(of) for of in folds]), np.mean([np.std(of) for of in folds]))
    assert (found["value"], found["spread"]) == pytest.approx(expected, abs=1e-9)
    assert found["num_people"] == 60 + 40 + 40
    single = [answers.scored("lcm-32", task, metric) for task in PARKINSONS]
    assert cells.loc[(HONEST, metric), "value"] == pytest.approx(np.mean([one.value for one in single]))


def test_a_means_interval_is_that_of_independent_estimates():
    # Zou & Donner 2008: half-widths add in squares; 3 and 4 make 5, over two.
    mean = mean_entry([Entry(50.0, low=47.0, high=56.0), Entry(60.0, low=56.0, high=68.0)])
    assert (mean.value, mean.low, mean.high) == pytest.approx((55.0, 52.5, 60.0))


def test_the_majority_row_is_always_printed_and_first_of_those_not_in_the_paper(answers: StudyAnswers):
    for number in TABLES[:-1]:
        table = _table(number, answers)
        names = [row[0] for row in table.rows]
        place = names.index("Majority class")
        assert table.sections[place] == "not in the paper"
    cells = _cells(answers, "1", "Majority class", "autism")
    assert cells.loc[(PUBLISHED, "accuracy"), ["value", "note"]].tolist() == [52.4, "derived"]
    row = next(row for row in _table("1", answers).rows if row[0] == "Majority class")
    assert row[7] == "52.4 (derived) / 36.0 (derived)"
    assert cells.loc[(OPTIMISTIC, "accuracy"), "value"] == pytest.approx(100 * 10 / 12)


def test_rows_that_the_paper_lacks_follow_by_group_and_the_papers_keep_their_order(answers: StudyAnswers):
    table = _table("1", answers)
    names = [row[0] for row in table.rows]
    assert names[:3] == ["BrainGNN", "BolT", "BNT"]
    assert names[-3:] == ["Majority class", "ridge", "my_lcm"]
    assert list(table.sections.values())[-1] == "not in the paper"


def test_what_has_not_run_says_why(answers: StudyAnswers):
    def note(row: str, column: str, source: str, number: str = "1") -> str:
        return _cells(answers, number, row, column).loc[(source, "f1_weighted"), "note"]

    assert note("BrainGNN", "autism", HONEST) == "not run: not implemented here"
    assert note("LCM scratch", "alzheimers", HONEST) == "not run: no task alzheimers in this study"
    assert note("LCM pre {1}", "autism", OPTIMISTIC) == "not run: no row lcm-pre-1 in this study"
    assert note("ridge", "parkinsons", OPTIMISTIC) == "not run: ridge is not asked ppmi under paper"
    row = next(row for row in _table("1", answers).rows if row[0] == "BrainGNN")
    assert row[2] == "not run: not implemented here"


def test_a_refused_row_gives_the_reason_of_evaluate_and_a_lost_fold_is_counted(tmp_path: Path):
    plant_row(tmp_path, "paper", "ridge", "autism", 1)
    kept = plant_row(tmp_path, "paper", "lcm-32", "autism", 1)
    place = tmp_path / "evaluate" / "paper" / "lcm-32" / "autism"
    write_predictions(kept[kept["fold"] != 2], place / "predictions.parquet")
    cells = _cells(read_answers(tmp_path), "1", "LCM scratch", "autism")
    assert cells.loc[(OPTIMISTIC, "accuracy"), "note"] == "4 of 5 folds"
    assert cells.loc[(HONEST, "accuracy"), "note"] == "not run: no honest protocol in this study"
    write_predictions(kept[:0], place / "predictions.parquet")
    assert _cells(read_answers(tmp_path), "1", "LCM scratch", "autism").loc[(OPTIMISTIC, "accuracy"), "note"] == (
        "not run: no prediction was made"
    )
    named = {"protocol": "paper", "select": "test", "model": "lcm-32", "group": "network", "task": "autism"}
    write_tsv(not_run("fold 1 has one level only", **named), place / "scores.tsv", SCORES)
    assert _cells(read_answers(tmp_path), "1", "LCM scratch", "autism").loc[(OPTIMISTIC, "accuracy"), "note"] == (
        "not run: fold 1 has one level only"
    )


def test_the_optimistic_column_is_labelled_in_header_and_caption(answers: StudyAnswers):
    table = _table("1", answers)
    assert table.columns[1:4] == ("published", "ours, paper (optimistic)", "ours, honest (95 % CI)")
    assert "Optimistic (protocol paper): the people of a fold choose" in table.caption


def test_the_first_protocol_of_each_kind_is_shown(results: Path, tmp_path: Path):
    plant = {"model": "ridge", "task": "autism", "wrong": 1}
    plant_row(tmp_path, "honest", **plant)
    site = plant_row(tmp_path, "honest", **plant).assign(protocol="leave-site-out")
    write_predictions(site, tmp_path / "evaluate" / "leave-site-out" / "ridge" / "autism" / "predictions.parquet")
    assert read_answers(tmp_path).protocols == {OPTIMISTIC: None, HONEST: "honest"}
    assert read_answers(tmp_path, ["leave-site-out", "honest"]).protocols[HONEST] == "leave-site-out"
    assert sections(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"no predictions\.parquet there; run evaluate first"):
        read_answers(tmp_path / "empty")


def test_a_row_of_ours_with_a_name_of_the_papers_stays_apart(tmp_path: Path):
    plant_row(tmp_path, "honest", "BolT", "autism", 0)
    rows = [row for row in paper_table("1", read_answers(tmp_path)).rows if row[0] == "BolT"]
    assert [row[7] for row in rows] == ["68.09 ± 3.78 / 68.01 ± 3.72", ""]
    assert [row[9].split(" (")[0] for row in rows] == ["not run: not implemented here", "96.7"]


def test_a_row_that_the_study_asked_for_earlier_does_not_linger(tmp_path: Path):
    for model in ("ridge", "old"):
        plant_row(tmp_path, "honest", model, "autism", 1)
    asked = {("honest", "ridge", "autism")}
    assert [row[0] for row in paper_table("1", read_answers(tmp_path, asked=asked)).rows][-1] == "ridge"
    assert [row[0] for row in paper_table("1", read_answers(tmp_path)).rows][-2:] == ["ridge", "old"]


def test_scores_beside_the_predictions_are_used_as_they_are(tmp_path: Path):
    predictions = plant_row(tmp_path, "honest", "ridge", "autism", 2)
    scores = score(predictions, num_bootstraps=100, num_permutations=0, seed=0)
    scores.loc[(scores["metric"] == "accuracy") & (scores["cohort"] == "all"), ["value", "ci_low", "ci_high"]] = (
        0.5,
        0.25,
        0.75,
    )
    write_tsv(scores, tmp_path / "evaluate" / "honest" / "ridge" / "autism" / "scores.tsv", SCORES)
    found = read_answers(tmp_path).scored("ridge", "autism", "accuracy")
    assert (found.value, found.low, found.high) == (50.0, 25.0, 75.0)


@pytest.mark.parametrize("task", ["autism", "ppmi"])
def test_quick_scores_are_those_of_evaluate(tmp_path: Path, task: str):
    predictions = plant_row(tmp_path, "honest", "ridge", task, 3)
    quick = quick_scores(predictions).set_index("metric")
    scores = score(predictions, num_bootstraps=1000, num_permutations=0, seed=0)
    whole = scores[scores["cohort"] == "all"].set_index("metric").loc[quick.index]
    pd.testing.assert_frame_equal(
        quick[["value", "ci_low", "ci_high"]].astype(float), whole[["value", "ci_low", "ci_high"]], rtol=1e-9
    )


def test_answers_from_before_their_protocol_was_changed_stand_in_no_column(tmp_path: Path):
    plant_row(tmp_path, "honest", "lcm-32", "autism", 2)
    stale = plant_row(tmp_path, "honest", "ridge", "autism", 2).assign(select="test")
    write_predictions(stale, tmp_path / "evaluate" / "honest" / "ridge" / "autism" / "predictions.parquet")
    answers = read_answers(tmp_path)
    assert answers.scored("lcm-32", "autism", "accuracy").reason is None
    told = "not run: answered with `select: test`, and honest is honest now; evaluate it again"
    assert answers.scored("ridge", "autism", "accuracy").reason == told
    assert answers.over_folds(HONEST, "ridge", "autism", MEASURES["accuracy"]).reason == told


@pytest.mark.parametrize("seed", range(5))
def test_the_measures_of_a_fold_are_scikit_learns(seed: int):
    # Four levels for seven people: some are only true, some only named.
    truth, named = np.random.default_rng(seed).choice(list("abcd"), (2, 7))
    own = pd.DataFrame({"truth": truth, "prediction": named})
    assert MEASURES["accuracy"](own) == pytest.approx(100 * accuracy_score(truth, named))
    expected = f1_score(truth, named, average="weighted", zero_division=0.0)
    assert MEASURES["f1_weighted"](own) == pytest.approx(100 * expected)


def test_rows_of_the_same_people_share_their_resamples(results: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr(paper_answers, "draw", lambda *args, **named: drawn.append(1) or draw(*args, **named))
    answers = read_answers(results)
    shared = [answers.scored(model, "autism", "accuracy") for model in ("lcm-32", "ridge", "majority")]
    assert len(drawn) == 1
    assert shared[1] == read_answers(results).scored("ridge", "autism", "accuracy")
    # The same number of people, other truths.
    answers.scored("lcm-32", "ppmi", "accuracy")
    assert len(drawn) == 3


def test_a_derived_number_has_as_many_digits_as_are_known(answers: StudyAnswers):
    row = next(row for row in _table("1", answers).rows if row[0] == "Majority class")
    assert "82.96 (derived) / 75.23 (derived)" in row
    assert "52.4 (derived) / 36.0 (derived)" in row
    row = next(row for row in _table("4", answers).rows if row[0] == "Majority class")
    assert "77.0 ± 8.0 (derived)" in row


def test_a_note_that_rows_share_is_said_once(answers: StudyAnswers):
    said = [note for note in _table("1", answers).notes if "order of the three middle rows" in note]
    assert [note.partition(":")[0] for note in said] == ["LCM pre {1,3,4}, LCM pre {1,2,3}, LCM pre {1,2,4}"]


def test_table_4_takes_each_share_from_its_own_row_and_tests_over_folds(answers: StudyAnswers):
    table = _table("4", answers)
    p = table.tidy[table.tidy["metric"] == "p_paired_t"].set_index(["source", "column"])
    assert p.loc[(PUBLISHED, "all"), "value"] == 0.0014
    assert p.loc[(HONEST, "all"), ["model", "note"]].tolist() == ["lcm-pre-1234", "against ridge"]
    f1 = table.tidy[table.tidy["metric"] == "f1_weighted"]
    cells = f1[(f1["row"] == "LCM") & (f1["source"] == OPTIMISTIC)].set_index("column")
    assert list(cells.loc[["ten", "fifty", "all"], "model"]) == ["lcm-share-10", "lcm-share-50", "lcm-pre-1234"]
    assert cells.loc["fifty", "note"] == "not run: no row lcm-share-50 in this study"
    ours = table.tidy[(table.tidy["row"] == "ridge") & (table.tidy["source"] == HONEST)].set_index("column")
    assert list(ours.loc[["ten", "all"], "model"]) == ["ridge-share-10", "ridge"]
    assert not any(row[0] == "ridge-share-10" for row in table.rows)
    assert any("paper (optimistic), 100 %: lcm-pre-1234 − ridge" in note for note in table.notes)
    assert any(note.startswith("Printed p of LCM") and "10 %: 0.0267" in note for note in table.notes)


def test_rows_are_compared_over_the_folds_they_share_the_best_first(results: Path, answers: StudyAnswers):
    found = compared(answers, OPTIMISTIC, "lcm-32", ["ridge", "my_lcm", "absent"], "autism")
    assert [(test.reference, test.num_folds) for test in found] == [("my_lcm", 5), ("ridge", 5)]
    assert found[0].difference == 0
    assert found[0].p == found[0].p_corrected == 1.0
    own, other = (
        _by_fold(_predictions(results, "paper", model, "neurocon"), "f1_weighted") for model in ("lcm-32", "majority")
    )
    test = compared(answers, OPTIMISTIC, "lcm-32", ["majority"], "neurocon")[0]
    assert test.difference == pytest.approx(np.mean(own) - np.mean(other))


def test_the_ordinary_t_is_scipys_and_the_corrected_one_has_the_larger_variance(tmp_path: Path):
    # Folds differ: a fold's wrong answers are those of its own table.
    for model, wrong in {"lcm-32": (1, 2, 0, 3, 1), "ridge": (3, 2, 2, 3, 4)}.items():
        tables = [plant_row(tmp_path, "paper", model, "autism", count) for count in wrong]
        mixed = pd.concat([table[table["fold"] == fold] for fold, table in enumerate(tables)])
        write_predictions(mixed, tmp_path / "evaluate" / "paper" / model / "autism" / "predictions.parquet")
    first, second = (
        np.array(_by_fold(_predictions(tmp_path, "paper", model, "autism"), "f1_weighted"))
        for model in ("lcm-32", "ridge")
    )
    test = compared(read_answers(tmp_path), OPTIMISTIC, "lcm-32", ["ridge"], "autism")[0]
    assert test.p == pytest.approx(ttest_rel(first, second).pvalue)
    # Twelve tested, forty-eight learned from: the variance is s² (1/5 + 1/4).
    difference = first - second
    statistic = difference.mean() / np.sqrt(difference.var(ddof=1) * (1 / 5 + 1 / 4))
    assert test.p_corrected == pytest.approx(2 * student.sf(abs(statistic), df=4))
    assert test.p_corrected > test.p


def test_rows_of_other_folds_are_not_compared(tmp_path: Path):
    whole = plant_row(tmp_path, "paper", "lcm-32", "autism", 1)
    part = plant_row(tmp_path, "paper", "ridge", "autism", 1)
    write_predictions(
        part[part["fold"] > 0], tmp_path / "evaluate" / "paper" / "ridge" / "autism" / "predictions.parquet"
    )
    assert len(whole) == 60
    assert compared(read_answers(tmp_path), OPTIMISTIC, "lcm-32", ["ridge"], "autism") == []


def test_table_8_has_our_time_with_its_device(answers: StudyAnswers):
    tidy = _table("8", answers).tidy
    cells = tidy[(tidy["row"] == "LCM") & (tidy["source"] == HONEST)].set_index("column")
    assert list(cells["value"]) == [12.5, 25.0, 1_175_000_000]
    assert set(cells["note"]) == {"test device"}
    assert _table("8", answers).notes[-1] == "Ours: test device."
    assert _table("8", answers).columns[3] == "ours, honest"
    row = next(row for row in _table("8", answers).rows if row[0] == "LCM")
    assert row[1] == "13.09"
    assert row[7] == "1,200 M"


def test_a_number_of_too_few_people_is_not_on_a_public_page(results: Path):
    answers = read_answers(results, min_cell=50)
    assert answers.over_folds(OPTIMISTIC, "lcm-32", "taowu", len).reason == "not run: fewer than 50 people"
    assert answers.over_folds(OPTIMISTIC, "lcm-32", "autism", len).value == 12
    table = _table("1", answers)
    cell = table.tidy[(table.tidy["row"] == "LCM scratch") & (table.tidy["column"] == "parkinsons")]
    assert cell.loc[cell["source"] != PUBLISHED, "value"].isna().all()


def test_the_door_writes_the_tables_from_predictions_alone_and_without_torch(results: Path, tmp_path: Path):
    code = (
        "import sys; from lcm.__main__ import main; "
        f"code = main(['report', '--table', '1', '8', '--results', {str(results)!r}, '--output', {str(tmp_path)!r}]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"table-{n}.{suffix}" for n in (1, 8) for suffix in ("csv", "tex", "html")}
    assert not (tmp_path / "record.json").exists()
    with pytest.raises(ValueError, match=r"--table has no '6'; it takes: 1, 2, 3, 4, 5, 8, figure-2"):
        write_paper(results, tmp_path, ["6"])


def test_the_page_gets_every_table_and_beside_it_the_figures_of_the_same_runs(
    results: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lcm.evaluation.paper_files.paper_figure", lambda name, _: name)
    found = sections(results)
    assert [section.title for section in found] == [f"Table {number}" for number in TABLES]
    assert sorted(name for section in found for name in section.figures) == sorted(FIGURES)
    for section in found:
        assert section.html.count("<table>") == section.html.count("<caption>") == 1
