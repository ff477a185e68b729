"""Between arrays and networks: building one, training it on a cohort, its weights as numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lcm.array_tables import square
from lcm.config import Model, Training
from lcm.models import architecture, check_size
from lcm.models.large_connectome_model import Target
from lcm.training.data import Cohort, labels_of
from lcm.training.loop import InMemory, State, seed_everything, train

if TYPE_CHECKING:
    from lcm.models.large_connectome_model import LargeConnectomeModel

Vocabulary = Mapping[str, Sequence[str]]
"""BEI → levels; a continuous BEI has none."""


def build_network(model: Model, num_regions: int, tokens: Sequence[str], *, seed: int) -> LargeConnectomeModel:
    """The network of a config.yaml model with fresh weights."""
    check_size(model.architecture, model.size)
    seed_everything(seed)
    return architecture(model.architecture).load()(num_regions, tokens, **model.size)


def train_on(
    cohort: Cohort,
    network: LargeConnectomeModel,
    targets: Sequence[Target],
    settings: Training,
    *,
    pseudo_weight: float,
) -> State:
    """Train on the cohort's `train` people and leave the network at its best epoch for the `validation` people."""
    training, validation = (
        examples(cohort.of_role(role), {target.name: target.levels for target in targets}, pseudo_weight=pseudo_weight)
        for role in ("train", "validation")
    )
    objective = network.objective(targets, settings.first_stage_epochs)
    return train(network, objective, training, validation, settings)


def start_at_mean(network: LargeConnectomeModel, cohort: Cohort, vocabulary: Vocabulary) -> None:
    """Start the outputs at the training mean of the first continuous BEI; nothing happens where there is none."""
    for name in (name for name, levels in vocabulary.items() if not levels):
        labels = labels_of(cohort.of_role("train"), name, ())
        if labels.weight_N.any():
            network.start_at(float(labels.value_N[labels.weight_N > 0].mean()))
            return


def connectomes(edges_NE: np.ndarray, num_regions: int) -> torch.Tensor:
    """FC matrices (N, R, R) float32; edges of an uncovered region are 0, as in the LCM authors' data."""
    return torch.from_numpy(np.nan_to_num(square(edges_NE, num_regions), copy=False, nan=0.0, posinf=0.0, neginf=0.0))


def examples(cohort: Cohort, vocabulary: Vocabulary, *, pseudo_weight: float = 0.0) -> InMemory:
    """Connectomes with the label and weight of every BEI of the vocabulary."""
    columns = {"inputs": connectomes(cohort.edges_NE, len(cohort.regions))}
    for name, levels in vocabulary.items():
        labels = labels_of(cohort, name, levels, pseudo_weight=pseudo_weight)
        columns[f"label:{name}"] = torch.from_numpy(labels.value_N)
        columns[f"weight:{name}"] = torch.from_numpy(labels.weight_N)
    return InMemory(columns)


def arrays_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """The network's weights and running statistics by name."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def load_arrays(network: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays into a network of the same shape; a missing, unknown or misshapen one is an error."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the network: {error}") from None
