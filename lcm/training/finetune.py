"""Finetune: one task on one fold, fitted from scratch, or from the fold's pretrained weights."""

from __future__ import annotations

import json
import logging
import os
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.config import Finetune, Model, Task
from lcm.models import architecture
from lcm.models.labelled import Labelled, Scans, together
from lcm.provenance import code_hash
from lcm.tables import TRAIN, VALIDATION
from lcm.training.checkpoint import Run, add_run_flags, remove_checkpoint, run_of
from lcm.training.data import Cohort, add_model_flags, check_reading, labels_of, tables_of
from lcm.training.estimators import Fitted, fit_estimator, validation_threshold
from lcm.training.machine import Machine, add_machine_flags, machine_of, rank_of
from lcm.training.site_correction import check_covariates
from lcm.training.site_correction import methods as combat_methods
from lcm.training.start import (
    Start,
    begin_network,
    check_fold,
    correct_as,
    rate_in_words,
    read_learners,
    read_start,
    united,
)
from lcm.training.target_transform import TargetTransform
from lcm.training.weights import Manifest, Unanswerable, learned_from, save_bundle, save_refusal, summary

if TYPE_CHECKING:
    from lcm.models.token_network import TokenNetwork

log = logging.getLogger(__name__)


def arguments(parser: ArgumentParser) -> None:
    """Flags of the stage."""
    add_model_flags(parser)
    parser.add_argument("--task", required=True, help="name of the task in config.yaml")
    parser.add_argument("--definition", required=True, help="its entry in config.yaml, as JSON")
    parser.add_argument("--weights", type=Path, nargs="?", help="bundle to start from, of pretrain on the same fold")
    add_run_flags(parser)
    add_machine_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")


def methods(settings: Finetune) -> str:
    """One sentence for a paper's methods section."""
    share = "" if settings.train_share == 1 else f"{settings.train_share:.0%} of "
    again = " Pretrained weights kept pretraining's estimates." if settings.combat else ""
    refit = (
        " Then each was fitted again, so, on training and validation people together." if _fits_again(settings) else ""
    )
    frozen = "; of pretrained networks only tokens and head learned" if settings.trunk == "freeze" else ""
    best = "that did best on the fold's validation people"
    chosen = {
        "best": f"kept the epoch, and other models the penalty, {best}",
        "last": f"kept the last epoch, and other models the penalty {best}",
        "best-on-test": "kept the epoch with the highest weighted F1, and other models the penalty with the lowest loss, on "
        "the people who were tested, as the LCM authors did, so that every score is optimistic",
    }[settings.keep]
    return (
        f"Models were fitted for each task on {share}the training people of a fold; networks (AdamW, "
        f"{rate_in_words(settings)}, weight decay {settings.weight_decay:g}, batches of {settings.batch_size}, at most "
        f"{settings.max_epochs} epochs) {chosen}{frozen}.{_read_out_in_words(settings)}{refit}"
        + combat_methods(settings.combat)
        + again
    )


def _read_out_in_words(settings: Finetune) -> str:
    """What reads a network that learns nothing, and the scale of continuous targets, where they are not the usual ones."""
    scale = {
        "none": "",
        "zscore": "z-scores",
        "minmax": "shares of their range",
        "log-minmax": "shares of the range of their logarithms, log(1 + x),",
    }[settings.target_transform]
    said = f" Continuous targets were learned as {scale} over the training people." if scale else ""
    if settings.readout == "head":
        return said
    read = f"the first {settings.readout_components} principal components of " if settings.readout_components else ""
    return (
        f" Pretrained networks of region series learned nothing more: {settings.readout} read {read}their embedding."
        + said
    )


def _learns_together(model: Model, settings: Finetune) -> bool:
    """Whether processes share the work; where they do not, and a launcher started several, one of them fits and writes."""
    return architecture(model.architecture).kind == "network" and settings.readout == "head"


def main(options: Namespace) -> int | None:
    """Write the bundle of one model for one task on one fold, or why these people cannot give one."""
    settings: Finetune = options.settings
    model = Model.model_validate(json.loads(options.model_definition))
    if rank_of(os.environ) and not _learns_together(model, settings):
        return 0
    task = Task.model_validate(json.loads(options.definition))
    check_start(options.model, model, options.weights)
    check_covariates(settings.combat, (task.target,), "finetune")
    tables = tables_of(options)
    cohort = read_learners(tables, options.fold, settings, task)
    check_reading(model.architecture, cohort)
    identity = {"stage": "finetune", "model": model.model_dump(mode="json"), "code": code_hash("finetune")}
    run, start = run_of(options, identity), None
    try:
        check_continuous(model, task)
        cohort = few_shot(answerable(cohort, task), task, share=settings.train_share, seed=settings.seed)
        if options.weights is not None:
            start = read_start(options.weights, cohort, model, settings, {task.target: task.levels})
            # Only of its own pretraining does `evaluate` know who chose there and did not teach.
            by_test = settings.keep == "best-on-test" and not model.starts_from_folder
            check_fold(options.weights, start, tables, options.fold, chosen_by_test=by_test)
        check_as_pretrained(settings, task, start)
        # Weights go on with the connectivity that they learned from, whichever sites this task's people come from.
        cohort, estimates, combat_sites = correct_as(start, cohort, settings.combat, (task.target,))
        if architecture(model.architecture).kind == "estimator":
            fitted: Fitted | None = fit_estimator(model, task, cohort, refit=_fits_again(settings))
        elif settings.readout != "head":
            fitted = fit_on_embedding(model, task, cohort, settings, start, machine_of(options))
        else:
            fitted = fit_network(model, task, cohort, settings, start, run, machine_of(options))
    except Unanswerable as reason:
        log.warning("nothing to fit: %s", reason)
        save_refusal(options.output, f"fold {options.fold}: {reason}")
        return None
    if fitted is None:
        return 0
    manifest = Manifest(
        stage="finetune",
        name=options.model,
        model=model,
        fold=options.fold,
        task=task,
        **learned_from(cohort, refit=_fits_again(settings)),
        **(start.inherited({task.target: task.levels}) if start else {}),
        settings=settings.model_dump(mode="json"),
        combat_sites=combat_sites,
        **fitted.manifest,
    )
    save_bundle(options.output, fitted.arrays | estimates, manifest)
    remove_checkpoint(run.checkpoint)
    remove_checkpoint(_second(run).checkpoint)
    return None


def check_start(name: str, model: Model, weights: Path | None) -> None:
    """Raise ValueError when `start` and `--weights` contradict each other."""
    if (model.start == "scratch") != (weights is None):
        raise ValueError(f"model '{name}' has `start: {model.start}`, and --weights is {weights or 'not given'}")
    if weights is not None and architecture(model.architecture).kind != "network":
        raise ValueError(f"architecture '{model.architecture}' has nothing to pretrain; use `start: scratch`")


def check_continuous(model: Model, task: Task) -> None:
    """Unanswerable where the architecture tells levels apart and the task's BEI is continuous."""
    if not task.levels and not architecture(model.architecture).continuous:
        raise Unanswerable(f"{model.architecture} tells levels apart, and {task.target} is continuous")


def check_as_pretrained(settings: Finetune, task: Task, start: Start | None) -> None:
    """Unanswerable where weights are to answer as they are and have not learned the question."""
    if (
        settings.max_epochs == 0
        and settings.readout == "head"
        and (start is None or task.target not in start.bundle.vocabulary)
    ):
        raise Unanswerable(f"max_epochs is 0, and the weights have not learned {task.target}")


def answerable(cohort: Cohort, task: Task) -> Cohort:
    """The scans with an observed answer; Unanswerable when a level has no training person or nobody can validate."""
    labels = labels_of(cohort, task.target, task.levels)
    cohort = cohort.keep(labels.weight_N > 0)
    training = cohort.of_role(TRAIN)
    present = set(labels_of(training, task.target, task.levels).value_N.astype(int)) if task.levels else set()
    absent = [level for i, level in enumerate(task.levels) if i not in present]
    if absent or not len(training.rows):
        said = f"as {', '.join(absent)}" if absent else "at all"
        raise Unanswerable(f"no training person with a connectome is labelled {said} ({task.target})")
    if not len(cohort.of_role(VALIDATION).rows):
        raise Unanswerable(f"no validation person with a connectome is labelled ({task.target})")
    return cohort


def few_shot(cohort: Cohort, task: Task, *, share: float, seed: int) -> Cohort:
    """Keep `share` of the training people of every level, at least one; validation people stay."""
    if share == 1.0:
        return cohort
    training = cohort.rows[cohort.rows["role"] == TRAIN]
    # A person whose scans differ in level (cognitive state) is drawn under the first one.
    level_of = training.groupby("person_id", sort=True)[task.target].first()
    strata = level_of if task.levels else level_of.map(lambda _: "all")
    generator = np.random.default_rng(seed)
    kept: set[str] = set()
    for _, people in strata.groupby(strata, sort=True):
        kept.update(generator.permutation(people.index.to_numpy(dtype=object))[: max(1, round(share * len(people)))])
    stays = (cohort.rows["role"] != TRAIN) | cohort.rows["person_id"].isin(kept)
    return cohort.keep(stays.to_numpy())


def fit_network(
    model: Model,
    task: Task,
    cohort: Cohort,
    settings: Finetune,
    start: Start | None,
    run: Run,
    machine: Machine,
) -> Fitted | None:
    """A network after its best epoch, or fitted once more with the validation people; None in a process that helped.

    The threshold of two levels is chosen by the validation people before they teach.
    """
    from lcm.models.token_network import Target
    from lcm.training.devices import Devices
    from lcm.training.networks import arrays_of, num_parameters, scores_of, train_on

    devices, target = Devices(machine, settings.precision), Target(task.target, task.levels)
    training, validation = cohort.of_role(TRAIN), cohort.of_role(VALIDATION)
    transforms = fit_transforms(training, task, settings)
    network = _begin(model, task, training, settings, start, transforms)
    results: dict[str, float] = {"epochs": 0}
    device = devices.name
    teach = partial(train_on, targets=[target], pseudo_weight=0.0, devices=devices)
    if settings.max_epochs:
        state = teach(training, validation, network, settings=settings, transforms=transforms, run=run)
        results, device = summary(state.history, state.best_epoch), state.device
    scores_NK = scores_of(network, validation, target, settings, devices.place)
    results |= validation_threshold(validation, task, scores_NK)
    if _fits_again(settings):
        everybody = replace(cohort, rows=cohort.rows.assign(role=TRAIN))
        transforms = fit_transforms(everybody, task, settings)
        network = _begin(model, task, everybody, settings, start, transforms)
        again = _as_chosen(settings, int(results["best_epoch"]))
        # The loop wants people to judge by; with `keep: last` it decides nothing by them.
        state = teach(everybody, validation, network, settings=again, transforms=transforms, run=_second(run))
        results["seconds"] += summary(state.history, state.best_epoch)["seconds"]
        device = state.device
    if not devices.first:
        return None
    results["num_parameters"] = num_parameters(network)
    own = {"tokens": network.tokens, "results": results, "device": device, "transforms": transforms}
    return Fitted(arrays_of(network), own | {"vocabulary": united(start, {task.target: task.levels})})


def fit_on_embedding(
    model: Model, task: Task, cohort: Cohort, settings: Finetune, start: Start | None, machine: Machine
) -> Fitted:
    """An estimator on what the pretrained network makes of each scan; the network learns nothing.

    Raises Unanswerable for a continuous BEI where the estimator tells levels apart.
    """
    from lcm.training.embedding_probe import fit_readout
    from lcm.training.networks import arrays_of, embeddings_of, num_parameters

    if start is None:
        raise ValueError(f"readout {settings.readout} reads a pretrained network, and this model starts from scratch")
    network = begin_network(model, cohort, {}, start, seed=settings.seed)
    transforms = fit_transforms(cohort.of_role(TRAIN), task, settings)
    sides, place = [], machine.place()
    for part in (cohort.of_role(TRAIN), cohort.of_role(VALIDATION)):
        value_N = labels_of(part, task.target, task.levels).value_N
        target_N = transforms[task.target].apply(value_N) if transforms else value_N
        embedded = Scans.of_edges(embeddings_of(network, part, place))
        sides.append(Labelled(embedded, target_N))
    training, validation = sides
    num_levels = len(task.levels)
    fitted = fit_readout(settings.readout, settings.readout_components, training, validation, num_levels)
    scores_NK = fitted.predict(validation.scans.edges_NE)
    results = validation_threshold(cohort, task, scores_NK) | {"num_parameters": num_parameters(network)}
    if _fits_again(settings):
        fitted = fitted.refit(together(training, validation), num_levels)
    own = {"tokens": network.tokens, "results": results, "device": "cpu", "transforms": transforms}
    return Fitted(arrays_of(network) | fitted.state, own | {"vocabulary": {task.target: task.levels}})


def fit_transforms(training: Cohort, task: Task, settings: Finetune) -> dict[str, TargetTransform]:
    """BEI → the scale on which it is learned, by the training people's values; empty where that is its own."""
    if task.levels or settings.target_transform == "none":
        return {}
    labels = labels_of(training, task.target, ())
    try:
        return {task.target: TargetTransform.fit(settings.target_transform, labels.value_N[labels.weight_N > 0])}
    except ValueError as error:
        raise Unanswerable(f"{task.target}: {error}") from None


def _begin(
    model: Model,
    task: Task,
    learners: Cohort,
    settings: Finetune,
    start: Start | None,
    transforms: dict[str, TargetTransform],
) -> TokenNetwork:
    """The network before its first step."""
    vocabulary = {task.target: task.levels}
    network = begin_network(
        model, learners, vocabulary, start, seed=settings.seed, transforms=transforms, scaling=settings.scaling
    )
    if start is not None and settings.trunk == "freeze":
        network.freeze_trunk()
    return network


def _as_chosen(settings: Finetune, best_epoch: int) -> Finetune:
    """The settings of the second fit: as many epochs as were best, at the rates that those had."""
    whole = settings.schedule_epochs or settings.max_epochs
    return settings.model_copy(update={"keep": "last", "max_epochs": best_epoch, "schedule_epochs": whole})


def _fits_again(settings: Finetune) -> bool:
    """Whether validation people teach in the end; few-shot learning keeps to its share, and tested people never teach."""
    may = settings.train_share == 1 and settings.keep != "best-on-test"
    return settings.refit and may and settings.max_epochs > 0


def _second(run: Run) -> Run:
    """Where the fit on training and validation people leaves its traces: beside those of the first."""
    folder = run.checkpoint.with_name(f"{run.checkpoint.name}-refit") if run.checkpoint else None
    log_folder = run.log_folder / "refit" if run.log_folder else None
    # A run that goes on in its first fit has no checkpoint of the second yet.
    resume = "auto" if run.resume == "require" else run.resume
    return replace(
        run, checkpoint=folder, log_folder=log_folder, resume=resume, identity={**run.identity, "refit": True}
    )
