"""ComBat: planted site effects go, planted people's effects stay, and whoever has no estimate stays as they are."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save

from lcm.combat import FittedCombat, fit_combat, sites_of

NUM_EDGES = 40
SITES = ("aaa:north", "aaa:south", "bbb")
YEARS = slice(0, 10)
"""Edges that grow by 0.02 a year."""


def planted(seed: int, people_a_site: int = 100):
    """People of three sites of different age; a site shifts every edge by about 0.5 and scales its noise by 1, 2 or 0.5."""
    site_effects = np.random.default_rng(1)
    shift_SE = site_effects.normal(0, 0.5, (3, NUM_EDGES))
    scale_S = np.array([1.0, 2.0, 0.5])
    generator = np.random.default_rng(seed)
    place_N = np.repeat(np.arange(3), people_a_site)
    age_N = generator.normal(40, 8, len(place_N)) + 12 * (place_N - 1)
    edges_NE = generator.normal(0, 0.2, (len(place_N), NUM_EDGES)) * scale_S[place_N, None] + shift_SE[place_N]
    edges_NE[:, YEARS] += 0.02 * (age_N - 40)[:, None]
    sex_N = np.array(["female", "male"])[generator.integers(0, 2, len(place_N))]
    sites = np.array(SITES, dtype=object)[place_N]
    return edges_NE.astype(np.float32), sites, pd.DataFrame({"age": age_N, "sex": sex_N})


def no_covariates(num_scans: int) -> pd.DataFrame:
    return pd.DataFrame(index=range(num_scans))


def slopes(edges_NE, covariates) -> np.ndarray:
    return np.polyfit(covariates["age"], edges_NE[:, YEARS], 1)[0]


def site_means(edges_NE, site_N) -> np.ndarray:
    return np.stack([edges_NE[site_N == site].mean(axis=0) for site in SITES])


def site_spreads(edges_NE, site_N) -> np.ndarray:
    return np.stack([edges_NE[site_N == site].std(axis=0) for site in SITES])


@pytest.mark.parametrize("seed", [2, 3], ids=["the people of the fit", "new people of its sites"])
def test_a_planted_shift_and_scale_of_sites_is_removed(seed):
    fitted = fit_combat(*planted(2), min_people=5)
    edges_NE, site_N, covariates = planted(seed)
    corrected_NE = fitted.transform(edges_NE, site_N, covariates)
    rest = slice(YEARS.stop, None)
    before_SE, after_SE = site_means(edges_NE, site_N)[:, rest], site_means(corrected_NE, site_N)[:, rest]
    assert np.ptp(before_SE, axis=0).mean() > 0.5
    # Noise of 0.26 after correction, 100 people: a difference of two means, estimate and new people, has an error of 0.05.
    assert np.ptp(after_SE, axis=0).max() < 0.25
    assert np.ptp(after_SE, axis=0).mean() < 0.1
    spread_S = site_spreads(corrected_NE, site_N)[:, rest].mean(axis=1)
    np.testing.assert_allclose(spread_S / spread_S.mean(), 1, atol=0.1)


def test_the_effect_of_a_covariate_is_kept_and_that_of_another_variable_goes_with_the_site():
    edges_NE, site_N, covariates = planted(2)
    kept = fit_combat(edges_NE, site_N, covariates, min_people=5).transform(edges_NE, site_N, covariates)
    nothing = no_covariates(len(site_N))
    lost = fit_combat(edges_NE, site_N, nothing, min_people=5).transform(edges_NE, site_N, nothing)
    np.testing.assert_allclose(slopes(kept, covariates).mean(), 0.02, rtol=0.1)
    # Of the variance of age a share of 64 in 160 lies within sites, and only that share of the slope is left.
    np.testing.assert_allclose(slopes(lost, covariates).mean(), 0.02 * 64 / 160, rtol=0.25)


def test_the_people_of_the_fit_come_out_as_neurocombat_returns_them():
    from neuroCombat import neuroCombat

    edges_NE, site_N, covariates = planted(4, people_a_site=15)
    ours = fit_combat(edges_NE, site_N, covariates, min_people=5).transform(edges_NE, site_N, covariates)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = neuroCombat(
            edges_NE.T.astype(np.float64),
            covariates.assign(site=site_N),
            batch_col="site",
            categorical_cols=["sex"],
            continuous_cols=["age"],
        )["data"].T
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_a_scan_is_corrected_alike_alone_and_in_company():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5)
    together = fitted.transform(edges_NE, site_N, covariates)
    for place in (0, 150, 299):
        row = slice(place, place + 1)
        alone = fitted.transform(edges_NE[row], site_N[row], covariates.iloc[row])
        np.testing.assert_allclose(alone, together[row], rtol=1e-6)


def test_the_order_of_the_scans_does_not_matter():
    edges_NE, site_N, covariates = planted(2)
    order = np.random.default_rng(0).permutation(len(site_N))
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5).arrays()
    shuffled = fit_combat(edges_NE[order], site_N[order], covariates.iloc[order], min_people=5).arrays()
    for name in ("people_S", "mean_E", "coefficient_CE", "shift_SE", "spread_SE"):
        np.testing.assert_allclose(shuffled[name], fitted[name], rtol=1e-4, atol=1e-5)


def test_unseen_unknown_and_small_sites_are_left_as_they_are_and_change_no_estimate():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5)
    more_NE = np.concatenate([edges_NE, edges_NE[:5] + 7])
    more_N = np.array([*site_N, "ccc", "ccc", "ccc", "ccc", None], dtype=object)
    more = pd.concat([covariates, covariates[:5]])
    with_strangers = fit_combat(more_NE, more_N, more, min_people=5)
    assert with_strangers.left_alone == ("ccc",)
    assert with_strangers.sites == SITES
    for name, array in fitted.arrays().items():
        np.testing.assert_array_equal(with_strangers.arrays()[name], array)
    np.testing.assert_array_equal(fitted.transform(more_NE, more_N, more)[-5:], more_NE[-5:])


def test_a_site_of_one_person_with_many_scans_is_a_small_site():
    edges_NE, site_N, covariates = planted(2, people_a_site=10)
    person_N = [f"person{i}" for i in range(20)] + ["person20"] * 10
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5, person_N=person_N)
    assert fitted.left_alone == ("bbb",)
    assert fitted.people_S.tolist() == [10, 10]
    np.testing.assert_array_equal(fitted.transform(edges_NE, site_N, covariates)[20:], edges_NE[20:])


def test_one_site_alone_is_not_corrected(caplog):
    edges_NE, site_N, covariates = planted(2)
    with caplog.at_level("WARNING"):
        fitted = fit_combat(edges_NE[:100], site_N[:100], covariates[:100], min_people=5)
    assert fitted.sites == ()
    assert "nothing is corrected" in caplog.text
    np.testing.assert_array_equal(fitted.transform(edges_NE, site_N, covariates), edges_NE)


def test_one_edge_alone_has_no_prior_and_is_not_corrected():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE[:, :1], site_N, covariates, min_people=5)
    np.testing.assert_array_equal(fitted.transform(edges_NE[:, :1], site_N, covariates), edges_NE[:, :1])


def test_missing_edges_stay_missing_and_the_others_are_still_corrected():
    edges_NE, site_N, covariates = planted(2)
    whole = fit_combat(edges_NE, site_N, covariates, min_people=5).transform(edges_NE, site_N, covariates)
    edges_NE[::3, 20] = np.nan
    edges_NE[site_N == "bbb", 30] = np.nan
    edges_NE[:, 35] = np.nan
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5)
    corrected_NE = fitted.transform(edges_NE, site_N, covariates)
    np.testing.assert_array_equal(np.isnan(corrected_NE), np.isnan(edges_NE))
    untouched = [edge for edge in range(NUM_EDGES) if edge not in (20, 30, 35)]
    # Edges share their prior, so that a filled one moves the others a little.
    np.testing.assert_allclose(corrected_NE[:, untouched], whole[:, untouched], atol=0.1)
    assert np.nanmean(np.abs(corrected_NE[:, untouched] - whole[:, untouched])) < 0.01


def test_an_edge_that_never_varies_is_not_corrected_and_spoils_no_other():
    edges_NE, site_N, covariates = planted(2)
    fewer = fit_combat(edges_NE[:, 1:], site_N, covariates, min_people=5).transform(edges_NE[:, 1:], site_N, covariates)
    edges_NE[:, 0] = 0.25
    corrected_NE = fit_combat(edges_NE, site_N, covariates, min_people=5).transform(edges_NE, site_N, covariates)
    np.testing.assert_array_equal(corrected_NE[:, 0], 0.25)
    np.testing.assert_array_equal(corrected_NE[:, 1:], fewer)


def test_a_missing_covariate_is_the_training_mean_or_mode_and_so_is_an_unseen_level():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5)
    at_centre = covariates.assign(age=covariates["age"].mean(), sex=covariates["sex"].mode()[0])
    expected = fitted.transform(edges_NE, site_N, at_centre)
    for nothing in ({"age": None, "sex": None}, {"age": "n/a", "sex": "intersex"}):
        unknown = covariates.assign(**nothing)
        np.testing.assert_allclose(fitted.transform(edges_NE, site_N, unknown), expected, atol=1e-6)


def test_numbers_written_as_text_are_numbers_and_a_categorical_type_is_not():
    edges_NE, site_N, covariates = planted(2)
    as_text = covariates.assign(age=[repr(float(age)) for age in covariates["age"]])
    fitted = fit_combat(edges_NE, site_N, as_text, min_people=5)
    np.testing.assert_array_equal(
        fitted.coefficient_CE, fit_combat(edges_NE, site_N, covariates, min_people=5).coefficient_CE
    )
    decade = pd.DataFrame({"decade": (covariates["age"] // 20).astype(int).astype("category")})
    levels = decade["decade"].nunique()
    assert len(fit_combat(edges_NE, site_N, decade, min_people=5).coefficient_CE) == levels - 1


def test_a_covariate_that_is_the_same_for_everyone_is_left_out():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE, site_N, covariates.assign(sex="female", iq=None), min_people=5)
    assert [covariate.name for covariate in fitted.covariates] == ["age"]


def test_a_covariate_that_is_the_site_is_an_error_that_says_so():
    edges_NE, site_N, covariates = planted(2)
    north = np.where(site_N == SITES[0], "control", "patient")
    with pytest.raises(ValueError, match=r"'age', 'group'.* cannot be told apart from the 3 sites"):
        fit_combat(edges_NE, site_N, covariates[["age"]].assign(group=north), min_people=5)


def test_the_estimates_survive_safetensors_bit_by_bit():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5)
    again = FittedCombat.from_arrays(load(save(fitted.arrays())))
    assert (again.sites, again.covariates) == (fitted.sites, fitted.covariates)
    new = planted(3)
    np.testing.assert_array_equal(again.transform(*new), fitted.transform(*new))


def test_no_name_of_a_small_site_is_stored():
    edges_NE, site_N, covariates = planted(2)
    site_N[0] = "aaa:village"
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5)
    assert fitted.left_alone == ("aaa:village",)
    assert b"village" not in save(fitted.arrays())
    assert b"north" in save(fitted.arrays())


def test_the_identity_survives_safetensors_too():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=1000)
    again = FittedCombat.from_arrays(load(save(fitted.arrays())))
    np.testing.assert_array_equal(again.transform(edges_NE, site_N, covariates), edges_NE)


def test_other_edges_or_a_lost_covariate_are_errors():
    edges_NE, site_N, covariates = planted(2)
    fitted = fit_combat(edges_NE, site_N, covariates, min_people=5)
    with pytest.raises(ValueError, match="fitted on 40 edges, these connectomes have 39"):
        fitted.transform(edges_NE[:, 1:], site_N, covariates)
    with pytest.raises(ValueError, match=r"covariates \['sex'\]"):
        fitted.transform(edges_NE, site_N, covariates[["age"]])
    with pytest.raises(ValueError, match="must be as many"):
        fit_combat(edges_NE, site_N[1:], covariates, min_people=5)
    with pytest.raises(ValueError, match="min_people 1 must be 2 or more"):
        fit_combat(edges_NE, site_N, covariates, min_people=1)


def test_a_site_carries_its_cohort_and_a_cohort_without_sites_is_one():
    rows = pd.DataFrame({"cohort": ["abide", "abide2", "taowu", "abide"], "site": ["NYU", "NYU", None, None]})
    assert list(sites_of(rows)) == ["abide:NYU", "abide2:NYU", "taowu", "abide"]
