"""Between arrays and networks: building one, training it on a cohort, its weights as numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lcm.array_tables import square
from lcm.config import Model, Training
from lcm.models import architecture, check_size
from lcm.models.token_network import Target
from lcm.tables import TRAIN
from lcm.training.checkpoint import Run
from lcm.training.data import Cohort, labels_of
from lcm.training.devices import Devices
from lcm.training.loop import InMemory, State, seed_everything, train
from lcm.training.weights import Vocabulary

PASS = 128
"""Connectomes a pass without gradients: with attention kept, 32 layers of 27 tokens over 116 regions take 50 MB."""

if TYPE_CHECKING:
    from lcm.models.large_connectome_model import LargeConnectomeModel


def build_network(model: Model, num_regions: int, tokens: Sequence[str], *, seed: int) -> LargeConnectomeModel:
    """The network of a config.yaml model with fresh weights."""
    size = check_size(model.architecture, model.size)
    seed_everything(seed)
    return architecture(model.architecture).load()(num_regions, tokens, **size)


def train_on(
    training: Cohort,
    validation: Cohort,
    network: LargeConnectomeModel,
    targets: Sequence[Target],
    settings: Training,
    *,
    pseudo_weight: float,
    run: Run | None = None,
    devices: Devices | None = None,
) -> State:
    """Train on some people and leave the network at its best epoch for others.

    Pseudo labels teach with that weight and judge no epoch. Raises what `lcm.training.loop.train` does.
    """
    vocabulary = {target.name: target.levels for target in targets}
    learning, judging = (
        examples(cohort, vocabulary, pseudo_weight=weight, half=settings.precision == "bf16-mixed")
        for cohort, weight in ((training, pseudo_weight), (validation, 0.0))
    )
    objective = network.objective(targets, settings.first_stage_epochs, settings.stages)
    return train(network, objective, learning, judging, settings, run, devices)


def start_at_mean(network: LargeConnectomeModel, cohort: Cohort, vocabulary: Vocabulary) -> None:
    """Start the outputs at the training mean of the first continuous BEI; nothing happens where there is none."""
    for name in (name for name, levels in vocabulary.items() if not levels):
        labels = labels_of(cohort.of_role(TRAIN), name, ())
        if labels.weight_N.any():
            network.start_at(float(labels.value_N[labels.weight_N > 0].mean()))
            return


def connectomes(edges_NE: np.ndarray, num_regions: int) -> torch.Tensor:
    """FC matrices (N, R, R) float32; edges of an uncovered region are NaN, and the network knows what to make of them."""
    return torch.from_numpy(square(edges_NE, num_regions))


def examples(cohort: Cohort, vocabulary: Vocabulary, *, pseudo_weight: float = 0.0, half: bool = False) -> InMemory:
    """Connectomes with the label and weight of every BEI of the vocabulary; `half`: FC as float16."""
    fc_NRR = connectomes(cohort.edges_NE, len(cohort.regions))
    columns = {"inputs": fc_NRR.half() if half else fc_NRR}
    for name, levels in vocabulary.items():
        labels = labels_of(cohort, name, levels, pseudo_weight=pseudo_weight)
        columns[f"label:{name}"] = torch.from_numpy(labels.value_N)
        columns[f"weight:{name}"] = torch.from_numpy(labels.weight_N)
    return InMemory(columns)


def ready(network: LargeConnectomeModel, accelerator: str) -> LargeConnectomeModel:
    """The network in evaluation, on a GPU where there is one and `accelerator` is not cpu."""
    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    return network.to(torch.device("cpu" if on_cpu else "cuda")).eval()


def passes(network: LargeConnectomeModel, edges_NE: np.ndarray) -> Iterator[torch.Tensor]:
    """FC matrices of PASS connectomes each, where the network is."""
    device, num_regions = next(network.parameters()).device, math.isqrt(2 * edges_NE.shape[1]) + 1
    for part_BE in np.array_split(edges_NE, max(1, -(-len(edges_NE) // PASS))):
        yield connectomes(part_BE, num_regions).to(device)


def scores_of(network: LargeConnectomeModel, edges_NE: np.ndarray, target: Target, settings: Training) -> np.ndarray:
    """What the network says of each scan: (N, K) probabilities of the levels, or (N, 1) values; float64."""
    ready(network, settings.accelerator)
    parts = []
    with torch.inference_mode():
        for fc_BRR in passes(network, edges_NE):
            read_BK = network.read_out(network(fc_BRR), target.name, target.levels, settings.stages)
            parts.append(read_BK.double().cpu().numpy())
    network.to("cpu")
    return np.concatenate(parts)


def num_parameters(network: torch.nn.Module) -> int:
    """How many numbers the network learns or has learned."""
    return sum(parameter.numel() for parameter in network.parameters())


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
