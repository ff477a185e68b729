"""QC–FC: a planted effect of head motion is found, fades with distance, and is gone under the strategy that removes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import pearsonr, spearmanr

from lcm.array_tables import connectome_schema
from lcm.atlas import load_atlas
from lcm.evaluation.motion_effects import (
    DENOISED_ELSEWHERE,
    MotionEffect,
    datasets_by_strategy,
    distances,
    motion_effects,
    p_values,
    qc_fc,
)
from lcm.evaluation.motion_page import motion_section
from lcm.tables import OK, excluded, write_arrow

# N people, E edges

REGIONS = list(load_atlas("AAL").names[:40])
NUM_EDGES = len(REGIONS) * (len(REGIONS) - 1) // 2
NUM_PEOPLE = 200
FD_MM = np.random.default_rng(3).uniform(0.05, 0.6, NUM_PEOPLE)
NOISE = 0.1


def planted_fc(slope_E: np.ndarray | float) -> np.ndarray:
    """Connectivity N×E: noise, and for every edge a slope with mean FD."""
    return np.random.default_rng(4).normal(0, NOISE, (NUM_PEOPLE, NUM_EDGES)) + slope_E * FD_MM[:, None]


def fading_slopes() -> np.ndarray:
    """Slope of each edge per mm FD: 0.6 for regions in one place, 0 at 150 mm."""
    return 0.6 * (1 - distances(REGIONS, "AAL") / 150)


def plant(
    results: Path, strategy: str, fc_NE: np.ndarray, *, batch: str = "0", named: str | None = None, **columns: list
) -> None:
    """One connectome table of dataset A; `columns` replace or add columns, `named` the strategy in the schema."""
    people = [f"sub-{index:03d}" for index in range(len(fc_NE))]
    values = {
        "dataset": ["A"] * len(fc_NE),
        "participant_id": people,
        "scan": [f"{person}_task-rest" for person in people],
        "outcome": [OK] * len(fc_NE),
        "num_volumes": [100] * len(fc_NE),
        "num_kept": [90] * len(fc_NE),
        "residual_dof": [20.0] * len(fc_NE),
        "mean_fd_mm": FD_MM[: len(fc_NE)].tolist(),
        "window": [0] * len(fc_NE),
        "fc": list(fc_NE.astype(np.float32)),
    } | columns
    schema = connectome_schema(REGIONS, "AAL", named or strategy)
    values |= {name: [None] * len(fc_NE) for name in schema.names if name not in values}
    table = pa.Table.from_pydict({name: values[name] for name in schema.names}, schema=schema)
    write_arrow(table, results / "correlate" / strategy / "A" / f"{batch}.arrow")


def said(outcomes: list[str] | None = None) -> pd.DataFrame:
    outcomes = outcomes or [OK]
    return pd.DataFrame({"dataset": "A", "scan": range(len(outcomes)), "stage": "denoise", "outcome": outcomes})


def effect(results: Path, strategy: str = "9P", *, batches: tuple[str, ...] = ("0",)) -> MotionEffect:
    return motion_effects(results, {"A": list(batches)}, {strategy: said()}, "AAL")[0]


def test_a_planted_motion_effect_is_recovered(tmp_path):
    slope_E = fading_slopes()
    plant(tmp_path, "9P", planted_fc(slope_E))
    found = effect(tmp_path)
    # r of y = slope·x + noise, in closed form.
    expected_E = slope_E * FD_MM.std() / np.sqrt((slope_E * FD_MM.std()) ** 2 + NOISE**2)
    errors_E = (found.qc_fc_E - expected_E) * np.sqrt(NUM_PEOPLE - 1) / (1 - expected_E**2)
    assert errors_E.mean() == pytest.approx(0, abs=0.15)
    assert errors_E.std() == pytest.approx(1, abs=0.15)
    assert found.median_abs == pytest.approx(np.median(expected_E), abs=0.03)
    assert found.share_significant > 0.9
    assert found.distance_dependence < -0.8
    assert found.num_people == found.num_scans == NUM_PEOPLE
    assert found.kept_share == pytest.approx(0.9)
    assert found.residual_dof == 20


def test_without_an_effect_five_percent_of_edges_are_significant(tmp_path):
    plant(tmp_path, "9P", planted_fc(0.0))
    found = effect(tmp_path)
    assert found.share_significant == pytest.approx(0.05, abs=0.025)
    assert found.median_abs == pytest.approx(0.6745 / np.sqrt(NUM_PEOPLE - 1), rel=0.1)
    assert abs(found.distance_dependence) < 0.15


def test_the_strategy_that_removes_motion_shows_less_of_it(tmp_path):
    plant(tmp_path, "none", planted_fc(fading_slopes()))
    plant(tmp_path, "36P", planted_fc(0.1 * fading_slopes()))
    none, cleaned = motion_effects(tmp_path, {"A": ["0"]}, {"none": said(), "36P": said()}, "AAL")
    assert (none.strategy, cleaned.strategy) == ("none", "36P")
    assert cleaned.median_abs < 0.4 * none.median_abs
    assert cleaned.share_significant < none.share_significant
    assert abs(cleaned.distance_dependence) < abs(none.distance_dependence)


def test_every_number_agrees_with_scipy(tmp_path):
    fc_NE = planted_fc(fading_slopes()).astype(np.float32)
    plant(tmp_path, "9P", fc_NE)
    found = effect(tmp_path)
    for edge in (0, 17, NUM_EDGES - 1):
        reference = pearsonr(FD_MM, fc_NE[:, edge].astype(float))
        assert found.qc_fc_E[edge] == pytest.approx(reference.statistic, rel=1e-9)
        p = p_values(found.qc_fc_E[[edge]], found.people_E[[edge]])[0]
        assert p == pytest.approx(reference.pvalue, rel=1e-6)
    expected = spearmanr(found.qc_fc_E, distances(REGIONS, "AAL")).statistic
    assert found.distance_dependence == pytest.approx(expected, rel=1e-12)


def test_edges_without_a_value_are_ignored_and_people_without_that_edge_too(tmp_path):
    fc_NE = planted_fc(fading_slopes()).astype(np.float32)
    fc_NE[:, 0] = np.nan
    fc_NE[: NUM_PEOPLE // 2, 1] = np.nan
    fc_NE[9:, 2] = np.nan
    fc_NE[:, 3] = 0.25
    plant(tmp_path, "9P", fc_NE)
    found = effect(tmp_path)
    assert np.flatnonzero(np.isnan(found.qc_fc_E)).tolist() == [0, 2, 3]
    half = slice(NUM_PEOPLE // 2, None)
    assert found.qc_fc_E[1] == pytest.approx(pearsonr(FD_MM[half], fc_NE[half, 1].astype(float)).statistic, rel=1e-9)
    assert found.people_E[:3].tolist() == [0, NUM_PEOPLE // 2, 9]
    assert 0.3 < found.median_abs < 1
    assert np.isfinite(found.distance_dependence)


def test_batches_are_summed_without_a_trace(tmp_path):
    fc_NE = planted_fc(fading_slopes())
    parts = [(FD_MM[part], fc_NE[part]) for part in (slice(0, 3), slice(3, 120), slice(120, None))]
    whole, in_parts = qc_fc([(FD_MM, fc_NE)]), qc_fc(parts)
    np.testing.assert_allclose(in_parts[0], whole[0], rtol=1e-10)
    np.testing.assert_array_equal(in_parts[1], whole[1])


def test_a_constant_motion_estimate_correlates_with_nothing():
    r_E, people_E = qc_fc([(np.full(NUM_PEOPLE, 0.1), planted_fc(0.0))])
    assert np.isnan(r_E).all()
    assert (people_E == NUM_PEOPLE).all()


def test_fewer_than_ten_people_with_motion_are_not_correlated(tmp_path):
    fd = [*FD_MM[:9].tolist(), None, None]
    plant(tmp_path, "9P", planted_fc(fading_slopes())[:11], mean_fd_mm=fd)
    found = effect(tmp_path)
    assert (found.num_scans, found.num_people) == (11, 9)
    assert np.isnan(found.qc_fc_E).all()
    section = motion_section([found])
    assert section.rows[0].cells[-4:] == ["9", "n/a", "n/a", "n/a"]
    assert section.missing == "n/a: fewer than 10 scans with motion: A."
    assert section.cards == []


def test_a_person_enters_once_with_the_first_usable_scan(tmp_path):
    fc_NE = planted_fc(fading_slopes())[:40]
    people = [f"sub-{index // 2:02d}" for index in range(40)]
    outcomes = [excluded("too short") if index == 0 else OK for index in range(40)]
    scans = [f"{person}_run-{index % 2}" for index, person in enumerate(people)]
    plant(tmp_path, "9P", fc_NE, participant_id=people, scan=scans, outcome=outcomes)
    found = effect(tmp_path)
    assert (found.num_scans, found.num_people) == (39, 20)
    first = [1, *range(2, 40, 2)]
    assert found.qc_fc_E[5] == pytest.approx(pearsonr(FD_MM[first], fc_NE[first, 5]).statistic, abs=1e-6)


def test_windows_of_a_scan_are_averaged_and_their_volumes_added(tmp_path):
    fc_NE = planted_fc(fading_slopes())[:30].astype(np.float32)
    scans = [f"sub-{index // 2:02d}_task-rest" for index in range(30)]
    people = [scan.split("_")[0] for scan in scans]
    fd_mm = np.repeat(FD_MM[:15], 2)
    more = {"scan": scans, "participant_id": people, "mean_fd_mm": fd_mm.tolist(), "num_kept": [45, 30] * 15}
    plant(tmp_path, "9P", fc_NE, **more, window=[0, 1] * 15)
    found = effect(tmp_path)
    assert (found.num_scans, found.num_people) == (15, 15)
    assert found.kept_share == pytest.approx(0.75)
    means = fc_NE.astype(float).reshape(15, 2, NUM_EDGES).mean(axis=1)
    assert found.qc_fc_E[7] == pytest.approx(pearsonr(FD_MM[:15], means[:, 7]).statistic, rel=1e-9)


def test_scans_refused_by_the_strategy_are_counted_and_others_are_not(tmp_path):
    plant(tmp_path, "9P", planted_fc(0.0)[:20])
    outcomes = said([OK, excluded("too short"), excluded("no degree of freedom"), excluded("3 volumes")])
    outcomes.loc[3, "stage"] = "preprocess"
    assert motion_effects(tmp_path, {"A": ["0"]}, {"9P": outcomes}, "AAL")[0].num_refused == 2


def test_series_that_came_denoised_stand_under_the_first_strategy_alone(tmp_path):
    plant(tmp_path, "9P", planted_fc(0.0)[:20], named=DENOISED_ELSEWHERE)
    assert datasets_by_strategy(tmp_path, {"A": ["0"]}, ["9P", "36P"]) == {"9P": ["A"]}
    assert effect(tmp_path).strategy == DENOISED_ELSEWHERE
    plant(tmp_path, "9P", planted_fc(0.0)[:20])
    assert datasets_by_strategy(tmp_path, {"A": ["0"]}, ["9P", "36P"]) == {"9P": ["A"], "36P": ["A"]}


def test_distances_are_between_the_centres_of_the_named_regions():
    atlas = load_atlas("AAL")
    centres = dict(zip(atlas.names, atlas.coordinates_mm, strict=True))
    names = ["Vermis_10", "Precentral_L", "Precentral_R"]
    found = distances(names, "AAL")
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [np.linalg.norm(np.subtract(centres[names[i]], centres[names[j]])) for i, j in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_region_the_atlas_does_not_have_stops_the_report():
    with pytest.raises(ValueError, match=r"1 regions of the connectomes are not in it, e\.g\. Nowhere"):
        distances(["Precentral_L", "Nowhere"], "AAL")


def test_an_atlas_that_is_a_bare_table_costs_the_distances_and_nothing_else(tmp_path):
    table = tmp_path / "atlas-bare_dseg.tsv"
    table.write_text("\n".join(["index\tname", *(f"{i + 1}\t{name}" for i, name in enumerate(REGIONS))]) + "\n")
    plant(tmp_path, "9P", planted_fc(fading_slopes())[:20])
    (found,) = motion_effects(tmp_path, {"A": ["0"]}, {"9P": said([OK])}, str(table))
    assert np.isfinite(found.qc_fc_E).all()
    section = motion_section([found])
    assert section.rows[0].cells[-1] == "n/a"
    assert "n/a" not in section.rows[0].cells[:-1]
    assert section.missing == "No distances: the atlas does not say where its regions are."
    assert [figure.title for figure in section.cards[0].figures] == ["QC–FC by strategy"]


def test_a_dataset_without_a_usable_scan_has_a_row_that_says_so(tmp_path):
    plant(tmp_path, "9P", planted_fc(0.0)[:12], outcome=[excluded("too short")] * 12)
    found = effect(tmp_path)
    section = motion_section([found])
    assert section.rows[0].cells == ["0", "0", "n/a", "n/a", "0", "n/a", "n/a", "n/a"]
    assert section.missing
