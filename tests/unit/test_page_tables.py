"""Tables of the page: texts, sorting values, what a public page hides, and what folds, overlaps and groups say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lcm.evaluation.attention_page import attention_maps
from lcm.evaluation.benchmark import task_tables
from lcm.evaluation.benchmark_page import balance_table
from lcm.evaluation.checks_page import cost_table, decodability_table, fold_table, not_decoded, overlap_table
from lcm.evaluation.comparisons_page import comparison_tables, not_compared
from lcm.evaluation.group_means_page import group_means
from lcm.evaluation.metrics import score
from lcm.evaluation.study_people import first_visits
from lcm.evaluation.table_one import read_variables
from lcm.evaluation.text_table import count_text, number_text, p_text, sort_value
from lcm.result_tables import BALANCE, COMPARISONS, COSTS, DECODABILITY, OVERLAP, TOKEN_ATTENTION
from lcm.tables import BEI, read_arrow, read_tsv
from tests.planted_results import REGIONS, plant, planted_predictions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("−0.198", "-0.198"),
        ("1,234,567", "1234567"),
        ("0.80 [0.60 to 0.95]", "0.80"),
        ("< 0.001", "0.001"),
        ("n/a", ""),
        ("hidden", ""),
        ("unknown", ""),
    ],
)
def test_a_cell_sorts_by_its_first_number(text, value):
    assert sort_value(text) == value


def test_numbers_are_printed_with_a_true_minus_and_no_negative_zero():
    assert number_text(-0.25, 1) in ("−0.2", "−0.3")
    assert number_text(-0.0001, 2) == "0.00"
    assert number_text(None, 2) == number_text(float("nan"), 2) == number_text(pd.NA, 2) == "n/a"
    assert (p_text(0.0004), p_text(0.0312), p_text(float("nan"))) == ("< 0.001", "0.031", "n/a")
    assert (count_text(12), count_text(pd.NA), count_text(None)) == ("12", "unknown", "unknown")


def overlap_rows(**changes: object) -> pd.DataFrame:
    row = {"protocol": "honest", "model": "lcm", "task": "sex", "corpus": "training", "num_corpus": 80}
    row |= {"num_test": 20, "num_seen": 0, "status": "clean"} | changes
    return pd.DataFrame([row | {"fold": fold} for fold in range(3)])[list(OVERLAP.columns)]


def test_models_with_the_same_overlap_share_a_row_and_others_do_not():
    table = overlap_table(
        pd.concat(
            [
                overlap_rows(),
                overlap_rows(model="mlp"),
                overlap_rows(model="leak", num_seen=2, status="contaminated"),
                overlap_rows(model="bought", num_seen=None, status="unknown"),
            ]
        )
    )
    assert table.rows == [
        ["training", "honest", "sex", "lcm, mlp", "60", "0", "0 of 3", "clean"],
        ["training", "honest", "sex", "leak", "60", "6", "3 of 3", "contaminated"],
        ["training", "honest", "sex", "bought", "60", "unknown", "0 of 3", "unknown"],
    ]


def test_a_public_overlap_hides_few_people():
    (row,) = overlap_table(overlap_rows(num_seen=1, status="contaminated"), min_cell=5).rows
    assert row[5] == "<5*"


def test_decodability_is_a_mean_over_folds_and_says_what_was_not_run():
    row = {"protocol": "honest", "model": "lcm", "task": "sex", "metric": "auroc", "chance": 0.5, "num_train": 9}
    row |= {"num_test": 9, "note": None}
    values = {"site": [0.6, 0.9], "motion tertile": [None]}
    rows = [
        row | {"fold": fold, "decoded": decoded, "value": value, "note": None if value else "sites are unseen"}
        for decoded, own in values.items()
        for fold, value in enumerate(own)
    ]
    found = pd.DataFrame(rows)[list(DECODABILITY.columns)]
    assert decodability_table(found).rows == [
        ["lcm", "honest", "sex", "site", "auroc", "0.750", "0.600", "0.900", "0.500", "2"]
    ]
    assert not_decoded(found) == ["honest, lcm, sex: motion tertile: sites are unseen."]


def test_tables_without_rows_say_nothing():
    assert cost_table(pd.DataFrame(columns=list(COSTS.columns))).rows == []
    assert overlap_table(pd.DataFrame(columns=list(OVERLAP.columns))).rows == []
    assert decodability_table(pd.DataFrame(columns=list(DECODABILITY.columns))).rows == []
    assert comparison_tables(pd.DataFrame(columns=list(COMPARISONS.columns))) == []
    assert balance_table("honest", "sex", pd.DataFrame(columns=list(BALANCE.columns))) is None


def test_a_model_that_could_not_be_paired_is_named_and_has_no_row():
    row = dict.fromkeys(COMPARISONS.columns) | {"protocol": "honest", "task": "sex", "metric": "auroc"}
    row |= {"reference": "ridge", "num_people": 40, "num_folds": 5, "method": "DeLong", "model": "lcm"}
    numbers = {"difference": -0.02, "ci_low": -0.1, "ci_high": 0.06, "p": 0.6, "p_holm": 1.0, "p_corrected_t": 0.7}
    unpaired = {"model": "other", "method": "not compared: answered about other people than ridge"}
    found = pd.DataFrame([row | numbers, row | unpaired])
    (table,) = comparison_tables(found)
    assert [line[0] for line in table.rows] == ["lcm"]
    assert "(DeLong)" in table.caption
    assert not_compared(found) == ["honest, sex, other: not compared: answered about other people than ridge."]


def test_people_of_each_fold_add_up_and_a_public_page_shows_none_where_few_are():
    people = planted_predictions("ridge", "autism")
    table = fold_table("autism", people)
    counts = np.array([[int(text) for text in row[1:4]] for row in table.rows])
    assert counts.sum(axis=0).tolist() == [20, 20, 40]
    assert table.columns == ("Fold", "control", "autism", "Test people", "People behind the weights")
    assert fold_table("autism", people, min_cell=5).rows == table.rows
    assert fold_table("autism", people, min_cell=7).rows == []
    ages = fold_table("age", planted_predictions("ridge", "age"))
    assert ages.columns[1] == "Answers"


def attention_rows(task: str, model: str, regions: list[str]) -> pd.DataFrame:
    row = {"protocol": "honest", "model": model, "task": task, "level": "autism", "num_people": 40}
    return pd.DataFrame([row | {"region": region, "share": 1 / len(regions)} for region in regions])[
        list(TOKEN_ATTENTION.columns)
    ]


@pytest.fixture(scope="module")
def autism():
    scores = [
        score(planted_predictions(model, "autism"), num_bootstraps=5, num_permutations=0, seed=0)
        for model in ("ridge", "lcm")
    ]
    return task_tables(pd.concat(scores), min_people=20)


def test_attention_in_another_atlas_is_not_drawn_and_says_why(autism):
    found = attention_maps(attention_rows("autism", "lcm", ["Atlantis_L"]), autism, "AAL")
    assert found.figures == []
    assert "Atlantis_L" in found.note


def test_attention_over_few_people_or_of_nobody_is_not_shown(autism):
    rows = attention_rows("autism", "lcm", REGIONS)
    assert attention_maps(rows, autism, "AAL", min_people=50).figures == []
    assert attention_maps(rows.iloc[:0], autism, "AAL").figures == []
    assert attention_maps(rows.assign(task="another"), autism, "AAL").figures == []


def test_the_difference_of_group_means_is_that_of_the_stored_connectomes(tmp_path):
    results = plant(tmp_path)
    people = first_visits(read_tsv(results / "harmonize" / "bei.tsv", BEI))
    people = people[people["cohort"] == "abide"]
    (view,) = group_means(results, "9P", {"READY": ["batch-0"]}, people, read_variables())
    table = read_arrow(results / "correlate" / "9P" / "READY" / "batch-0.arrow").to_pandas().set_index("scan")
    z = {
        level: np.arctanh(np.stack(list(table.loc[own["scan"], "fc"]))).mean(axis=0)
        for level, own in people.groupby("autism")
    }
    shift_E = np.tanh(z["autism"]) - np.tanh(z["control"])
    assert f"mean over edges {shift_E.mean():.2f}".replace("-", "−") in view.alt
    assert f"largest {shift_E[np.abs(shift_E).argmax()]:.2f}".replace("-", "−") in view.alt
    assert "(20 control, 20 autism)" in view.alt


def test_a_group_of_few_has_no_mean(tmp_path):
    results = plant(tmp_path)
    people = first_visits(read_tsv(results / "harmonize" / "bei.tsv", BEI))
    few = people[people["cohort"] == "abide"].iloc[:12]
    assert group_means(results, "9P", {"READY": ["batch-0"]}, few, read_variables(), min_people=7) == []
    assert len(group_means(results, "9P", {"READY": ["batch-0"]}, few, read_variables(), min_people=6)) == 1


def test_the_same_drawing_gives_the_same_bytes():
    from lcm.evaluation.performance import Curve
    from lcm.evaluation.performance_figures import curves

    line = np.linspace(0, 1, 5)
    named = {"a": Curve(line, line, line, line)}
    assert curves(named, label="x", value_label="y", chance=0.5) == curves(
        named, label="x", value_label="y", chance=0.5
    )
