"""The demo study: what it plants is what it says, it is the same twice, and every cohort comes in its own dress."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.ndimage import center_of_mass
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from lcm.atlas import Atlas, load_atlas
from lcm.cohort import simulate
from lcm.cohort.simulated_anatomy import Grid, rotation
from lcm.cohort.simulated_images import framewise_displacement, motion_trace, moving_run, preprocessed_run, slice_times
from lcm.cohort.simulated_people import PLANS, recruit
from lcm.cohort.simulated_phenotypes import write_phenotypes
from lcm.cohort.simulated_series import (
    EFFECT_REGIONS,
    band_limited_noise,
    base_correlation,
    describe_effects,
    effect_edges,
    generator,
    nearest_correlation,
    region_series,
)
from lcm.config import Simulate

SMALL = Simulate(raw_people=2, derivative_people=2, series_people=10, num_volumes=40, voxel_mm=8.0)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return load_atlas("AAL")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole demo study, small enough for seconds."""
    output = tmp_path_factory.mktemp("simulate")
    simulate.main(argparse.Namespace(output=output, settings=SMALL))
    return output


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _edges(world: simulate.World, cohort: str, num_people: int) -> tuple[NDArray, list]:
    people = [p for p in recruit(cohort, num_people, world.settings.seed) if p.tasks]
    upper = np.triu_indices(world.atlas.num_regions, k=1)
    return np.array([np.arctanh(np.corrcoef(world.series(p, "").T)[upper]) for p in people]), people


def _auc(features: NDArray, labels: NDArray) -> float:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(RidgeClassifier(1000.0), features, labels, cv=folds, method="decision_function")
    return roc_auc_score(labels, scores)


# ── the planted effects ─────────────────────────────────────────────────────────────────────────


def test_the_base_connectome_looks_like_one(atlas: Atlas):
    base = base_correlation(atlas.names, 1)
    assert np.allclose(base, base.T)
    assert np.allclose(np.diag(base), 1.0)
    assert np.linalg.eigvalsh(base)[0] > 0.1
    homotopic = np.mean([base[left, right] for left, right in atlas.pairs()])
    mean = base[np.triu_indices(atlas.num_regions, k=1)].mean()
    assert 0.5 < homotopic < 0.7
    assert 0.2 < mean < 0.35


def test_truth_states_the_shift_that_the_projection_left(atlas: Atlas):
    described = describe_effects(base_correlation(atlas.names, 1), atlas.names, 0.35)
    assert set(described) == set(EFFECT_REGIONS)
    for effect in described.values():
        assert 60 <= len(effect["edges"]) <= 150
        assert effect["effective_z"] == pytest.approx(0.35, abs=0.02)
        assert effect["elsewhere_z"] < 0.03


def test_no_edge_serves_two_effects_and_homotopic_pairs_stay(atlas: Atlas):
    planted = np.sum([np.abs(effect_edges(bei, atlas.names)) for bei in EFFECT_REGIONS], axis=0)
    assert planted.max() == 1
    assert all(planted[left, right] == 0 for left, right in atlas.pairs())


def test_an_effect_on_a_region_the_atlas_lacks_names_it(atlas: Atlas):
    with pytest.raises(ValueError, match="Putamen_L"):
        effect_edges("parkinsons", [name for name in atlas.names if name != "Putamen_L"])


def test_the_nearest_correlation_of_a_correlation_is_itself(atlas: Atlas):
    base = base_correlation(atlas.names, 1)
    assert np.array_equal(nearest_correlation(base), base)
    broken = np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    mended = nearest_correlation(broken)
    assert np.linalg.eigvalsh(mended)[0] > 0.01
    assert np.allclose(np.diag(mended), 1.0)


def test_a_long_series_has_the_correlation_it_was_asked_for(atlas: Atlas):
    base = base_correlation(atlas.names, 1)
    series = region_series(base, 20_000, 2.0, np.random.default_rng(0))
    assert np.abs(np.corrcoef(series.T) - base).max() < 0.1


def test_the_signal_lies_in_its_band():
    noise = band_limited_noise(4000, 20, 2.0, np.random.default_rng(0))
    power = (np.abs(np.fft.rfft(noise, axis=0)) ** 2).mean(1)
    frequencies = np.fft.rfftfreq(4000, 2.0)
    inside = (frequencies >= 0.01) & (frequencies <= 0.1)
    assert power[inside].sum() / power.sum() > 0.8


def test_ridge_finds_the_effects_and_no_permuted_label(atlas: Atlas):
    world = simulate.World(Simulate(), atlas)
    features, people = _edges(world, "ABIDE", 48)
    sick = np.array([person.group == "1" for person in people])
    permuted = [_auc(features, generator(0, str(i)).permutation(sick)) for i in range(6)]
    assert _auc(features, sick) > 0.75
    assert abs(np.mean(permuted) - 0.5) < 0.12


def test_without_an_effect_nothing_is_found(atlas: Atlas):
    features, people = _edges(simulate.World(Simulate(effect=0.0), atlas), "ABIDE", 48)
    assert _auc(features, np.array([person.group == "1" for person in people])) < 0.7


# ── images ──────────────────────────────────────────────────────────────────────────────────────


def _ball(grid: Grid, center_mm: tuple[float, float, float]) -> dict[str, NDArray]:
    distance = np.linalg.norm(grid.coordinates_mm() - np.array(center_mm)[:, None], axis=0).reshape(grid.shape)
    ball = 1.0 / (1.0 + np.exp((distance - 24.0) / 4.0))
    empty = np.zeros(grid.shape)
    return {"brain": ball, "grey": ball, "white": empty, "csf": empty, "baseline": 1000 * ball, "regions": empty}


def test_the_head_moves_as_the_trace_says():
    affine = np.diag([-4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [62.0, -62.0, -62.0]
    grid = Grid((32, 32, 32), affine)
    motion = np.zeros((40, 6))
    motion[20] = [3.0, -2.0, 1.0, 0.0, 0.0, 0.0]
    motion[21] = [0.0, 0.0, 0.0, 0.05, -0.1, 0.2]
    start = np.array([10.0, -6.0, 4.0])
    times_s, series, rng = slice_times(32, 2.0), np.zeros((40, 116)), np.random.default_rng(0)
    run = moving_run(_ball(grid, tuple(start)), grid, series, motion, tr_s=2.0, slice_times_s=times_s, rng=rng)

    def middle_mm(volume: int) -> NDArray:
        image = np.where(run[..., volume] > 100, run[..., volume], 0)
        return affine[:3, :3] @ np.array(center_of_mass(image)) + affine[:3, 3]

    assert middle_mm(20) - middle_mm(0) == pytest.approx([3.0, -2.0, 1.0], abs=0.1)
    assert middle_mm(21) == pytest.approx(rotation(motion[21, 3:]) @ middle_mm(0), abs=0.1)


def test_every_slice_is_taken_at_its_own_time():
    """One region with a slow sine: a slice's phase lags by the time at which it was taken."""
    assert slice_times(5, 2.0) == pytest.approx([0, 1.2, 0.4, 1.6, 0.8])
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -62.0
    grid, tr_s, hz = Grid((32, 32, 32), affine), 2.0, 0.02
    maps = _ball(grid, (0.0, 0.0, 0.0))
    maps |= {"regions": maps["brain"], "baseline": 10000.0 * maps["brain"]}
    seconds = tr_s * np.arange(100)
    series = np.tile(20 * np.sin(2 * np.pi * hz * seconds)[:, None], 116)
    times_s, rng = slice_times(32, tr_s), np.random.default_rng(0)
    run = moving_run(maps, grid, series, np.zeros((100, 6)), tr_s=tr_s, slice_times_s=times_s, rng=rng)
    for index in (12, 13, 18, 19):
        slice_T = run[14:18, 14:18, index].astype(float).mean((0, 1))[5:-5]
        waves = np.column_stack(
            [np.sin(2 * np.pi * hz * seconds), np.cos(2 * np.pi * hz * seconds), seconds, seconds**0]
        )
        sine, cosine, *_ = np.linalg.lstsq(waves[5:-5], slice_T, rcond=None)[0]
        assert np.arctan2(cosine, sine) / (2 * np.pi * hz) == pytest.approx(times_s[index], abs=0.1)


def test_the_confounds_are_in_the_signal():
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -62.0
    grid = Grid((32, 32, 32), affine)
    motion = 3.0 * motion_trace(120, np.random.default_rng(1))
    maps = _ball(grid, (0.0, 0.0, 0.0))
    maps |= {"white": np.roll(maps["grey"], 1, 0), "csf": maps["grey"] ** 0.2}
    run, mask, columns = preprocessed_run(
        maps, grid, np.zeros((120, 116)), motion, tr_s=2.0, rng=np.random.default_rng(0)
    )
    voxels = run[mask].T.astype(float)
    voxels -= voxels.mean(0)

    def unexplained(names: list[str]) -> float:
        design = np.column_stack([np.ones(120), np.linspace(-1, 1, 120), *(np.nan_to_num(columns[n]) for n in names)])
        residual = voxels - design @ np.linalg.lstsq(design, voxels, rcond=None)[0]
        return residual.var() / voxels.var()

    motion_columns = [name for name in columns if name.startswith(("trans_", "rot_"))]
    assert len(motion_columns) == 24
    assert unexplained([*motion_columns, "global_signal"]) < 0.7 * unexplained([])


def test_framewise_displacement_of_a_known_move():
    motion = np.zeros((3, 6))
    motion[1:] = [0.1, -0.2, 0.0, 0.01, 0.0, 0.0]
    assert framewise_displacement(motion) == pytest.approx([0.0, 0.3 + 50 * 0.01, 0.0])


def test_both_sexes_did_both_tasks():
    people = [person for person in recruit("HCPYA", 8, 0) if person.tasks]
    assert {(person.sex, task) for person in people for task in person.tasks} == {
        (sex, task) for sex in ("female", "male") for task in ("rest", "WM")
    }


# ── the study on disk ───────────────────────────────────────────────────────────────────────────


def test_every_cohort_is_there_and_truth_comes_with_it(study: Path):
    assert {path.name for path in study.iterdir()} == {*PLANS, "truth.json"}
    truth = json.loads((study / "truth.json").read_text())
    assert truth["settings"] == SMALL.model_dump()
    for name in truth["motion"]["files"].values():
        assert len(pd.read_csv(study / name, sep="\t")) == SMALL.num_volumes


def test_the_same_seed_gives_the_same_bytes_over_a_killed_run(study: Path, tmp_path: Path):
    (tmp_path / ".HCPA" / "bids").mkdir(parents=True)
    (tmp_path / ".HCPA" / "bids" / "half").write_text("cut off")
    simulate.main(argparse.Namespace(output=tmp_path, settings=SMALL))
    assert _hashes(tmp_path) == _hashes(study)


def test_the_raw_cohort_is_bids_and_one_person_has_no_t1w(study: Path):
    bids = study / "HCPA" / "bids"
    runs = sorted(bids.glob("sub-*/func/*_bold.nii.gz"))
    assert json.loads((bids / "dataset_description.json").read_text())["BIDSVersion"]
    assert len(list(bids.glob("sub-*/anat/*_T1w.nii.gz"))) == SMALL.raw_people - 1
    assert {path.name.split("_")[1] for path in runs} == {"task-rest", "task-carit"}
    for path in runs:
        image = nib.load(path)
        assert image.shape[3] == SMALL.num_volumes
        assert image.header.get_zooms()[3] == SMALL.tr_s
        assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["RepetitionTime"] == 2.0


def test_the_derivatives_carry_mask_and_confounds(study: Path):
    scans = study / "HCPYA" / "fmriprep"
    description = json.loads((scans / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "fMRIPrep"
    for bold in scans.glob("sub-*/func/*_desc-preproc_bold.nii.gz"):
        mask = nib.load(bold.with_name(bold.name.replace("preproc_bold", "brain_mask")))
        assert mask.shape == nib.load(bold).shape[:3]
        table = bold.with_name(bold.name.split("_space-")[0] + "_desc-confounds_timeseries.tsv")
        confounds = pd.read_csv(table, sep="\t", na_values="n/a")
        assert len(confounds) == SMALL.num_volumes
        assert confounds["framewise_displacement"].isna().tolist() == [True] + [False] * (SMALL.num_volumes - 1)
        assert confounds["global_signal"].notna().all()


def test_ready_series_come_in_their_layouts_with_their_defects(study: Path, atlas: Atlas):
    mats = sorted((study / "PPMI" / "series").glob("sub-*/sub-*_AAL116_features_timeseries.mat"))
    lengths = [loadmat(path)["data"].shape for path in mats]
    assert sorted(lengths)[0] == (12, 116)
    assert lengths.count((SMALL.num_volumes, 116)) == SMALL.series_people - 1
    files = sorted((study / "ABIDE" / "series").glob("*_rois_aal.1D"))
    assert files[0].read_text().split("\n")[0].split("\t") == [f"#{region}" for region in atlas.ids]
    silent = [int((np.loadtxt(path).std(0) == 0).sum()) for path in files]
    assert sorted(silent) == [0] * (SMALL.series_people - 1) + [1]


def _table(study: Path, cohort: str, name: str, separator: str = ",") -> list[dict[str, str]]:
    text = (study / cohort / "phenotypes" / name).read_bytes().decode()
    return list(csv.DictReader(text.splitlines(), delimiter=separator))


def test_tables_keep_their_cohorts_codes_and_defects(study: Path):
    adni = _table(study, "ADNI", "ADNIMERGE.csv")
    assert {row["DX_bl"] for row in adni} == {"CN", "SMC", "EMCI", "LMCI", "AD"}
    assert len({row["PTID"] for row in adni}) < len(adni)
    abide = _table(study, "ABIDE", "Phenotypic_V1_0b_preprocessed1.csv")
    assert sum(row["FILE_ID"] == "no_filename" for row in abide) == PLANS["ABIDE"].num_rows_without_scan
    assert any(row["FIQ"] == "-9999" for row in abide)
    ppmi = _table(study, "PPMI", "Participant_Status_01Jan2024.csv")
    assert [row["COHORT"] for row in ppmi].count("9") == 1
    cobre = _table(study, "SZ", "COBRE_phenotypic_data.csv")
    assert sum(row["Current Age"] == "Disenrolled" for row in cobre) == 2
    assert "" in cobre[0]
    ages = [int(row["interview_age"]) for row in _table(study, "HCPA", "ndar_subject01.txt", "\t")[1:]]
    assert min(ages) > 36 * 12 - 1


def test_line_ends_are_those_of_the_real_files(study: Path):
    taowu = (study / "Taowu" / "phenotypes" / "taowu_patients.tsv").read_bytes()
    neurocon = (study / "Neurocon" / "phenotypes" / "neurocon_patients.tsv").read_bytes()
    assert b"\n" not in taowu
    assert taowu.count(b"\r") == SMALL.series_people + 1
    assert neurocon.count(b"\r\n") == neurocon.count(b"\n") == SMALL.series_people + 2 + 1
    assert neurocon.count(b"04/13/2014, 05/25/2014") == 1


def test_a_scan_without_a_row_and_rows_without_a_scan(study: Path):
    listed = {f"{int(row['SUB_ID']):07d}" for row in _table(study, "ABIDE", "Phenotypic_V1_0b_preprocessed1.csv")}
    scanned = {path.name.split("_")[-3] for path in (study / "ABIDE" / "series").iterdir()}
    assert len(scanned - listed) == 1
    assert len(listed - scanned) == PLANS["ABIDE"].num_rows_without_scan


def test_nobody_has_two_labels_and_sex_does_not_follow_the_group(tmp_path: Path):
    for cohort, plan in PLANS.items():
        people = recruit(cohort, 48, 0)
        assert len({person.label for person in people}) == len(people)
        if plan.diagnosis:
            scanned = [person for person in people if person.tasks]
            sick = np.array([plan.doses.get(person.group, 0.0) > 0.5 for person in scanned])
            female = np.array([person.sex == "female" for person in scanned])
            assert abs(np.corrcoef(sick, female)[0, 1]) < 0.15
        write_phenotypes(cohort, people, tmp_path / cohort, np.random.default_rng(0))
        assert any((tmp_path / cohort).iterdir())
