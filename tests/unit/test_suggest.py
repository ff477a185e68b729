"""The wizard drafts a cohort's file that loads as it is, guesses only what is beyond doubt, and prints no one's id or row."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.cohort.harmonize import harmonize
from lcm.cohort.source import Source
from lcm.cohort.spellings import guess_column, guess_diseases, guess_level
from lcm.cohort.suggest import suggest
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Dataset, Harmonize
from lcm.tables import SCANS


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows([header, *rows])


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def draft(folder: Path) -> tuple[Source, str]:
    text = suggest(folder)
    return Source.model_validate(yaml.safe_load(text)), text


def levels(source: Source, bei: str) -> dict[str, str | None]:
    return dict(source.beis[bei][0].levels)


def test_columns_are_found_by_name_and_codes_by_their_description(tmp_path: Path) -> None:
    rows = [[f"sub-{n:02d}", 20 + n, n % 2, "AB"[n % 2], 100 + n, n % 3, "S1", f"text {n}"] for n in range(12)]
    header = ["participant_id", "Age", "gender", "group", "full-scale IQ", "hand", "Site", "notes"]
    write_tsv(tmp_path / "participants.tsv", header, rows)
    described = {
        "gender": {"Levels": {"0": "woman", "1": "man"}},
        "group": {"Levels": {"A": "Healthy controls", "B": "Patients with schizophrenia"}},
        "hand": {"Levels": {"0": "right-handed", "1": "left-handed", "2": "Mixed"}},
    }
    write_json(tmp_path / "participants.json", described)
    source, text = draft(tmp_path)
    assert set(source.beis) == {"age", "sex", "schizophrenia", "iq", "handedness", "site"}
    assert levels(source, "sex") == {"0": "female", "1": "male"}
    assert levels(source, "schizophrenia") == {"a": "control", "b": "schizophrenia"}
    assert levels(source, "handedness") == {"0": "right", "1": "left", "2": "ambidextrous"}
    assert source.beis["age"][0].unit == "years"
    assert "#   participants.tsv: notes" in text


def test_the_term_of_a_column_or_level_beats_its_name(tmp_path: Path) -> None:
    write_tsv(tmp_path / "participants.tsv", ["participant_id", "v1", "v2"], [["sub-1", "x", "p"], ["sub-2", "y", "q"]])
    vocabulary = read_vocabulary()
    female, autism = vocabulary["sex"].levels["female"].term, vocabulary["autism"].levels["autism"].term
    described = {
        "v1": {"TermURL": vocabulary["sex"].term, "Levels": {"x": {"Description": "ex", "TermURL": female}}},
        "v2": {
            "LongName": "Diagnosis",
            "Levels": {"p": {"Description": "P", "TermURL": f"snomed:{str(autism).rsplit('/')[-1]}"}, "q": "controls"},
        },
    }
    write_json(tmp_path / "participants.json", described)
    source, _ = draft(tmp_path)
    assert levels(source, "sex") == {"x": "female", "y": None}
    assert levels(source, "autism") == {"p": "autism", "q": "control"}


def test_what_the_dictionary_says_of_a_code_alone_decides(tmp_path: Path) -> None:
    write_tsv(
        tmp_path / "participants.tsv", ["participant_id", "dx"], [["sub-1", "PD"], ["sub-2", "ASD"], ["sub-3", "HC"]]
    )
    write_json(tmp_path / "participants.json", {"dx": {"Levels": {"PD": "panic disorder"}}})
    source, _ = draft(tmp_path)
    assert set(source.beis) == {"autism"}
    assert levels(source, "autism") == {"pd": None, "asd": "autism", "hc": "control"}


def test_a_column_of_two_diseases_serves_both_and_neither_case_is_the_others_control(tmp_path: Path) -> None:
    write_tsv(
        tmp_path / "participants.tsv", ["participant_id", "dx"], [["sub-1", "AD"], ["sub-2", "PD"], ["sub-3", "HC"]]
    )
    source, _ = draft(tmp_path)
    assert levels(source, "alzheimers") == {"ad": "alzheimers", "pd": None, "hc": "control"}
    assert levels(source, "parkinsons") == {"ad": None, "pd": "parkinsons", "hc": "control"}


@pytest.mark.parametrize(
    "said",
    [
        "healthy sibling", "unaffected relative of a patient with schizophrenia", "no autism", "high risk", "autism control",
        "probable Alzheimer's disease", "schizoaffective", "controls and autism", "at risk of Parkinson's disease", "ADHD",
    ],
)  # fmt: skip
def test_words_in_doubt_are_set_aside(said: str) -> None:
    guessed = guess_diseases({"x": said, "asd": "autism"}, {"x": "", "asd": ""})
    assert guessed["autism"]["x"] is None
    assert list(guessed) == ["autism"]


@pytest.mark.parametrize(
    ("bei", "said", "level"),
    [
        ("sex", "F", "female"),
        ("sex", "Male", "male"),
        ("sex", "1", None),
        ("sex", "other", None),
        ("handedness", "Right-Handed", "right"),
        ("handedness", "Ambi", "ambidextrous"),
        ("alzheimers", "LMCI", "mci"),
        ("alzheimers", "Alzheimer's disease", "alzheimers"),
        ("alzheimers", "dementia", None),
        ("parkinsons", "parkinson", "parkinsons"),
        ("schizophrenia", "No_Known_Disorder", "control"),
        ("schizophrenia", "SCHZ", "schizophrenia"),
        ("schizophrenia", "bipolar", None),
        ("autism", "TD", "control"),
    ],
)
def test_a_spelling_names_a_level_or_none(bei: str, said: str, level: str | None) -> None:
    assert guess_level(bei, said) == level


@pytest.mark.parametrize(
    ("name", "bei"),
    [
        ("AGE_AT_SCAN", "age"),
        ("ageAtScan", "age"),
        ("Full-Scale IQ", "iq"),
        ("DX_GROUP", "diagnosis"),
        ("SITE_ID", "site"),
        ("language", None),
        ("brainage", None),
        ("sexual_orientation", None),
    ],
)
def test_a_column_is_known_by_its_whole_name_only(name: str, bei: str | None) -> None:
    assert guess_column(name) == bei


def test_ages_in_months_keep_their_unit_and_ages_in_weeks_have_no_place(tmp_path: Path) -> None:
    write_tsv(
        tmp_path / "participants.tsv", ["participant_id", "age", "sex"], [["sub-1", 600, "F"], ["sub-2", "1080+", "M"]]
    )
    write_json(tmp_path / "participants.json", {"age": {"Units": "months"}})
    source, _ = draft(tmp_path)
    assert source.beis["age"][0].unit == "months"
    assert dict(source.beis["age"][0].values) == {"1080+": 90}
    write_json(tmp_path / "participants.json", {"age": {"Units": "weeks"}})
    source, text = draft(tmp_path)
    assert "age" not in source.beis
    assert "looks like age, but its unit is weeks" in text


def test_a_text_where_numbers_should_be_and_a_score_where_codes_should_be_have_no_place(tmp_path: Path) -> None:
    rows = [[f"sub-{n}", "primary" if n % 2 else "higher", n * 3.5] for n in range(40)]
    write_tsv(tmp_path / "participants.tsv", ["participant_id", "education", "handedness"], rows)
    source, text = draft(tmp_path)
    assert not source.beis
    assert "looks like education, but most of its cells are no numbers" in text
    assert "looks like handedness, but it has 40 different cells" in text


def test_sessions_files_come_first_and_carry_the_visit(tmp_path: Path) -> None:
    write_tsv(
        tmp_path / "participants.tsv", ["participant_id", "age", "sex"], [[f"sub-{n}", 30, "F"] for n in range(6)]
    )
    for n in range(6):
        path = tmp_path / f"sub-{n}" / f"sub-{n}_sessions.tsv"
        write_tsv(path, ["session_id", "age"], [["ses-1", 30], ["ses-10", 40], ["ses-2", 32]])
    source, _ = draft(tmp_path)
    assert [column.table for column in source.beis["age"]] == ["sessions_of_each", "participants"]
    visit = source.tables["sessions_of_each"].visit
    assert visit is not None
    assert visit.order == ("1", "2", "10")
    assert source.tables["sessions_of_each"].many is not None
    assert source.sessions is not None


def test_session_labels_that_may_name_people_are_not_listed(tmp_path: Path) -> None:
    write_tsv(tmp_path / "sessions.tsv", ["participant_id", "session_id", "age"], [["sub-1", "ses-770077", 3]] * 2)
    source, text = draft(tmp_path)
    assert "770077" not in text
    assert source.tables["sessions"].visit is not None


def test_a_phenotype_table_with_its_json_is_read_too(tmp_path: Path) -> None:
    write_tsv(tmp_path / "participants.tsv", ["participant_id"], [["sub-1"]])
    write_tsv(tmp_path / "phenotype" / "wasi-ii.tsv", ["participant_id", "fsiq", "vocab"], [["sub-1", 101, 55]])
    write_tsv(tmp_path / "phenotype" / "no_key.tsv", ["subject", "age"], [["sub-1", 20]])
    source, text = draft(tmp_path)
    assert source.beis["iq"][0].table == "phenotype_wasi_ii"
    assert source.tables["phenotype_wasi_ii"].file == "phenotype/wasi-ii.tsv"
    assert "no_key" not in text


def test_sentinels_are_missing_only_where_a_column_that_is_read_holds_them(tmp_path: Path) -> None:
    rows = [["sub-1", -9999, "F", 999], ["sub-2", 30, "unknown", 1]]
    write_tsv(tmp_path / "participants.tsv", ["participant_id", "age", "sex", "score"], rows)
    source, _ = draft(tmp_path)
    assert {"-9999", "unknown"} <= set(source.missing)
    assert "999" not in source.missing


def test_tasks_come_from_the_names_of_the_images(tmp_path: Path) -> None:
    write_tsv(tmp_path / "participants.tsv", ["participant_id", "age"], [["sub-1", 30]])
    for task in ("rest", "restEyesOpen", "nback"):
        image = tmp_path / "sub-1" / "ses-1" / "func" / f"sub-1_ses-1_task-{task}_bold.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    source, _ = draft(tmp_path)
    assert source.tasks == {"rest": "rest", "resteyesopen": "rest", "nback": None}


def test_counts_under_five_and_people_are_not_printed(tmp_path: Path) -> None:
    rows = [[f"sub-secret{n}", "F" if n < 3 else "M", f"text of {n}"] for n in range(10)]
    write_tsv(tmp_path / "participants.tsv", ["participant_id", "sex", "comment"], rows)
    _, text = draft(tmp_path)
    assert '"f": female  # <5 cells' in text
    assert '"m": male  # 7 cells' in text
    assert "secret" not in text
    assert "text of" not in text


@pytest.mark.parametrize("column", ["group", "sex"])
def test_remarks_in_a_column_of_a_small_table_are_not_printed(tmp_path: Path, column: str) -> None:
    rows = [[f"sub-{n}", ["control", "asd"][n] if n < 2 else f"remark-{n}"] for n in range(10)]
    write_tsv(tmp_path / "participants.tsv", ["participant_id", column], rows)
    source, text = draft(tmp_path)
    assert not source.beis
    assert "remark-" not in text


def test_a_folder_without_tables_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no participants\.tsv, .* with rows"):
        suggest(tmp_path)


def test_a_data_dictionary_that_is_no_json_is_named(tmp_path: Path) -> None:
    write_tsv(tmp_path / "participants.tsv", ["participant_id", "age"], [["sub-1", 30]])
    (tmp_path / "participants.json").write_text("{age: 30}")
    with pytest.raises(ValueError, match=r"participants\.json: "):
        suggest(tmp_path)
    (tmp_path / "participants.json").write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        suggest(tmp_path)


def plant(folder: Path) -> list[dict[str, str | None]]:
    """A BIDS folder in codes of its own, and what harmonize should make of each of its scans."""
    sexes, groups, hands = ("female", "male"), ("control", "alzheimers", "mci", None), ("right", "left", "ambidextrous")
    codes = {None: "4", "control": "1", "alzheimers": "2", "mci": "3"}
    people, truth = [], []
    for n in range(16):
        sex, group, hand = sexes[n % 2], groups[n % 4], hands[n % 3]
        age, site = ("-999", None) if n == 5 else (str(60 + n), "Bern")
        people.append([f"sub-{n:02d}", age, "01"[n % 2], codes[group], hand[0].upper(), 8 + n, site or "n/a"])
        write_tsv(folder / f"sub-{n:02d}" / f"sub-{n:02d}_sessions.tsv", ["session_id", "age"], [["ses-m12", 61.5 + n]])
        shared = {"sex": sex, "alzheimers": group, "handedness": hand, "education": f"{8 + n}.0", "site": site}
        # The sessions file knows the second session only; the first has the age of participants.tsv.
        for session, at_scan in (("ses-bl", None if n == 5 else f"{60 + n}.0"), ("ses-m12", f"{61.5 + n}")):
            truth.append(shared | {"participant_id": f"sub-{n:02d}", "session_id": session, "age": at_scan})
    header = ["participant_id", "age", "gender", "DxGroup", "Handedness", "years_of_education", "center"]
    write_tsv(folder / "participants.tsv", header, people)
    described = {
        "age": {"Units": "years"},
        "gender": {"Levels": {"0": "Female", "1": "Male"}},
        "DxGroup": {
            "Levels": {
                "1": "cognitively normal controls", "2": "Alzheimer's disease", "3": "mild cognitive impairment",
                "4": "subjective complaints, no diagnosis",
            }
        },
    }  # fmt: skip
    write_json(folder / "participants.json", described)
    return truth


def test_a_draft_harmonizes_to_the_planted_truth(tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    truth = pd.DataFrame(plant(bids)).astype("object")
    (tmp_path / "lab.yaml").write_text(suggest(bids), encoding="utf-8")
    text = {name: "x" for name, kind in SCANS.columns.items() if kind == "text"}
    scans = pd.DataFrame(
        [
            text | {"dataset": "D", "scan": f"{row.participant_id}_{row.session_id}"} | row._asdict()
            for row in truth[["participant_id", "session_id"]].itertuples(index=False)
        ]
    )
    scans = scans.reindex(columns=list(SCANS.columns)).astype("object")
    dataset = Dataset(path="x", input="series", pattern="*", cohort=str(tmp_path / "lab.yaml"), phenotypes=str(bids))
    bei = harmonize(scans, {"D": dataset}, Harmonize())[0]
    columns = ["age", "sex", "alzheimers", "handedness", "education", "site"]
    found = bei[columns].astype("object").where(bei[columns].notna(), None)
    pd.testing.assert_frame_equal(found, truth[columns].where(truth[columns].notna(), None), check_index_type=False)


CELLS = st.text(st.characters(exclude_characters="\t\n\r\x00", exclude_categories=("Cs",)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    columns=st.dictionaries(CELLS | st.sampled_from(["age", "sex", "dx", "site", "hand"]), st.lists(CELLS, min_size=3))
)
def test_any_table_gives_a_draft_that_loads(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("bids")
    rows = [[f"sub-{n}", *(cells[n] for cells in columns.values())] for n in range(3)]
    write_tsv(folder / "participants.tsv", ["participant_id", *columns], rows)
    source, _ = draft(folder)
    assert source.tables["participants"].person == "participant_id"
