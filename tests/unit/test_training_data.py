"""The join of connectomes, BEIs and folds: the right people, regions by name, missing labels masked."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lcm.array_tables import square
from lcm.tables import BEI, FOLDS, SCANS, excluded, read_arrow, read_tsv, write_arrow, write_tsv
from lcm.training.data import is_continuous, labels_of, levels_of, read_cohort, scans_of, tables_of
from tests.unit.conftest import write_connectomes


def cohort_of(study, *roles, fold=0, cohorts=()):
    return read_cohort(tables_of(study.flags()), fold=fold, roles=roles, cohorts=cohorts)


def test_each_role_has_its_people_and_all_roles_together_everybody(study):
    people = {role: set(cohort_of(study, role).rows["person_id"]) for role in ("train", "validation", "test")}
    assert {role: len(ids) for role, ids in people.items()} == {"train": 28, "validation": 12, "test": 20}
    assert len(set.union(*people.values())) == 60
    assert set(cohort_of(study, "test", fold=1).rows["person_id"]).isdisjoint(people["test"])


def test_every_connectome_stands_beside_its_own_labels(study):
    cohort = cohort_of(study, "train", "validation", "test")
    shift_N = cohort.edges_NE[:, :10].mean(axis=1)
    male_N = (cohort.rows["sex"] == "male").to_numpy()
    assert shift_N[male_N].min() > shift_N[~male_N].max()


def test_a_scan_enters_once_a_window_with_its_label_each_time(study):
    whole = cohort_of(study, "train", "validation", "test")
    path = study.folder / "correlate" / "AAA" / "batch-1.arrow"
    table = read_arrow(path)
    edges_NE = np.stack(table["fc"].to_pylist())
    scans = table["scan"].to_pylist()
    write_connectomes(path, [*scans, scans[0]], np.concatenate([edges_NE, edges_NE[:1] + 5]))
    cohort = cohort_of(study, "train", "validation", "test")
    assert len(cohort.rows) == len(whole.rows) + 1
    twice = cohort.rows["scan"] == scans[0]
    assert cohort.rows.loc[twice, "sex"].nunique() == 1
    np.testing.assert_allclose(np.diff(cohort.edges_NE[twice.to_numpy()], axis=0), 5, rtol=1e-5)


def test_the_fingerprints_are_those_of_the_files_that_gave_a_scan(study):
    path = study.folder / "correlate" / "BBB" / "batch-0.arrow"
    table = read_arrow(path)
    plain = {"denoise.strategy": "9P", "correlate.kind": "correlation", "correlate.fisher_z": False}
    other = plain | {"denoise.high_hz": 0.1}
    write_arrow(table.replace_schema_metadata(table.schema.metadata | {b"fingerprint": json.dumps(other)}), path)
    assert cohort_of(study, "train").preprocessing == (plain, other)
    assert cohort_of(study, "train", cohorts=("aaa",)).preprocessing == (plain,)


def test_cohorts_can_be_chosen_and_an_unknown_one_is_an_error(study):
    assert set(cohort_of(study, "train", cohorts=("bbb",)).rows["dataset"]) == {"BBB"}
    with pytest.raises(ValueError, match="ccc"):
        cohort_of(study, "train", cohorts=("ccc",))


def test_a_person_with_two_roles_is_an_error(study):
    path = study.folder / "folds.tsv"
    folds = read_tsv(path, FOLDS)
    doubled = folds[folds["fold"] == 0].head(1).assign(role="train")
    pd.concat([folds, doubled]).to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match="folds"):
        cohort_of(study, "train")


def test_a_task_may_ask_some_datasets_only(study):
    options = tables_of(study.flags())
    one = read_cohort(options, fold=0, roles=("train",), datasets=("AAA",))
    assert set(one.rows["dataset"]) == {"AAA"}
    with pytest.raises(ValueError, match=r"column dataset has no .'CCC'.; it has: AAA, BBB"):
        read_cohort(options, fold=0, roles=("train",), datasets=("CCC",))


def test_an_unknown_fold_or_role_is_an_error(study):
    with pytest.raises(ValueError, match="fold has no 9"):
        cohort_of(study, "train", fold=9)
    with pytest.raises(ValueError, match="trian"):
        cohort_of(study, "trian")


def test_regions_are_matched_by_name_not_by_position(study, rewrite_connectomes):
    before = cohort_of(study, "train")
    path = study.folder / "correlate" / "BBB" / "batch-0.arrow"
    table = read_arrow(path)
    regions = [f"region{i:02d}" for i in range(10)]
    order = np.random.default_rng(0).permutation(10)
    matrices = square(np.array(table["fc"].to_pylist()), 10)[:, order][:, :, order]
    shuffled = matrices[:, *np.triu_indices(10, k=1)]
    rewrite_connectomes(path, table["scan"].to_pylist(), shuffled, [regions[i] for i in order])
    after = cohort_of(study, "train")
    assert after.regions == before.regions
    np.testing.assert_array_equal(after.edges_NE, before.edges_NE)


def test_other_regions_are_an_error_that_names_them(study, rewrite_connectomes):
    path = study.folder / "correlate" / "BBB" / "batch-0.arrow"
    scans = read_arrow(path)["scan"].to_pylist()
    regions = [f"region{i:02d}" for i in range(9)] + ["elsewhere"]
    rewrite_connectomes(path, scans, np.zeros((len(scans), 45)), regions)
    with pytest.raises(ValueError, match=r"batch-0.*elsewhere"):
        cohort_of(study, "train")


def test_a_missing_connectome_table_is_an_error(study):
    (study.folder / "correlate" / "AAA" / "batch-1.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"batch-1\.arrow"):
        cohort_of(study, "train")


def test_a_scan_that_is_not_ok_is_left_out(study):
    path = study.folder / "correlate" / "AAA" / "batch-1.arrow"
    table = read_arrow(path)
    rows = table.to_pylist()
    gone = rows[-1]["scan"]
    rows[-1] |= {"outcome": excluded("too short"), "fc": None, "coverage": None}
    write_arrow(pa.Table.from_pylist(rows, schema=table.schema), path)
    cohort = cohort_of(study, "train")
    assert len(cohort.rows) == len(cohort.edges_NE) == 27
    assert gone not in set(cohort.rows["scan"])
    assert np.isfinite(cohort.edges_NE).all()


def fail_every_scan(path):
    table = read_arrow(path)
    rows = [row | {"outcome": excluded("too short"), "fc": None, "coverage": None} for row in table.to_pylist()]
    write_arrow(type(table).from_pylist(rows, schema=table.schema), path)


def test_a_batch_in_which_every_scan_failed_does_not_stop_the_others(study):
    fail_every_scan(study.folder / "correlate" / "AAA" / "batch-1.arrow")
    cohort = cohort_of(study, "train")
    assert len(cohort.rows) == len(cohort.edges_NE) == 21
    assert np.isfinite(cohort.edges_NE).all()


def test_a_cohort_in_which_every_scan_failed_is_empty(study):
    for path in (study.folder / "correlate" / "AAA").iterdir():
        fail_every_scan(path)
    cohort = cohort_of(study, "train", cohorts=("aaa",))
    assert len(cohort.rows) == 0
    assert cohort.edges_NE.shape == (0, 45)
    assert len(cohort_of(study, "train", cohorts=("bbb",)).rows) == 14


def test_a_table_whose_edges_do_not_fit_its_regions_is_refused(study):
    path = study.folder / "correlate" / "AAA" / "batch-1.arrow"
    table = read_arrow(path)
    fewer = table.schema.metadata | {b"regions": json.dumps([f"region{i:02d}" for i in range(9)]).encode()}
    write_arrow(table.replace_schema_metadata(fewer), path)
    with pytest.raises(ValueError, match="45 edges a scan, but 9 regions have 36"):
        cohort_of(study, "train")


def test_a_scan_of_the_bei_table_that_index_does_not_know_is_an_error(study):
    path = study.folder / "scans.tsv"
    write_tsv(read_tsv(path, SCANS).iloc[:-1], path, SCANS)
    with pytest.raises(ValueError, match="1 scans are not in"):
        cohort_of(study, "train")


def test_square_matrices_are_symmetric_with_a_unit_diagonal():
    upper_1E = np.arange(1.0, 7.0)[None]
    expected_RR = [[1, 1, 2, 3], [1, 1, 4, 5], [2, 4, 1, 6], [3, 5, 6, 1]]
    np.testing.assert_array_equal(square(upper_1E, 4)[0], expected_RR)


def test_missing_labels_have_weight_zero_and_levels_outside_are_missing(study):
    cohort = cohort_of(study, "train", "validation", "test")
    labels = labels_of(cohort, "autism", ("control", "autism"))
    has_it = (cohort.rows["dataset"] == "BBB").to_numpy()
    np.testing.assert_array_equal(labels.weight_N, has_it.astype(np.float32))
    np.testing.assert_array_equal(labels.value_N[has_it], cohort.rows["autism"][has_it] == "autism")
    only_control = labels_of(cohort, "autism", ("control",))
    assert only_control.weight_N.sum() == (cohort.rows["autism"] == "control").sum()


def test_pseudo_labels_get_the_weight_they_are_given(study):
    path = study.folder / "bei.tsv"
    bei = read_tsv(path, BEI)
    assumed = bei["autism"].isna()
    bei.loc[assumed, "autism"], bei.loc[assumed, "autism_source"] = "control", "pseudo"
    write_tsv(bei, path, BEI)
    cohort = cohort_of(study, "train")
    levels = ("control", "autism")
    assert set(labels_of(cohort, "autism", levels, pseudo_weight=0.25).weight_N) == {0.25, 1.0}
    assert labels_of(cohort, "autism", levels).weight_N.sum() == 14
    assert levels_of(cohort.keep((cohort.rows["dataset"] == "AAA").to_numpy()), "autism", pseudo_weight=0.0) == ()


def test_age_is_continuous_and_sex_is_not(study):
    cohort = cohort_of(study, "train")
    assert is_continuous(cohort, "age")
    assert not is_continuous(cohort, "sex")
    np.testing.assert_allclose(labels_of(cohort, "age", ()).value_N, cohort.rows["age"].astype(float), rtol=1e-6)
    with pytest.raises(ValueError, match="shoe_size"):
        labels_of(cohort, "shoe_size", ())


def set_measured(path, **columns):
    """The FC table of one file with other cells in some columns."""
    table = read_arrow(path)
    for name, cells in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(cells, table.schema.field(name).type))
    write_arrow(table, path)


def test_every_scan_stands_beside_what_was_measured_of_it(study):
    path = study.folder / "correlate" / "AAA" / "batch-1.arrow"
    scans = read_arrow(path)["scan"].to_pylist()
    numbers = [float(scan[4:6]) for scan in scans]
    set_measured(path, mean_fd_mm=numbers, shrinkage=[number / 100 for number in numbers], num_kept=range(len(scans)))
    cohort = cohort_of(study, "train", "validation", "test")
    inside_N = cohort.rows["scan"].isin(scans).to_numpy()
    number_N = cohort.rows["scan"].str[4:6].astype(float).to_numpy()
    np.testing.assert_array_equal(cohort.covariates["mean_fd_mm"][inside_N], number_N[inside_N])
    assert np.isnan(cohort.covariates["mean_fd_mm"][~inside_N]).all()
    asked = scans_of(cohort.keep(inside_N))
    np.testing.assert_allclose(asked.shrinkage_N, number_N[inside_N] / 100)
    np.testing.assert_array_equal(asked.covariates["num_kept"][np.argsort(number_N[inside_N])], range(len(scans)))
    np.testing.assert_array_equal(asked.edges_NE, cohort.edges_NE[inside_N])


def test_a_table_of_an_older_version_knows_no_shrinkage(study):
    path = study.folder / "correlate" / "AAA" / "batch-1.arrow"
    write_arrow(read_arrow(path).drop_columns(["shrinkage"]), path)
    assert np.isnan(scans_of(cohort_of(study, "train")).shrinkage_N).all()


def test_covariates_are_what_somebody_observed(study):
    path = study.folder / "bei.tsv"
    bei = read_tsv(path, BEI).astype({"site": object})
    bei.loc[bei["dataset"] == "AAA", "site"] = "north"
    bei.loc[0, ["sex", "sex_source"]] = ["male", "pseudo"]
    bei.loc[1, ["age", "age_source"]] = [None, "missing"]
    write_tsv(bei, path, BEI)
    cohort = cohort_of(study, "train", "validation", "test")
    found = {name: dict(zip(cohort.rows["scan"], cells, strict=True)) for name, cells in cohort.covariates.items()}
    assert set(found["site"].values()) == {"aaa:north", "bbb"}
    assert found["sex"]["sub-00_task-rest"] is None
    assert {cell for cell in found["sex"].values() if cell is not None} == {"female", "male"}
    assert np.isnan(found["age"]["sub-01_task-rest"])
    assert found["age"]["sub-02_task-rest"] == float(study.people["age"][2])
    assert set(found["num_kept"].values()) == {90.0}


def test_the_phenotype_tables_motion_stands_in_where_the_images_gave_none(study):
    path = study.folder / "bei.tsv"
    bei = read_tsv(path, BEI)
    write_tsv(bei.assign(motion="0.25", motion_source="observed"), path, BEI)
    table = study.folder / "correlate" / "AAA" / "batch-1.arrow"
    scans = read_arrow(table)["scan"].to_pylist()
    set_measured(table, mean_fd_mm=[0.1] * len(scans))
    cohort = cohort_of(study, "train", "validation", "test")
    inside_N = cohort.rows["scan"].isin(scans).to_numpy()
    np.testing.assert_array_equal(cohort.covariates["mean_fd_mm"], np.where(inside_N, 0.1, 0.25))


def test_a_filter_asks_what_was_observed_not_what_is_assumed(study):
    path = study.folder / "bei.tsv"
    bei = read_tsv(path, BEI)
    assumed = bei.index[bei["autism"] == "control"][:3]
    bei.loc[assumed, "autism_source"] = "pseudo"
    write_tsv(bei, path, BEI)
    roles = ("train", "validation", "test")
    kept = read_cohort(tables_of(study.flags()), fold=0, roles=roles, filters={"autism": ["control"]}).rows
    assert len(kept) == (bei["autism"] == "control").sum() - 3
    assert not set(kept["scan"]) & set(bei.loc[assumed, "scan"])


def test_a_filter_keeps_levels_and_ranges_and_drops_what_is_missing(study):
    options = tables_of(study.flags())

    def filtered(**filters):
        return read_cohort(options, fold=0, roles=("train", "validation", "test"), filters=filters).rows

    assert set(filtered(sex=["male"])["sex"]) == {"male"}
    assert len(filtered(sex=["male"])) == (study.people["sex"] == "male").sum()
    ages_N = study.people["age"].astype(float)
    kept = filtered(age=[30, 45.0])["age"].astype(float)
    assert len(kept) == ages_N.between(30, 45).sum()
    assert kept.between(30, 45).all()
    assert set(filtered(autism=["autism", "control"])["dataset"]) == {"BBB"}
    assert set(filtered(autism=["autism"], age=[0, 40])["autism"]) == {"autism"}
    with pytest.raises(ValueError, match="no column 'shoe_size'"):
        filtered(shoe_size=[40, 45])
    with pytest.raises(ValueError, match=r"\[low, high\] of a continuous"):
        filtered(age=[30])
