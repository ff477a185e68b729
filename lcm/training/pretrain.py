"""Pretrain: one network learns from one fold's training people: every BEI of the study, or to fill in hidden series."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.config import Model, Pretrain
from lcm.models import architecture, check_size
from lcm.provenance import code_hash
from lcm.tables import MISSING, TRAIN, VALIDATION
from lcm.training.checkpoint import Run, add_run_flags, remove_checkpoint, run_of
from lcm.training.data import Cohort, add_model_flags, check_reading, is_continuous, labels_of, levels_of, tables_of
from lcm.training.machine import add_machine_flags, machine_of
from lcm.training.site_correction import check_covariates
from lcm.training.site_correction import methods as combat_methods
from lcm.training.start import (
    begin_network,
    check_fold,
    correct_as,
    rate_in_words,
    read_learners,
    read_start,
    united,
)
from lcm.training.weights import Manifest, learned_from, save_bundle, summary

if TYPE_CHECKING:
    from lcm.models.token_network import TokenNetwork
    from lcm.training.devices import Devices
    from lcm.training.loop import State

log = logging.getLogger(__name__)


def arguments(parser: ArgumentParser) -> None:
    """Flags of the stage."""
    add_model_flags(parser)
    add_run_flags(parser)
    add_machine_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")


def methods(settings: Pretrain) -> str:
    """One sentence for a paper's methods section."""
    begun = " from the weights of another bundle" if settings.init_from else ""
    kept = {
        "best": "the epoch with the lowest validation loss",
        "last": "the last epoch",
        "best-on-test": "the epoch with the highest weighted F1 on the people who are tested later",
    }[settings.keep]
    return (
        f"Networks were pretrained{begun} on the training people of each fold (AdamW, {rate_in_words(settings)}, weight decay "
        f"{settings.weight_decay:g}, batches of {settings.batch_size}, at most {settings.max_epochs} epochs); {kept} was kept. "
        f"Those that read connectomes learned {', '.join(settings.targets)}. Those that read region series, if any, learned "
        + _masked_in_words(settings)
        + combat_methods(settings.combat)
    )


def _masked_in_words(settings: Pretrain) -> str:
    """What filling in means, and by whom it was learned."""
    hidden = f"the last {settings.mask_ratio:.0%} of the frames"
    if settings.masking == "random":
        hidden = f"{settings.mask_ratio:.0%} of the patches, drawn at random,"
    scaled = "scaled by the median and interquartile range of each region over the training people"
    if settings.scaling == "published":
        scaled = "less the ratio of each region's median to its interquartile range over the training people"
    share = "" if settings.train_share == 1 else f" by {settings.train_share:.0%} of these people"
    among = f", of {', '.join(settings.datasets)} alone" if settings.datasets else ""
    return f"to fill in {hidden} of windows at random places{share}{among}; series were {scaled}."


def main(options: Namespace) -> int | None:
    """Write the bundle of one fold."""
    settings: Pretrain = options.settings
    model = Model.model_validate(json.loads(options.model_definition))
    check_model(options.model, model)
    check_covariates(settings.combat, settings.targets, "pretrain")
    tables = tables_of(options)
    masked = architecture(model.architecture).pretrains == "masked"
    cohort = read_learners(tables, options.fold, settings, datasets=settings.datasets if masked else ())
    check_reading(model.architecture, cohort)
    if masked:
        check_people(cohort, settings)
    cohort = share_of_people(cohort, share=settings.train_share, seed=settings.seed)
    begun_from = Path(settings.init_from) if settings.init_from else None
    vocabulary = {} if masked else find_vocabulary(cohort.of_role(TRAIN), settings)
    start = read_start(begun_from, cohort, model, settings, vocabulary) if begun_from else None
    if begun_from and start:
        check_fold(begun_from, start, tables, options.fold, chosen_by_test=False)
    cohort, estimates, combat_sites = correct_as(start, cohort, settings.combat, settings.targets)
    network = begin_network(model, cohort, vocabulary, start, seed=settings.seed, scaling=settings.scaling)
    identity = {"stage": "pretrain", "model": model.model_dump(mode="json"), "code": code_hash("pretrain")}
    run = run_of(options, identity)
    from lcm.training.devices import Devices
    from lcm.training.networks import arrays_of, num_parameters

    devices = Devices(machine_of(options), settings.precision)
    state = learn(network, cohort, vocabulary, settings, run, devices)
    if not state.first_process:
        return 0
    manifest = Manifest(
        stage="pretrain",
        name=options.model,
        model=model,
        fold=options.fold,
        vocabulary=united(start, vocabulary),
        tokens=network.tokens,
        **learned_from(cohort),
        **(start.inherited(vocabulary) if start else {}),
        settings=settings.model_dump(mode="json"),
        combat_sites=combat_sites,
        results=summary(state.history, state.best_epoch) | {"num_parameters": num_parameters(network)},
        device=state.device,
    )
    save_bundle(options.output, arrays_of(network) | estimates, manifest)
    remove_checkpoint(options.checkpoint)
    return None


def check_model(name: str, model: Model) -> None:
    """Raise ValueError for a model that is not pretrained, or of an unknown size."""
    if model.start != "pretrained":
        raise ValueError(f"model '{name}' has `start: {model.start}`; only `start: pretrained` is pretrained")
    if architecture(model.architecture).pretrains is None:
        raise ValueError(f"architecture '{model.architecture}' has nothing to pretrain; use `start: scratch`")
    check_size(model.architecture, model.size)


def check_people(cohort: Cohort, settings: Pretrain) -> None:
    """Raise ValueError where nobody can teach a network of series, or choose its epoch."""
    asked = f" of {', '.join(settings.datasets)} (pretrain.datasets)" if settings.datasets else ""
    for role in (TRAIN, VALIDATION):
        if not (cohort.rows["role"] == role).any():
            raise ValueError(
                f"no {role} person{asked} has a recording; see the outcomes in results/collect, or take further datasets"
            )


def learn(
    network: TokenNetwork,
    cohort: Cohort,
    vocabulary: dict[str, tuple[str, ...]],
    settings: Pretrain,
    run: Run,
    devices: Devices,
) -> State:
    """Train the network, to answer about the vocabulary or to fill in what is hidden, and leave it at its best epoch."""
    from lcm.models.series_network import Masking, SeriesNetwork
    from lcm.models.token_network import Target
    from lcm.training.networks import train_masked, train_on

    sides = cohort.of_role(TRAIN), cohort.of_role(VALIDATION)
    if isinstance(network, SeriesNetwork):
        masking = Masking(settings.mask_ratio, settings.masking)
        return train_masked(*sides, network, masking, settings, run=run, devices=devices)
    targets = [Target(name, levels, settings.loss_weights.get(name, 1.0)) for name, levels in vocabulary.items()]
    return train_on(*sides, network, targets, settings, pseudo_weight=settings.pseudo_weight, run=run, devices=devices)


def share_of_people(cohort: Cohort, *, share: float, seed: int) -> Cohort:
    """The cohort with `share` of its training people, at least one, drawn by chance; validation people stay."""
    if share == 1.0:
        return cohort
    people = np.unique(cohort.rows.loc[cohort.rows["role"] == TRAIN, "person_id"].astype(str))
    kept = np.random.default_rng(seed).permutation(people)[: max(1, round(share * len(people)))]
    stays = (cohort.rows["role"] != TRAIN) | cohort.rows["person_id"].isin(kept)
    return cohort.keep(stays.to_numpy())


def find_vocabulary(training: Cohort, settings: Pretrain) -> dict[str, tuple[str, ...]]:
    """BEI → levels seen among training people (none if continuous); a BEI that cannot teach anything is left out.

    A BEI of `na_levels` begins with the level MISSING, as in the LCM authors' program.
    """
    vocabulary: dict[str, tuple[str, ...]] = {}
    for name in settings.targets:
        if is_continuous(training, name):
            if name in settings.na_levels:
                raise ValueError(
                    f"pretrain.na_levels has {name}, which is continuous; only levels can have one more, n/a"
                )
            if labels_of(training, name, (), pseudo_weight=settings.pseudo_weight).weight_N.any():
                vocabulary[name] = ()
            continue
        levels = levels_of(training, name, pseudo_weight=settings.pseudo_weight)
        if len(levels) > 1:
            vocabulary[name] = (MISSING, *levels) if name in settings.na_levels else levels
    left_out = [name for name in settings.targets if name not in vocabulary]
    if not vocabulary:
        raise ValueError(f"pretrain.targets: no training person has a label, or two levels, of any of {left_out}")
    if left_out:
        log.warning("not supervised, no label or one level among training people: %s", ", ".join(left_out))
    return vocabulary
