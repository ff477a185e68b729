"""Every cohort's own tables become one BEI table; nothing is guessed, nothing is lost uncounted, no one is named."""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcm.cohort.harmonize import harmonize, main, shareable
from lcm.cohort.simulated_people import PLANS, recruit
from lcm.cohort.simulated_phenotypes import write_phenotypes
from lcm.cohort.source import canonical, read_source, source_path
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Dataset, Harmonize
from lcm.tables import BEI, COHORT_FLOW, SCANS, hashed, read_tsv, write_tsv

ABIDE_HEADER = ["SUB_ID", "SITE_ID", "DX_GROUP", "AGE_AT_SCAN", "SEX"]
ABIDE_ROWS = [
    ["50003", "PITT", "1", "24.45", "1"],
    ["50004", "PITT", "2", "19.09", "2"],
    ["50005", "NYU", "1", "-9999", ""],
    ["50006", "NYU", "2", "11", "1"],
]
ABIDE_FILE = "Phenotypic_V1_0b_preprocessed1.csv"


def dataset(cohort: str, phenotypes: Path | None) -> Dataset:
    folder = None if phenotypes is None else str(phenotypes)
    return Dataset(path="x", input="series", pattern="*.1D", cohort=cohort, phenotypes=folder)


def scan_table(name: str, labels: Sequence[str], tasks: Sequence[str | None] = ("rest",)) -> pd.DataFrame:
    rows = [
        {
            "dataset": name, "batch": "0", "participant_id": f"sub-{label}", "task": task, "input": "series",
            "scan": f"sub-{label}_task-{task}" if task else f"sub-{label}", "outcome": "ok",
        }
        for label in labels
        for task in tasks
    ]  # fmt: skip
    filled = {name: "x" for name, kind in SCANS.columns.items() if kind == "text"}
    return pd.DataFrame([filled | row for row in rows]).reindex(columns=list(SCANS.columns)).astype("object")


def write_abide(folder: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ABIDE_HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(",".join(cells) for cells in [header, *rows]) + "\n"
    (folder / ABIDE_FILE).write_text(text, encoding="utf-8")
    return folder


def counts(flow: pd.DataFrame) -> dict[tuple[str, str], int]:
    return {(row.step, row.reason): row.count_ for row in flow.rename(columns={"count": "count_"}).itertuples()}


def total(flow: pd.DataFrame, step: str) -> int:
    return int(flow.loc[flow["step"] == step, "count"].sum())


def assert_adds_up(flow: pd.DataFrame) -> None:
    for _, cohort in flow.groupby("cohort"):
        assert total(cohort, "rows read") == total(cohort, "rows excluded") + total(cohort, "rows kept")
        assert total(cohort, "people described") == total(cohort, "people matched") + total(
            cohort, "people without a scan"
        )
        without = total(cohort, "scans without a phenotype row")
        assert total(cohort, "scans indexed") == total(cohort, "scans matched") + without


def test_a_small_table_becomes_the_rows_worked_out_by_hand(tmp_path: Path) -> None:
    scans = scan_table("A", ["0050003", "0050004", "0050005", "0059999"])
    bei, flow = harmonize(scans, {"A": dataset("abide", write_abide(tmp_path, ABIDE_ROWS))}, Harmonize())
    assert list(bei.columns[:7]) == list(BEI.columns)
    assert bei["person_id"].tolist() == ["abide:50003", "abide:50004", "abide:50005", "abide:59999"]
    columns = ["site", "sex", "age", "autism", "cognitive_state", "parkinsons"]
    assert bei[columns].fillna("n/a").to_numpy().tolist() == [
        ["PITT", "male", "24.45", "autism", "rest", "n/a"],
        ["PITT", "female", "19.09", "control", "rest", "n/a"],
        ["NYU", "n/a", "n/a", "autism", "rest", "n/a"],
        ["n/a", "n/a", "n/a", "n/a", "rest", "n/a"],
    ]
    assert bei["sex_source"].tolist() == ["observed", "observed", "missing", "missing"]
    assert_adds_up(flow)
    found = counts(flow)
    assert found["people matched", "all"] == 3
    assert found["people without a scan", "all"] == 1
    assert found["scans without a phenotype row", "no row"] == 1


@pytest.mark.parametrize("cohort", list(PLANS))
def test_each_simulated_cohort_is_read_back_as_it_was_made(cohort: str, tmp_path: Path) -> None:
    people = recruit(cohort, 24, seed=3)
    write_phenotypes(cohort, people, tmp_path, np.random.default_rng(3))
    scanned = [person for person in people if person.tasks]
    parts = [scan_table(cohort, [person.label], [task or None for task in person.tasks]) for person in scanned]
    source = cohort.lower()
    bei, flow = harmonize(pd.concat(parts, ignore_index=True), {cohort: dataset(source, tmp_path)}, Harmonize())
    assert_adds_up(flow)
    first = bei.drop_duplicates("person_id").fillna("n/a")
    assert len(first) == len(scanned)
    diagnosis = PLANS[cohort].diagnosis
    for person, row in zip(scanned, first.to_dict("records"), strict=True):
        expected = (person.sex if person.has_row else "n/a", "observed" if person.has_row else "missing")
        assert (row["sex"], row["sex_source"]) == expected
        # HCP-YA publishes bands of five years, the oldest without an end.
        tolerance = 3.0 if cohort == "HCPYA" else 1.0
        assert not person.has_row or float(row["age"]) == pytest.approx(person.age_years, abs=tolerance)
        if diagnosis and PLANS[cohort].doses.get(person.group, 0) == 1 and row[f"{diagnosis}_source"] == "observed":
            assert row[diagnosis] == diagnosis
    unknown = total(flow, "unknown code")
    assert unknown == (1 if cohort == "PPMI" else 0)
    if cohort in ("HCPA", "HCPYA"):
        tasks = {task.lower() for person in scanned for task in person.tasks}
        assert set(bei["cognitive_state"]) == tasks
        assert set(bei["cognitive_state_source"]) == {"observed"}


LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row_order=st.permutations(range(len(ABIDE_ROWS))),
    column_order=st.permutations(range(len(ABIDE_HEADER))),
    line_end=LINE_ENDS,
    encoding=ENCODINGS,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    extra=st.lists(st.text(alphabet="aé, \t'", max_size=5), max_size=3),
    pad=st.sampled_from(["", " "]),
    repeat=st.booleans(),
)
def test_the_form_of_the_file_never_changes_the_result(
    tmp_path: Path, row_order, column_order, line_end, encoding, quoting, extra, pad, repeat
) -> None:  # fmt: skip
    scans = scan_table("A", ["0050003", "0050004", "0050005", "0059999"])
    expected, _ = harmonize(scans, {"A": dataset("abide", write_abide(tmp_path / "plain", ABIDE_ROWS))}, Harmonize())
    rows = [ABIDE_ROWS[row] for row in row_order] + ([ABIDE_ROWS[0]] if repeat else [])
    names = [f"unused {number}" for number in range(len(extra))]
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=quoting, lineterminator=line_end)
    writer.writerow(names + [ABIDE_HEADER[column] + pad for column in column_order])
    writer.writerows(extra + [row[column] + pad for column in column_order] for row in rows)
    folder = tmp_path / "other"
    folder.mkdir(exist_ok=True)
    (folder / ABIDE_FILE).write_bytes(stream.getvalue().encode(encoding))
    bei, flow = harmonize(scans, {"A": dataset("abide", folder)}, Harmonize())
    pd.testing.assert_frame_equal(bei, expected)
    assert_adds_up(flow)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=382, exclude_characters=',"'), min_size=1))
def test_any_unknown_code_is_counted_and_made_missing_and_the_rest_goes_on(tmp_path: Path, code: str) -> None:
    known = {"1", "2", "-9999", "n/a", "nan", ""}
    rows = [[*ABIDE_ROWS[0][:2], code, *ABIDE_ROWS[0][3:]], *ABIDE_ROWS[1:]]
    bei, flow = harmonize(
        scan_table("A", ["0050003", "0050004"]),
        {"A": dataset("abide", write_abide(tmp_path, rows))},
        Harmonize(pseudo_labels={"abide": {"autism": "control"}}),
    )
    assert bei["autism"].iloc[1] == "control"
    assert bei["sex"].tolist() == ["male", "female"]
    if canonical(code) not in known:
        assert pd.isna(bei["autism"].iloc[0])
        assert bei["autism_source"].iloc[0] == "missing"
        assert total(flow, "unknown code") == 1


def test_an_unknown_code_is_one_warning_that_says_where_and_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [[*row[:2], "7", *row[3:]] for row in ABIDE_ROWS[:3]] + ABIDE_ROWS[3:]
    with caplog.at_level(logging.WARNING):
        _, flow = harmonize(
            scan_table("A", ["0050003"]), {"A": dataset("abide", write_abide(tmp_path, rows))}, Harmonize()
        )
    assert counts(flow)["unknown code", f"{ABIDE_FILE}: DX_GROUP = 7"] == 3
    assert len(caplog.messages) == 1
    for part in (ABIDE_FILE, "DX_GROUP = 7", "3 cells", "lcm/cohort/sources"):
        assert part in caplog.messages[0]


def test_a_column_of_names_instead_of_codes_is_counted_and_not_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [[f"5{number:04d}", "NYU", f"name-{number}", "20", "1"] for number in range(60)]
    people = {"A": dataset("abide", write_abide(tmp_path, rows))}
    _, flow = harmonize(scan_table("A", ["0050003"]), people, Harmonize(max_refused_share=1.0))
    assert total(flow, "unknown code") == 60
    assert not flow["reason"].str.contains("name-").any()
    with pytest.raises(ValueError, match=r"DX_GROUP: 60 of 60 cells") as caught:
        harmonize(scan_table("A", ["0050003"]), people, Harmonize())
    assert "name-" not in str(caught.value)
    assert not any("name-" in message for message in caplog.messages)


def test_an_age_beyond_a_life_is_missing_and_counted_but_not_printed(tmp_path: Path) -> None:
    rows = [[*ABIDE_ROWS[0][:3], "293", "1"], *ABIDE_ROWS[1:]]
    bei, flow = harmonize(
        scan_table("A", ["0050003"]), {"A": dataset("abide", write_abide(tmp_path, rows))}, Harmonize()
    )
    assert pd.isna(bei["age"].iloc[0])
    assert counts(flow)["implausible value", f"{ABIDE_FILE}: AGE_AT_SCAN"] == 1


def test_missing_is_not_negative_unless_the_config_says_so_and_then_it_is_marked(tmp_path: Path) -> None:
    people = {"N": dataset("abide", write_abide(tmp_path, ABIDE_ROWS))}
    scans = scan_table("N", ["0050003", "0059999"], [None])
    plain, _ = harmonize(scans, people, Harmonize())
    assert plain["cognitive_state"].isna().all()
    assert plain["parkinsons"].isna().all()
    labels = {"abide": {"cognitive_state": "rest", "autism": "control"}}
    bei, _ = harmonize(scans, people, Harmonize(pseudo_labels=labels))
    assert bei["cognitive_state_source"].tolist() == ["pseudo", "pseudo"]
    assert bei["autism"].tolist() == ["autism", "control"]
    assert bei["autism_source"].tolist() == ["observed", "pseudo"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Harmonize(pseudo_labels={"abide": {"autism": "healthy"}}), "levels: control, autism"),
        (Harmonize(pseudo_labels={"abide": {"age": "30"}}), "not a categorical BEI"),
        (Harmonize(pseudo_labels={"abide": {"handedness": "right"}}), "handedness is a covariate"),
        (Harmonize(pseudo_labels={"abyde": {"autism": "control"}}), "no such file in lcm/cohort/sources"),
        (Harmonize(policies={"adni": "paper"}), "known: dementia_only, lcm_paper, mci_apart"),
        (Harmonize(policies={"abide": "paper"}), "known: none"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(tmp_path: Path, chosen: Harmonize, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        harmonize(scan_table("A", ["0050003"]), {"A": dataset("abide", write_abide(tmp_path, ABIDE_ROWS))}, chosen)


def write_adni(folder: Path, groups: dict[str, str]) -> Path:
    header = "PTID,VISCODE,EXAMDATE,SITE,DX_bl,DX,AGE,PTGENDER\n"
    rows = [
        f"{person},{visit},{day},2,{group},{now},74,Male\n"
        for person, group in groups.items()
        for visit, day, now in (("m12", "2010-01-10", "Dementia"), ("bl", "2009-01-10", "MCI"))
    ]
    (folder / "ADNIMERGE_10Nov2024.csv").write_text(header + "".join(rows), encoding="utf-8")
    return folder


def test_a_label_policy_is_chosen_in_config_and_what_it_sets_aside_is_counted(tmp_path: Path) -> None:
    groups = {
        f"002_S_{4000 + number}": group for number, group in enumerate(("CN", "SMC", "EMCI", "LMCI", "AD", "MCI"))
    }
    folder = write_adni(tmp_path, groups)
    scans = scan_table("ADNI", [f"002S{4000 + number}" for number in range(6)])
    source = {"ADNI": dataset("adni", folder)}
    paper, flow = harmonize(scans, source, Harmonize())
    assert paper["alzheimers"].fillna("-").tolist() == ["control"] * 3 + ["alzheimers"] * 2 + ["-"]
    assert counts(flow)["set aside", "ADNIMERGE_10Nov2024.csv: DX_bl = mci"] == 1
    assert paper["age"].tolist() == ["74.0"] * 6
    now, _ = harmonize(scans.assign(session_id="ses-M012"), source, Harmonize(policies={"adni": "dementia_only"}))
    assert now["alzheimers"].tolist() == ["alzheimers"] * 6
    assert now["age"].astype(float).tolist() == pytest.approx([75.0] * 6, abs=0.01)
    first, flow = harmonize(scans, source, Harmonize(policies={"adni": "dementia_only"}))
    assert first["alzheimers"].isna().all()
    assert counts(flow)["set aside", "ADNIMERGE_10Nov2024.csv: DX = mci"] == 6
    pseudo, _ = harmonize(scans, source, Harmonize(pseudo_labels={"adni": {"alzheimers": "control"}}))
    assert pd.isna(pseudo["alzheimers"].iloc[5]), "a person with MCI must not become a pseudo control"


def test_two_sessions_of_a_person_may_have_two_diagnoses_and_are_one_person(tmp_path: Path) -> None:
    people = {"ADNI": dataset("adni", write_adni(tmp_path, {"002_S_4000": "LMCI"}))}
    scans = scan_table("ADNI", ["002S4000", "002S4000"]).assign(session_id=["ses-20090111", "ses-20100111"])
    bei, flow = harmonize(scans, people, Harmonize(policies={"adni": "mci_apart"}))
    assert bei["alzheimers"].tolist() == ["mci", "alzheimers"]
    assert bei["person_id"].nunique() == 1
    assert counts(flow)["rows kept", "ADNIMERGE_10Nov2024.csv"] == 2
    assert_adds_up(flow)


def test_nothing_is_assumed_of_who_was_diagnosed_at_a_visit_too_far_away(tmp_path: Path) -> None:
    people = {"ADNI": dataset("adni", write_adni(tmp_path, {"002_S_4000": "LMCI"}))}
    scans = scan_table("ADNI", ["002S4000", "002S9999"]).assign(session_id=["ses-20190111", None])
    chosen = Harmonize(policies={"adni": "mci_apart"}, pseudo_labels={"adni": {"alzheimers": "control"}})
    bei, _ = harmonize(scans, people, chosen)
    assert bei["alzheimers_source"].tolist() == ["missing", "pseudo"]


def test_tables_in_which_no_scan_finds_a_row_are_told_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = {"A": dataset("abide", write_abide(tmp_path, ABIDE_ROWS))}
    harmonize(scan_table("A", ["0050003", "0059999"]), people, Harmonize())
    assert "not one of" not in caplog.text
    harmonize(scan_table("A", ["0059998", "0059999"]), people, Harmonize())
    assert "cohort abide: not one of 2 scans finds a row" in caplog.text
    assert "5999" not in caplog.text


def test_ages_come_from_months_bands_and_open_ends(tmp_path: Path) -> None:
    (tmp_path / "ndar_subject01.txt").write_text(
        '"src_subject_id"\t"interview_age"\t"sex"\t"site"\n'
        '"Subject ID how it\'s defined"\t"Age in months"\t"Sex"\t"Site"\n'
        '"HCA6000001"\t"733"\t"F"\t"UCLA"\n"HCA6000002"\t"1200"\t"M"\t"UCLA"\n'
    )
    (tmp_path / "unrestricted_x.csv").write_text("Subject,Gender,Age\n100206,M,26-30\n100307,F,36+\n")
    scans = pd.concat([scan_table("A", ["HCA6000001", "HCA6000002"]), scan_table("Y", ["100206", "100307"])])
    people = {"A": dataset("hcpa", tmp_path), "Y": dataset("hcpya", tmp_path)}
    bei, flow = harmonize(scans.reset_index(drop=True), people, Harmonize())
    assert [float(age) for age in bei["age"]] == pytest.approx([733 / 12, 90, 28, 36])
    assert counts(flow)["rows excluded", "ndar_subject01.txt: row that describes columns"] == 1


def test_a_table_handed_on_without_its_row_of_descriptions_loses_no_one(tmp_path: Path) -> None:
    (tmp_path / "ndar_subject01.txt").write_text("src_subject_id\tinterview_age\tsex\tsite\nHCA6000001\t733\tF\tUCLA\n")
    bei, _ = harmonize(scan_table("A", ["HCA6000001"]), {"A": dataset("hcpa", tmp_path)}, Harmonize())
    assert bei["sex"].tolist() == ["female"]


def test_a_disenrolled_person_is_excluded_counted_and_gets_no_pseudo_label(tmp_path: Path) -> None:
    (tmp_path / "COBRE_phenotypic_data.csv").write_text(
        ",Current Age,Gender,Handedness,Subject Type,Diagnosis\n0040000,20,Female,Right,Patient,295.3\n"
        "0040001,Disenrolled,Disenrolled,Disenrolled,Disenrolled,\n"
    )
    bei, flow = harmonize(
        scan_table("SZ", ["0040000", "0040001"]),
        {"SZ": dataset("sz", tmp_path)},
        Harmonize(pseudo_labels={"sz": {"schizophrenia": "control"}}),
    )
    assert bei["schizophrenia"].fillna("-").tolist() == ["schizophrenia", "-"]
    found = counts(flow)
    assert found["rows excluded", "COBRE_phenotypic_data.csv: disenrolled"] == 1
    assert found["scans without a phenotype row", "row excluded"] == 1
    assert total(flow, "unknown code") == 0


def test_a_person_described_twice_in_different_words_stops_the_stage_and_is_not_named(tmp_path: Path) -> None:
    rows = [*ABIDE_ROWS, ["0050003", "PITT", "2", "24.45", "1"]]
    with pytest.raises(ValueError, match="several rows that differ") as caught:
        harmonize(scan_table("A", ["0050003"]), {"A": dataset("abide", write_abide(tmp_path, rows))}, Harmonize())
    assert hashed("50003") in str(caught.value)
    assert "50003" not in str(caught.value)


def test_a_row_written_twice_is_one_person(tmp_path: Path) -> None:
    rows = [*ABIDE_ROWS, ["0050003", "PITT", "1.0", "24.45", " 1"]]
    bei, flow = harmonize(
        scan_table("A", ["0050003"]), {"A": dataset("abide", write_abide(tmp_path, rows))}, Harmonize()
    )
    assert bei["autism"].tolist() == ["autism"]
    assert counts(flow)["rows excluded", f"{ABIDE_FILE}: repeats a row of the same person"] == 1


def test_datasets_of_one_cohort_share_people_and_its_tables_are_read_once(tmp_path: Path) -> None:
    folder = write_abide(tmp_path, ABIDE_ROWS)
    scans = pd.concat([scan_table("A", ["0050003"]), scan_table("B", ["50003"])], ignore_index=True)
    bei, flow = harmonize(scans, {"A": dataset("abide", folder), "B": dataset("abide", folder)}, Harmonize())
    assert bei["person_id"].tolist() == ["abide:50003"] * 2
    assert total(flow, "rows read") == 4
    assert total(flow, "scans matched") == 2


def test_two_folders_of_one_cohort_may_repeat_a_person_but_not_contradict(tmp_path: Path) -> None:
    first = write_abide(tmp_path / "1", ABIDE_ROWS[:2])
    second = write_abide(tmp_path / "2", ABIDE_ROWS[1:])
    scans = pd.concat([scan_table("A", ["50003"]), scan_table("B", ["50006"])], ignore_index=True)
    people = {"A": dataset("abide", first), "B": dataset("abide", second)}
    bei, flow = harmonize(scans, people, Harmonize())
    assert bei["autism"].tolist() == ["autism", "control"]
    assert_adds_up(flow)
    write_abide(tmp_path / "2", [[*ABIDE_ROWS[1][:2], "1", *ABIDE_ROWS[1][3:]]])
    with pytest.raises(ValueError, match="describe some people differently"):
        harmonize(scans, people, Harmonize())


def test_a_dataset_without_tables_keeps_its_scans_with_missing_cells() -> None:
    bei, flow = harmonize(
        scan_table("A", ["01", "02"], ["rest", "finger"]), {"A": dataset("generic", None)}, Harmonize()
    )
    assert len(bei) == 4
    assert bei["sex"].isna().all()
    assert set(bei["sex_source"]) == {"missing"}
    assert bei["cognitive_state"].fillna("-").tolist() == ["rest", "-", "rest", "-"]
    found = counts(flow)
    assert found["scans without a phenotype row", "no phenotype table configured"] == 4
    assert found["unknown code", "scans.tsv: task = finger"] == 2


def test_a_bids_participants_table_needs_neither_age_nor_sex(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-01\tF\nsub-02\tn/a\n")
    bei, flow = harmonize(scan_table("A", ["01", "02"]), {"A": dataset("generic", tmp_path)}, Harmonize())
    assert bei["sex"].fillna("-").tolist() == ["female", "-"]
    assert counts(flow)["column absent", "participants.tsv: age (absent, or blank throughout)"] == 2


def test_a_scan_of_a_dataset_that_is_not_configured_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"dataset B is not in config\.yaml; known: A"):
        harmonize(scan_table("B", ["01"]), {"A": dataset("generic", None)}, Harmonize())


def test_the_command_writes_both_tables_in_their_types(tmp_path: Path) -> None:
    folder = write_abide(tmp_path / "tables", ABIDE_ROWS)
    write_tsv(scan_table("A", ["0050003", "0050005"], [None]), tmp_path / "scans.tsv", SCANS)
    datasets = json.dumps({"A": dataset("abide", folder).model_dump()})
    reading = {"suggest": None, "check": None}
    main(
        argparse.Namespace(
            scans=tmp_path / "scans.tsv", datasets=datasets, output=tmp_path / "out", settings=Harmonize(), **reading
        )
    )
    bei = read_tsv(tmp_path / "out" / "bei.tsv", BEI)
    assert bei["autism"].tolist() == ["autism", "autism"]
    names = list(read_vocabulary())
    assert list(bei.columns) == [*BEI.columns, *names, *(f"{name}_source" for name in names)]
    assert_adds_up(read_tsv(tmp_path / "out" / "cohort_flow.tsv", COHORT_FLOW))
    with pytest.raises(ValueError, match="--datasets"):
        main(
            argparse.Namespace(
                scans=tmp_path / "scans.tsv", datasets="{", output=tmp_path, settings=Harmonize(), **reading
            )
        )


def test_people_taken_for_the_same_across_datasets_are_counted_aloud(caplog: pytest.LogCaptureFixture) -> None:
    scans = pd.concat([scan_table("A", ["01", "02"]), scan_table("B", ["01"])], ignore_index=True)
    harmonize(scans, {"A": dataset("generic", None), "B": dataset("generic", None)}, Harmonize())
    assert "cohort generic: 1 people of A, B are taken for the same" in caplog.text
    assert "01" not in caplog.text


def test_two_labels_of_one_person_within_a_dataset_are_counted_aloud(caplog: pytest.LogCaptureFixture) -> None:
    _, flow = harmonize(scan_table("A", ["0050003", "50003", "50004"]), {"A": dataset("abide", None)}, Harmonize())
    assert counts(flow)["several labels of one person", "all"] == 1
    assert "1 people go by several labels" in caplog.text
    assert "50003" not in caplog.text


def test_a_cohort_of_a_file_of_ones_own_goes_by_its_stem(tmp_path: Path) -> None:
    text = source_path("abide").read_text(encoding="utf-8")
    (tmp_path / "lab.yaml").write_text(text, encoding="utf-8")
    people = {"A": dataset(str(tmp_path / "lab.yaml"), write_abide(tmp_path / "tables", ABIDE_ROWS))}
    labels = {"lab": {"parkinsons": "control"}}
    bei, flow = harmonize(scan_table("A", ["0050003"]), people, Harmonize(pseudo_labels=labels))
    assert bei[["cohort", "person_id", "autism"]].to_numpy().tolist() == [["lab", "lab:50003", "autism"]]
    assert bei["parkinsons_source"].tolist() == ["pseudo"]
    assert set(flow["cohort"]) == {"lab"}


def test_two_cohort_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "abide.yaml").write_text(source_path("abide").read_text(encoding="utf-8"), encoding="utf-8")
    people = {"A": dataset("abide", None), "B": dataset(str(tmp_path / "abide.yaml"), None)}
    with pytest.raises(ValueError, match="two files of one name"):
        harmonize(scan_table("A", ["0050003"]), people, Harmonize())


def test_only_rows_whose_every_cohort_lets_them_leave_are_shareable() -> None:
    sources = {"sz-ucla": read_source("sz-ucla"), "adni": read_source("adni")}
    rows = [("sz-ucla", "sz-ucla:1"), ("sz-ucla", "linked:A"), ("adni", "linked:A"), ("adni", "adni:2")]
    bei = pd.DataFrame(rows, columns=["cohort", "group_id"])
    assert shareable(bei, sources)["group_id"].tolist() == ["sz-ucla:1"]
