"""Rows without a connectome: they read what they are named for, nothing else, and say when they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lcm.models.confounds import AgeSex, AllConfounds, Confounds, Motion, Site
from lcm.models.labelled import Labelled, Lacking, Scans, together


def people(num_scans: int, seed: int, **given: np.ndarray) -> Scans:
    """Scans whose covariates say nothing about each other, but for those that are given."""
    generator = np.random.default_rng(seed)
    covariates = {
        "site": np.array([f"ab:{i}" for i in generator.integers(0, 4, num_scans)], dtype=object),
        "sex": np.array(["female", "male"], dtype=object)[generator.integers(0, 2, num_scans)],
        "age": generator.normal(40, 10, num_scans),
        "mean_fd_mm": generator.gamma(4, 0.05, num_scans),
        "num_kept": generator.normal(180, 20, num_scans),
    }
    return Scans.of_edges(np.full((num_scans, 3), np.nan))._replace(covariates=covariates | given)


def split(scans: Scans, target_N: np.ndarray, first: int, last: int) -> Labelled:
    part = slice(first, last)
    cells = {name: cells_N[part] for name, cells_N in scans.covariates.items()}
    return Labelled(Scans(scans.edges_NE[part], scans.shrinkage_N[part], cells), target_N[part].astype(float))


def auroc(row: type[Confounds], scans: Scans, target_N: np.ndarray) -> float:
    training, validation, test = (split(scans, target_N, *ends) for ends in ((0, 200), (200, 300), (300, 600)))
    return roc_auc_score(test.target_N, row.fit(training, validation, 2).predict(test.scans)[:, 1])


@pytest.mark.parametrize(
    ("row", "readers"),
    [
        ("site", {Site, AllConfounds}),
        ("mean_fd_mm", {Motion, AllConfounds}),
        ("num_kept", {Motion, AllConfounds}),
        ("age", {AgeSex, AllConfounds}),
        ("sex", {AgeSex, AllConfounds}),
    ],
)
def test_a_row_sees_what_it_is_named_for_and_nothing_else(row, readers):
    scans = people(600, 0)
    cells_N = scans.covariates[row]
    target_N = np.isin(cells_N, ["ab:0", "ab:2", "male"]) if cells_N.dtype == object else cells_N > np.median(cells_N)
    for reader in (Site, Motion, AgeSex, AllConfounds):
        found = auroc(reader, scans, target_N)
        # 300 test people of two even levels: an AUROC without any effect scatters by 0.033.
        assert found > 0.95 if reader in readers else abs(found - 0.5) < 0.12, reader


def test_levels_are_a_plain_logistic_regression_on_the_coded_columns():
    scans = people(300, 1)
    target_N = (scans.covariates["age"] + np.random.default_rng(2).normal(0, 10, 300) > 40).astype(int)
    training, validation = split(scans, target_N, 0, 200), split(scans, target_N, 200, 300)
    fitted = AgeSex.fit(training, validation, 2)

    def coded(part: Labelled) -> np.ndarray:
        age_N, sex_N = part.scans.covariates["age"], part.scans.covariates["sex"]
        known_N = training.scans.covariates["age"]
        return np.stack([(age_N - known_N.mean()) / known_N.std(), sex_N == "female", sex_N == "male"], axis=1)

    plain = LogisticRegression(C=1 / fitted.state["penalty"][0], tol=1e-9, max_iter=1000)
    plain.fit(coded(training), training.target_N)
    np.testing.assert_allclose(fitted.predict(validation.scans), plain.predict_proba(coded(validation)), atol=1e-4)


def test_a_continuous_target_is_regressed():
    scans = people(300, 3)
    age_N = scans.covariates["age"] = 20 + 100 * scans.covariates["mean_fd_mm"]
    training, validation = split(scans, age_N, 0, 200), split(scans, age_N, 200, 300)
    fitted = Motion.fit(training, validation, 0)
    np.testing.assert_allclose(fitted.predict(validation.scans)[:, 0], validation.target_N, rtol=0.01)
    again = fitted.refit(together(training, validation), 0)
    np.testing.assert_allclose(again.predict(validation.scans)[:, 0], validation.target_N, rtol=0.01)


def test_an_unseen_site_is_answered_as_no_site_at_all():
    scans = people(300, 4)
    target_N = scans.covariates["site"] == "ab:1"
    fitted = Site.fit(split(scans, target_N, 0, 200), split(scans, target_N, 200, 300), 2)
    strange, unknown = (people(1, 0, site=np.array([cell], dtype=object)) for cell in ("cd:1", None))
    np.testing.assert_array_equal(fitted.predict(strange), fitted.predict(unknown))
    seen = people(1, 0, site=np.array(["ab:1"], dtype=object))
    assert fitted.predict(seen)[0, 1] > 0.9 > fitted.predict(strange)[0, 1]


def test_a_missing_number_is_the_training_mean_and_has_an_indicator_of_its_own():
    scans = people(600, 5)
    scans.covariates["mean_fd_mm"][::3] = np.nan
    target_N = np.isnan(scans.covariates["mean_fd_mm"])
    assert auroc(Motion, scans, target_N) > 0.99
    complete = people(600, 6)
    target_N = complete.covariates["mean_fd_mm"] > 0.2
    fitted = Motion.fit(split(complete, target_N, 0, 200), split(complete, target_N, 200, 300), 2)
    mean = complete.covariates["mean_fd_mm"][:200].mean()
    one = people(1, 0, mean_fd_mm=np.array([np.nan]))
    np.testing.assert_allclose(
        fitted.predict(one), fitted.predict(one._replace(covariates=one.covariates | {"mean_fd_mm": np.array([mean])}))
    )


@pytest.mark.parametrize(
    ("row", "name", "cells"),
    [
        (Motion, "mean_fd_mm", np.nan),
        (AgeSex, "age", np.nan),
        (AgeSex, "sex", None),
        (Site, "site", None),
        (Site, "site", "ab"),
    ],
    ids=["no FD", "no age", "no sex", "no site", "one site"],
)
def test_a_row_without_what_it_is_named_for_says_so(row, name, cells):
    scans = people(60, 7, **{name: np.full(60, cells, dtype=float if cells is np.nan else object)})
    target_N = np.arange(60) % 2
    with pytest.raises(Lacking, match=name):
        row.fit(split(scans, target_N, 0, 40), split(scans, target_N, 40, 60), 2)


def test_what_is_asked_is_left_out_and_all_confounds_use_what_there_is():
    scans = people(600, 8)
    target_N = scans.covariates["sex"] == "male"
    # The person's own sex is the answer; with it the row would score 1.
    assert abs(auroc(AgeSex, scans.without(("sex",)), target_N) - 0.5) < 0.12
    assert auroc(AllConfounds, scans.without(("site", "mean_fd_mm", "age")), target_N) > 0.99
    with pytest.raises(Lacking, match="no training scan has site"):
        AllConfounds.fit(split(Scans.of_edges(scans.edges_NE), target_N, 0, 200), split(scans, target_N, 200, 300), 2)
