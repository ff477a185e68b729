"""What is exported is what denoise and correlate found, under BIDS names, and nothing of it outlives its scan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lcm.__main__ import main
from lcm.atlas import load_atlas
from lcm.config import Correlate
from lcm.imaging.export import desc_label
from lcm.provenance import file_hash
from lcm.tables import OK, excluded, read_arrow, write_arrow
from tests.planted_export import CENSORED, NUM_VOLUMES, SCANS_PLANTED, UNCOVERED, PlantedBatch

FIRST = SCANS_PLANTED[0]
REGIONS = list(load_atlas("AAL").names)
STEM = f"sub-01/func/{FIRST}_space-MNI152NLin2009cAsym_atlas-AAL"
CONNECTOME = f"{STEM}_stat-pearsoncorrelation_desc-9P_relmat"


@pytest.fixture
def batch(tmp_path: Path) -> PlantedBatch:
    return PlantedBatch(tmp_path)


def _files(batch: PlantedBatch) -> set[str]:
    return {str(path.relative_to(batch.tree)) for path in batch.tree.rglob("sub-*/**/*") if path.is_file()}


def _read(batch: PlantedBatch, name: str, **more: object) -> pd.DataFrame:
    return pd.read_csv(batch.tree / name, sep="\t", na_values=["n/a"], keep_default_na=False, **more)


def _sidecar(batch: PlantedBatch, name: str) -> dict:
    return json.loads((batch.tree / name).read_text(encoding="utf-8"))


def test_the_series_come_back_exactly_with_na_for_censored_volumes_and_uncovered_regions(batch: PlantedBatch):
    batch.export()
    found = _read(batch, f"{STEM}_desc-9P_timeseries.tsv")
    assert list(found.columns) == REGIONS
    planted = read_arrow(batch.folder / "denoise.arrow")["series"][0].values.to_numpy().reshape(NUM_VOLUMES, -1)
    np.testing.assert_array_equal(found.to_numpy(np.float32), planted)
    assert found.isna().all(axis=1).to_numpy().nonzero()[0].tolist() == list(CENSORED)
    assert found.isna().all(axis=0).to_numpy().nonzero()[0].tolist() == [UNCOVERED]
    raw = (batch.tree / f"{STEM}_desc-9P_timeseries.tsv").read_text().splitlines()
    assert set(raw[1].split("\t")) == {"n/a"}
    assert "\t\t" not in raw[2]


def test_the_connectome_is_correlates_own_made_square(batch: PlantedBatch):
    batch.export()
    found = _read(batch, f"{CONNECTOME}.tsv", index_col="Node")
    assert list(found.index) == list(found.columns) == REGIONS
    fc = found.to_numpy(np.float32)
    planted = read_arrow(batch.folder / "correlate.arrow")["fc"][0].values.to_numpy()
    np.testing.assert_array_equal(fc[np.triu_indices(len(REGIONS), k=1)], planted)
    np.testing.assert_array_equal(fc, fc.T)
    assert np.isnan(fc[UNCOVERED]).all()
    np.testing.assert_array_equal(np.delete(np.diag(fc), UNCOVERED), 1)


def test_removed_volumes_and_coverage_have_tables_of_their_own(batch: PlantedBatch):
    batch.export()
    removed = _read(batch, f"sub-01/func/{FIRST}_desc-9P_outliers.tsv")["framewise_displacement"]
    assert removed.to_numpy().nonzero()[0].tolist() == list(CENSORED)
    assert len(removed) == NUM_VOLUMES
    coverage = _read(batch, f"{STEM}_stat-coverage_desc-9P_bold.tsv").set_index("Node")["coverage"]
    assert coverage[REGIONS[UNCOVERED]] == 0.25
    assert (coverage.drop(REGIONS[UNCOVERED]) == 1).all()
    assert set(_sidecar(batch, "desc-9P_outliers.json")) == {"framewise_displacement"}
    assert set(_sidecar(batch, "atlas-AAL_stat-coverage_desc-9P_bold.json")) == {"Node", "coverage"}


def test_the_table_lists_six_files_a_scan_with_their_hashes_and_counts_the_others(batch: PlantedBatch):
    table = batch.export()
    assert table.loc[table["outcome"] == OK].groupby("scan").size().to_dict() == {FIRST: 6, SCANS_PLANTED[2]: 6}
    without = table[table["file"].isna()]
    assert without[["scan", "outcome"]].to_numpy().tolist() == [[SCANS_PLANTED[1], excluded("too short")]]
    listed = table.dropna(subset="file")
    assert set(listed["file"]) == _files(batch)
    for name, digest in zip(listed["file"], listed["sha256"], strict=True):
        assert file_hash(batch.tree / name) == digest


def test_every_name_has_its_entities_in_bids_order_with_alphanumeric_labels(batch: PlantedBatch):
    batch.strategy, batch.correlate = "36P-scrub", Correlate(window_volumes=20)
    batch.export()
    order = ["sub", "ses", "task", "run", "space", "atlas", "stat", "desc"]
    for name in _files(batch):
        *pairs, suffix = Path(name).name.split("_")
        keys = [pair.split("-")[0] for pair in pairs]
        assert keys == [key for key in order if key in keys]
        assert all(re.fullmatch(r"[a-z]+-[A-Za-z0-9]+", pair) for pair in pairs), name
        assert suffix in ("timeseries.tsv", "timeseries.json", "outliers.tsv", "bold.tsv", "relmat.tsv", "relmat.json")
        assert name.startswith("/".join(pair for pair in pairs if pair[:3] in ("sub", "ses")) + "/func/")


def test_the_sidecars_say_what_was_done(batch: PlantedBatch):
    batch.export()
    series = _sidecar(batch, f"{STEM}_desc-9P_timeseries.json")
    assert (series["RepetitionTime"], series["SamplingFrequency"], series["TaskName"]) == (2.0, 0.5, "rest")
    assert (series["NumberOfVolumes"], series["NumberOfVolumesCensored"]) == (NUM_VOLUMES, len(CENSORED))
    assert series["NuisanceParameters"][-1] == "global_signal"
    assert series["SoftwareFilters"]["Butterworth"]["Low-pass cutoff (Hz)"] == 0.08
    assert "n/a" in series["CensoredVolumes"]
    connectome = _sidecar(batch, f"{CONNECTOME}.json")
    assert connectome["RelationshipMeasure"] == "Pearson correlation coefficient"
    assert connectome["NumberOfVolumes"] == NUM_VOLUMES - len(CENSORED)
    assert not connectome["FisherZ"]
    node_file = batch.tree / connectome["NodeFiles"][0].removeprefix("bids::")
    assert pd.read_csv(node_file, sep="\t")["name"].tolist() == REGIONS


def test_a_strategy_that_sets_its_own_filter_is_described_with_it(batch: PlantedBatch):
    batch.strategy = "xu9p"
    batch.export()
    series = _sidecar(batch, f"{STEM}_desc-xu9p_timeseries.json")
    assert (series["SoftwareFilters"], series["Detrending"]) == ("n/a", "n/a")
    assert series["CensoringCriteria"]["Framewise displacement over (mm)"] == "n/a"


def test_sources_lead_to_the_files_they_name(batch: PlantedBatch):
    batch.export()
    links = _sidecar(batch, "dataset_description.json")["DatasetLinks"]
    _, name, inside = _sidecar(batch, f"{STEM}_desc-9P_timeseries.json")["Sources"][0].split(":")
    image = batch.folder / "results/preprocess/HCPA/sub-01/func" / f"{FIRST}_desc-preproc_bold.nii.gz"
    assert (batch.tree / links[name] / inside).resolve() == image.resolve()
    assert (batch.tree / links["source"]).resolve() == (batch.folder / "raw").resolve()
    series = _sidecar(batch, f"{CONNECTOME}.json")["Sources"][0].removeprefix("bids::")
    assert (batch.tree / series).is_file()
    assert str(batch.folder) not in "".join(path.read_text() for path in batch.tree.rglob("*.json"))


def test_what_the_source_says_of_its_licence_and_doi_goes_along(batch: PlantedBatch):
    arguments = batch.plant()
    (batch.folder / "raw" / "dataset_description.json").write_text('{"License": "CC0", "DatasetDOI": "doi:10.1/x"}')
    assert main(arguments) == 0
    found = _sidecar(batch, "dataset_description.json")
    assert (found["License"], found["SourceDatasets"][0]["DOI"]) == ("CC0", "doi:10.1/x")
    assert found["GeneratedBy"][0].keys() == {"Name", "Version"}
    assert (found["GeneratedBy"][0]["Name"], found["DatasetType"]) == ("lcm", "derivative")


def test_each_window_has_a_matrix_and_says_where_it_starts(batch: PlantedBatch):
    batch.correlate, batch.windows = Correlate(window_volumes=10, fisher_z=True), 3
    batch.export()
    found = sorted(name for name in _files(batch) if FIRST in name and name.endswith("relmat.json"))
    assert [re.search(r"desc-9Pwindow(\d)_", name)[1] for name in found] == ["0", "1", "2"]
    last = _sidecar(batch, found[2])
    assert (last["WindowStart"], last["WindowVolumes"], last["FisherZ"]) == (20, 10, True)
    # atanh(1) is infinite, so a matrix of Fisher z has no diagonal.
    matrix = _read(batch, found[0].replace(".json", ".tsv"), index_col="Node").to_numpy()
    assert np.isnan(np.diag(matrix)).all()
    assert np.isfinite(matrix).sum() == 115 * 114


def test_two_runs_write_the_same_bytes(batch: PlantedBatch):
    first = batch.export()
    shared = {path: path.read_bytes() for path in batch.tree.rglob("*") if path.is_file()}
    pd.testing.assert_frame_equal(first, batch.export())
    assert shared == {path: path.read_bytes() for path in batch.tree.rglob("*") if path.is_file()}


def test_files_of_a_scan_that_is_no_longer_ok_are_removed_and_no_others(batch: PlantedBatch):
    batch.export()
    of_9p = _files(batch)
    batch.strategy = "24P"
    batch.export()
    strangers = [batch.tree / "sub-01/func" / name for name in (f"{FIRST}_desc-9P_notes.txt", f"{FIRST}_bold.tsv")]
    elsewhere = batch.tree / "sub-77/func/sub-77_task-rest_desc-24P_timeseries.tsv"
    elsewhere.parent.mkdir(parents=True)
    for path in (*strangers, elsewhere):
        path.write_text("kept")
    batch.outcomes = {FIRST: excluded("moved"), SCANS_PLANTED[1]: OK}
    table = batch.export()
    of_24p = {name for name in _files(batch) if "desc-24P" in name and "sub-77" not in name}
    assert of_24p == set(table["file"].dropna())
    assert not any(FIRST in name for name in of_24p)
    assert of_9p <= _files(batch)
    assert all(path.read_text() == "kept" for path in (*strangers, elsewhere))


def test_a_run_or_a_person_that_left_the_study_leaves_nothing_behind(batch: PlantedBatch):
    batch.export()
    batch.scans, batch.outcomes, batch.everyone = (SCANS_PLANTED[1],), {}, ("sub-01",)
    batch.export()
    assert {name.split("_space")[0].split("_desc")[0] for name in _files(batch)} == {f"sub-01/func/{SCANS_PLANTED[1]}"}
    assert not (batch.tree / "sub-02").exists()


def test_jobs_that_remove_the_same_person_at_one_time_do_not_fail(batch: PlantedBatch, monkeypatch: pytest.MonkeyPatch):
    batch.export()
    batch.scans, batch.outcomes, batch.everyone = (SCANS_PLANTED[0],), {}, ("sub-01",)
    unlink, rmdir, gone = Path.unlink, Path.rmdir, []

    def another_job_is_first(path: Path, **options: bool) -> None:
        if "sub-02" in path.parts:
            gone.append(path.name)
            (rmdir if path.is_dir() else unlink)(path)
        (rmdir if path.is_dir() or path.name in ("func", "ses-a", "sub-02") else unlink)(path, **options)

    monkeypatch.setattr(Path, "unlink", another_job_is_first)
    monkeypatch.setattr(Path, "rmdir", another_job_is_first)
    batch.export()
    assert {"func", "ses-a", "sub-02"} < set(gone)
    assert not (batch.tree / "sub-02").exists()


def test_the_list_of_a_batch_that_no_longer_is_goes(batch: PlantedBatch):
    table = batch.export()
    for name in ("0001.tsv", "0002.tsv", ".ab.0002.tsv"):
        table.to_csv(batch.output.with_name(name), sep="\t", index=False)
    batch.export()
    names = {path.name for path in batch.output.parent.glob("*.tsv")}
    # 0001 is a batch of the index; a dot begins what a job is writing now.
    assert names == {"0000.tsv", "0001.tsv", ".ab.0002.tsv"}


def test_series_that_came_denoised_say_so_and_claim_no_censoring(batch: PlantedBatch):
    arguments = batch.plant()
    planted = read_arrow(batch.folder / "denoise.arrow")["series"][2].values.to_numpy().reshape(NUM_VOLUMES, -1)
    values_TR = np.delete(planted[9:], UNCOVERED, axis=1)
    file = batch.folder / "raw" / "ready.tsv"
    pd.DataFrame(values_TR, columns=np.delete(REGIONS, UNCOVERED)).to_csv(file, sep="\t", index=False)
    scans = pd.read_csv(batch.folder / "batch.tsv", sep="\t").assign(input="series", bold="n/a", series=str(file))
    scans.to_csv(batch.folder / "batch.tsv", sep="\t", index=False, na_rep="n/a")
    table = read_arrow(batch.folder / "correlate.arrow")
    metadata = table.schema.metadata | {b"strategy": b"denoised elsewhere"}
    write_arrow(table.replace_schema_metadata(metadata), batch.folder / "elsewhere.arrow")
    arguments[arguments.index("--connectomes") + 1] = str(batch.folder / "elsewhere.arrow")
    del arguments[arguments.index("--series") + 1]
    assert main(arguments) == 0
    stem = f"sub-01/func/{FIRST}_atlas-AAL"
    assert not [name for name in _files(batch) if "outliers" in name]
    found = _read(batch, f"{stem}_desc-denoisedelsewhere_timeseries.tsv").to_numpy(np.float32)
    np.testing.assert_array_equal(found[:, :UNCOVERED], values_TR[:, :UNCOVERED])
    assert np.isnan(found[:, UNCOVERED]).all()
    said = _sidecar(batch, f"{stem}_desc-denoisedelsewhere_timeseries.json")
    assert said["Sources"] == ["bids:source:ready.tsv"]
    assert not {"NuisanceParameters", "NumberOfVolumesCensored"} & set(said)


def test_an_atlas_of_ones_own_is_written_as_bids_has_it_and_replaces_the_one_before(batch: PlantedBatch):
    import nibabel as nib

    batch.export()
    data = np.arange(27, dtype="int16").reshape(3, 3, 3) % 8
    image = batch.folder / "halls.nii.gz"
    nib.save(nib.Nifti1Image(data, np.eye(4)), image)
    image.with_name("halls.txt").write_text("".join(f"{label} hall {label}\n" for label in range(1, 8)))
    image.with_name("LICENSE").write_text("do as you like")
    batch.atlas = str(image)
    table = batch.export()
    atlas = {str(p.relative_to(batch.tree)) for p in batch.tree.rglob("*") if "sub-" not in str(p) and p.is_file()}
    assert {"atlas-halls_description.json", "tpl-MNI/tpl-MNI_atlas-halls_dseg.nii.gz"} < atlas
    assert not [name for name in atlas if "AAL_desc" in name or "AAL_res" in name]
    assert not [name for name in _files(batch) if "atlas-AAL" in name]
    assert "sourcedata/atlas-halls/LICENSE" in atlas
    copied = load_atlas(str(batch.tree / "tpl-MNI/tpl-MNI_atlas-halls_dseg.nii.gz"))
    copied.check()
    assert (copied.name, copied.names) == ("halls", load_atlas(str(image)).names)
    assert all("atlas-halls" in name or "outliers" in name for name in table["file"].dropna())


def test_two_strategies_with_one_label_are_refused(batch: PlantedBatch, caplog: pytest.LogCaptureFixture):
    assert desc_label("36P-scrub02") == "36Pscrub02"
    batch.strategy = "36P-scrub"
    (batch.folder / "results/export/HCPA.batches/36Ps-crub").mkdir(parents=True)
    assert main(batch.plant()) == 1
    assert "36P-scrub and 36Ps-crub have one label" in caplog.text
    assert not batch.tree.exists()


def test_connectomes_of_another_atlas_are_refused(batch: PlantedBatch, caplog: pytest.LogCaptureFixture):
    import nibabel as nib

    arguments = batch.plant()
    image = batch.folder / "one.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), "int16"), np.eye(4)), image)
    image.with_name("one.txt").write_text("1 all\n")
    arguments[arguments.index("--atlas") + 1] = str(image)
    assert main(arguments) == 1
    assert "its regions are not those of one; run correlate again" in caplog.text
    assert not batch.output.exists()
