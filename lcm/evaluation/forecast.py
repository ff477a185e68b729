"""Forecast: how well the last frames of a window follow from those before, for people whom the forecaster has not seen."""

# Shapes: N scans, W windows, B of a pass, T frames, K of them ahead, R regions, S sums.

from __future__ import annotations

import copy
import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lcm.config import Forecast, Model
from lcm.evaluation.horizon import HORIZON, moments_of, scores_by_step, sums_by_step
from lcm.evaluation.moments import SUMS
from lcm.models import architecture, check_size
from lcm.probe_tables import EXTERNAL, FORECAST, FUTURE, HELD_OUT, MEAN, NETWORK, write_moments
from lcm.provenance import code_hash
from lcm.tables import BEI, TEST, TRAIN, VALIDATION, read_tsv, write_tsv
from lcm.training.checkpoint import Run, add_run_flags, remove_checkpoint, run_of
from lcm.training.data import ROLES, Cohort, Tables, add_model_flags, read_cohort, tables_of
from lcm.training.machine import add_machine_flags, machine_of
from lcm.training.start import Start, begin_network, check_fold, rate_in_words, read_learners, read_start
from lcm.training.weights import hash_person

if TYPE_CHECKING:
    from lcm.models.series_network import Masking, RobustScaling, SeriesNetwork, Windows
    from lcm.training.devices import Devices

log = logging.getLogger(__name__)

HORIZON_FILE = "horizon.tsv"


@dataclass(frozen=True)
class Asked:
    """What is forecast."""

    num_frames: int
    """Of a window."""
    num_ahead: int
    """How many of them, the last ones, are forecast."""

    @property
    def masking(self) -> Masking:
        """What is hidden of a window."""
        from lcm.models.series_network import Masking

        return Masking(self.num_ahead / self.num_frames, "future")


def arguments(parser: ArgumentParser) -> None:
    """Flags of the stage."""
    parser.add_argument("--protocol", required=True, help="name of the protocol in config.yaml")
    add_model_flags(parser)
    parser.add_argument("--weights", type=Path, nargs="?", help="bundle to start from, of pretrain on the same fold")
    add_run_flags(parser)
    add_machine_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the scores")


def methods(settings: Forecast) -> str:
    """Sentences for a paper's methods section."""
    kept = "lowest validation loss" if settings.keep == "best" else "last epoch"
    return (
        f"Forecasters told the last {settings.horizon_volumes} frames of a window from those before. They were trained on the "
        f"training people of each fold (AdamW, {rate_in_words(settings)}, weight decay "
        f"{settings.weight_decay:g}, batches of {settings.batch_size}, at most {settings.max_epochs} epochs, {kept}), on "
        "windows at random places, and scored on evenly spaced windows of people they had not seen; runs shorter than a "
        "window were left out. All forecasters were scored on the same frames, scaled by the median and interquartile range of "
        "every region over the training people."
    )


def main(options: Namespace) -> int | None:
    """Write the scores of one forecaster on one fold."""
    settings: Forecast = options.settings
    model = Model.model_validate(json.loads(options.model_definition))
    check_forecaster(options.model, model, options.weights, settings)
    tables, asked = tables_of(options), asked_of(model, settings)
    everyone = read_learners(tables, options.fold, settings, datasets=settings.datasets)
    learners = whole_windows(everyone, asked, "learning")
    _check_learners(learners, asked)
    start = _start(options.weights, learners, model, settings, tables, options.fold)
    network: Any = begin_network(model, learners, {}, start, seed=settings.seed, scaling=settings.scaling)
    check_points(network, learners, asked)
    identity = {"stage": "forecast", "model": model.model_dump(mode="json"), "code": code_hash("forecast")}
    run = run_of(options, identity)
    from lcm.training.devices import Devices
    from lcm.training.networks import num_parameters

    devices = Devices(machine_of(options), settings.precision)
    learn(network, learners, asked, settings, run, devices)
    if not devices.first:
        return 0
    known = {"protocol": options.protocol, "model": options.model, "fold": options.fold}
    about = {"masking": FUTURE, "mask_ratio": asked.masking.ratio, "num_parameters": num_parameters(network)}
    about |= {"train_share": 1.0, "num_train": learners.of_role(TRAIN).rows["person_id"].nunique()}
    own = start is None and settings.scaling == "robust"
    scale = copy.deepcopy(network.scaling) if own else scale_of(learners)
    # The tested people are read when nothing more is learned.
    found = [
        tables_of_part(part, cohort.rows, score(network, cohort, asked, scale, devices.place))
        for part, cohort in tested(tables, options.fold, asked, settings, everyone, start).items()
    ]
    moments, steps = (pd.concat(frames, ignore_index=True) for frames in zip(*found, strict=True))
    write_moments(moments.assign(**known, **about), options.output / FORECAST)
    write_tsv(steps.assign(**known), options.output / HORIZON_FILE, HORIZON)
    remove_checkpoint(options.checkpoint)
    return None


def check_forecaster(name: str, model: Model, weights: Path | None, settings: Forecast) -> None:
    """Raise ValueError for an entry that cannot forecast, or that contradicts `--weights`, and for settings without a sense."""
    if not architecture(model.architecture).forecasts:
        raise ValueError(f"forecaster '{name}': architecture '{model.architecture}' cannot fill in the last frames")
    if (model.start == "scratch") != (weights is None):
        raise ValueError(f"forecaster '{name}' has `start: {model.start}`, and --weights is {weights or 'not given'}")
    if settings.keep == "best-on-test":
        raise ValueError("forecast.keep: the epoch is chosen by validation people; use best or last")
    if settings.combat is not None:
        raise ValueError(
            "forecast.combat: it takes site effects out of connectivity, and forecasters read series; use null"
        )


def asked_of(model: Model, settings: Forecast) -> Asked:
    """Window and horizon; ValueError where the horizon leaves no frame to read."""
    num_frames = int(check_size(model.architecture, model.size)["num_frames"])
    if settings.horizon_volumes >= num_frames:
        raise ValueError(
            f"forecast.horizon_volumes is {settings.horizon_volumes}, and a window has num_frames {num_frames}: nothing would "
            "be left to forecast from"
        )
    return Asked(num_frames, settings.horizon_volumes)


def whole_windows(cohort: Cohort, asked: Asked, part: str) -> Cohort:
    """The scans that are at least a window long."""
    from lcm.training.networks import recordings_of

    long_N = recordings_of(cohort).num_frames_N >= asked.num_frames
    num_short = int((~long_N).sum())
    if num_short:
        log.info("%s: %d of %d recordings are shorter than a window and left out", part, num_short, len(long_N))
    return cohort.keep(long_N)


def _check_learners(learners: Cohort, asked: Asked) -> None:
    for role in (TRAIN, VALIDATION):
        if not (learners.rows["role"] == role).any():
            raise ValueError(f"no {role} person has a recording of {asked.num_frames} frames; make num_frames smaller")


def _start(
    folder: Path | None, learners: Cohort, model: Model, settings: Forecast, tables: Tables, fold: int
) -> Start | None:
    """The bundle that the forecaster starts from, checked against whom it is tested on; ValueError for one that answers."""
    if folder is None:
        return None
    start = read_start(folder, learners, model, settings, {})
    check_fold(folder, start, tables, fold, chosen_by_test=False)
    if start.bundle.tokens:
        raise ValueError(
            f"{folder}: weights that answer about {', '.join(start.bundle.vocabulary)}; start from masked ones"
        )
    return start


def check_points(network: SeriesNetwork, learners: Cohort, asked: Asked) -> None:
    """Raise ValueError unless the network is scored on every known frame of the horizon and on no other.

    Forecasters are compared, so each must be asked the same; one window tells before any is learned from.
    """
    import torch

    network.eval()
    first = next(windows_of_cohort(learners.keep(np.arange(len(learners.rows)) == 0), asked))[1]
    with torch.inference_mode():
        scored_BTR = network.reconstruct(first).scored_BTR
    ahead_T = torch.arange(asked.num_frames) >= asked.num_frames - asked.num_ahead
    if not torch.equal(scored_BTR, first.series_BTR.isfinite() & ahead_T[:, None]):
        raise ValueError(
            f"{type(network).__name__} does not fill in exactly the last {asked.num_ahead} of {asked.num_frames} frames; "
            "take a forecast.horizon_volumes that its patches divide"
        )


def windows_of_cohort(cohort: Cohort, asked: Asked) -> Iterator[tuple[NDArray[np.int64], Windows]]:
    """Evenly spaced windows of every recording, some at a time, with the place of the scan that each is of, (B,)."""
    from lcm.training.networks import recordings_of
    from lcm.training.recordings import tiled_windows

    return tiled_windows(recordings_of(cohort), asked.num_frames, asked.masking)


def learn(
    network: SeriesNetwork, learners: Cohort, asked: Asked, settings: Forecast, run: Run, devices: Devices
) -> None:
    """Fit a closed form on the training people, or train and leave the network at its best epoch for validation people."""
    from lcm.training.networks import train_masked

    training = learners.of_role(TRAIN)
    if getattr(network, "closed_form", False):
        closed: Any = network
        closed.fit_windows(windows for _, windows in windows_of_cohort(training, asked))
        return
    train_masked(training, learners.of_role(VALIDATION), network, asked.masking, settings, run=run, devices=devices)


def scale_of(learners: Cohort) -> RobustScaling:
    """The scale in which every forecaster is scored: the training people's, whatever its own weights learned in."""
    from lcm.models.series_network import RobustScaling
    from lcm.training.networks import recordings_of

    scale = RobustScaling(len(learners.regions))
    scale.fit(recordings_of(learners.of_role(TRAIN)).quartiles())
    return scale


def tested(
    tables: Tables, fold: int, asked: Asked, settings: Forecast, everyone: Cohort, start: Start | None
) -> dict[str, Cohort]:
    """Part → who is asked: the fold's test people of the datasets learned from, and everyone of the other ones.

    Left out of the latter is who is among `everyone` that was there to be learned from. Raises ValueError where the weights
    that the forecaster started from have seen people of the other datasets.
    """
    parts = {HELD_OUT: read_cohort(tables, fold=fold, roles=(TEST,), datasets=settings.datasets)}
    others = sorted(set(read_tsv(tables.bei, BEI)["dataset"]) - set(settings.datasets)) if settings.datasets else []
    if others:
        external = read_cohort(tables, fold=fold, roles=ROLES, datasets=others)
        # A person may be in several datasets, and all forecasters of the fold leave the same ones out.
        external = external.keep(~external.rows["person_id"].isin(everyone.rows["person_id"]).to_numpy())
        seen = set(start.people) if start else set()
        num_seen = sum(hash_person(person) in seen for person in set(external.rows["person_id"]))
        if num_seen:
            raise ValueError(
                f"pretraining has seen {num_seen} people of {', '.join(others)}, which forecast.datasets leaves to the test; "
                "make pretrain.datasets and forecast.datasets alike"
            )
        parts[EXTERNAL] = external
    return {part: whole_windows(cohort, asked, part) for part, cohort in parts.items()}


def score(
    network: SeriesNetwork, cohort: Cohort, asked: Asked, scale: RobustScaling, place: str
) -> dict[str, NDArray[np.float64]]:
    """Method → the sums of each scan and step, (N, K, S): the network's forecasts, and the training people's median.

    All are of the very same frames, on one scale. Raises ValueError for a forecast that is no number.
    """
    import torch

    from lcm.training.networks import ready

    ready(network, place)
    device = network.scaling.median_R.device
    sums = {name: np.zeros((len(cohort.rows), asked.num_ahead, len(SUMS))) for name in (NETWORK, MEAN)}
    with torch.inference_mode():
        for run_B, windows in windows_of_cohort(cohort, asked):
            there = windows._replace(series_BTR=windows.series_BTR.to(device), seed_B=windows.seed_B.to(device))
            found = network.reconstruct(there)
            told_BTR = found.predicted_BTR.float() * network.scaling.iqr_R + network.scaling.median_R
            told_BKR, target_BKR = (
                ((series_BTR[:, -asked.num_ahead :].cpu().float() - scale.median_R) / scale.iqr_R).numpy()
                for series_BTR in (told_BTR, windows.series_BTR)
            )
            scored_BKR = found.scored_BTR[:, -asked.num_ahead :].cpu().numpy()
            if not np.isfinite(told_BKR[scored_BKR]).all():
                raise ValueError(f"{type(network).__name__}: a forecast is no number; lower learning_rate")
            for name, answer_BKR in ((NETWORK, told_BKR), (MEAN, np.zeros_like(told_BKR))):
                np.add.at(sums[name], run_B, sums_by_step(target_BKR, answer_BKR, scored_BKR))
    network.to("cpu")
    return sums


def tables_of_part(
    part: str, rows: pd.DataFrame, sums: Mapping[str, NDArray[np.float64]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `moments`, one a scan and method, and of HORIZON, without the names and sizes of the forecaster."""
    who = rows[["cohort", "dataset", "person_id", "scan"]]
    moments = [who.assign(part=part, method=name, **moments_of(sums_NKS)) for name, sums_NKS in sums.items()]
    steps = [scores_by_step(sums_NKS).assign(part=part, method=name) for name, sums_NKS in sums.items()]
    return pd.concat(moments), pd.concat(steps)
