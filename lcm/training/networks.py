"""Between arrays and networks: building one, training it on a cohort, its weights as numpy arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from lcm.array_tables import square
from lcm.config import Model, Training
from lcm.models import architecture, check_size
from lcm.models.series_network import MaskedLoss, Masking, ScalingKind, SeriesNetwork
from lcm.models.token_network import Target, TokenNetwork
from lcm.tables import TRAIN
from lcm.training.checkpoint import Run
from lcm.training.data import Cohort, labels_of
from lcm.training.devices import Devices
from lcm.training.examples import Examples, InMemory
from lcm.training.loop import State, seed_everything, train
from lcm.training.recordings import Recordings, Windowed, tiled, tiled_windows
from lcm.training.target_transform import TargetTransform
from lcm.training.units import mean_of_units
from lcm.training.weights import Vocabulary

log = logging.getLogger(__name__)

PASS = 128
"""Connectomes a pass without gradients: with attention kept, 32 layers of 27 tokens over 116 regions take 50 MB."""

Transforms = Mapping[str, TargetTransform]
"""BEI → the scale on which a network learns it; one that is absent is learned as it is."""


def build_network(model: Model, num_regions: int, tokens: Sequence[str], *, seed: int) -> TokenNetwork:
    """The network of a config.yaml model with fresh weights."""
    size = check_size(model.architecture, model.size)
    seed_everything(seed)
    return architecture(model.architecture).load()(num_regions, tokens, **size)


def fit_inputs(network: TokenNetwork, training: Cohort, scaling: ScalingKind = "robust") -> None:
    """Fit what turns scans into input, on the training scans: of edges where it is wanted, of series always.

    Raises ValueError where a network needs the centres of the regions and the atlas has none.
    """
    if not isinstance(network, SeriesNetwork):
        network.fit_edges(training.edges_NE)
        return
    recordings = recordings_of(training)
    if network.reads_places and not np.isfinite(recordings.places_R3).all():
        raise ValueError(
            f"{type(network).__name__} reads where regions are, and atlas {training.atlas} does not say it for all; give an "
            "atlas with an image, or with coordinates in its table, or see docs/brainlm.md for a size that does without"
        )
    rates_s = np.unique(np.round(recordings.tr_s_N[np.isfinite(recordings.tr_s_N)], 3))
    if len(rates_s) > 1:
        log.warning(
            "a window of %d frames is %.0f to %.0f s long: repetition times differ; collect.tr_s makes them one",
            network.num_frames, network.num_frames * rates_s[0], network.num_frames * rates_s[-1],
        )  # fmt: skip
    network.fit_series(recordings.quartiles(), np.nan_to_num(recordings.places_R3), scaling)


def train_on(
    training: Cohort,
    validation: Cohort,
    network: TokenNetwork,
    targets: Sequence[Target],
    settings: Training,
    *,
    pseudo_weight: float,
    transforms: Transforms = MappingProxyType({}),
    run: Run | None = None,
    devices: Devices | None = None,
) -> State:
    """Train on some people and leave the network at its best epoch for others.

    Pseudo labels teach with that weight and judge no epoch. Raises what `lcm.training.loop.train` does.
    """
    vocabulary = {target.name: target.levels for target in targets}
    learning, judging = (
        _examples_for(network, cohort, vocabulary, settings, weight, transforms)
        for cohort, weight in ((training, pseudo_weight), (validation, 0.0))
    )
    objective = network.objective(targets, settings.first_stage_epochs, settings.stages)
    return train(network, objective, learning, judging, settings, run, devices)


def _examples_for(
    network: TokenNetwork,
    cohort: Cohort,
    vocabulary: Vocabulary,
    settings: Training,
    pseudo_weight: float,
    transforms: Transforms,
) -> Examples:
    """What the network reads of the cohort, with its labels."""
    if isinstance(network, SeriesNetwork):
        labels = labels_as_tensors(cohort, vocabulary, pseudo_weight, transforms)
        return Windowed(recordings_of(cohort), network.num_frames, labels, masking=None)
    half = settings.precision == "bf16-mixed"
    return examples(cohort, vocabulary, pseudo_weight=pseudo_weight, half=half, transforms=transforms)


def train_masked(
    training: Cohort,
    validation: Cohort,
    network: SeriesNetwork,
    masking: Masking,
    settings: Training,
    *,
    run: Run | None = None,
    devices: Devices | None = None,
) -> State:
    """Teach an autoencoder to fill in what `masking` hides, and leave it at its best epoch for the validation people.

    Raises what `lcm.training.loop.train` does, and ValueError where no recording of one side is as long as a window: what
    follows a short one is hidden first, and little or nothing else would be left to fill in.
    """
    for role, cohort in {"training": training, "validation": validation}.items():
        longest = int(recordings_of(cohort).num_frames_N.max(initial=0))
        if longest < network.num_frames:
            raise ValueError(
                f"no {role} recording is as long as a window: size.num_frames is {network.num_frames}, and the longest has "
                f"{longest} frames; make num_frames smaller"
            )
    learning, judging = (
        Windowed(recordings_of(cohort), network.num_frames, {}, masking) for cohort in (training, validation)
    )
    return train(network, MaskedLoss(), learning, judging, settings, run, devices)


def start_at_mean(
    network: TokenNetwork, cohort: Cohort, vocabulary: Vocabulary, transforms: Transforms = MappingProxyType({})
) -> None:
    """Start the outputs at the training mean of the first continuous BEI; nothing happens where there is none."""
    for name in (name for name, levels in vocabulary.items() if not levels):
        labels = labels_as_tensors(cohort.of_role(TRAIN), {name: ()}, 0.0, transforms)
        known_N = labels[f"weight:{name}"] > 0
        if known_N.any():
            network.start_at(float(labels[f"label:{name}"][known_N].mean()))
            return


def connectomes(edges_NE: np.ndarray, num_regions: int) -> torch.Tensor:
    """FC matrices (N, R, R) float32; edges of an uncovered region are NaN, and the network knows what to make of them."""
    return torch.from_numpy(square(edges_NE, num_regions))


def examples(
    cohort: Cohort,
    vocabulary: Vocabulary,
    *,
    pseudo_weight: float = 0.0,
    half: bool = False,
    transforms: Transforms = MappingProxyType({}),
) -> InMemory:
    """Connectomes with the label and weight of every BEI of the vocabulary; `half`: FC as float16."""
    fc_NRR = connectomes(cohort.edges_NE, len(cohort.regions))
    labels = labels_as_tensors(cohort, vocabulary, pseudo_weight, transforms)
    return InMemory({"inputs": fc_NRR.half() if half else fc_NRR} | labels)


def labels_as_tensors(
    cohort: Cohort, vocabulary: Vocabulary, pseudo_weight: float, transforms: Transforms = MappingProxyType({})
) -> dict[str, torch.Tensor]:
    """Label, on the scale that the network learns, and weight of every BEI, (N,) each."""
    columns = {}
    for name, levels in vocabulary.items():
        labels = labels_of(cohort, name, levels, pseudo_weight=pseudo_weight)
        value_N = transforms[name].apply(labels.value_N) if name in transforms else labels.value_N
        columns[f"label:{name}"] = torch.from_numpy(np.where(labels.weight_N > 0, value_N, 0.0).astype(np.float32))
        columns[f"weight:{name}"] = torch.from_numpy(labels.weight_N)
    return columns


def ready(network: TokenNetwork, place: str) -> TokenNetwork:
    """The network in evaluation, on that device."""
    return network.to(torch.device(place)).eval()


def passes(network: TokenNetwork, cohort: Cohort) -> Iterator[Any]:
    """What the network reads of the cohort, a part at a time, where the network is.

    FC matrices of PASS connectomes each; or the tiled windows of recordings, whose answers `by_scan` puts together.
    """
    # A network in closed form has no parameters.
    device = next(chain(network.parameters(), network.buffers())).device
    if not isinstance(network, SeriesNetwork):
        for part_BE in np.array_split(cohort.edges_NE, max(1, -(-len(cohort.edges_NE) // PASS))):
            yield connectomes(part_BE, len(cohort.regions)).to(device)
        return
    for _, windows in tiled_windows(recordings_of(cohort), network.num_frames, device=device):
        yield windows


def by_scan(network: TokenNetwork, cohort: Cohort, values_WX: np.ndarray) -> np.ndarray:
    """The mean of each scan's windows, (N, …); of connectomes, which have one answer each, the very same values."""
    if not isinstance(network, SeriesNetwork):
        return values_WX
    run_W, _ = tiled(recordings_of(cohort), network.num_frames)
    return mean_of_units(values_WX, run_W, len(cohort.rows)).astype(values_WX.dtype)


def recordings_of(cohort: Cohort) -> Recordings:
    """The recordings of a cohort that was read with them; ValueError for one of connectomes."""
    if cohort.recordings is None:
        raise ValueError("a network of series is given connectomes; name --recordings, the folder of collect")
    return cohort.recordings


def scores_of(
    network: TokenNetwork,
    cohort: Cohort,
    target: Target,
    settings: Training,
    place: str,
) -> np.ndarray:
    """What the network says of each scan: (N, K) probabilities of the levels, or (N, 1) values as it learned them; float64."""
    ready(network, place)
    parts = []
    with torch.inference_mode():
        for inputs in passes(network, cohort):
            read_BK = network.read_out(network(inputs), target.name, target.levels, settings.stages)
            parts.append(read_BK.double().cpu().numpy())
    network.to("cpu")
    return by_scan(network, cohort, np.concatenate(parts))


def embeddings_of(network: TokenNetwork, cohort: Cohort, place: str) -> np.ndarray:
    """What the network, on that device, makes of each scan, (N, D) float32."""
    ready(network, place)
    with torch.inference_mode():
        parts = [network.embed(inputs).float().cpu().numpy() for inputs in passes(network, cohort)]
    network.to("cpu")
    return by_scan(network, cohort, np.concatenate(parts))


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
