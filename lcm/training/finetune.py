"""Finetune: one task on one fold, fitted from scratch, or from the fold's pretrained weights."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lcm.config import Finetune, Model, Task
from lcm.models import architecture, check_size
from lcm.models.labelled import Labelled
from lcm.training.data import Cohort, add_table_flags, labels_of, read_cohort, tables_of
from lcm.training.site_correction import check_covariates, correct, correct_like, estimates_alone, weights_alone
from lcm.training.site_correction import methods as combat_methods
from lcm.training.weights import Manifest, Unanswerable, learned_from, load_bundle, save_bundle, save_refusal

if TYPE_CHECKING:
    from lcm.models.large_connectome_model import LargeConnectomeModel
    from lcm.training.loop import State

log = logging.getLogger(__name__)


def arguments(parser: ArgumentParser) -> None:
    """Flags of the stage."""
    parser.add_argument("--model", required=True, help="name of the model in config.yaml")
    parser.add_argument("--model-definition", required=True, help="its entry in config.yaml, as JSON")
    parser.add_argument("--task", required=True, help="name of the task in config.yaml")
    parser.add_argument("--definition", required=True, help="its entry in config.yaml, as JSON")
    parser.add_argument("--fold", type=int, required=True, help="outer fold; only its training people are learned from")
    add_table_flags(parser)
    parser.add_argument(
        "--weights", type=Path, nargs="?", help="bundle of pretrain on the same fold, for `start: pretrained`"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")


def methods(settings: Finetune) -> str:
    """One sentence for a paper's methods section."""
    share = "" if settings.train_share == 1 else f"{settings.train_share:.0%} of "
    again = " Pretrained weights kept pretraining's estimates." if settings.combat else ""
    return (
        f"Each model was fitted for each task on {share}the training people of a fold; networks (AdamW, learning rate "
        f"{settings.learning_rate:g}, weight decay {settings.weight_decay:g}, batches of {settings.batch_size}, at most "
        f"{settings.max_epochs} epochs) kept the epoch, and ridge regression the penalty, that did best on the fold's "
        "validation people." + combat_methods(settings.combat) + again
    )


def main(options: Namespace) -> None:
    """Write the bundle of one model for one task on one fold, or why these people cannot give one."""
    settings: Finetune = options.settings
    model = Model.model_validate(json.loads(options.model_definition))
    task = Task.model_validate(json.loads(options.definition))
    check_start(options.model, model, options.weights)
    check_covariates(settings.combat, (task.target,), "finetune")
    cohort = read_cohort(
        tables_of(options),
        fold=options.fold,
        roles=("train", "validation"),
        cohorts=task.cohorts,
        datasets=task.datasets,
    )
    try:
        cohort = answerable(cohort, task)
    except Unanswerable as reason:
        log.warning("nothing to fit: %s", reason)
        save_refusal(options.output, f"fold {options.fold}: {reason}")
        return
    cohort = few_shot(cohort, task, share=settings.train_share, seed=settings.seed)
    start = _read_start(options, model, cohort, settings)
    if start is None:
        cohort, estimates, combat_sites = correct(cohort, settings.combat, (task.target,))
    else:
        # Weights go on with the connectivity that they learned from, whichever sites this task's people come from.
        cohort = correct_like(cohort, start.arrays, settings.combat, (task.target,))
        estimates, combat_sites = estimates_alone(start.arrays), start.bundle.combat_sites
    if architecture(model.architecture).kind == "estimator":
        weights, more = fit_estimator(model, task, cohort)
    else:
        weights, more = fit_network(model, task, cohort, settings, start)
    manifest = Manifest(
        stage="finetune",
        name=options.model,
        model=model,
        fold=options.fold,
        task=task,
        **learned_from(cohort),
        settings=settings.model_dump(mode="json"),
        combat_sites=combat_sites,
        **more,
    )
    save_bundle(options.output, weights | estimates, manifest)


def check_start(name: str, model: Model, weights: Path | None) -> None:
    """Raise ValueError when `start` and `--weights` contradict each other."""
    if (model.start == "pretrained") != (weights is not None):
        raise ValueError(f"model '{name}' has `start: {model.start}`, and --weights is {weights or 'not given'}")
    if model.start == "pretrained" and architecture(model.architecture).kind != "network":
        raise ValueError(f"architecture '{model.architecture}' has nothing to pretrain; use `start: scratch`")


class Start(NamedTuple):
    """The bundle of pretrain that a network starts from."""

    bundle: Manifest
    arrays: dict[str, np.ndarray]


def _read_start(options: Namespace, model: Model, cohort: Cohort, settings: Finetune) -> Start | None:
    """The pretrained weights asked for, None for a model that starts from scratch; ValueError where they do not fit."""
    if options.weights is None:
        return None
    start = Start(*load_bundle(options.weights, regions=cohort.regions, atlas=cohort.atlas))
    _check_pretrained(options.weights, start.bundle, model, options.fold)
    _check_combat(options.weights, start.bundle, settings)
    return start


def answerable(cohort: Cohort, task: Task) -> Cohort:
    """The scans with an observed answer; Unanswerable when a level has no training person or nobody can validate."""
    labels = labels_of(cohort, task.target, task.levels)
    cohort = cohort.keep(labels.weight_N > 0)
    training = cohort.of_role("train")
    present = set(labels_of(training, task.target, task.levels).value_N.astype(int)) if task.levels else set()
    absent = [level for i, level in enumerate(task.levels) if i not in present]
    if absent or not len(training.rows):
        said = f"as {', '.join(absent)}" if absent else "at all"
        raise Unanswerable(f"no training person with a connectome is labelled {said} ({task.target})")
    if not len(cohort.of_role("validation").rows):
        raise Unanswerable(f"no validation person with a connectome is labelled ({task.target})")
    return cohort


def few_shot(cohort: Cohort, task: Task, *, share: float, seed: int) -> Cohort:
    """Keep `share` of the training people of every level, at least one; validation people stay."""
    if share == 1.0:
        return cohort
    training = cohort.rows[cohort.rows["role"] == "train"]
    # A person whose scans differ in level (cognitive state) is drawn under the first one.
    level_of = training.groupby("person_id", sort=True)[task.target].first()
    strata = level_of if task.levels else level_of.map(lambda _: "all")
    generator = np.random.default_rng(seed)
    kept: set[str] = set()
    for _, people in strata.groupby(strata, sort=True):
        kept.update(generator.permutation(people.index.to_numpy(dtype=object))[: max(1, round(share * len(people)))])
    stays = (cohort.rows["role"] != "train") | cohort.rows["person_id"].isin(kept)
    return cohort.keep(stays.to_numpy())


def fit_estimator(model: Model, task: Task, cohort: Cohort) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays of a fitted estimator, and its part of the manifest."""
    check_size(model.architecture, model.size)
    training, validation = (
        Labelled(part.edges_NE, labels_of(part, task.target, task.levels).value_N)
        for part in (cohort.of_role("train"), cohort.of_role("validation"))
    )
    fitted = architecture(model.architecture).load().fit(training, validation, len(task.levels), **model.size)
    return fitted.state, {"vocabulary": {task.target: task.levels}}


def fit_network(
    model: Model, task: Task, cohort: Cohort, settings: Finetune, start: Start | None
) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays of a network after its best epoch, and its part of the manifest."""
    from lcm.models.large_connectome_model import Target
    from lcm.training.networks import arrays_of, train_on

    network, more = _started_network(model, task, cohort, settings, start)
    state: State = train_on(cohort, network, [Target(task.target, task.levels)], settings, pseudo_weight=0.0)
    results = {"best_epoch": state.best_epoch, "validation_loss": state.best_loss}
    return arrays_of(network), more | {"tokens": network.tokens, "results": results}


def _started_network(
    model: Model, task: Task, cohort: Cohort, settings: Finetune, start: Start | None
) -> tuple[LargeConnectomeModel, dict]:
    """A network with a token for every level of the task: seen ones keep their weights, unseen ones are appended."""
    from lcm.models.large_connectome_model import token_names
    from lcm.training.networks import build_network, load_arrays, start_at_mean

    wanted = token_names(task.target, task.levels)
    vocabulary = {task.target: task.levels}
    if start is None:
        network = build_network(model, len(cohort.regions), wanted, seed=settings.seed)
        start_at_mean(network, cohort, vocabulary)
        return network, {"vocabulary": vocabulary}
    bundle, arrays = start
    network = build_network(model, len(bundle.regions), bundle.tokens, seed=settings.seed)
    load_arrays(network, weights_alone(arrays))
    unseen = [token for token in wanted if token not in network.tokens]
    network.append_tokens(unseen)
    if unseen and not task.levels:
        start_at_mean(network, cohort, {task.target: ()})
    log.info("tokens reused: %d, appended: %d", len(wanted) - len(unseen), len(unseen))
    known = dict(bundle.vocabulary)
    known[task.target] = (*known.get(task.target, ()), *(x for x in task.levels if x not in known.get(task.target, ())))
    seen = tuple(sorted({*bundle.training_people, *bundle.validation_people}))
    return network, {"vocabulary": known, "pretraining_people": seen}


def _check_pretrained(folder: Path, bundle: Manifest, model: Model, fold: int) -> None:
    """Raise ValueError when these weights belong to another fold, architecture or size."""
    if bundle.stage != "pretrain" or bundle.fold != fold:
        raise ValueError(
            f"{folder}: weights of {bundle.stage} on fold {bundle.fold}; pretrain on fold {fold} is needed"
        )
    if (bundle.model.architecture, bundle.model.size) != (model.architecture, model.size):
        raise ValueError(
            f"{folder}: weights of {bundle.model.architecture} {bundle.model.size}, "
            f"the model wants {model.architecture} {model.size}"
        )


def _check_combat(folder: Path, bundle: Manifest, settings: Finetune) -> None:
    """Raise ValueError when the weights learned from connectivity that was corrected in another way."""
    theirs, ours = bundle.settings.get("combat"), settings.model_dump(mode="json")["combat"]
    if theirs != ours:
        raise ValueError(f"{folder}: pretrain.combat is {theirs} and finetune.combat is {ours}; make them alike")
