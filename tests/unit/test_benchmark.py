"""The benchmark tables: who is ranked, who is best, and that ways of choosing an epoch are never mixed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lcm.evaluation.benchmark import Cell, fewest, overview, protocol_tables, task_tables
from lcm.evaluation.benchmark_page import detectable
from lcm.evaluation.metrics import score
from lcm.evaluation.performance_page import chosen_rows
from tests.planted_results import planted_predictions

MODELS = ("majority", "ridge", "lcm")


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    """Of three models and two tasks under one protocol, forty people."""
    parts = [planted_predictions(model, task) for model in MODELS for task in ("autism", "age")]
    return pd.concat([score(part, num_bootstraps=50, num_permutations=19, seed=0) for part in parts])


def of_task(scores: pd.DataFrame, task: str, **options: object):
    return next(table for table in task_tables(scores, **{"min_people": 20} | options) if table.task == task)


def test_few_people_are_not_ranked_and_enough_are(scores):
    few = of_task(scores, "autism", min_people=30)
    assert not few.ranked
    assert of_task(scores, "age", min_people=30).ranked
    assert not any(cell.best for row in few.rows for cell in row.cells)
    enough = of_task(scores, "autism")
    assert enough.ranked
    best = {row.model for row in enough.rows for cell in row.cells if cell.best}
    assert best
    assert "majority" not in best


def test_rows_without_a_brain_are_never_the_best_whatever_they_are_called(scores):
    renamed = scores.assign(group=scores["group"].where(scores["model"] != "ridge", "confound"))
    table = of_task(pd.concat([renamed, scores[scores["model"] == "ridge"].assign(model="ridge-2")]), "autism")
    assert [row.model for row in table.overall] == ["majority", "ridge", "ridge-2", "lcm"]
    by_model = {row.model: row.cells[0] for row in table.overall}
    assert by_model["ridge"].value == by_model["ridge-2"].value == 1.0
    assert [model for model, cell in by_model.items() if cell.best] == ["ridge-2"]


def test_one_model_alone_is_not_the_best(scores):
    table = of_task(scores[scores["model"] != "ridge"], "autism")
    assert not any(cell.best for row in table.rows for cell in row.cells)


def test_weights_that_may_have_seen_the_tested_are_marked_and_never_the_best(scores):
    third = scores[scores["model"] == "ridge"].assign(model="other", group="kernel")
    unknown = pd.concat([scores, third])
    unknown = unknown.assign(training_people=np.where(unknown["model"] == "lcm", "unknown", "listed"))
    rows = of_task(unknown, "age").overall
    assert [(row.model, row.may_have_seen, row.cells[0].best) for row in rows] == [
        ("majority", False, False),
        ("ridge", False, True),
        ("other", False, False),
        ("lcm", True, False),
    ]
    tables = task_tables(unknown, min_people=20)
    assert [model for model in overview(tables).models if overview(tables).may_have_seen(model)] == ["lcm"]


def test_a_lower_error_is_better(scores):
    rows = of_task(scores, "age").overall
    assert [row.model for row in rows] == ["majority", "ridge", "lcm"]
    assert [row.cells[0].best for row in rows] == [False, False, True]


def test_nobody_is_best_in_a_number_that_only_checks_a_row(scores):
    table = of_task(scores, "autism")
    for metric in ("permutation_p", "calibration_slope"):
        place = table.metrics.index(metric)
        assert not any(row.cells[place].best for row in table.overall)
        assert "↑" not in table.headers[place]


def test_the_mark_of_chance_is_what_a_guess_scores(scores):
    table = of_task(scores, "autism")
    cells = dict(zip(table.metrics, table.overall[-1].cells, strict=True))
    assert cells["auroc"].chance == 50
    assert cells["auprc"].chance == pytest.approx(50)
    assert cells["f1_macro"].chance is None or cells["f1_macro"].chance >= 0


def test_protocols_keep_their_order_and_optimistic_ones_come_last_and_unranked(scores):
    paper = scores.assign(protocol="a paper", select="test")
    other = scores.assign(protocol="another")
    found = protocol_tables(pd.concat([paper, other, scores]), ["a paper", "honest"], min_people=20)
    assert [(tables.name, tables.is_optimistic) for tables in found] == [
        ("honest", False),
        ("another", False),
        ("a paper", True),
    ]
    best = [sum(cell.best for task in tables.tasks for row in task.rows for cell in row.cells) for tables in found]
    assert best[0] == best[1] > 0
    assert best[2] == 0


def test_rows_that_were_chosen_in_two_ways_are_never_one_protocol(scores):
    mixed = pd.concat([scores, scores.assign(model="other", select="test")])
    with pytest.raises(ValueError, match="protocol honest: its scores were chosen by test and by validation"):
        protocol_tables(mixed, ["honest"], min_people=20)


def test_subsets_stand_apart_from_the_rows_over_all(scores):
    still = scores[scores["cohort"] == "all"].assign(subset="low-motion", num_people=12)
    table = of_task(pd.concat([scores, still]), "autism")
    assert [row.model for row in table.by_subset] == list(MODELS)
    assert {row.num_people for row in table.overall} == {40}
    assert not any(cell.best for row in table.by_subset for cell in row.cells)


def test_the_first_metric_is_the_primary_one_though_rows_come_in_any_order(scores):
    table = of_task(scores.iloc[::-1], "autism")
    assert table.metrics[0] == "auroc"


@pytest.mark.parametrize(
    ("text", "people", "expected"), [("no=20;yes=7", 27, 7), ("no=20;yes=<5*", 24, 0), ("continuous", 40, 40)]
)
def test_the_fewest_people_of_a_level(text, people, expected):
    assert fewest(text, people) == expected


def test_the_best_row_of_each_group_is_drawn_and_no_reference(scores):
    worse = scores[scores["model"] == "lcm"].assign(model="lcm-2")
    worse = worse.assign(value=worse["value"] - 0.1)
    table = of_task(pd.concat([worse, scores]), "autism")
    assert [row.model for row in chosen_rows(table)] == ["ridge", "lcm"]
    only = of_task(scores[scores["model"] == "majority"], "autism")
    assert [row.model for row in chosen_rows(only)] == ["majority"]


def test_the_detectable_auroc_falls_with_people_and_is_not_given_for_hidden_counts(scores):
    forty = float(detectable(of_task(scores, "autism")))
    many = of_task(scores.assign(num_per_level="control=200;autism=200"), "autism")
    hidden = of_task(scores.assign(num_per_level="control=200;autism=<5*"), "autism")
    assert 0.5 < float(detectable(many)) < forty < 1
    assert detectable(hidden) == ""
    assert detectable(of_task(scores, "age")) == ""


def test_a_missing_score_is_a_cell_that_sorts_last():
    row = pd.Series({"value": float("nan"), "ci_low": 0.1, "ci_high": 0.2, "chance": 0.5})
    from lcm.evaluation.benchmark import cell

    assert cell("auroc", row, best=False) == Cell("n/a", "", None)
