"""The cohorts' real tables: every count equals one made with the csv module alone, and every series finds its row."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from lcm.bids import series_person
from lcm.cohort.harmonize import harmonize
from lcm.cohort.split import split
from lcm.config import Dataset, Harmonize, Split
from lcm.tables import SCANS, check_folds

pytestmark = pytest.mark.real

TABLES = {
    "abide": ("Phenotypic_V1_0b_preprocessed1.csv", ",", "SUB_ID"),
    "abide2": ("ABIDEII_Composite_Phenotypic.csv", ",", "SUB_ID"),
    "neurocon": ("neurocon_patients.tsv", "\t", "code"),
    "taowu": ("taowu_patients.tsv", "\t", "name"),
}
NUM_ROWS = {"abide": 1112, "abide2": 1114, "neurocon": 43, "taowu": 40}


def own_rows(cohort: str, shared_data: Path) -> list[dict[str, str]]:
    """The table as the csv module reads it: the reference, which knows nothing of this program."""
    file, separator, _ = TABLES[cohort]
    text = (shared_data / "phenotypes" / file).read_bytes().decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
    return [
        {str(name).strip(): str(cell).strip() for name, cell in row.items() if name}
        for row in csv.DictReader(io.StringIO(text), delimiter=separator)
    ]


def own_counts(rows: Iterable[Mapping[str, str]], column: str, levels: Mapping[str, str]) -> dict[str, int]:
    return dict(Counter(levels[row[column]] for row in rows if row[column] in levels))


def counts(bei: pd.DataFrame, name: str) -> dict[str, int]:
    return {str(level): int(count) for level, count in bei[name].dropna().value_counts().items()}


def series_scans(name: str, paths: Iterable[Path]) -> pd.DataFrame:
    return scan_table(name, [series_person(path) for path in sorted(paths)])


def scan_table(name: str, labels: Iterable[str]) -> pd.DataFrame:
    text = {column: "x" for column, kind in SCANS.columns.items() if kind == "text"}
    rows = [text | {"dataset": name, "participant_id": f"sub-{label}", "scan": f"sub-{label}"} for label in labels]
    return pd.DataFrame(rows).reindex(columns=list(SCANS.columns)).astype("object")


def dataset(cohort: str, folder: Path) -> Dataset:
    return Dataset(path="x", input="series", pattern="*", cohort=cohort, phenotypes=str(folder))


def everyone(cohort: str, labels: Iterable[str], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """BEI table and cohort flow as if each person of the table had one scan."""
    return harmonize(scan_table("D", labels), {"D": dataset(cohort, folder)}, Harmonize())[:2]


def of_table(cohort: str, shared_data: Path) -> tuple[list[dict[str, str]], pd.DataFrame, pd.DataFrame]:
    rows = own_rows(cohort, shared_data)
    bei, flow = everyone(cohort, [row[TABLES[cohort][2]] for row in rows], shared_data / "phenotypes")
    assert len(rows) == NUM_ROWS[cohort] == total(flow, "rows read") == total(flow, "scans matched")
    return rows, bei, flow


def total(flow: pd.DataFrame, step: str) -> int:
    return int(flow.loc[flow["step"] == step, "count"].sum())


def test_abide_counts_equal_the_tables_own(shared_data: Path) -> None:
    rows, bei, _ = of_table("abide", shared_data)
    diagnoses, sexes = {"1": "autism", "2": "control"}, {"1": "male", "2": "female"}
    assert counts(bei, "autism") == own_counts(rows, "DX_GROUP", diagnoses) == {"autism": 539, "control": 573}
    assert counts(bei, "sex") == own_counts(rows, "SEX", sexes)
    both = Counter(zip(bei["autism"], bei["sex"], strict=True))
    assert both == Counter((diagnoses[row["DX_GROUP"]], sexes[row["SEX"]]) for row in rows)
    assert sorted(bei["age"].astype(float)) == pytest.approx(sorted(float(row["AGE_AT_SCAN"]) for row in rows))
    assert counts(bei, "site") == dict(Counter(row["SITE_ID"] for row in rows))
    assert bei["site"].nunique() == 20


def test_abide_hands_and_quotients_are_those_that_the_table_says(shared_data: Path) -> None:
    rows, bei, flow = of_table("abide", shared_data)
    hands = {"R": "right", "L": "left", "Ambi": "ambidextrous", "Mixed": "ambidextrous"}
    assert counts(bei, "handedness") == own_counts(rows, "HANDEDNESS_CATEGORY", hands)
    assert counts(bei, "handedness") == {"right": 693, "left": 71, "ambidextrous": 21}
    said = [float(row["FIQ"]) for row in rows if row["FIQ"] not in ("", "-9999")]
    assert sorted(bei["iq"].dropna().astype(float)) == pytest.approx(sorted(said))
    assert (bei["iq_source"] == "missing").sum() == len(rows) - len(said) == 72
    assert total(flow, "set aside") == 1


def test_abide_motion_is_the_quality_assessments(shared_data: Path) -> None:
    rows, bei, _ = of_table("abide", shared_data)
    said = sorted(float(row["func_mean_fd"]) for row in rows if row["func_mean_fd"])
    assert sorted(bei["motion"].dropna().astype(float)) == pytest.approx(said)
    assert len(rows) - len(said) == 13


def test_abide_two_is_read_in_its_encoding(shared_data: Path) -> None:
    rows, bei, _ = of_table("abide2", shared_data)
    assert counts(bei, "autism") == {"autism": 521, "control": 593}
    assert counts(bei, "autism") == own_counts(rows, "DX_GROUP", {"1": "autism", "2": "control"})
    assert counts(bei, "sex") == own_counts(rows, "SEX", {"1": "male", "2": "female"}) == {"male": 856, "female": 258}
    assert counts(bei, "handedness") == {"right": 957, "left": 68, "ambidextrous": 66}
    assert bei["age"].notna().all()
    assert bei["iq"].notna().sum() == sum(row["FIQ"] != "" for row in rows)
    assert bei["site"].nunique() == 19


@pytest.mark.parametrize(
    ("folder", "count"),
    [("ABIDE_pcp/cpac/filt_global", 92), ("roisignals_aal", 66), ("ABIDE_pcp/cpac/filt_noglobal", 639)],
)
def test_every_abide_series_finds_its_row(shared_data: Path, folder: str, count: int) -> None:
    scans = series_scans("A", (shared_data / "abide" / folder).iterdir())
    bei, flow = harmonize(scans, {"A": dataset("abide", shared_data / "phenotypes")}, Harmonize())[:2]
    assert len(bei) == bei["person_id"].nunique() == count
    assert (bei[["autism_source", "sex_source", "age_source"]] == "observed").all().all()
    assert total(flow, "scans matched") == count
    assert total(flow, "scans without a phenotype row") == 0


def test_neurocon_has_41_series_of_26_patients_and_15_controls(shared_data: Path) -> None:
    rows, everyone_bei, _ = of_table("neurocon", shared_data)
    assert counts(everyone_bei, "parkinsons") == own_counts(rows, "status", {"NORMAL": "control", "PD": "parkinsons"})
    scans = series_scans("N", (shared_data / "neurocon_aal116").rglob("*_AAL116_features_timeseries.mat"))
    bei, flow = harmonize(scans, {"N": dataset("neurocon", shared_data / "phenotypes")}, Harmonize())[:2]
    assert counts(bei, "parkinsons") == {"parkinsons": 26, "control": 15}
    assert total(flow, "people matched") == 41
    assert total(flow, "people without a scan") == 2
    # Independent of the table: the folder's name says the group too.
    by_name = bei["participant_id"].str.contains("patient").map({True: "parkinsons", False: "control"})
    assert (bei["parkinsons"] == by_name).all()


def test_taowu_takes_the_diagnosis_from_the_name(shared_data: Path) -> None:
    rows, bei, _ = of_table("taowu", shared_data)
    groups = {"control": "control", "patient": "parkinsons"}
    own = Counter(groups[row["name"].rstrip("0123456789")] for row in rows)
    assert counts(bei, "parkinsons") == dict(own) == {"control": 20, "parkinsons": 20}
    assert counts(bei, "sex") == own_counts(rows, "sex", {"M": "male", "F": "female"}) == {"male": 23, "female": 17}


def test_ucla_sets_bipolar_disorder_and_adhd_aside(shared_data: Path) -> None:
    table = pd.read_feather(shared_data / "phenotypes" / "UCLA_CNP_sample_metadata.feather")
    bei, flow = everyone("sz-ucla", table["Sample_ID"].str.removeprefix("sub-"), shared_data / "phenotypes")
    assert total(flow, "rows read") == total(flow, "scans matched") == len(table) == 260
    assert counts(bei, "schizophrenia") == {"control": 121, "schizophrenia": 50}
    assert counts(bei, "sex") == {"male": 152, "female": 108}
    aside = flow[flow["step"] == "set aside"]
    assert {reason.rsplit(" = ")[-1]: n for reason, n in zip(aside["reason"], aside["count"], strict=True)} == {
        "bp": 49,
        "adhd": 40,
    }


@pytest.mark.parametrize("cohort", TABLES)
def test_no_real_table_holds_a_code_that_its_source_does_not_know(cohort: str, shared_data: Path) -> None:
    _, _, flow = of_table(cohort, shared_data)
    assert not {"unknown code", "implausible value", "contradiction", "rows excluded"} & set(
        flow.loc[flow["count"] > 0, "step"]
    )


@pytest.mark.parametrize("cohort", TABLES)
@pytest.mark.parametrize(
    ("line_end", "encoding", "quoting"), [("\r", "utf-16", csv.QUOTE_ALL), ("\r\n", "utf-8-sig", csv.QUOTE_MINIMAL)]
)
def test_a_real_table_saved_in_another_way_says_the_same(
    cohort: str, line_end: str, encoding: str, quoting: int, shared_data: Path, tmp_path: Path
) -> None:
    file, separator, _ = TABLES[cohort]
    rows, expected, _ = of_table(cohort, shared_data)
    names = [*reversed(rows[0]), "unused"]
    with (tmp_path / file).open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, delimiter=separator, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
        writer.writerow(names)
        writer.writerows([row.get(name, "é") for name in names] for row in reversed(rows))
    bei, _ = everyone(cohort, [row[TABLES[cohort][2]] for row in rows], tmp_path)
    pd.testing.assert_frame_equal(bei, expected)


def test_the_real_people_split_evenly_by_diagnosis(shared_data: Path) -> None:
    abide = series_scans("A", (shared_data / "abide" / "ABIDE_pcp" / "cpac" / "filt_global").iterdir())
    neurocon = series_scans("N", (shared_data / "neurocon_aal116").rglob("*.mat"))
    sources = {"A": dataset("abide", shared_data / "phenotypes"), "N": dataset("neurocon", shared_data / "phenotypes")}
    bei = harmonize(pd.concat([abide, neurocon], ignore_index=True), sources, Harmonize())[0]
    folds = split(bei, Split(num_folds=5))
    check_folds(folds)
    tested = folds[folds["role"] == "test"].merge(bei.drop_duplicates("person_id"), on="person_id")
    for bei_name in ("autism", "parkinsons"):
        table = pd.crosstab(tested["fold"], tested[bei_name])
        assert (table.max() - table.min() <= 1).all()
