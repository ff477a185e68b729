"""Site and motion are found in connectivity where they were planted, and not after ComBat or where there is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lcm.combat import fit_combat
from lcm.evaluation.site_effects import MAX_PEOPLE, POOLED, drawn, read_edges, site_effects
from lcm.evaluation.study_people import first_visits, usable_scans
from lcm.tables import SITE_EFFECTS, write_tsv
from tests.planted_results import STRATEGIES, plant

NUM_PEOPLE, NUM_EDGES = 150, 190
SITES = ("Leuven", "Pitt", "Yale")


def planted(*, shift: float = 0.0, slope: float = 0.0, cohort: str = "abide") -> tuple[pd.DataFrame, np.ndarray]:
    """People of three sites; `shift` moves every edge of a site by its own noise, `slope` every edge with mean FD (mm)."""
    random = np.random.default_rng(11)
    site_N = np.arange(NUM_PEOPLE) % len(SITES)
    fd_mm_N = random.uniform(0.05, 0.5, NUM_PEOPLE)
    direction_E = random.standard_normal(NUM_EDGES)
    edges_NE = 0.2 * random.standard_normal((NUM_PEOPLE, NUM_EDGES))
    edges_NE += shift * random.standard_normal((len(SITES), NUM_EDGES))[site_N]
    edges_NE += slope * (fd_mm_N - fd_mm_N.mean())[:, None] * direction_E
    people = pd.DataFrame({"person_id": [f"{cohort}:{place}" for place in range(NUM_PEOPLE)], "cohort": cohort})
    people = people.assign(group_id=people["person_id"], site=[SITES[place] for place in site_N], mean_fd_mm=fd_mm_N)
    return people, edges_NE.astype(np.float32)


def values(people: pd.DataFrame, edges_NE: np.ndarray) -> pd.Series:
    return site_effects(people, edges_NE).set_index(["cohort", "predicted", "combat"])["value"]


def test_a_planted_site_is_found_before_combat_and_not_after():
    found = values(*planted(shift=0.2))
    assert found["abide", "site", "off"] > 0.9
    assert found["abide", "site", "on"] < 0.45
    assert abs(found["abide", "motion", "off"]) < 0.25


def test_planted_motion_is_found_and_combat_leaves_it():
    found = values(*planted(slope=0.5))
    assert found["abide", "motion", "off"] > 0.7
    assert found["abide", "motion", "on"] > 0.7
    assert abs(found["abide", "site", "off"] - 1 / 3) < 0.15


def test_without_an_effect_both_are_at_chance():
    people, edges_NE = planted()
    table = site_effects(people, edges_NE).set_index(["predicted", "combat"])
    assert table.loc[("site", "off"), "chance"] == pytest.approx(1 / 3)
    assert abs(table.loc[("site", "off"), "value"] - 1 / 3) < 0.15
    assert abs(table.loc[("motion", "off"), "value"]) < 0.25


def without_site_effects() -> tuple[pd.DataFrame, np.ndarray]:
    """Sixty people of two sites that differ in nothing, with as many edges as a connectome of 64 regions."""
    edges_NE = 0.2 * np.random.default_rng(5).standard_normal((60, 2000))
    people = pd.DataFrame({"person_id": [f"abide:{place}" for place in range(60)], "cohort": "abide"})
    people = people.assign(group_id=people["person_id"], site=["Pitt", "Yale"] * 30, mean_fd_mm=np.nan)
    return people, edges_NE.astype(np.float32)


def test_after_combat_sites_without_a_difference_are_named_worse_than_by_chance_as_the_page_says():
    found = values(*without_site_effects())
    assert abs(found["abide", "site", "off"] - 0.5) < 0.2
    assert found["abide", "site", "on"] < 0.2


def test_combat_leaves_training_people_a_part_of_a_chance_difference_and_gives_others_the_rest_reversed():
    people, edges_NE = without_site_effects()
    site_N, none = people["site"].to_numpy(dtype=object), pd.DataFrame(index=people.index)
    training = slice(0, 40)
    fitted = fit_combat(edges_NE[training], site_N[training], none.iloc[training], min_people=5)
    corrected_NE = fitted.transform(edges_NE, site_N, none)

    def difference(values_NE: np.ndarray, rows: slice) -> np.ndarray:
        own_NE = values_NE[rows].astype(float)
        return own_NE[site_N[rows] == "Yale"].mean(axis=0) - own_NE[site_N[rows] == "Pitt"].mean(axis=0)

    chance_E, rest = difference(edges_NE, training), slice(40, 60)
    kept = difference(corrected_NE, training) @ chance_E / (chance_E @ chance_E)
    given = (difference(corrected_NE, rest) - difference(edges_NE, rest)) @ chance_E / (chance_E @ chance_E)
    assert 0.2 < kept < 0.8
    assert given == pytest.approx(kept - 1, abs=0.1)


def test_edges_without_a_value_take_the_training_mean():
    people, edges_NE = planted(shift=0.2)
    edges_NE[::7, ::3] = np.nan
    edges_NE[:, 5] = np.nan
    assert values(people, edges_NE)["abide", "site", "off"] > 0.9


def test_relatives_are_on_one_side():
    """Twenty pairs that share noise of their own: a ridge that saw one of a pair would know the other's motion."""
    random = np.random.default_rng(3)
    people, edges_NE = planted()
    pair_N = np.arange(NUM_PEOPLE) // 2
    edges_NE = random.standard_normal((NUM_PEOPLE, NUM_EDGES))[pair_N].astype(np.float32)
    fd_mm_N = random.uniform(0.05, 0.5, NUM_PEOPLE)[pair_N]
    families = people.assign(group_id=[f"family:{pair}" for pair in pair_N], mean_fd_mm=fd_mm_N, site=None)
    strangers = families.assign(group_id=people["person_id"])
    assert values(strangers, edges_NE)["abide", "motion", "off"] > 0.8
    assert abs(values(families, edges_NE)["abide", "motion", "off"]) < 0.35


def test_what_cannot_be_asked_says_why():
    people, edges_NE = planted()
    few = people.head(20).assign(site="Pitt")
    table = site_effects(few, edges_NE[:20])
    assert table["value"].isna().all()
    notes = table.set_index(["predicted", "combat"])["note"]
    assert notes["site", "off"] == "not run: 1 sites with 10 people or more, 2 needed"
    assert notes["motion", "off"] == "not run: 20 people with known head motion, 30 needed"


def test_small_and_unknown_sites_are_not_asked_about():
    people, edges_NE = planted(shift=0.2)
    site = people["site"].where(people["site"] != "Yale", None)
    site.iloc[:4] = "Tiny"
    row = site_effects(people.assign(site=site), edges_NE).iloc[0]
    assert row["num_sites"] == 2
    assert row["num_people"] == int(site.isin(["Leuven", "Pitt"]).sum())


def test_cohorts_are_sites_of_the_pooled_study():
    (abide, one_NE), (sz, two_NE) = planted(), planted(cohort="sz")
    people = pd.concat([abide.assign(site=None), sz.assign(site=None)])
    table = site_effects(people, np.concatenate([one_NE, two_NE + 0.5]))
    pooled = table[table["cohort"] == POOLED].set_index(["predicted", "combat"])
    assert pooled.loc[("site", "off"), "num_sites"] == 2
    assert pooled.loc[("site", "off"), "value"] > 0.95
    assert table.loc[table["cohort"] == "sz", "num_sites"].eq(0).all()


def test_a_large_cohort_is_sampled():
    num_people = MAX_PEOPLE + 100
    people = pd.DataFrame({"cohort": "big", "site": None, "mean_fd_mm": np.nan}, index=range(num_people))
    people = people.assign(person_id=[f"big:{place}" for place in range(num_people)], mean_fd_mm=0.1)
    people = people.assign(group_id=people["person_id"])
    table = site_effects(people, np.zeros((num_people, 3), dtype=np.float32))
    assert table.loc[table["predicted"] == "motion", "num_people"].eq(MAX_PEOPLE).all()
    both = pd.concat([people, people.head(50).assign(cohort="small")])
    assert drawn(both)["cohort"].value_counts().to_dict() == {"big": MAX_PEOPLE, "small": 50}


def test_the_table_is_one_that_the_house_reads(tmp_path: Path):
    write_tsv(site_effects(*planted()), tmp_path / "site_effects.tsv", SITE_EFFECTS)
    assert (tmp_path / "site_effects.tsv").read_text(encoding="utf-8").count("abide") == 4


def test_the_edges_of_a_scan_are_those_of_its_row(tmp_path: Path):
    from lcm.evaluation.quality import edges
    from lcm.tables import BEI, OK, read_arrow, read_tsv

    results = plant(tmp_path)
    bei = read_tsv(results / "harmonize" / "bei.tsv", BEI)
    outcomes = bei[["dataset", "scan"]].assign(outcome=OK)[bei["dataset"] == "READY"]
    people = first_visits(usable_scans(bei, outcomes)).iloc[::-1]
    found_NE = read_edges(results, STRATEGIES[0], {"READY": ["batch-0"]}, people)
    table = read_arrow(results / "correlate" / STRATEGIES[0] / "READY" / "batch-0.arrow")
    place = table["scan"].to_pylist().index(people["scan"].iloc[0])
    assert found_NE.shape == (40, 190)
    np.testing.assert_allclose(found_NE[0], edges(table)[place], rtol=1e-6)
