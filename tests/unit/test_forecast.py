"""Forecasts: known autocorrelation gives known scores, all are asked the same frames, and nobody tested has taught."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import lfilter

from lcm.config import SETTINGS, Forecast
from lcm.evaluation.forecast import HORIZON_FILE, Asked, check_points, main, methods, scale_of, score
from lcm.evaluation.horizon import HORIZON, moments_of, scores_by_step, sums_by_step
from lcm.evaluation.moments import SUMS, moments, pooled
from lcm.models.autoregression import Persistence
from lcm.models.series_network import Reconstruction, Windows
from lcm.probe_tables import FORECAST, read_moments
from lcm.tables import BEI, SCANS, read_tsv, write_tsv
from lcm.training.data import Cohort, Tables
from lcm.training.start import read_learners
from lcm.training.weights import read_manifest
from tests.planted_recordings import write_recordings

NUM_REGIONS, NUM_VOLUMES, NUM_FRAMES, NUM_AHEAD = 4, 200, 40, 5
REGIONS = [f"region{i}" for i in range(NUM_REGIONS)]
PHI = 0.8
SIZE = {"num_frames": NUM_FRAMES}
PERSISTENCE = {"architecture": "persistence", "size": SIZE}
AR1 = {"architecture": "ar1", "size": SIZE}
LSTM = {"architecture": "lstm", "size": SIZE | {"width": 8, "num_layers": 1}}
BRAINLM_SIZE = {"patch_frames": 5, "width": 16, "feedforward": 16, "num_heads": 2, "num_layers": 1, "conv_kernel": 3}
BRAINLM = {"architecture": "brainlm", "size": SIZE | BRAINLM_SIZE | {"decoder_layers": 1}}


def autoregressive(num_volumes: int, generator: np.random.Generator) -> np.ndarray:
    """AR(1) of unit variance in every region, half precision."""
    noise_TR = np.sqrt(1 - PHI**2) * generator.standard_normal((num_volumes, NUM_REGIONS))
    noise_TR[0] /= np.sqrt(1 - PHI**2)
    return lfilter([1], [1, -PHI], noise_TR, axis=0).astype(np.float16)


class Recorded:
    """The small study with a recording for each scan, which tests may change, and the stages on it."""

    def __init__(self, study) -> None:
        self.study, self.number = study, 0
        generator = np.random.default_rng(11)
        self.runs = {scan: autoregressive(NUM_VOLUMES, generator) for scan in study.people["scan"]}

    def run(self, model: dict, settings: dict | None = None, *, stage: str = "forecast", **more: object) -> Path:
        """The output of a stage on the recordings as they are now."""
        scans = read_tsv(self.study.folder / "scans.tsv", SCANS)
        for (dataset, batch), rows in scans.groupby(["dataset", "batch"]):
            path = self.study.folder / "collect" / dataset / f"{batch}.arrow"
            write_recordings(path, list(rows["scan"]), [self.runs[scan] for scan in rows["scan"]], REGIONS)
        self.number += 1
        flags = {"protocol": "kfold", "model": "m", "model_definition": json.dumps(model), "fold": 0, "weights": None}
        flags |= {"checkpoint": None, "resume": "auto", "log_folder": None, "connectomes": None, "accelerator": "cpu"}
        flags |= {"recordings": self.study.folder / "collect", "output": self.study.folder / f"out-{self.number}"}
        wanted = {"horizon_volumes": NUM_AHEAD} if stage == "forecast" else {}
        learning = {"max_epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
        options = self.study.flags()
        vars(options).update(flags | more)
        options.settings = SETTINGS[stage].model_validate(learning | wanted | (settings or {}))
        if stage == "forecast":
            assert main(options) is None
        else:
            from lcm.training.pretrain import main as pretrain

            pretrain(options)
        return options.output

    def moments(self, model: dict, settings: dict | None = None, **more: object) -> pd.DataFrame:
        """forecast.parquet of a forecaster."""
        return read_moments(self.run(model, settings, **more) / FORECAST)


@pytest.fixture
def recorded(study) -> Recorded:
    return Recorded(study)


def of(frame: pd.DataFrame, method: str, part: str = "held-out") -> pd.DataFrame:
    return frame[(frame["method"] == method) & (frame["part"] == part)].reset_index(drop=True)


def test_sums_by_step_are_the_moments_of_their_points():
    generator = np.random.default_rng(0)
    target_BKR, told_BKR = generator.standard_normal((2, 3, 5, 4))
    scored_BKR = generator.random((3, 5, 4)) < 0.6
    target_BKR[~scored_BKR] = np.nan
    sums_BKS = sums_by_step(target_BKR, told_BKR, scored_BKR)
    for step in range(5):
        expected = moments(target_BKR[1, step], told_BKR[1, step], scored_BKR[1, step])
        np.testing.assert_allclose(sums_BKS[1, step], [expected[name] for name in SUMS], rtol=1e-12)
    whole = moments_of(sums_BKS).sum()
    expected = moments(target_BKR, told_BKR, scored_BKR)
    np.testing.assert_allclose([whole[name] for name in SUMS], [expected[name] for name in SUMS], rtol=1e-12)
    by_step = scores_by_step(sums_BKS)
    assert by_step["step"].tolist() == [1, 2, 3, 4, 5]
    here = scored_BKR[:, 2]
    target, told = target_BKR[:, 2][here], told_BKR[:, 2][here]
    assert by_step["r"][2] == pytest.approx(np.corrcoef(target, told)[0, 1])
    assert by_step["mse"][2] == pytest.approx(((target - told) ** 2).mean())


def test_a_known_autocorrelation_gives_the_scores_that_follow_from_it(recorded):
    """Of AR(1) the best forecast k ahead has R² = φ²ᵏ, and the last frame repeated has 1 − 2 (1 − φᵏ)."""
    generator = np.random.default_rng(3)
    recorded.runs = {scan: autoregressive(1000, generator) for scan in recorded.runs}
    for model, expected in ((AR1, lambda k: PHI ** (2 * k)), (PERSISTENCE, lambda k: 1 - 2 * (1 - PHI**k))):
        folder = recorded.run(model)
        steps = of(read_tsv(folder / HORIZON_FILE, HORIZON), "network")
        np.testing.assert_allclose(steps["r2"], [expected(k) for k in range(1, NUM_AHEAD + 1)], atol=0.12)
        frame = read_moments(folder / FORECAST)
        overall = np.mean([expected(k) for k in range(1, NUM_AHEAD + 1)])
        assert pooled(of(frame, "network")).r2 == pytest.approx(overall, abs=0.06)
        assert pooled(of(frame, "mean")).r2 == pytest.approx(0, abs=0.03)
    # 20 test people × 25 windows × 5 frames × 4 regions; the scale is the interquartile range of a normal distribution.
    assert of(frame, "network")["num_points"].sum() == 10000
    assert pooled(of(frame, "mean")).mse == pytest.approx(1 / 1.349**2, rel=0.1)


def test_every_forecaster_and_method_is_asked_the_same_frames_on_one_scale(recorded):
    found = [recorded.moments(model) for model in (PERSISTENCE, AR1, LSTM, BRAINLM)]
    asked = [of(frame, method) for frame in found for method in ("network", "mean")]
    same = ["person_id", "scan", "dataset", "cohort", "num_points", "sum_target", "sum_target2"]
    for other in asked[1:]:
        pd.testing.assert_frame_equal(other[same], asked[0][same])
    assert (asked[0]["num_points"] == 5 * NUM_AHEAD * NUM_REGIONS).all()
    assert set(asked[0]["mask_ratio"]) == {NUM_AHEAD / NUM_FRAMES}
    assert set(asked[0]["masking"]) == {"future"}
    assert found[0]["num_parameters"].max() == 0
    assert found[2]["num_parameters"].min() > 100
    assert set(found[0]["num_train"]) == {28}


@pytest.mark.parametrize("model", [AR1, LSTM], ids=["ar1", "lstm"])
def test_what_a_test_person_holds_changes_nobody_elses_forecast(recorded, model):
    before = of(recorded.moments(model), "network")
    poisoned = before["scan"][0]
    recorded.runs[poisoned] = np.full((NUM_VOLUMES, NUM_REGIONS), 6e4, dtype=np.float16)
    recorded.runs[poisoned][:, 0] = np.nan
    after = of(recorded.moments(model), "network")
    others = before["scan"] != poisoned
    pd.testing.assert_frame_equal(after[others], before[others], check_exact=True)
    assert after["sum_target2"][0] > 1e6 * before["sum_target2"][0]
    assert after["num_points"][0] == before["num_points"][0] * 3 // 4


def test_training_people_teach_a_closed_form_and_its_scale_and_validation_people_do_not(recorded):
    before = of(recorded.moments(AR1), "network")
    for scan in recorded.study.people["scan"][10:16]:
        recorded.runs[scan] = recorded.runs[scan] * np.float16(3)
    pd.testing.assert_frame_equal(of(recorded.moments(AR1), "network"), before, check_exact=True)
    for scan in recorded.study.people["scan"][20:30]:
        recorded.runs[scan] = recorded.runs[scan] * np.float16(3)
    after = of(recorded.moments(AR1), "network")
    assert (after["sum_predicted"] != before["sum_predicted"]).all()
    assert (after["sum_target2"] < 0.9 * before["sum_target2"]).all()


def test_datasets_that_are_not_learned_from_are_external_and_scaled_like_the_others(recorded):
    people = recorded.study.people
    for scan in people.loc[people["dataset"] == "BBB", "scan"]:
        recorded.runs[scan] = recorded.runs[scan] * np.float16(2)
    frame = recorded.moments(AR1, {"datasets": ["AAA"]})
    held_out, external = of(frame, "network"), of(frame, "network", "external")
    assert sorted(held_out["scan"]) == sorted(people["scan"][:10])
    assert sorted(external["scan"]) == sorted(people.loc[people["dataset"] == "BBB", "scan"])
    assert pooled(of(frame, "mean", "external")).mse == pytest.approx(4 * pooled(of(frame, "mean")).mse, rel=0.2)
    assert pooled(external).r2 == pytest.approx(pooled(held_out).r2, abs=0.1)
    assert set(frame["num_train"]) == {14}


def test_a_person_of_two_datasets_who_taught_is_left_out_of_the_external_ones(recorded):
    rows = read_tsv(recorded.study.folder / "bei.tsv", BEI)
    twin = rows["scan"] == "sub-50_task-rest"
    assert rows.loc[twin, "dataset"].item() == "BBB"
    rows.loc[twin, "person_id"] = "aaa:20"
    write_tsv(rows, recorded.study.folder / "bei.tsv", BEI)
    external = of(recorded.moments(AR1, {"datasets": ["AAA"]}), "network", "external")
    assert len(external) == 29
    assert "sub-50_task-rest" not in set(external["scan"])


def test_a_forecaster_may_begin_with_masked_weights_of_its_own_fold_only(recorded):
    pretrained = BRAINLM | {"start": "pretrained"}
    masked = {"mask_ratio": 0.5, "datasets": ["AAA"]}
    weights = recorded.run(pretrained, masked, stage="pretrain")
    assert read_manifest(weights).tokens == ()
    frozen = {"datasets": ["AAA"], "max_epochs": 1, "learning_rate": 1e-12}
    begun = of(recorded.moments(pretrained, frozen, weights=weights), "network")
    fresh = of(recorded.moments(BRAINLM, frozen | {"seed": 5}), "network")
    other = of(recorded.moments(pretrained, frozen | {"seed": 5}, weights=weights), "network")
    # Weights bring a scale of their own, and are scored on that of the people at hand.
    pd.testing.assert_frame_equal(begun[["scan", "sum_target2"]], fresh[["scan", "sum_target2"]])
    np.testing.assert_allclose(begun["sum_predicted"], other["sum_predicted"], rtol=1e-3)
    assert not np.allclose(begun["sum_predicted"], fresh["sum_predicted"], rtol=1e-2)
    with pytest.raises(ValueError, match="whom fold 1 tests"):
        recorded.run(pretrained, frozen, weights=weights, fold=1)
    everyone = recorded.run(pretrained, {"mask_ratio": 0.5}, stage="pretrain")
    with pytest.raises(ValueError, match="pretraining has seen 20 people of BBB"):
        recorded.run(pretrained, frozen, weights=everyone)
    with pytest.raises(ValueError, match="--weights is not given"):
        recorded.run(pretrained, frozen)
    with pytest.raises(ValueError, match="start: scratch"):
        recorded.run(BRAINLM, frozen, weights=weights)


def test_short_recordings_are_left_out_and_all_short_is_an_error(recorded):
    short, long = recorded.study.people["scan"][0], recorded.study.people["scan"][1]
    recorded.runs[short] = recorded.runs[short][: NUM_FRAMES - 1]
    recorded.runs[long] = recorded.runs[long][:NUM_FRAMES]
    found = of(recorded.moments(PERSISTENCE), "network").set_index("scan")
    assert short not in found.index
    assert found.loc[long, "num_points"] == NUM_AHEAD * NUM_REGIONS
    with pytest.raises(ValueError, match="no train person has a recording of 400 frames"):
        recorded.run({"architecture": "persistence", "size": {"num_frames": 400}})


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        (PERSISTENCE, {"horizon_volumes": NUM_FRAMES}, "nothing would be left to forecast from"),
        ({"architecture": "vae"}, {}, "cannot fill in the last frames"),
        ({"architecture": "ridge"}, {}, "cannot fill in the last frames"),
        (PERSISTENCE, {"keep": "best-on-test"}, "chosen by validation people"),
        (PERSISTENCE, {"combat": {}}, "forecasters read series"),
        (BRAINLM, {"learning_rate": 1e30}, "lower learning_rate"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(recorded, model, settings, reason):
    with pytest.raises(ValueError, match=reason):
        recorded.run(model, settings)


def learners_of(recorded: Recorded) -> Cohort:
    """Training and validation people of fold 0, with their recordings."""
    recorded.run(PERSISTENCE)
    folder = recorded.study.folder
    tables = Tables(*(folder / name for name in ("bei.tsv", "folds.tsv", "scans.tsv")), None, folder / "collect")
    return read_learners(tables, 0, Forecast())


def test_the_scale_that_weights_learned_in_does_not_matter_to_the_score(recorded):
    """To repeat the last frame is the same in any scale, so all sums must be."""
    cohort, asked = learners_of(recorded), Asked(NUM_FRAMES, NUM_AHEAD)
    scale = scale_of(cohort)
    found = []
    for median in (0.0, 7.0):
        network = Persistence(NUM_REGIONS, (), num_frames=NUM_FRAMES)
        quartiles_3R = np.array([[median - 1], [median], [median + 4]]) * np.ones(NUM_REGIONS)
        network.fit_series(quartiles_3R, np.zeros((NUM_REGIONS, 3)))
        found.append(score(network, cohort, asked, scale, "cpu"))
    np.testing.assert_allclose(found[1]["network"], found[0]["network"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[1]["mean"], found[0]["mean"])
    assert found[0]["network"].std() > 0.1


class Coarse(Persistence):
    """Scores whole patches of ten frames, as a network would that cannot cut them."""

    def reconstruct(self, windows: Windows) -> Reconstruction:
        found = super().reconstruct(windows)
        scored_BTR = torch.zeros_like(found.scored_BTR)
        scored_BTR[:, -10:] = True
        return found._replace(scored_BTR=scored_BTR)


def test_a_network_that_fills_in_other_frames_is_refused_before_it_learns(recorded):
    learners = learners_of(recorded)
    network = Coarse(NUM_REGIONS, (), num_frames=NUM_FRAMES)
    check_points(network, learners, Asked(NUM_FRAMES, 10))
    with pytest.raises(ValueError, match="its patches divide"):
        check_points(network, learners, Asked(NUM_FRAMES, NUM_AHEAD))


def test_a_finished_run_leaves_its_scores_and_no_checkpoint(recorded):
    checkpoint = recorded.study.folder / "checkpoint"
    folder = recorded.run(LSTM, checkpoint=checkpoint)
    assert {path.name for path in folder.iterdir()} == {FORECAST, HORIZON_FILE}
    assert not checkpoint.exists()


def test_the_methods_say_what_was_forecast_and_by_whom():
    text = methods(Forecast(horizon_volumes=20))
    assert "last 20 frames" in text
    assert "people they had not seen" in text
