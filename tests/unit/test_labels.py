"""Labels: every person and scan of a level is counted once, and the data dictionary describes every column."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from lcm.__main__ import main
from lcm.cohort.labels import count_labels, data_dictionary
from lcm.cohort.vocabulary import read_vocabulary
from lcm.tables import BEI, LABELS, SCANS, read_tsv, write_tsv


def bei() -> pd.DataFrame:
    """Three people of one cohort, the first with two scans; one of another cohort."""
    return pd.DataFrame(
        {
            "cohort": ["abide", "abide", "abide", "abide", "hcpa"],
            "person_id": ["abide:1", "abide:1", "abide:2", "abide:3", "hcpa:1"],
            "sex": ["male", "male", None, "female", "male"],
            "sex_source": ["observed", "observed", "missing", "observed", "observed"],
            "age": ["10.0", "12.0", "30.5", None, "40.0"],
            "age_source": ["observed", "observed", "observed", "missing", "observed"],
            "autism": ["autism", "autism", "control", None, "control"],
            "autism_source": ["observed", "observed", "observed", "missing", "pseudo"],
            "site": ["NYU", "NYU", "PITT", "PITT", None],
            "site_source": ["observed", "observed", "observed", "observed", "missing"],
        }
    )


def test_each_level_counts_its_people_and_scans_by_source() -> None:
    counted = count_labels(bei()).set_index(["cohort", "bei", "level", "source"])
    assert counted.loc[("abide", "sex", "male", "observed")].tolist() == [1, 2]
    assert counted.loc[("abide", "autism", "autism", "observed")].tolist() == [1, 2]
    assert counted.loc[("hcpa", "autism", "control", "pseudo")].tolist() == [1, 1]
    assert ("hcpa", "autism", "control", "observed") not in counted.index


def test_a_missing_cell_is_counted_as_missing_and_under_no_level() -> None:
    counted = count_labels(bei())
    missing = counted[counted["source"] == "missing"]
    assert missing["level"].isna().all()
    assert missing[["cohort", "bei", "num_people", "num_scans"]].to_numpy().tolist() == [
        ["abide", "sex", 1, 1],
        ["abide", "age", 1, 1],
        ["abide", "autism", 1, 1],
        ["hcpa", "site", 1, 1],
    ]


def test_a_number_and_a_name_have_one_level() -> None:
    counted = count_labels(bei())
    observed = counted[(counted["source"] == "observed") & counted["bei"].isin(["age", "site"])]
    assert set(observed["level"]) == {"any"}
    assert observed[observed["cohort"] == "abide"]["num_scans"].tolist() == [3, 4]


def test_the_scans_of_each_bei_add_up_to_all_scans_and_the_table_is_valid(tmp_path) -> None:
    counted = count_labels(bei())
    assert (counted.groupby(["cohort", "bei"])["num_scans"].sum().unstack(0) == [4, 1]).to_numpy().all()
    write_tsv(counted, tmp_path / "labels.tsv", LABELS)
    assert len(read_tsv(tmp_path / "labels.tsv", LABELS)) == len(counted)


def test_the_order_of_the_rows_changes_no_count() -> None:
    pd.testing.assert_frame_equal(count_labels(bei()), count_labels(bei().iloc[::-1]))


def test_the_data_dictionary_describes_every_column_of_the_table() -> None:
    told = data_dictionary()
    variables = read_vocabulary()
    assert list(told) == [*BEI.columns, *variables, *(f"{name}_source" for name in variables)]
    assert all(entry["Description"] for entry in told.values())
    assert told["age"]["Units"] == "years"
    assert "Levels" not in told["age"]
    assert list(told["autism"]["Levels"]) == ["control", "autism"]
    assert told["autism"]["Levels"]["autism"]["TermURL"] == read_vocabulary()["autism"].levels["autism"].term
    assert set(told["sex_source"]["Levels"]) == {"observed", "pseudo", "missing"}


def test_the_stage_writes_the_counts_and_the_dictionary_beside_the_table(tmp_path: Path) -> None:
    row = {"dataset": "A", "participant_id": "sub-01", "scan": "x", "task": "rest", "batch": "0", "input": "bids"}
    scans = pd.DataFrame([row | {"fingerprint": "f", "outcome": "ok"}], columns=list(SCANS.columns))
    write_tsv(scans, tmp_path / "scans.tsv", SCANS)
    datasets = json.dumps({"A": {"path": ".", "input": "bids", "cohort": "generic"}})
    flags = ["--scans", str(tmp_path / "scans.tsv"), "--datasets", datasets, "--output", str(tmp_path / "out")]
    assert main(["harmonize", *flags]) == 0
    table = read_tsv(tmp_path / "out" / "bei.tsv", BEI)
    counted = read_tsv(tmp_path / "out" / "labels.tsv", LABELS)
    assert counted.loc[counted["bei"] == "cognitive_state", "level"].tolist() == ["rest"]
    told = json.loads((tmp_path / "out" / "bei.json").read_text(encoding="utf-8"))
    assert list(told) == list(table.columns)
    assert (tmp_path / "out" / "record.json").is_file()
