"""Decodability: what is planted in an embedding is found, what is not there is not, and nothing leaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lcm.evaluation.decodability import MIN_SITE_PEOPLE, decode

NUM_TRAIN, NUM_TEST, WIDTH = 120, 60, 16


def people(generator: np.random.Generator, num_sites: int = 3) -> pd.DataFrame:
    count = NUM_TRAIN + NUM_TEST
    return pd.DataFrame(
        {
            "role": ["train"] * NUM_TRAIN + ["test"] * NUM_TEST,
            "cohort": "abide",
            "site": [f"site{i % num_sites}" for i in range(count)],
            "mean_fd_mm": generator.lognormal(-2, 0.6, count),
        }
    )


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["decoded"]: row for row in rows}


@pytest.mark.parametrize("width", [WIDTH, 2 * (NUM_TRAIN + NUM_TEST)], ids=["narrow", "wider than people"])
def test_a_site_and_a_motion_in_the_embedding_are_found(width: int):
    generator = np.random.default_rng(0)
    rows = people(generator)
    told = np.column_stack([np.eye(3)[rows["site"].str[-1].astype(int)], np.log(rows["mean_fd_mm"])])
    embedding_ND = told @ generator.normal(size=(4, width)) + generator.normal(0, 0.1, (len(rows), width))
    found = by_name(decode(rows, embedding_ND.astype(np.float32)))
    assert found["site"]["value"] > 0.95
    assert found["site"]["chance"] == pytest.approx(1 / 3)
    # The middle tertile lies between the others, where a linear decoder sees it worst.
    assert found["motion tertile"]["value"] > 0.85
    assert found["motion tertile"]["chance"] == 0.5
    assert (found["site"]["num_train"], found["site"]["num_test"]) == (NUM_TRAIN, NUM_TEST)


def test_an_embedding_of_noise_tells_neither():
    values = {"site": [], "motion tertile": []}
    for seed in range(12):
        generator = np.random.default_rng(seed)
        rows = people(generator)
        for name, row in by_name(decode(rows, generator.normal(size=(len(rows), WIDTH)))).items():
            values[name].append(row["value"])
    # Twelve means of 60 people: the standard errors are near 0.018 and 0.012.
    assert np.mean(values["site"]) == pytest.approx(1 / 3, abs=0.06)
    assert np.mean(values["motion tertile"]) == pytest.approx(0.5, abs=0.04)


def test_neither_test_people_nor_their_motion_shape_the_decoder():
    generator = np.random.default_rng(1)
    rows = people(generator)
    embedding_ND = generator.normal(size=(len(rows), WIDTH))
    embedding_ND[:, 0] += rows["site"] == "site0"
    embedding_ND[:, 1] += np.log(rows["mean_fd_mm"])
    # Some test people of a site that no other test person is of become wild, and all alike.
    wild = rows.index[(rows["role"] == "test") & (rows["site"] == "site2")]
    rows.loc[wild, "mean_fd_mm"] = np.nan
    embedding_ND[wild] = 10.0 ** np.arange(WIDTH)
    others = rows.index.difference(wild)
    site, motion = decode(rows, embedding_ND)
    site_alone, motion_alone = decode(rows.loc[others].reset_index(drop=True), embedding_ND[others])
    assert motion["value"] == motion_alone["value"]
    # Mean recall of three sites, of which the wild one is named for all of its people or for none.
    assert 3 * site["value"] - 2 * site_alone["value"] == pytest.approx(
        round(3 * site["value"] - 2 * site_alone["value"])
    )
    assert 0 < site_alone["value"] < 1


def test_under_leave_site_out_no_site_is_asked_about_but_motion_is():
    generator = np.random.default_rng(2)
    rows = people(generator)
    rows["site"] = np.where(rows["role"] == "test", "new", rows["site"])
    found = by_name(decode(rows, generator.normal(size=(len(rows), WIDTH))))
    assert found["site"]["note"] == "not run: test sites are unseen"
    assert found["site"]["value"] is None
    assert np.isfinite(found["motion tertile"]["value"])


def test_small_sites_and_unknown_motion_are_not_asked_about():
    generator = np.random.default_rng(3)
    rows = people(generator, num_sites=2)
    train = rows.index[rows["role"] == "train"]
    rows.loc[train[: MIN_SITE_PEOPLE - 1], "site"] = "small"
    rows.loc[rows.index[-3:], "site"] = "small"
    rows.loc[train[:91], "mean_fd_mm"] = np.nan
    found = by_name(decode(rows, generator.normal(size=(len(rows), WIDTH))))
    assert (found["site"]["num_train"], found["site"]["num_test"]) == (NUM_TRAIN - MIN_SITE_PEOPLE + 1, NUM_TEST - 3)
    assert found["motion tertile"]["note"] == "not run: 29 training people with known head motion, 30 needed"
    rows["site"] = None
    (site, _) = decode(rows, generator.normal(size=(len(rows), WIDTH)))
    assert site["note"] == "not run: 0 sites with 10 training people or more, 2 needed"


def test_of_several_cohorts_one_that_names_no_site_is_one():
    generator = np.random.default_rng(4)
    rows = people(generator, num_sites=2)
    rows["cohort"] = np.where(rows["site"] == "site0", "abide", "taowu")
    rows["site"] = rows["site"].where(rows["cohort"] == "abide", None)
    embedding_ND = generator.normal(0, 0.1, (len(rows), WIDTH))
    embedding_ND[:, 0] += rows["cohort"] == "taowu"
    assert decode(rows, embedding_ND)[0]["value"] > 0.95


def test_motion_that_is_alike_for_everyone_has_no_tertiles():
    generator = np.random.default_rng(5)
    rows = people(generator).assign(mean_fd_mm=0.1)
    found = by_name(decode(rows, generator.normal(size=(len(rows), WIDTH))))
    assert found["motion tertile"]["note"] == "not run: head motion has no three tertiles among training people"


@pytest.mark.filterwarnings("error")
def test_a_tertile_of_fewer_people_than_inner_folds_is_not_asked_about():
    rows = people(np.random.default_rng(2))
    # Ties: two thirds hardly moved, two people lie between them and the rest.
    rows["mean_fd_mm"] = np.resize(np.repeat([0.05, 0.1, 0.2], [80, 2, 38]), len(rows))
    motion = by_name(decode(rows, np.random.default_rng(0).normal(size=(len(rows), WIDTH))))["motion tertile"]
    assert motion["note"] == "not run: head motion has no three tertiles among training people"
