"""Tables on disk: typed, validated, n/a for missing, and never half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lcm.array_tables import square
from lcm.tables import FOLDS, OUTCOMES, RUNS, read_tsv, write_atomically, write_tsv


def _runs() -> pd.DataFrame:
    row = dict.fromkeys(RUNS.columns) | {"dataset": "D", "participant_id": "sub-1", "scan": "NA", "outcome": "ok"}
    return pd.DataFrame([row | {"tr_s": 2.0, "num_volumes": 10}, row | {"scan": "sub-1_b"}])


def test_a_table_survives_the_disk_with_its_types(tmp_path: Path):
    write_tsv(_runs(), tmp_path / "runs.tsv", RUNS)
    back = read_tsv(tmp_path / "runs.tsv", RUNS)
    assert back["num_volumes"].tolist() == [10, pd.NA]
    assert back["scan"].tolist() == ["NA", "sub-1_b"]
    assert (tmp_path / "runs.tsv").read_text().splitlines()[2].split("\t")[3] == "n/a"


def test_an_unknown_column_a_repeated_key_and_a_wrong_type_are_named(tmp_path: Path):
    counts = pd.DataFrame({"dataset": ["a", "a"], "outcome": ["ok", "ok"], "count": [1, 2]})
    with pytest.raises(ValueError, match="dataset"):
        write_tsv(counts, tmp_path / "o.tsv", OUTCOMES)
    with pytest.raises(ValueError, match="extra"):
        write_tsv(counts.iloc[:1].assign(extra=1), tmp_path / "o.tsv", OUTCOMES)
    (tmp_path / "o.tsv").write_text("dataset\toutcome\tcount\na\tok\tx\n")
    with pytest.raises(ValueError, match="column count"):
        read_tsv(tmp_path / "o.tsv", OUTCOMES)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"b": ["test", "test", "train"]}, "1 people are tested in several folds"),
        ({"c": ["train", "validation", "holdout"]}, "role holdout; known"),
        ({"e": ["train", "train", "train"]}, "fold 2 has no one to test"),
    ],
)
def test_a_fold_table_that_leaks_is_refused_by_reader_and_writer(tmp_path: Path, roles, message):
    law = {"a": ["train", "validation", "train"], "b": ["test", "train", "train"], "c": ["validation", "test", "train"]}
    law |= {"d": ["train", "train", "validation"], "e": ["train", "train", "test"]}
    rows = [(who, who, fold, role) for who, own in (law | roles).items() for fold, role in enumerate(own)]
    folds = pd.DataFrame(rows, columns=list(FOLDS.columns))
    with pytest.raises(ValueError, match=message):
        write_tsv(folds, tmp_path / "folds.tsv", FOLDS)
    folds.to_csv(tmp_path / "folds.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=message):
        read_tsv(tmp_path / "folds.tsv", FOLDS)


def test_an_upper_triangle_becomes_a_symmetric_matrix_with_unit_diagonal():
    matrices = square(np.array([[0.1, 0.2, np.nan]]), 3)
    np.testing.assert_allclose(matrices[0], [[1, 0.1, 0.2], [0.1, 1, np.nan], [0.2, np.nan, 1]], rtol=1e-6)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def interrupted() -> None:
        with write_atomically(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
