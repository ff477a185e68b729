"""The check: poisoned tables stop before any image, every problem is counted, and nobody is named."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from lcm.__main__ import main
from lcm.cohort.check import MISFIT, Findings, check_tables
from lcm.cohort.flow import Flow
from lcm.cohort.people import read_people
from lcm.cohort.source import read_source, source_path
from lcm.config import Dataset, Harmonize
from lcm.tables import CHECKED, hashed, read_tsv
from tests.conftest import REPOSITORY

HEADER = ["SUB_ID", "SITE_ID", "DX_GROUP", "AGE_AT_SCAN", "SEX"]
PEOPLE = [[f"00{50100 + n}", "NYU", str(1 + n % 2), f"{10 + 0.5 * n}", str(1 + n % 3 % 2)] for n in range(40)]


def abide(folder: Path, rows: Sequence[Sequence[str]] = PEOPLE, header: Sequence[str] = HEADER) -> Path:
    """A folder with ABIDE's table."""
    folder.mkdir(exist_ok=True)
    with (folder / "Phenotypic_V1_0b_preprocessed1.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return folder


def swapped(first: str, second: str) -> list[list[str]]:
    """The people with the cells of two columns exchanged."""
    order = [{first: second, second: first}.get(name, name) for name in HEADER]
    return [[row[HEADER.index(name)] for name in order] for row in PEOPLE]


def check(folder: Path, cohort: str = "abide", settings: Harmonize | None = None) -> Findings:
    """The findings of one cohort."""
    dataset = Dataset(path=".", input="bids", cohort=cohort, phenotypes=str(folder))
    return check_tables({"A": dataset}, settings or Harmonize())


def found(findings: Findings) -> dict[tuple[str, str, str | None], int]:
    """(column, problem, value) → count."""
    rows = findings.table().to_dict("records")
    return {(r["column"], r["problem"], r["value"] if isinstance(r["value"], str) else None): r["count"] for r in rows}


POISONS = {
    "sex and age swapped": (swapped("SEX", "AGE_AT_SCAN"), "column 'SEX': "),
    "diagnosis and age swapped": (swapped("DX_GROUP", "AGE_AT_SCAN"), "column 'DX_GROUP': "),
    "id and site swapped": (
        swapped("SUB_ID", "SITE_ID"),
        "column 'SUB_ID': 40 of 40 ids do not fit the cohort's pattern",
    ),
    "id and sex swapped": (swapped("SUB_ID", "SEX"), "column 'SEX': "),
    "shifted by one column": ([["1", *row[:-1]] for row in PEOPLE], "column 'SUB_ID': 40 of 40 ids"),
    "one person twice in different words": ([*PEOPLE, [PEOPLE[0][0], "NYU", "2", "99", "2"]], "several rows"),
}


@pytest.mark.parametrize(("rows", "words"), POISONS.values(), ids=POISONS)
def test_a_poisoned_table_is_fatal_and_names_no_one(tmp_path: Path, rows, words) -> None:
    findings = check(abide(tmp_path, rows))
    assert words in "\n".join(findings.fatal)
    told = "\n".join([*findings.fatal, *findings.summary(), findings.table().to_csv()])
    for person in PEOPLE:
        assert person[0].lstrip("0") not in told


def test_the_ids_of_a_small_swapped_table_are_told_by_neither_the_check_nor_the_stage(tmp_path: Path, caplog) -> None:
    folder = abide(tmp_path, swapped("SUB_ID", "SEX")[:8])
    fatal = check(folder).fatal
    assert "column 'SEX': 8 of 8 cells" in "".join(fatal)
    with pytest.raises(ValueError, match="do not fit the cohort's pattern") as caught:
        read_people(read_source("abide"), folder, None, Flow("abide"), max_refused_share=0.2)
    told = "".join(fatal) + str(caught.value) + caplog.text
    assert not any(person[0].lstrip("0") in told for person in PEOPLE)


def test_a_person_described_twice_is_named_by_hash(tmp_path: Path) -> None:
    rows, _ = POISONS["one person twice in different words"]
    assert hashed("50100") in check(abide(tmp_path, rows)).fatal[0]


def test_a_sound_table_holds_no_surprise(tmp_path: Path) -> None:
    findings = check(abide(tmp_path))
    assert not findings.fatal
    assert findings.table().empty
    assert list(findings.summary()) == ["abide: Phenotypic_V1_0b_preprocessed1.csv: 40 rows, 0 problems"]


def test_rare_problems_are_counted_by_code_and_stop_nothing(tmp_path: Path) -> None:
    rows = [list(row) for row in PEOPLE]
    rows[0][4], rows[1][4], rows[2][4] = "9", "9.0", "x"
    rows[3][3], rows[4][3] = "2450", "24,5"
    rows[5][2] = ""
    findings = check(abide(tmp_path, [*rows, ["test", "NYU", "1", "20", "1"]]))
    assert not findings.fatal
    assert found(findings) == {
        ("SEX", "unknown code", "9"): 2,
        ("SEX", "unknown code", "x"): 1,
        ("AGE_AT_SCAN", "implausible value", None): 1,
        ("AGE_AT_SCAN", "unknown code", "24,5"): 1,
        ("SUB_ID", MISFIT, None): 1,
    }


def test_the_share_that_is_borne_is_a_setting(tmp_path: Path) -> None:
    rows = [[*row[:4], "9" if n < 10 else row[4]] for n, row in enumerate(PEOPLE)]
    folder = abide(tmp_path, rows)
    assert "column 'SEX': 10 of 40 cells" in check(folder).fatal[0]
    assert not check(folder, settings=Harmonize(max_refused_share=0.25)).fatal


def test_every_fatal_problem_of_every_cohort_is_told_at_once(tmp_path: Path) -> None:
    first = abide(tmp_path / "1", header=["SUB_ID", "SITE_ID", "DX", "AGE_AT_SCAN", "SEX"])
    (tmp_path / "2").mkdir()
    (tmp_path / "linkage.tsv").write_text("cohort\tid\tperson\nabyde\t1\tP\n", encoding="utf-8")
    datasets = {
        "A": Dataset(path=".", input="bids", cohort="abide", phenotypes=str(first)),
        "B": Dataset(path=".", input="bids", cohort="taowu", phenotypes=str(tmp_path / "2")),
        "C": Dataset(path=".", input="bids", cohort="sz", phenotypes=None),
    }
    fatal = check_tables(datasets, Harmonize(linkage=str(tmp_path / "linkage.tsv"))).fatal
    assert len(fatal) == 3
    assert "no column 'DX_GROUP'" in fatal[0]
    assert "no file matches" in fatal[1]
    assert "abyde" in fatal[2]


def test_rows_that_the_cohorts_file_drops_are_not_judged(tmp_path: Path) -> None:
    gone = "0040001,Disenrolled,Disenrolled,Disenrolled,Disenrolled,\n"
    (tmp_path / "COBRE_phenotypic_data.csv").write_text(
        ",Current Age,Gender,Handedness,Subject Type,Diagnosis\n0040000,20,Female,Right,Patient,295.3\n" + gone * 9,
        encoding="utf-8",
    )
    findings = check(tmp_path, "sz")
    assert not findings.fatal
    assert findings.table().empty


def test_the_row_that_describes_columns_is_no_person(tmp_path: Path) -> None:
    (tmp_path / "ndar_subject01.txt").write_text(
        "src_subject_id\tinterview_age\tsex\tsite\nSubject ID\tAge in months\tSex\tSite\nHCA6000001\t733\tF\tUCLA\n",
        encoding="utf-8",
    )
    findings = check(tmp_path, "hcpa")
    assert findings.table().empty
    assert findings.num_rows == {("hcpa", "ndar_subject01.txt"): 1}


def test_a_table_of_many_files_is_one_table(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\n", encoding="utf-8")
    for person, age in (("01", "30"), ("02", "old")):
        (tmp_path / f"sub-{person}").mkdir()
        text = f"session_id\tage\nses-1\t{age}\n"
        (tmp_path / f"sub-{person}" / f"sub-{person}_sessions.tsv").write_text(text, encoding="utf-8")
    findings = check(tmp_path, "generic")
    assert found(findings) == {("age", "unknown code", "old"): 1}
    assert "generic: sub-*/sub-*_sessions.tsv: 2 rows, 1 problems" in list(findings.summary())


def test_a_cell_that_is_missing_in_one_column_only_counts_for_nothing(tmp_path: Path) -> None:
    entry = yaml.safe_load(source_path("abide").read_text(encoding="utf-8"))
    entry["beis"]["sex"]["missing"] = ["7"]
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(entry), encoding="utf-8")
    rows = [[*row[:4], "7" if n < 20 else "9" if n < 26 else row[4]] for n, row in enumerate(PEOPLE)]
    fatal = check(abide(tmp_path / "tables", rows), str(tmp_path / "lab.yaml")).fatal
    assert "column 'SEX': 6 of 20 cells" in fatal[0]


# ── through the door ──────────────────────────────────────────────────────────────────────────


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`lcm harmonize` in a folder."""
    command = [sys.executable, "-m", "lcm", "harmonize", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def datasets_of(folder: Path) -> str:
    """The `datasets` block for one ABIDE table."""
    return json.dumps({"A": {"path": "x", "input": "bids", "cohort": "abide", "phenotypes": str(folder)}})


@pytest.mark.parametrize("poison", POISONS)
def test_the_command_stops_at_a_poisoned_table_and_names_no_one(tmp_path: Path, capsys, caplog, poison: str) -> None:
    rows, words = POISONS[poison]
    folder = abide(tmp_path / "tables", rows)
    assert main(["harmonize", "--check", "--datasets", datasets_of(folder)]) == 1
    assert words in caplog.text
    told = "".join(capsys.readouterr()) + caplog.text
    for person in PEOPLE:
        assert person[0].lstrip("0") not in told


def test_the_command_tells_what_is_fatal_on_stderr(tmp_path: Path) -> None:
    rows, words = POISONS["sex and age swapped"]
    done = run("--check", "--datasets", datasets_of(abide(tmp_path / "tables", rows)), folder=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert "50100" not in done.stdout + done.stderr


def test_the_command_stops_at_settings_that_would_stop_the_stage(tmp_path: Path, caplog) -> None:
    datasets = datasets_of(abide(tmp_path / "tables", PEOPLE))
    settings = json.dumps({"pseudo_labels": {"abide": {"autism": "healthy"}}})
    assert main(["harmonize", "--check", "--datasets", datasets, "--settings", settings]) == 1
    assert "levels: control, autism" in caplog.text


def test_the_command_reads_no_image_writes_what_it_found_and_leaves_no_record(tmp_path: Path) -> None:
    rows = [[*PEOPLE[0][:4], "9"], *PEOPLE[1:]]
    folder = abide(tmp_path / "tables", rows)
    done = run("--check", "--datasets", datasets_of(folder), "--output", "checked.tsv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "40 rows, 1 problems" in done.stdout
    assert read_tsv(tmp_path / "checked.tsv", CHECKED)["value"].tolist() == ["9"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checked.tsv", "tables"]


@pytest.mark.parametrize(("rows", "code"), [(PEOPLE, 0), (swapped("SEX", "AGE_AT_SCAN"), 1)])
def test_a_studys_configuration_is_checked_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, rows: Sequence[Sequence[str]], code: int
) -> None:
    abide(tmp_path / "tables", rows)
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config["datasets"] = {"A": {"path": "x", "input": "bids", "cohort": "abide", "phenotypes": "tables"}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["harmonize", "--check", "study.yaml"]) == code
    assert "abide: Phenotypic_V1_0b_preprocessed1.csv: 40 rows" in capsys.readouterr().out


def test_a_check_of_nothing_says_so(caplog) -> None:
    assert main(["harmonize", "--check"]) == 0
    assert "nothing to check" in caplog.text


def test_the_command_drafts_a_cohorts_file(tmp_path: Path, capsys) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\n", encoding="utf-8")
    assert main(["harmonize", "--suggest", str(tmp_path)]) == 0
    assert "beis:" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["participants.tsv"]


def test_without_scans_and_output_only_a_check_or_a_draft_is_made(tmp_path: Path, caplog) -> None:
    assert main(["harmonize", "--datasets", datasets_of(abide(tmp_path / "tables"))]) == 1
    assert "--scans and --output are needed" in caplog.text
