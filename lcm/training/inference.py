"""A bundle on scans: scores, the layer each came from and where its token looked, whatever the architecture."""

# Shapes: N connectomes, B of a batch, E edges, R regions, L layers, K levels of one BEI (1 where it is continuous).

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lcm.config import Combat
from lcm.models import architecture
from lcm.tables import MISSING
from lcm.training.data import Cohort, scans_of
from lcm.training.machine import STANDARD, Machine
from lcm.training.site_correction import correct_like, weights_alone
from lcm.training.weights import Manifest, hash_person

if TYPE_CHECKING:
    import torch

    from lcm.models.token_network import Stages, TokenNetwork

READOUT = "embedding_readout."
"""Of the arrays of an estimator on a network's embedding, in weights.safetensors."""

Questions = Mapping[str, tuple[str, ...]]
"""BEI → levels; a continuous one has none."""


class Answer(NamedTuple):
    """What a bundle says about one BEI; an estimator, or a network without attention, has neither layers nor attention."""

    levels: tuple[str, ...]
    scores_NK: np.ndarray
    """Probabilities of the levels, or one column of values; float64."""
    layers_NK: np.ndarray | None = None
    """The layer, from 1, that each level's score came from; None for a continuous BEI, which is read from all layers."""
    attention_NKR: np.ndarray | None = None
    """Share of each region in the token's attention, mean over heads, at that layer; a continuous BEI's over all layers."""


def questions_of(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """What a bundle answers: its task, or every BEI of a multitask bundle, without the level that says "no label"."""
    if manifest.task is not None:
        return {manifest.task.target: manifest.task.levels}
    return {name: tuple(level for level in levels if level != MISSING) for name, levels in manifest.vocabulary.items()}


def was_seen(manifest: Manifest, person_ids: Collection[str]) -> np.ndarray:
    """Whether fitting, choosing the epoch or pretraining has seen each person, (N,)."""
    seen = {*manifest.training_people, *manifest.validation_people, *manifest.pretraining_people}
    return np.array([hash_person(person_id) in seen for person_id in person_ids], dtype=bool)


def ask(
    manifest: Manifest,
    arrays: Mapping[str, np.ndarray],
    cohort: Cohort,
    *,
    attend: bool = False,
    machine: Machine = STANDARD,
) -> dict[str, Answer]:
    """The bundle's answer to each of its questions; layers and attention only where `attend` and its network has them.

    Site effects leave the connectomes by the bundle's own ComBat estimates, where it has some. Raises ValueError for a GPU
    that is asked for and not there, and for a bundle that has learned to fill in series and no question.
    """
    questions = questions_of(manifest)
    if not questions:
        raise ValueError(f"'{manifest.name}' has learned to fill in series and answers no question; finetune it first")
    cohort = _corrected(manifest, arrays, cohort)
    weights = weights_alone(arrays)
    loaded = architecture(manifest.model.architecture)
    if loaded.kind == "network":
        return _ask_network(manifest, weights, cohort, questions, attend=attend, place=machine.place())
    ((target, levels),) = questions.items()
    return {target: Answer(levels, np.asarray(loaded.load()(weights).predict(scans_of(cohort)), dtype=np.float64))}


def _ask_network(
    manifest: Manifest,
    weights: Mapping[str, np.ndarray],
    cohort: Cohort,
    questions: Questions,
    *,
    attend: bool,
    place: str,
) -> dict[str, Answer]:
    import torch

    from lcm.training.networks import by_scan, passes

    own = {name: array for name, array in weights.items() if not name.startswith(READOUT)}
    network = _network_of(manifest, own, place)
    if len(own) < len(weights):
        return _ask_readout(manifest, weights, network, cohort, questions, place)
    stages = manifest.settings.get("stages", "both")
    look: Callable | None = getattr(network, "attend", None) if attend else None
    parts: list[dict[str, Answer]] = []
    with torch.inference_mode():
        for inputs in passes(network, cohort):
            logits_LBP, shares_LBPR = look(inputs) if look else (network(inputs), None)
            parts.append(
                {
                    name: _answer(network, logits_LBP, shares_LBPR, name, levels, stages)
                    for name, levels in questions.items()
                }
            )
    answers = {name: _joined([part[name] for part in parts]) for name in questions}
    return {
        name: Answer(
            answer.levels,
            _in_units(manifest, name, by_scan(network, cohort, answer.scores_NK)),
            None if answer.layers_NK is None else by_scan(network, cohort, answer.layers_NK),
            None if answer.attention_NKR is None else by_scan(network, cohort, answer.attention_NKR),
        )
        for name, answer in answers.items()
    }


def _ask_readout(
    manifest: Manifest,
    weights: Mapping[str, np.ndarray],
    network: TokenNetwork,
    cohort: Cohort,
    questions: Questions,
    place: str,
) -> dict[str, Answer]:
    """What the estimator on the embedding says."""
    from lcm.training.embedding_probe import Readout
    from lcm.training.networks import embeddings_of

    embedding_ND = embeddings_of(network, cohort, place)
    ((target, levels),) = questions.items()
    scores_NK = np.asarray(Readout.of_state(weights).predict(embedding_ND), dtype=np.float64)
    return {target: Answer(levels, _in_units(manifest, target, scores_NK))}


def _in_units(manifest: Manifest, name: str, scores_NK: np.ndarray) -> np.ndarray:
    """Values in the BEI's own units, where it was learned on another scale; probabilities as they are."""
    transform = manifest.transforms.get(name)
    return transform.invert(scores_NK) if transform else scores_NK


def _network_of(manifest: Manifest, weights: Mapping[str, np.ndarray], place: str) -> TokenNetwork:
    """The bundle's network, ready to answer on that device."""
    from lcm.training.networks import build_network, load_arrays, ready

    network = build_network(manifest.resolved_model, len(manifest.regions), manifest.tokens, seed=0)
    load_arrays(network, weights)
    return ready(network, place)


def embed(
    manifest: Manifest, arrays: Mapping[str, np.ndarray], cohort: Cohort, machine: Machine = STANDARD
) -> np.ndarray:
    """A network bundle's embedding of every scan, (N, D) float32; site effects leave as they do in `ask`.

    Raises ValueError for an estimator, which has none.
    """
    from lcm.training.networks import embeddings_of

    if architecture(manifest.model.architecture).kind != "network":
        raise ValueError(f"architecture '{manifest.model.architecture}' has no embedding; only networks have")
    cohort = _corrected(manifest, arrays, cohort)
    own = {name: array for name, array in weights_alone(arrays).items() if not name.startswith(READOUT)}
    place = machine.place()
    return embeddings_of(_network_of(manifest, own, place), cohort, place)


def _corrected(manifest: Manifest, arrays: Mapping[str, np.ndarray], cohort: Cohort) -> Cohort:
    """The cohort without the site effects that the bundle's own ComBat estimates tell, where it has some."""
    if manifest.settings.get("combat") is None:
        return cohort
    return correct_like(
        cohort, arrays, Combat.model_validate(manifest.settings["combat"]), tuple(questions_of(manifest))
    )


def _answer(
    network: TokenNetwork,
    logits_LBP: torch.Tensor,
    shares_LBPR: torch.Tensor | None,
    name: str,
    levels: tuple[str, ...],
    stages: Stages,
) -> Answer:
    """One BEI's answer for one batch."""
    from lcm.models.token_network import token_names

    scores_BK = network.read_out(logits_LBP, name, levels, stages).double().cpu().numpy()
    if shares_LBPR is None:
        return Answer(levels, scores_BK)
    places_K = [network.tokens.index(token) for token in token_names(name, levels)]
    shares_LBKR = shares_LBPR[:, :, places_K]
    if not levels and stages != "last_layer":
        return Answer(levels, scores_BK, None, shares_LBKR.mean(dim=0).cpu().numpy())
    layers_BK = network.choose_layers(logits_LBP, name, levels, stages)
    chosen_1BKR = layers_BK[None, :, :, None].expand(1, -1, -1, shares_LBKR.shape[-1])
    shares_BKR = shares_LBKR.gather(0, chosen_1BKR)[0].cpu().numpy()
    return Answer(levels, scores_BK, layers_BK.cpu().numpy() + 1 if levels else None, shares_BKR)


def _joined(parts: list[Answer]) -> Answer:
    """The answers of all batches, one after the other."""
    scores_NK = np.concatenate([part.scores_NK for part in parts])
    layers, shares = [part.layers_NK for part in parts], [part.attention_NKR for part in parts]
    return Answer(parts[0].levels, scores_NK, _stacked(layers), _stacked(shares))


def _stacked(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    there = [array for array in arrays if array is not None]
    return np.concatenate(there) if there else None
