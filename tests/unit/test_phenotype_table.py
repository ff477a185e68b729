"""A phenotype table is read however it was saved, by the names of its columns, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lcm.cohort.phenotype_table import find_table, read_table, table_name
from lcm.cohort.source import Table, canonical


def table(**more: object) -> Table:
    return Table.model_validate({"file": "t.csv", "person": "a"} | more)


def write(folder: Path, text: str, name: str = "t.csv") -> tuple[Path, ...]:
    (folder / name).write_text(text)
    return (folder / name,)


def test_a_missing_table_is_answered_with_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, "a\n1\n", "Participants.csv")
    with pytest.raises(ValueError, match=r"no file matches Status_\*.csv; there: Participants.csv"):
        find_table(tmp_path, table(file="Status_*.csv"))
    with pytest.raises(ValueError, match="no such folder"):
        find_table(tmp_path / "gone", table(optional=True))


def test_messages_name_no_one_of_whom_a_folder_or_file_has_the_name(tmp_path: Path) -> None:
    (tmp_path / "sub-secret1").mkdir()
    write(tmp_path, "b\n1\n2,3\n", "sub-secret1/sub-secret1_x.csv")
    write(tmp_path, "b\n1\n", "sub-secret2_x.csv")
    with pytest.raises(ValueError, match="there: no table"):
        find_table(tmp_path, table())
    with pytest.raises(ValueError, match=r"2 files match \*\*/sub-\*\.csv \(no table\)"):
        find_table(tmp_path, table(file="**/sub-*.csv"))
    many = table(file="**/sub-*_x.csv", many="^(sub-[0-9a-z]+)_")
    paths = find_table(tmp_path, many)
    for columns, message in ((["a", "b"], "not a table of 1 columns"), (["a", "c"], "no column 'c'")):
        with pytest.raises(ValueError, match=r"^\*\*/sub-\*_x\.csv, number 1 of 2 by name: " + message):
            read_table(paths, many, columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sub-secret,34,F\nsub-8,35,M\n", "no column 'a'; nor any other that is read; has it a header line"),
        ('a,"age,sex\n' + "sub-secret,34,F\n" * 9, "no column 'b'; columns there: 'a', 'age,sex'$"),
        ('a,"age,sex\n' + "sub-secret,34,F\n" * 20_000, "header line cannot be read .*is a quotation mark open"),
    ],
)
def test_a_file_without_a_header_is_not_quoted(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path, text), table(), ["a"] if "header line" in message else ["a", "b"])


def test_a_text_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a\n1\n".encode("utf-16") + b"x")
    with pytest.raises(ValueError, match=r"t\.csv: cannot be decoded"):
        read_table((tmp_path / "t.csv",), table(), ["a"])


def test_an_optional_table_may_be_absent_and_has_no_rows_then(tmp_path: Path) -> None:
    absent = table(file="Status_*.csv", optional=True)
    assert find_table(tmp_path, absent) == ()
    assert table_name((), absent) == "Status_*.csv"
    frame = read_table((), absent, ["a", "b"])
    assert list(frame.columns) == ["a", "b"]
    assert len(frame) == 0


def test_two_downloads_of_a_table_must_be_settled_by_hand(tmp_path: Path) -> None:
    for month in ("Jan", "Feb"):
        write(tmp_path, "a\n1\n", f"Status_{month}2024.csv")
    with pytest.raises(ValueError, match="2 files match"):
        find_table(tmp_path, table(file="Status_*.csv", optional=True))


def test_many_files_are_one_table_whose_names_name_the_people(tmp_path: Path) -> None:
    write(tmp_path, "b\n1\n2\n", "sub-7_x.csv")
    write(tmp_path, "c,b\nz,3\n", "sub-8_x.csv")
    many = table(file="sub-*_x.csv", many="^(sub-[0-9]+)_")
    paths = find_table(tmp_path, many)
    assert table_name(paths, many) == "sub-*_x.csv"
    assert read_table(paths, many, ["a", "b"], ["c"]).to_numpy().tolist() == [
        ["sub-7", "1", ""],
        ["sub-7", "2", ""],
        ["sub-8", "3", "z"],
    ]


def test_a_missing_or_doubled_column_is_named(tmp_path: Path) -> None:
    paths = write(tmp_path, "a,b,b\n1,2,3\n")
    with pytest.raises(ValueError, match=r"no column 'c'; columns there: 'a', 'b', 'b'"):
        read_table(paths, table(), ["a", "c"])
    with pytest.raises(ValueError, match="2 columns 'b'"):
        read_table(paths, table(), ["b"])
    assert read_table(paths, table(), ["a"], ["c"]).to_dict("list") == {"a": ["1"], "c": [""]}


def test_a_column_is_found_under_the_name_of_another_release(tmp_path: Path) -> None:
    aliases = {"31-0.0": ["f.31.0.0", "p31"], "a": ["eid"]}
    paths = write(tmp_path, "eid,p31\n1,Male\n")
    assert read_table(paths, table(aliases=aliases), ["a", "31-0.0"]).to_numpy().tolist() == [["1", "Male"]]
    both = write(tmp_path, "eid,p31,31-0.0\n1,Male,1\n")
    with pytest.raises(ValueError, match=r"2 columns '31-0\.0'"):
        read_table(both, table(aliases=aliases), ["a", "31-0.0"])


def test_columns_are_gathered_into_one_and_blank_cells_left_out(tmp_path: Path) -> None:
    paths = write(tmp_path, "a,41270-0.0,41270-0.1,x41270,41202-0.0\n1, G20,,no,I10 \n2,,,no,\n3,,F20,no,\n")
    gathering = table(gather={"icd10": "(41270|41202)-.*", "none": "99-.*"})
    read = read_table(paths, gathering, ["a"], ["icd10", "none"])
    assert read.to_numpy().tolist() == [["1", "G20|I10", ""], ["2", "", ""], ["3", "F20", ""]]


def test_more_rows_than_are_read_at_once_stay_in_order(tmp_path: Path) -> None:
    num_rows = 45_001
    paths = write(tmp_path, "a,41270-0.0,41270-0.1\n" + "".join(f"{n},,{n % 3 or ''}\n" for n in range(num_rows)))
    read = read_table(paths, table(gather={"codes": "41270-.*"}), ["a"], ["codes"])
    assert read["a"].tolist() == [str(n) for n in range(num_rows)]
    assert read["codes"].tolist() == [str(n % 3 or "") for n in range(num_rows)]


def test_a_row_with_too_many_cells_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    for row in ("3,4,5", "3,4,,5", '3,4,"5"'):
        with pytest.raises(ValueError, match=r"t\.csv: not a table of 2 columns"):
            read_table(write(tmp_path, f"a,b\n1,2\n{row}\n"), table(), ["a"])
    with pytest.raises(ValueError, match="empty"):
        read_table(write(tmp_path, ""), table(), ["a"])


def test_short_rows_and_trailing_separators_are_blank_cells(tmp_path: Path) -> None:
    paths = write(tmp_path, "\n\na,b,c\n1,2,3,\n4\n\n5,,6, \n")
    assert read_table(paths, table(), ["a", "b", "c"]).to_numpy().tolist() == [
        ["1", "2", "3"],
        ["4", "", ""],
        ["5", "", "6"],
    ]


def test_a_table_without_a_header_or_with_either_separator_is_read(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "1\n2\n"), table(header=["a"]), ["a"])["a"].tolist() == ["1", "2"]
    for text in ("a,b\n1,2\n", "a\tb\n1\t2\n"):
        read = read_table(write(tmp_path, text), table(separator=None), ["a", "b"])
        assert read.to_numpy().tolist() == [["1", "2"]]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_line_ends_and_encodings_do_not_matter(tmp_path: Path, line_end: str, encoding: str) -> None:
    path = tmp_path / "t.tsv"
    rows = ["\tname\tAge ", "7\t Zoë\t 40", "", '8\t"a\tb"\t', f'9\t"c{line_end}d"\t1']
    path.write_bytes(line_end.join(rows).encode(encoding))
    frame = read_table((path,), table(file="t.tsv", separator="\t", person=""), ["", "name", "Age"])
    assert frame.to_numpy().tolist() == [["7", "Zoë", "40"], ["8", "a\tb", ""], ["9", "c\nd", "1"]]


def test_a_feather_file_reads_as_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "t.feather"
    pd.DataFrame({"id ": ["a", "b"], "Age": [30.0, None], "n": [1, 2]}).to_feather(path)
    frame = read_table((path,), table(file="t.feather", format="feather", person="id"), ["id", "Age", "n"])
    assert frame.map(canonical).to_numpy().tolist() == [["a", "30", "1"], ["b", "", "2"]]
