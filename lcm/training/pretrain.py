"""Pretrain: one network learns every BEI of the study from one fold's training people."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path

from lcm.config import Model, Pretrain
from lcm.models import architecture
from lcm.models.large_connectome_model import LargeConnectomeModel, Target, token_names
from lcm.training.data import Cohort, add_table_flags, is_continuous, labels_of, levels_of, read_cohort, tables_of
from lcm.training.loop import State
from lcm.training.networks import arrays_of, build_network, start_at_mean, train_on
from lcm.training.site_correction import check_covariates, correct
from lcm.training.site_correction import methods as combat_methods
from lcm.training.weights import Manifest, learned_from, save_bundle

log = logging.getLogger(__name__)


def arguments(parser: ArgumentParser) -> None:
    """Flags of the stage."""
    parser.add_argument("--model", required=True, help="name of the model in config.yaml")
    parser.add_argument("--model-definition", required=True, help="its entry in config.yaml, as JSON")
    parser.add_argument("--fold", type=int, required=True, help="outer fold; only its training people are learned from")
    add_table_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")


def methods(settings: Pretrain) -> str:
    """One sentence for a paper's methods section."""
    return (
        f"Networks were pretrained on the training people of each fold to predict {', '.join(settings.targets)} "
        f"(AdamW, learning rate {settings.learning_rate:g}, weight decay {settings.weight_decay:g}, batches of "
        f"{settings.batch_size}, at most {settings.max_epochs} epochs), missing labels masked; the epoch with the lowest "
        "loss on held-out people of the same fold was kept." + combat_methods(settings.combat)
    )


def main(options: Namespace) -> None:
    """Write the bundle of one model on one fold."""
    settings: Pretrain = options.settings
    model = Model.model_validate(json.loads(options.model_definition))
    if model.start != "pretrained":
        raise ValueError(f"model '{options.model}' starts from scratch; only `start: pretrained` is pretrained")
    if architecture(model.architecture).kind != "network":
        raise ValueError(f"architecture '{model.architecture}' has nothing to pretrain; use `start: scratch`")
    check_covariates(settings.combat, settings.targets, "pretrain")
    cohort = read_cohort(tables_of(options), fold=options.fold, roles=("train", "validation"))
    cohort, estimates, combat_sites = correct(cohort, settings.combat, settings.targets)
    vocabulary = find_vocabulary(cohort.of_role("train"), settings)
    network, state = learn(model, cohort, vocabulary, settings)
    manifest = Manifest(
        stage="pretrain",
        name=options.model,
        model=model,
        fold=options.fold,
        vocabulary=vocabulary,
        tokens=network.tokens,
        **learned_from(cohort),
        settings=settings.model_dump(mode="json"),
        combat_sites=combat_sites,
        results={"best_epoch": state.best_epoch, "validation_loss": state.best_loss},
    )
    save_bundle(options.output, arrays_of(network) | estimates, manifest)


def learn(
    model: Model, cohort: Cohort, vocabulary: dict[str, tuple[str, ...]], settings: Pretrain
) -> tuple[LargeConnectomeModel, State]:
    """The network after its best epoch, and the run that led there."""
    tokens = [token for name, levels in vocabulary.items() for token in token_names(name, levels)]
    network = build_network(model, len(cohort.regions), tokens, seed=settings.seed)
    start_at_mean(network, cohort, vocabulary)
    targets = [Target(name, levels, settings.loss_weights.get(name, 1.0)) for name, levels in vocabulary.items()]
    return network, train_on(cohort, network, targets, settings, pseudo_weight=settings.pseudo_weight)


def find_vocabulary(training: Cohort, settings: Pretrain) -> dict[str, tuple[str, ...]]:
    """BEI → levels seen among training people (none if continuous); a BEI that cannot teach anything is left out."""
    vocabulary: dict[str, tuple[str, ...]] = {}
    for name in settings.targets:
        if is_continuous(training, name):
            if labels_of(training, name, (), pseudo_weight=settings.pseudo_weight).weight_N.any():
                vocabulary[name] = ()
            continue
        levels = levels_of(training, name, pseudo_weight=settings.pseudo_weight)
        if len(levels) > 1:
            vocabulary[name] = levels
    left_out = [name for name in settings.targets if name not in vocabulary]
    if not vocabulary:
        raise ValueError(f"pretrain.targets: no training person has a label, or two levels, of any of {left_out}")
    if left_out:
        log.warning("not supervised, no label or one level among training people: %s", ", ".join(left_out))
    return vocabulary
