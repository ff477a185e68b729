"""An estimator on a fold: its threshold, its second fit, and what it cannot answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.metrics import balanced_accuracy_score

from lcm.config import Model, Task
from lcm.models import MODELS, architecture
from lcm.models.labelled import Labelled
from lcm.training.data import labels_of, read_cohort, scans_of, tables_of
from lcm.training.estimators import fit_estimator, validation_threshold, youden_threshold
from lcm.training.weights import Unanswerable

SEX = Task.model_validate({"target": "sex", "levels": ["female", "male"]})
AGE = Task.model_validate({"target": "age"})
RIDGE = Model.model_validate({"architecture": "ridge"})
ESTIMATORS = [name for name, entry in MODELS.items() if entry.kind == "estimator"]


@pytest.fixture
def cohort(study):
    """Training and validation people, with a mean FD for everybody and two sites."""
    found = read_cohort(tables_of(study.flags()), fold=0, roles=("train", "validation"))
    generator = np.random.default_rng(0)
    measured = found.measured | {"mean_fd_mm": generator.gamma(4, 0.05, len(found.rows))}
    return replace(found, measured=measured)


def known(cohort, role: str, task: Task) -> Labelled:
    part = cohort.of_role(role)
    return Labelled(scans_of(part), labels_of(part, task.target, task.levels).value_N)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_answers_a_task_of_levels_with_probabilities(cohort, name):
    fitted = fit_estimator(Model(architecture=name), SEX, cohort, refit=False)
    scores_NK = architecture(name).load()(fitted.arrays).predict(known(cohort, "validation", SEX).scans)
    assert scores_NK.shape == (12, 2)
    np.testing.assert_allclose(scores_NK.sum(axis=1), 1, atol=1e-6)
    assert fitted.manifest["vocabulary"] == {"sex": ("female", "male")}
    stored = load(save({key: np.require(array, requirements="C") for key, array in fitted.arrays.items()}))
    again_NK = architecture(name).load()(stored).predict(known(cohort, "validation", SEX).scans)
    np.testing.assert_array_equal(again_NK, scores_NK)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if MODELS[name].continuous])
def test_every_other_estimator_answers_a_continuous_task(cohort, name):
    fitted = fit_estimator(Model(architecture=name), AGE, cohort, refit=True)
    values_N1 = architecture(name).load()(fitted.arrays).predict(known(cohort, "validation", AGE).scans)
    assert values_N1.shape == (12, 1)
    # Ages are 20 to 60, 40 on average; nobody's answer leaves that by much.
    assert 10 < values_N1.min() <= values_N1.max() < 70
    assert fitted.manifest["results"] == {}


def test_fitted_again_it_has_learned_from_the_validation_people_too(cohort):
    once, twice = (fit_estimator(RIDGE, SEX, cohort, refit=again) for again in (False, True))
    training, validation = (cohort.of_role(role).edges_NE.astype(float) for role in ("train", "validation"))
    np.testing.assert_allclose(once.arrays["mean_E"], training.mean(axis=0))
    np.testing.assert_allclose(twice.arrays["mean_E"], np.concatenate([training, validation]).mean(axis=0))
    assert once.arrays["penalty"] == twice.arrays["penalty"]
    assert once.manifest == twice.manifest


def test_the_threshold_is_the_validation_peoples_by_the_first_fit(cohort):
    fitted = fit_estimator(RIDGE, SEX, cohort, refit=False)
    validation = known(cohort, "validation", SEX)
    scores_N = architecture("ridge").load()(fitted.arrays).predict(validation.scans)[:, 1]
    best = max(balanced_accuracy_score(validation.target_N, scores_N >= t) for t in scores_N)
    threshold = fitted.manifest["results"]["threshold"]
    assert balanced_accuracy_score(validation.target_N, scores_N >= threshold) == best
    assert threshold in scores_N


def test_youdens_threshold_of_a_case_by_hand():
    truth_N, score_N = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    # At 0.5: sensitivity 2/3, specificity 1, J = 0.67; at 0.3: 1 and 2/3, the same. The higher one is taken.
    assert youden_threshold(truth_N, score_N) == 0.5
    assert youden_threshold(1 - truth_N, -score_N) == -0.2
    with pytest.raises(ValueError, match="people of both"):
        youden_threshold(np.ones(3), score_N[:3])


def test_a_person_of_many_scans_counts_once_by_their_mean(cohort):
    validation = cohort.of_role("validation")
    labels_N = labels_of(validation, "sex", SEX.levels).value_N
    scores_N = np.where(labels_N == 1, 0.6, 0.4)
    alone = validation_threshold(validation, SEX, np.stack([1 - scores_N, scores_N], axis=1))
    assert alone == {"threshold": pytest.approx(0.6)}
    place_N = np.repeat(np.arange(12), 2)
    twice = replace(validation, rows=validation.rows.iloc[place_N], edges_NE=validation.edges_NE[place_N], measured={})
    jittered_N = np.repeat(scores_N, 2) + np.tile([0.3, -0.3], 12)
    found = validation_threshold(twice, SEX, np.stack([1 - jittered_N, jittered_N], axis=1))
    assert found == {"threshold": pytest.approx(0.6)}


def test_without_both_levels_or_with_more_there_is_no_threshold(cohort):
    one = cohort.of_role("validation").keep(labels_of(cohort.of_role("validation"), "sex", SEX.levels).value_N == 1)
    assert validation_threshold(one, SEX, np.full((len(one.rows), 2), 0.5)) == {}
    assert validation_threshold(cohort, AGE, np.zeros((12, 1))) == {}


def test_what_is_asked_is_no_covariate(cohort):
    fitted = fit_estimator(Model(architecture="age-sex"), SEX, cohort, refit=False)
    assert "names.sex" not in fitted.arrays
    assert "mean.age" in fitted.arrays


def test_motion_is_not_told_by_motion(cohort):
    task = Task.model_validate({"target": "motion", "allow_covariate": True})
    moved = replace(cohort, rows=cohort.rows.assign(motion="0.2", motion_source="observed"))
    assert "mean.mean_fd_mm" in fit_estimator(Model(architecture="all-confounds"), SEX, moved, refit=False).arrays
    assert "mean.mean_fd_mm" not in fit_estimator(Model(architecture="all-confounds"), task, moved, refit=False).arrays


def test_a_row_that_lacks_its_covariate_is_not_run_and_says_why(cohort):
    unmoved = replace(cohort, measured=cohort.measured | {"mean_fd_mm": np.full(len(cohort.rows), np.nan)})
    with pytest.raises(Unanswerable, match=r"^motion: no training scan has mean_fd_mm"):
        fit_estimator(Model(architecture="motion"), SEX, unmoved, refit=False)


@pytest.mark.parametrize(
    ("made", "said"),
    [({"correlate.kind": "partial correlation"}, "partial correlation"), ({"correlate.fisher_z": True}, "Fisher z")],
)
def test_what_reads_correlations_is_not_run_on_anything_else(cohort, made, said):
    other = replace(cohort, preprocessing=(*cohort.preprocessing, made))
    with pytest.raises(Unanswerable, match=f"^tangent reads correlations, and these connectomes are {said}$"):
        fit_estimator(Model(architecture="tangent"), SEX, other, refit=False)
    assert fit_estimator(RIDGE, SEX, other, refit=False).arrays
