"""A study's tables: what is asked for stays, what was asked for earlier goes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from lcm.evaluation.study import Asked, compared, read_evaluated
from lcm.result_tables import COSTS, SCORES, write_predictions
from lcm.tables import read_tsv, write_tsv
from tests.planted_results import planted_predictions

TABLE = pd.DataFrame(
    [("honest", "lcm", "sex"), ("honest", "old", "sex"), ("paper", "lcm", "sex")], columns=["protocol", "model", "task"]
)


def asked(**rows: list[list[str]]) -> Asked:
    protocols = {name: {"select": "validation", "design": "kfold", "rows": own} for name, own in rows.items()}
    return Asked.parse(json.dumps({"models": ["lcm"], "tasks": ["sex"], "protocols": protocols}))


def test_only_the_rows_that_are_asked_for_stay_and_the_order_of_protocols_is_kept():
    found = asked(paper=[["lcm", "sex"]], honest=[["lcm", "sex"]])
    assert list(found.protocols) == ["paper", "honest"]
    kept = found.of(TABLE)
    assert kept[["protocol", "model"]].to_numpy().tolist() == [["honest", "lcm"], ["paper", "lcm"]]


def test_without_a_wish_everything_is_shown():
    pd.testing.assert_frame_equal(Asked().of(TABLE), TABLE)


@pytest.mark.parametrize("table", [TABLE.iloc[:0], TABLE])
def test_a_table_of_which_nothing_is_asked_for_keeps_its_columns(table):
    found = asked(honest=[["other", "sex"]]).of(table)
    assert list(found.columns) == list(TABLE.columns)
    assert len(found) == 0


def planted_costs(results: Path) -> None:
    for model in ("lcm", "mlp"):
        row = {"protocol": "honest", "model": model, "task": "sex", "device": None, "num_parameters": None}
        row |= dict.fromkeys([name for name in COSTS.columns if name.endswith(("seconds", "scan"))], 1.5)
        write_tsv(pd.DataFrame([row]), results / "evaluate" / "honest" / model / "sex" / "costs.tsv", COSTS)


def test_tables_of_all_models_are_read_as_each_would_be(tmp_path):
    planted_costs(tmp_path)
    alone = [read_tsv(path, COSTS) for path in sorted(tmp_path.glob("evaluate/*/*/*/costs.tsv"))]
    found = read_evaluated(tmp_path, "costs.tsv", COSTS)
    pd.testing.assert_frame_equal(found, pd.concat(alone, ignore_index=True))
    assert found["model"].tolist() == ["lcm", "mlp"]


@pytest.mark.parametrize("damage", [("finetune_seconds", "other"), ("1.5", "long")])
def test_a_damaged_table_is_named(tmp_path, damage):
    planted_costs(tmp_path)
    path = tmp_path / "evaluate" / "honest" / "mlp" / "sex" / "costs.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace(*damage), encoding="utf-8")
    with pytest.raises(ValueError, match=r"honest/mlp/sex/costs\.tsv: not a valid costs table"):
        read_evaluated(tmp_path, "costs.tsv", COSTS)


def test_nothing_evaluated_is_a_table_without_rows(tmp_path):
    found = read_evaluated(tmp_path, "scores.tsv", SCORES)
    assert list(found.columns) == list(SCORES.columns)
    assert found.empty


def test_comparisons_stand_in_the_order_of_the_protocols(tmp_path):
    for protocol in ("alone", "headline"):
        for model in ("lcm", "ridge"):
            predictions = planted_predictions(model, "autism", protocol=protocol)
            folder = tmp_path / "evaluate" / protocol / model / "autism"
            write_predictions(predictions, folder / "predictions.parquet")
    rows = [["lcm", "autism"], ["ridge", "autism"]]
    found = compared(tmp_path, asked(headline=rows, alone=rows), "ridge")
    assert found["protocol"].tolist() == ["headline", "alone"]
    assert found["p_holm"].notna().all()
