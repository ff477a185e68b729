"""What a masked autoencoder learns beyond interpolation: series of a known spectrum, filled in by each.

Regions belong to networks. A region's series is its network's source plus one of its own; sources are band-limited Gaussian
noise, so that a region's spectrum is known, and with it, in closed form, the best that any linear rule can make of the
region's own visible frames, or of all of them. A small BrainLM learns from other recordings.
"""

# Shapes: N recordings, T frames, R regions, V visible frames, H hidden ones.

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from lcm.config import Training
from lcm.models.brainlm import BrainLM
from lcm.models.series_network import MaskedLoss, Masking, Windows
from lcm.training.devices import Devices
from lcm.training.loop import seed_everything, train
from lcm.training.machine import Machine
from lcm.training.recordings import Recordings, Windowed

Series = NDArray[np.float64]
Hidden = NDArray[np.bool_]

SIZE: dict[str, Any] = {
    "num_frames": 60,
    "patch_frames": 10,
    "width": 48,
    "feedforward": 96,
    "num_layers": 2,
    "num_heads": 2,
}
SIZE |= {"decoder_layers": 1, "conv_kernel": 9, "dropout": 0.0}
TRAINING = Training(batch_size=16, learning_rate=4e-3, schedule="cosine", warmup_share=0.1, max_gradient_norm=1.0)


@dataclass(frozen=True)
class Planted:
    """A population whose second moments are known."""

    num_regions: int = 16
    num_networks: int = 4
    num_frames: int = 120
    tr_s: float = 2.0
    band_hz: tuple[float, float] = (0.01, 0.1)
    shared: float = 0.8
    """Share of a region's band-limited variance that comes from its network."""
    noise: float = 0.05
    """Share of its variance that is white."""

    def networks(self) -> NDArray[np.int64]:
        """The network of every region."""
        return np.arange(self.num_regions) % self.num_networks

    def centres(self) -> Series:
        """Centres in mm: a network's regions lie within 15 mm of a point that is 60 mm from the middle."""
        drawn = np.random.default_rng(0)
        middle_K3 = drawn.normal(size=(self.num_networks, 3))
        middle_K3 *= 60 / np.linalg.norm(middle_K3, axis=1, keepdims=True)
        return middle_K3[self.networks()] + drawn.uniform(-15, 15, (self.num_regions, 3))

    def autocovariance(self, lag: NDArray[Any]) -> Series:
        """Of any region, at lags in frames; 1 at 0."""
        low, high = (2 * frequency * self.tr_s for frequency in self.band_hz)
        band = (high * np.sinc(high * lag) - low * np.sinc(low * lag)) / (high - low)
        return (1 - self.noise) * band + self.noise * (lag == 0)

    def between(self) -> Series:
        """Covariance of two regions' band-limited parts, (R, R), as a share of their variance."""
        alike_RR = self.networks()[:, None] == self.networks()
        return self.shared * alike_RR + (1 - self.shared) * np.eye(self.num_regions)

    def draw(self, num: int, seed: int) -> Series:
        """Recordings, (N, T, R)."""
        drawn = np.random.default_rng(seed)
        lag_TT = np.arange(self.num_frames)[:, None] - np.arange(self.num_frames)
        band_TT = self.autocovariance(lag_TT) - self.noise * np.eye(self.num_frames)
        root_TT, root_RR = _root(band_TT), _root(self.between())
        band_NTR = root_TT @ drawn.normal(size=(num, self.num_frames, self.num_regions)) @ root_RR
        return band_NTR + np.sqrt(self.noise) * drawn.normal(size=band_NTR.shape)


def _root(covariance: Series) -> Series:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def straight_lines(series_TR: Series, hidden_TR: Hidden) -> Series:
    """Linear interpolation between a region's visible frames, constant beyond them; 0 where it has none."""
    filled_TR = np.where(hidden_TR, 0.0, series_TR)
    frame_T = np.arange(len(series_TR))
    for region in np.flatnonzero(~hidden_TR.all(axis=0)):
        seen_T = ~hidden_TR[:, region]
        filled_TR[:, region] = np.interp(frame_T, frame_T[seen_T], series_TR[seen_T, region])
    return filled_TR


def own_wiener(planted: Planted, series_TR: Series, hidden_TR: Hidden) -> Series:
    """The best linear rule on a region's own visible frames: E[hidden | visible] of a Gaussian of its spectrum."""
    frame_T, filled_TR = np.arange(len(series_TR)), np.where(hidden_TR, 0.0, series_TR)
    for region in np.flatnonzero(~hidden_TR.all(axis=0)):
        seen_V, lost_H = frame_T[~hidden_TR[:, region]], frame_T[hidden_TR[:, region]]
        among_VV = planted.autocovariance(seen_V[:, None] - seen_V)
        across_HV = planted.autocovariance(lost_H[:, None] - seen_V)
        filled_TR[lost_H, region] = across_HV @ np.linalg.solve(among_VV, series_TR[seen_V, region])
    return filled_TR


def all_wiener(planted: Planted, series_TR: Series, hidden_TR: Hidden) -> Series:
    """The best linear rule on the visible frames of all regions; nothing can do better on Gaussian series."""
    (seen_V, region_V), (lost_H, region_H) = np.nonzero(~hidden_TR), np.nonzero(hidden_TR)
    between_RR, filled_TR = planted.between(), series_TR.copy()

    def covariance(frame: NDArray[np.int64], region: NDArray[np.int64]) -> Series:
        lag = frame[:, None] - seen_V
        same = (lag == 0) & (region[:, None] == region_V)
        band = planted.autocovariance(lag) - planted.noise * (lag == 0)
        return band * between_RR[region[:, None], region_V] + planted.noise * same

    weights_V = np.linalg.solve(covariance(seen_V, region_V), series_TR[seen_V, region_V])
    filled_TR[lost_H, region_H] = covariance(lost_H, region_H) @ weights_V
    return filled_TR


def r2(truth: Series, said: Series) -> float:
    """Of all hidden frames together."""
    return 1 - float(((truth - said) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def learned(
    planted: Planted, num_recordings: int, size: Mapping[str, Any], settings: Training, masking: Masking
) -> BrainLM:
    """A BrainLM that has learned, from recordings of its own, to fill in what the masking hides."""
    seed_everything(settings.seed)
    network = BrainLM(planted.num_regions, (), **size)
    learning, judging = (
        Windowed(recordings_of(planted, planted.draw(num, seed)), network.num_frames, {}, masking)
        for num, seed in ((num_recordings, 1), (num_recordings // 4, 2))
    )
    network.fit_series(learning.recordings.quartiles(), planted.centres())
    train(network, MaskedLoss(), learning, judging, settings, devices=Devices(Machine(accelerator="cpu")))
    return network


def recordings_of(planted: Planted, series_NTR: Series) -> Recordings:
    """Recordings as the training stages read them, in memory."""
    runs = tuple(series_NTR.astype(np.float16))
    number_N = np.arange(len(runs), dtype=np.int64)
    regions = tuple(f"region{place}" for place in range(planted.num_regions))
    return Recordings(runs, number_N, np.full(len(runs), planted.tr_s), regions, planted.centres())


def compared(planted: Planted, network: BrainLM, masking: Masking, *, num_recordings: int = 32) -> dict[str, float]:
    """Rule → R² over the hidden frames of recordings that the network has not met."""
    drawn_NTR = planted.draw(num_recordings, seed=3)[:, : network.num_frames]
    series_NTR = drawn_NTR.astype(np.float16).astype(np.float64)
    with torch.inference_mode():
        said = network.eval().reconstruct(Windows(torch.from_numpy(series_NTR), torch.arange(len(series_NTR)), masking))
        predicted_NTR = (said.predicted_BTR * network.scaling.iqr_R + network.scaling.median_R).double().numpy()
    hidden_NTR = said.scored_BTR.numpy()
    truth = series_NTR[hidden_NTR]
    found = {"BrainLM": r2(truth, predicted_NTR[hidden_NTR])}
    for name, rule in RULES.items():
        filled_NTR = np.stack([rule(planted, *given) for given in zip(series_NTR, hidden_NTR, strict=True)])
        found[name] = r2(truth, filled_NTR[hidden_NTR])
    return found


RULES: dict[str, Callable[[Planted, Series, Hidden], Series]] = {
    "straight lines": lambda _, series_TR, hidden_TR: straight_lines(series_TR, hidden_TR),
    "best linear rule on the region's own frames": own_wiener,
    "best rule on all visible frames": all_wiener,
}


def main() -> None:
    """Print R² of every rule for each share that is hidden."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5, 0.75])
    parser.add_argument("--recordings", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    planted = Planted()
    settings = TRAINING.model_copy(update={"max_epochs": options.epochs, "patience": options.epochs})
    for ratio in options.ratios:
        masking, started = Masking(ratio), time.monotonic()
        network = learned(planted, options.recordings, SIZE, settings, masking)
        seconds = time.monotonic() - started
        scores = "; ".join(f"{name} {score:.3f}" for name, score in compared(planted, network, masking).items())
        sys.stdout.write(f"{ratio:.0%} hidden, learned in {seconds:.0f} s: R² {scores}\n")


if __name__ == "__main__":
    main()
