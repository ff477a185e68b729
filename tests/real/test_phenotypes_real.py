"""The cohorts' real tables: rows, diagnoses and sexes as their owners published them, and series that find their row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest

from lcm.bids import series_person
from lcm.cohort.harmonize import harmonize
from lcm.cohort.people import Flow, People, read_people
from lcm.cohort.source import read_source
from lcm.cohort.split import split
from lcm.config import Dataset, Harmonize, Split
from lcm.tables import SCANS, check_folds

pytestmark = pytest.mark.real


def people_of(cohort: str, folder: Path) -> tuple[People, Flow]:
    flow = Flow(cohort)
    return read_people(read_source(cohort), folder / "phenotypes", None, flow), flow


def levels(people: People, bei: str) -> dict[str, int]:
    return people.values[bei].dropna().value_counts().to_dict()


def rows_read(flow: Flow) -> int:
    return sum(count for (step, _), count in flow.counts.items() if step == "rows read")


def series_scans(name: str, paths: Iterable[Path]) -> pd.DataFrame:
    labels = [series_person(path) for path in sorted(paths)]
    rows = {
        "dataset": name,
        "participant_id": [f"sub-{label}" for label in labels],
        "scan": [f"sub-{x}" for x in labels],
    }
    return pd.DataFrame(rows).reindex(columns=list(SCANS.columns)).astype("object")


def series_dataset(cohort: str, shared_data: Path) -> Dataset:
    return Dataset(path="x", input="series", pattern="*", cohort=cohort, phenotypes=str(shared_data / "phenotypes"))


def test_abide_counts_equal_the_tables_own(shared_data: Path) -> None:
    people, flow = people_of("abide", shared_data)
    own = pd.read_csv(shared_data / "phenotypes" / "Phenotypic_V1_0b_preprocessed1.csv", low_memory=False)
    assert rows_read(flow) == len(people.values) == len(own) == 1112
    assert levels(people, "autism") == {"autism": (own["DX_GROUP"] == 1).sum(), "control": (own["DX_GROUP"] == 2).sum()}
    assert levels(people, "autism") == {"autism": 539, "control": 573}
    assert levels(people, "sex") == {"male": (own["SEX"] == 1).sum(), "female": (own["SEX"] == 2).sum()}
    assert sorted(people.values["age"].astype(float)) == pytest.approx(sorted(own["AGE_AT_SCAN"]))
    assert people.values["site"].nunique() == own["SITE_ID"].nunique() == 20
    both = people.values.groupby(["autism", "sex"]).size().to_dict()
    theirs = own.groupby(["DX_GROUP", "SEX"]).size()
    assert both["autism", "female"] == theirs[1, 2]
    assert both["control", "male"] == theirs[2, 1]


def test_abide_two_is_read_in_its_encoding(shared_data: Path) -> None:
    people, flow = people_of("abide2", shared_data)
    assert rows_read(flow) == len(people.values) == 1114
    assert levels(people, "autism") == {"autism": 521, "control": 593}
    assert levels(people, "sex") == {"male": 856, "female": 258}
    assert people.values["age"].notna().all()


@pytest.mark.parametrize(
    ("folder", "count"),
    [("ABIDE_pcp/cpac/filt_global", 92), ("roisignals_aal", 66), ("ABIDE_pcp/cpac/filt_noglobal", 639)],
)
def test_every_abide_series_finds_its_row(shared_data: Path, folder: str, count: int) -> None:
    scans = series_scans("A", (shared_data / "abide" / folder).iterdir())
    bei, flow = harmonize(scans, {"A": series_dataset("abide", shared_data)}, Harmonize())
    assert len(bei) == bei["person_id"].nunique() == count
    assert (bei[["autism_source", "sex_source", "age_source"]] == "observed").all().all()
    found = {row.step: row[-1] for row in flow.itertuples(index=False)}
    assert found["scans matched"] == count
    assert found["scans without a phenotype row"] == 0


def test_neurocon_has_41_series_of_26_patients_and_15_controls(shared_data: Path) -> None:
    people, flow = people_of("neurocon", shared_data)
    assert rows_read(flow) == len(people.values) == 43
    scans = series_scans("N", (shared_data / "neurocon_aal116").rglob("*_AAL116_features_timeseries.mat"))
    bei, flow_table = harmonize(scans, {"N": series_dataset("neurocon", shared_data)}, Harmonize())
    assert bei["parkinsons"].value_counts().to_dict() == {"parkinsons": 26, "control": 15}
    counts = flow_table.groupby("step")["count"].sum()
    assert counts["people matched"] == 41
    assert counts["people without a scan"] == 2
    # Independent of the table: the folder's name says the group too.
    by_name = bei["participant_id"].str.contains("patient").map({True: "parkinsons", False: "control"})
    assert (bei["parkinsons"] == by_name).all()


def test_taowu_takes_the_diagnosis_from_the_name(shared_data: Path) -> None:
    people, flow = people_of("taowu", shared_data)
    assert rows_read(flow) == len(people.values) == 40
    assert levels(people, "parkinsons") == {"control": 20, "parkinsons": 20}
    assert levels(people, "sex") == {"male": 23, "female": 17}


def test_ucla_sets_bipolar_disorder_and_adhd_aside(shared_data: Path) -> None:
    people, flow = people_of("sz-ucla", shared_data)
    assert rows_read(flow) == len(people.values) == 260
    assert levels(people, "schizophrenia") == {"control": 121, "schizophrenia": 50}
    assert levels(people, "sex") == {"male": 152, "female": 108}
    aside = {reason.rsplit(" = ")[-1]: count for (step, reason), count in flow.counts.items() if step == "set aside"}
    assert aside == {"bp": 49, "adhd": 40}


def test_no_real_table_holds_a_code_that_its_source_does_not_know(shared_data: Path) -> None:
    for cohort in ("abide", "abide2", "neurocon", "taowu", "sz-ucla"):
        _, flow = people_of(cohort, shared_data)
        assert not [key for key in flow.counts if key[0] in ("unknown code", "implausible value", "rows excluded")]


def test_the_real_people_split_evenly_by_diagnosis(shared_data: Path) -> None:
    abide = series_scans("A", (shared_data / "abide" / "ABIDE_pcp" / "cpac" / "filt_global").iterdir())
    neurocon = series_scans("N", (shared_data / "neurocon_aal116").rglob("*.mat"))
    sources = {"A": series_dataset("abide", shared_data), "N": series_dataset("neurocon", shared_data)}
    bei, _ = harmonize(pd.concat([abide, neurocon], ignore_index=True), sources, Harmonize())
    folds = split(bei, Split(num_folds=5))
    check_folds(folds)
    tested = folds[folds["role"] == "test"].merge(bei.drop_duplicates("person_id"), on="person_id")
    for bei_name in ("autism", "parkinsons"):
        table = pd.crosstab(tested["fold"], tested[bei_name])
        assert (table.max() - table.min() <= 1).all()
