"""BrainLM in the shared loop: what its bundle keeps, whom it was scaled by, where it fits, and the very losses of one run.

`PYTHONPATH=. python tests/unit/test_masked_pretraining.py` makes tests/golden/brainlm_losses.json anew, after a change
that means to change them.
"""

# Shapes: T frames, R regions.

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from lcm.config import Training
from lcm.models import architecture
from lcm.models.brainlm import BrainLM
from lcm.models.series_network import MaskedLoss, Masking, RobustScaling
from lcm.tables import read_arrow, write_arrow
from lcm.training.data import Cohort, read_cohort, tables_of
from lcm.training.loop import seed_everything, train
from lcm.training.networks import fit_inputs
from lcm.training.recordings import Recordings, Windowed
from lcm.training.weights import WEIGHTS, hash_people, load_bundle, read_manifest
from tests.planted_recordings import planted_runs, write_study_recordings
from tests.small_run import on_cpu
from tests.unit.conftest import REGIONS

GOLDEN = Path(__file__).parents[1] / "golden" / "brainlm_losses.json"
SIZE = {"num_frames": 20, "patch_frames": 10, "width": 16, "feedforward": 16, "num_layers": 1, "num_heads": 2}
MODEL = {"architecture": "brainlm", "start": "pretrained", "size": SIZE | {"decoder_layers": 1, "conv_kernel": 3}}
LCM = {"architecture": "lcm", "size": {"num_layers": 1, "width": 16, "num_heads": 2, "feedforward": 16}}
SEX = {"target": "sex", "levels": ["female", "male"]}
SHORT = {"max_epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
STILL = SHORT | {"max_epochs": 1, "learning_rate": 1e-12}


@pytest.fixture
def record(study) -> Callable[[], dict[str, object]]:
    """Write the study's recordings, garbage in those of some rows, and return the flags that name them."""

    def write(garbage: tuple[int, ...] = ()) -> dict[str, object]:
        runs = planted_runs(study.people, len(REGIONS))
        for place in garbage:
            runs[place] = runs[place] * 40 + 300
        folder = write_study_recordings(study.folder / "collect", study.people, runs, REGIONS)
        return {"connectomes": None, "recordings": folder}

    return write


def restate(folder: Path, **changed: object) -> None:
    """Let every table say something else of how it was made."""
    for path in folder.rglob("*.arrow"):
        table = read_arrow(path)
        said = {
            name.encode(): value if isinstance(value, str) else json.dumps(value) for name, value in changed.items()
        }
        rows = table.to_pylist()
        metadata = table.schema.metadata | said
        del table
        schema = read_arrow(path).schema.with_metadata(metadata)
        write_arrow(type(read_arrow(path)).from_pylist(rows, schema=schema), path)


def arrays_in(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / WEIGHTS)


def alike(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def rows_of_role(study, role: str) -> np.ndarray:
    """Rows of `people` who have that role in fold 0."""
    rows = read_cohort(tables_of(study.flags()), fold=0, roles=(role,)).rows
    return np.flatnonzero(study.people["scan"].isin(rows["scan"]))


# ── who is learned from ─────────────────────────────────────────────────────────────────────────


def test_the_scale_is_that_of_the_training_people(study, run_stage, record):
    folder = run_stage("pretrain", "pre", SHORT, model=MODEL, **record())
    runs = planted_runs(study.people, len(REGIONS))
    frames_TR = (
        np.concatenate([runs[row] for row in rows_of_role(study, "train")]).astype(np.float16).astype(np.float64)
    )
    lower_R, median_R, upper_R = np.quantile(frames_TR, (0.25, 0.5, 0.75), axis=0, method="inverted_cdf")
    arrays, manifest = arrays_in(folder), read_manifest(folder)
    np.testing.assert_allclose(arrays["scaling.median_R"], median_R, rtol=1e-6)
    np.testing.assert_allclose(arrays["scaling.iqr_R"], upper_R - lower_R, rtol=1e-6)
    np.testing.assert_array_equal(arrays["places_R3"], [[i, 10 * i, 0] for i in range(len(REGIONS))])
    assert (manifest.vocabulary, manifest.tokens) == ({}, ())
    for role, listed in (("train", manifest.training_people), ("validation", manifest.validation_people)):
        assert set(listed) == set(hash_people(study.people["person_id"].iloc[rows_of_role(study, role)]))


def test_the_published_scale_is_the_series_less_median_by_iqr(run_stage, record):
    flags = record()
    own, published = (
        arrays_in(run_stage("pretrain", kind, STILL | {"scaling": kind}, model=MODEL, **flags))
        for kind in ("robust", "published")
    )
    np.testing.assert_allclose(published["scaling.median_R"], own["scaling.median_R"] / own["scaling.iqr_R"], rtol=1e-6)
    np.testing.assert_array_equal(published["scaling.iqr_R"], 1.0)
    scaling = RobustScaling(1)
    scaling.fit(np.array([[1.0], [6.0], [3.0]]), "published")
    assert scaling(torch.tensor([[[10.0]]]))[0].item() == 10 - 6 / 2


def test_garbage_in_the_tested_leaves_no_trace_and_in_others_it_does(study, run_stage, record):
    tested, judges, learners = (tuple(rows_of_role(study, role)) for role in ("test", "validation", "train"))

    def weights(name: str, garbage: tuple[int, ...]) -> dict[str, np.ndarray]:
        return arrays_in(run_stage("pretrain", name, SHORT | {"keep": "last"}, model=MODEL, **record(garbage)))

    clean = weights("clean", ())
    assert alike(weights("tested", tested), clean)
    # With `keep: last` who validates decides nothing, and the scale is not theirs.
    assert alike(weights("judged", judges), clean)
    assert not np.array_equal(weights("learned", learners[:9])["scaling.iqr_R"], clean["scaling.iqr_R"])


def test_only_the_datasets_and_the_share_that_are_asked_for_teach(study, run_stage, record):
    flags = record()
    folder = run_stage("pretrain", "one", SHORT | {"datasets": ["BBB"], "train_share": 0.5}, model=MODEL, **flags)
    taught = set(read_manifest(folder).training_people)
    training = study.people.iloc[rows_of_role(study, "train")]
    there = set(hash_people(training.loc[training["dataset"] == "BBB", "person_id"]))
    assert taught < there
    assert len(taught) == len(there) / 2


@pytest.mark.parametrize("absent", ["train", "validation"])
def test_without_anybody_to_learn_from_or_to_judge_by_it_says_who_is_missing(study, run_stage, record, absent):
    flags = record()
    nobody = study.people.iloc[rows_of_role(study, absent)]["scan"].tolist()
    for path in Path(flags["recordings"]).rglob("*.arrow"):
        rows = read_arrow(path).to_pylist()
        schema = read_arrow(path).schema
        gone = {"outcome": "excluded: fewer than 60 volumes kept"}
        told = [row | gone if row["scan"] in nobody else row for row in rows]
        write_arrow(type(read_arrow(path)).from_pylist(told, schema=schema), path)
    with pytest.raises(ValueError, match=f"no {absent} person of AAA, BBB .pretrain.datasets. has a recording"):
        run_stage("pretrain", "none", SHORT | {"datasets": ["AAA", "BBB"]}, model=MODEL, **flags)


def test_a_window_longer_than_every_recording_is_refused_because_nothing_would_be_learned(run_stage, record):
    model = MODEL | {"size": MODEL["size"] | {"num_frames": 400}}
    with pytest.raises(
        ValueError, match=r"no training recording is as long as a window: size\.num_frames is 400, and the longest"
    ):
        run_stage("pretrain", "long", SHORT, model=model, **record())


def test_what_judges_is_hidden_alike_in_every_epoch_and_what_teaches_is_not(run_stage, record, study):
    log = study.folder / "log"
    settings = SHORT | {"max_epochs": 4, "learning_rate": 1e-12, "patience": 4, "keep": "last"}
    run_stage(
        "pretrain",
        "pre",
        settings,
        model=MODEL | {"size": MODEL["size"] | {"dropout": 0.0}},
        log_folder=log,
        **record(),
    )
    table = np.genfromtxt(log / "metrics.csv", delimiter=",", names=True)
    assert len(set(np.round(table["validation_loss"], 6))) == 1
    assert len(set(np.round(table["training_loss"], 6))) == 4


# ── what goes on from a bundle ──────────────────────────────────────────────────────────────────


@pytest.fixture
def pretrained(run_stage, record) -> tuple[Path, dict[str, object]]:
    """A bundle of two epochs on fold 0, and the flags of the recordings behind it."""
    flags = record()
    return run_stage("pretrain", "pre", SHORT, model=MODEL, **flags), flags


def test_a_reader_keeps_scale_and_encoder_and_leaves_the_decoder(run_stage, pretrained):
    folder, flags = pretrained
    before = arrays_in(folder)
    # Other people than those that pretraining saw: their scale would be another.
    task = SEX | {"cohorts": ["aaa"]}
    after = arrays_in(run_stage("finetune", "out", STILL, model=MODEL, task=task, weights=folder, **flags))
    decoder = {name for name in before if name.startswith("decoder.")}
    assert decoder
    assert set(before) - set(after) == decoder
    assert {name.split(".")[0] for name in set(after) - set(before)} == {"hidden", "head"}
    for name in set(before) - decoder:
        np.testing.assert_allclose(after[name], before[name], atol=1e-9, err_msg=name)
    for name in ("scaling.median_R", "scaling.iqr_R", "places_R3"):
        np.testing.assert_array_equal(after[name], before[name])
    scratch = run_stage("finetune", "own", STILL, model=MODEL | {"start": "scratch"}, task=task, **flags)
    assert not np.array_equal(arrays_in(scratch)["scaling.median_R"], before["scaling.median_R"])


def test_a_frozen_encoder_stays_bit_for_bit(run_stage, pretrained):
    folder, flags = pretrained
    frozen = run_stage("finetune", "out", SHORT | {"trunk": "freeze"}, model=MODEL, task=SEX, weights=folder, **flags)
    before, after = arrays_in(folder), arrays_in(frozen)
    assert all(np.array_equal(before[name], after[name]) for name in set(before) & set(after))
    free = arrays_in(run_stage("finetune", "free", SHORT, model=MODEL, task=SEX, weights=folder, **flags))
    assert not np.array_equal(free["embedding.signal.weight"], before["embedding.signal.weight"])


def test_pretraining_goes_on_from_a_bundle_with_its_decoder(run_stage, pretrained):
    folder, flags = pretrained
    more = SHORT | {"init_from": str(folder), "learning_rate": 1e-12}
    further = run_stage("pretrain", "more", more, model=MODEL, **flags)
    before, after = arrays_in(folder), arrays_in(further)
    assert set(before) == set(after)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-9, err_msg=name)
    seen = read_manifest(folder)
    assert set(read_manifest(further).pretraining_people) == {*seen.training_people, *seen.validation_people}


def test_weights_that_saw_a_tested_person_are_refused(run_stage, pretrained):
    folder, flags = pretrained
    with pytest.raises(ValueError, match="have seen 20 of the 20 people whom fold 1 tests"):
        run_stage("finetune", "out", SHORT, model=MODEL, task=SEX, weights=folder, fold=1, **flags)


@pytest.mark.parametrize(
    ("changed", "allowed", "message"),
    [
        ({"atlas": "other"}, "atlas", "weights of atlas 'tiny', connectomes of atlas 'other'"),
        ({"regions": REGIONS[::-1]}, "regions", "region 1 is 'region00' for the weights and 'region09'"),
        ({"fingerprint": {"collect.normalize": "zscore"}}, "preprocessing", "the weights learned from 9P"),
    ],
)
def test_recordings_made_otherwise_are_refused_unless_that_is_allowed(run_stage, pretrained, changed, allowed, message):
    folder, flags = pretrained
    restate(flags["recordings"], **changed)
    with pytest.raises(ValueError, match=f"{message}.*allow: \\[{allowed}\\]"):
        run_stage("finetune", "out", STILL, model=MODEL, task=SEX, weights=folder, **flags)
    accepted = STILL | {"allow": [allowed]}
    assert run_stage("finetune", "out", accepted, model=MODEL, task=SEX, weights=folder, **flags).is_dir()


def test_another_window_or_width_is_refused_and_another_pooling_is_not(run_stage, pretrained):
    folder, flags = pretrained
    for name, value in {"num_frames": 40, "width": 32}.items():
        other = MODEL | {"size": MODEL["size"] | {name: value}}
        with pytest.raises(ValueError, match=f"'{name}': {SIZE[name]}.*'{name}': {value}"):
            run_stage("finetune", "out", STILL, model=other, task=SEX, weights=folder, **flags)
    pooled = MODEL | {"size": MODEL["size"] | {"pool": "mean"}}
    assert run_stage("finetune", "out", STILL, model=pooled, task=SEX, weights=folder, **flags).is_dir()


def test_series_are_no_connectomes_and_connectomes_no_series(study, run_stage, pretrained):
    folder, flags = pretrained
    wanted = r"architecture 'brainlm' reads recordings, and is given --connectomes; give --recordings"
    with pytest.raises(ValueError, match=wanted):
        run_stage("finetune", "out", STILL, model=MODEL, task=SEX, weights=folder)
    with pytest.raises(ValueError, match=wanted):
        run_stage("pretrain", "out", SHORT, model=MODEL)
    with pytest.raises(ValueError, match=f"pre: these are weights whose {wanted}"):
        load_bundle(folder, read_cohort(tables_of(study.flags()), fold=0, roles=("test",)))
    for model in (LCM, {"architecture": "ridge"}):
        with pytest.raises(ValueError, match="reads connectomes, and is given --recordings; give --connectomes"):
            run_stage("finetune", "out", {}, model=model, task=SEX, **flags)


def test_an_atlas_without_centres_is_refused_where_they_are_read(run_stage, record):
    flags = record()
    restate(flags["recordings"], places_mm=[[float("nan")] * 3] * len(REGIONS))
    with pytest.raises(ValueError, match="BrainLM reads where regions are, and atlas tiny does not say it for all"):
        run_stage("pretrain", "out", SHORT, model=MODEL, **flags)
    learned = MODEL | {"size": MODEL["size"] | {"places": "learned"}}
    assert run_stage("pretrain", "out", SHORT, model=learned, **flags).is_dir()


# ── the very losses ─────────────────────────────────────────────────────────────────────────────


def test_windows_of_different_seconds_are_told(caplog):
    """80 frames of 2 s are 160 s, of 0.72 s they are 58 s; one rate says nothing."""
    runs = tuple(np.random.default_rng(n).normal(size=(90, 3)).astype(np.float16) for n in range(4))
    for tr_s, said in ((2.0, False), (0.72, True)):
        recordings = Recordings(
            runs, np.arange(4), np.array([2.0, 2.0, np.nan, tr_s]), ("a", "b", "c"), np.zeros((3, 3))
        )
        cohort = Cohort(pd.DataFrame(index=range(4)), np.empty((4, 0)), "tiny", ("a", "b", "c"), (), (), {}, recordings)
        caplog.clear()
        network = architecture("persistence").load()(3, (), num_frames=80)
        fit_inputs(network, cohort)
        assert ("80 frames is 58 to 160 s long" in caplog.text) is said


def waves(num_recordings: int, generator: np.random.Generator) -> Windowed:
    """Six regions, two by two in one phase of a wave of 9 frames, in noise of 0.3; runs of 10 to 39 frames, masked by 0.6."""
    runs = []
    for n in range(num_recordings):
        time_T = np.arange(10 + n % 30)[:, None]
        phase_R = np.repeat(generator.uniform(0, 2 * np.pi, 3), 2)
        run_TR = np.sin(2 * np.pi * time_T / 9 + phase_R) + 0.3 * generator.normal(size=(len(time_T), 6))
        runs.append(run_TR.astype(np.float16))
    checksum_N = np.arange(num_recordings) * 104729
    places_R3 = np.arange(18.0).reshape(6, 3) * 5 - 40
    recordings = Recordings(tuple(runs), checksum_N, np.full(num_recordings, 2.0), tuple("abcdef"), places_R3)
    return Windowed(recordings, 16, {}, Masking(0.6))


def golden_run() -> dict[str, list[float]]:
    """Losses of eight epochs with a rise, a cosine, decay and parts; no dropout, whose bits differ between builds of torch."""
    generator = np.random.default_rng(3)
    learning, judging = waves(48, generator), waves(16, generator)
    settings = Training(
        max_epochs=8, patience=8, batch_size=16, learning_rate=3e-3, weight_decay=0.1, seed=5,
        schedule="cosine", warmup_share=0.1, gradient_accumulation=2, max_gradient_norm=1.0,
    )  # fmt: skip
    seed_everything(settings.seed)
    size = {"patch_frames": 4, "width": 32, "feedforward": 48, "num_layers": 2, "num_heads": 4, "decoder_layers": 1}
    network = BrainLM(6, (), num_frames=16, conv_kernel=5, dropout=0.0, **size)
    network.fit_series(learning.recordings.quartiles(), learning.recordings.places_R3)
    state = train(network, MaskedLoss(), learning, judging, settings, devices=on_cpu())
    return {name: [row[name] for row in state.history] for name in ("training_loss", "validation_loss")}


def test_the_losses_of_a_run_are_what_they_were():
    frozen, found = json.loads(GOLDEN.read_text(encoding="utf-8")), golden_run()
    assert found.keys() == frozen.keys()
    for name, losses in frozen.items():
        assert found[name] == pytest.approx(losses, rel=1e-4), name


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_run(), indent=1) + "\n", encoding="utf-8")
