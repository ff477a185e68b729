"""Tables on disk: typed, validated, n/a for missing, and never half-written."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lcm.array_tables import square
from lcm.tables import FOLDS, OUTCOMES, RUNS, read_tsv, write_atomically, write_tsv
from tests.conftest import REPOSITORY


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


def _start_to_write(path: Path, *, dies: bool) -> subprocess.Popen[str]:
    """A process that writes half of a file at `path` and then waits, or is killed."""
    end = "os.kill(os.getpid(), 9)" if dies else "sys.stdin.read(1)"
    text = (
        "import os, sys\nfrom pathlib import Path\nfrom lcm.tables import write_atomically\n"
        f"with write_atomically(Path({str(path)!r})) as temporary:\n"
        f"    temporary.write_text('half')\n    print('begun', flush=True)\n    {end}\n"
        "    temporary.write_text('theirs')\n"
    )
    command = [sys.executable, "-c", text]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_what_a_killed_writer_left_goes_with_the_next_and_what_others_write_stays(tmp_path: Path):
    path = tmp_path / "x.txt"
    assert _start_to_write(path, dies=True).wait() == -9
    others = [".0123456789ab.y.txt", ".0123456789ab.x.txt.gz", ".hidden.x.txt", "0123456789ab.x.txt"]
    for name in others:
        (tmp_path / name).touch()
    assert len(list(tmp_path.iterdir())) == 5
    with write_atomically(path) as temporary:
        assert {found.name for found in tmp_path.iterdir()} == {*others, temporary.name}
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert {found.name for found in tmp_path.iterdir()} == {*others, "x.txt"}


def test_two_living_writers_leave_each_other_alone_and_the_last_one_wins(tmp_path: Path):
    path = tmp_path / "x.txt"
    other = _start_to_write(path, dies=False)
    with write_atomically(path) as temporary:
        temporary.write_text("ours")
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_text() == "ours"
    other.communicate("\n")
    assert (other.returncode, path.read_text()) == (0, "theirs")
    assert [found.name for found in tmp_path.iterdir()] == ["x.txt"]


def test_where_the_file_system_has_no_locks_everything_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    leftover = tmp_path / ".0123456789ab.x.txt"
    leftover.touch()

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    with write_atomically(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "x.txt").read_text() == "new"
    assert leftover.exists()


def test_a_file_taken_for_a_leftover_before_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock, taken = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", late)
    with write_atomically(tmp_path / "x.txt") as temporary:
        assert temporary != taken[0]
        temporary.write_text("new")
    assert [found.name for found in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("said", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("file write failed")])
def test_a_full_disk_is_called_so_whatever_the_writer_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Exception
):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write() -> None:
        with write_atomically(tmp_path / "x.txt"):
            monkeypatch.setattr("os.write", full)
            raise said

    with pytest.raises(OSError, match="the disk is full; make room") as caught:
        write()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x.txt"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_that_has_room_again_is_known_by_the_words_of_the_system(tmp_path: Path):
    def write() -> None:
        with write_atomically(tmp_path / "x.txt"):
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match="the disk is full; make room") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC


def test_an_error_of_the_writer_on_a_disk_with_room_stays_what_it_was(tmp_path: Path):
    def write() -> None:
        with write_atomically(tmp_path / "x.txt"):
            raise RuntimeError("file write failed")

    with pytest.raises(RuntimeError, match="file write failed"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_of_the_file_in_it(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written") as caught, write_atomically(tmp_path / "file" / "x.txt"):
        pass
    assert caught.value.filename == str(tmp_path / "file" / "x.txt")
