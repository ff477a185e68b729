"""Simulated region series: a base connectome, the shifts that each BEI plants in it, and time courses that carry both.

Shapes: R regions, T volumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NETWORKS: dict[str, tuple[str, ...]] = {
    "frontal": ("Frontal_", "Rectus", "Olfactory", "Cingulum_Ant"),
    "motor": ("Precentral", "Postcentral", "Supp_Motor_Area", "Paracentral_Lobule", "Rolandic_Oper"),
    "parietal": ("Parietal_", "SupraMarginal", "Angular", "Precuneus", "Cingulum_Post", "Cingulum_Mid"),
    "visual": ("Calcarine", "Cuneus", "Lingual", "Occipital_", "Fusiform"),
    "temporal": ("Temporal_", "Heschl", "Insula"),
    "limbic": ("Hippocampus", "ParaHippocampal", "Amygdala"),
    "subcortical": ("Caudate", "Putamen", "Pallidum", "Thalamus"),
    "cerebellar": ("Cerebelum_", "Vermis_"),
}
"""Beginnings of AAL names that form a network; the regions of one share variance."""

EFFECT_REGIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sex": (
        ("Insula", "Rolandic_Oper", "Frontal_Inf_Oper", "SupraMarginal"),
        ("Frontal_Mid_Orb", "Rectus", "Olfactory"),
    ),
    "age": (
        ("Frontal_Sup", "Frontal_Mid", "Frontal_Sup_Medial", "Cingulum_Ant"),
        ("Calcarine", "Cuneus", "Lingual"),
    ),
    "alzheimers": (
        ("Hippocampus", "ParaHippocampal", "Cingulum_Post", "Precuneus"),
        ("Angular", "Temporal_Inf", "Frontal_Med_Orb"),
    ),
    "parkinsons": (
        ("Putamen", "Caudate", "Pallidum", "Thalamus"),
        ("Precentral", "Postcentral", "Supp_Motor_Area"),
    ),
    "autism": (
        ("Fusiform", "Amygdala", "Temporal_Sup", "Temporal_Pole_Sup"),
        ("Cerebelum_Crus1", "Cerebelum_6", "Occipital_Inf"),
    ),
    "schizophrenia": (
        ("Heschl", "Temporal_Mid", "Temporal_Pole_Mid", "Frontal_Inf_Tri"),
        ("Cerebelum_Crus2", "Cerebelum_8", "Cingulum_Mid"),
    ),
    "cognitive_state": (
        ("Frontal_Inf_Orb", "Frontal_Sup_Orb", "Parietal_Sup", "Parietal_Inf"),
        ("Occipital_Sup", "Occipital_Mid", "Paracentral_Lobule"),
    ),
}
"""Two groups of bilateral regions a BEI moves: edges inside a group rise, edges between the groups fall.

The rises and falls nearly cancel in the mean, so that regressing out the global signal does not remove the effect.
No region serves two BEIs: the planted shifts are told apart by where they are.
"""

INDIVIDUAL_SPREAD = 0.25
"""Standard deviation, between people of one level, of how strongly they show an effect (1 = the level's mean)."""

INDIVIDUAL_DOF = 200
"""Degrees of freedom of a person's own connectome around the expected one: edges scatter by about 1/sqrt(200)."""

SITE_SCALE = 0.12
"""Loading of a scanner's own component on a typical region; its square is the correlation it adds."""

SIGNAL_CORNER_HZ = 0.04
BAND_HZ = (0.01, 0.1)
OUT_OF_BAND_POWER = 0.03


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and these names alone, so the order of making things is free."""
    return np.random.default_rng([seed, *"/".join(names).encode()])


def base_correlation(names: Sequence[str], seed: int) -> Array:
    """Correlation (R×R) of a person at every effect's reference level.

    Variance of a region is shared with the whole brain, its network, its homotopic partner and eight diffuse symmetric
    components; at least 0.3 is its own, which keeps the matrix positive definite.
    """
    rng = generator(seed, "base")
    stems = [_stem(name) for name in names]
    unique_stems = list(dict.fromkeys(stems))
    diffuse = {stem: rng.normal(0.0, 0.13, 8) for stem in unique_stems}
    whole_brain = {stem: rng.normal(0.46, 0.08) for stem in unique_stems}
    networks = list(NETWORKS)
    loadings = np.zeros((len(names), 1 + 8 + len(networks) + len(unique_stems)))
    for row, (name, stem) in enumerate(zip(names, stems, strict=True)):
        loadings[row, 0] = whole_brain[stem]
        loadings[row, 1:9] = diffuse[stem]
        loadings[row, 9 + networks.index(_network(name))] = np.sqrt(0.15)
        loadings[row, 9 + len(networks) + unique_stems.index(stem)] = np.sqrt(0.12)
    shared = loadings @ loadings.T
    own = np.maximum(1.0 - np.diag(shared), 0.3)
    return _unit_diagonal(shared + np.diag(own))


def effect_edges(bei: str, names: Sequence[str]) -> Array:
    """Signs (R×R: −1, 0, 1) of the edges this BEI moves; homotopic pairs stay where they are.

    Raises ValueError when the atlas lacks a region of EFFECT_REGIONS.
    """
    side = np.zeros(len(names))
    for sign, group in zip((1.0, -1.0), EFFECT_REGIONS[bei], strict=True):
        for stem in group:
            for half in ("_L", "_R"):
                if stem + half not in names:
                    raise ValueError(f"the effect of {bei} needs region {stem + half}, which the atlas does not have")
                side[list(names).index(stem + half)] = sign
    edges = np.outer(side, side)
    stems = np.array([_stem(name) for name in names])
    edges[stems[:, None] == stems[None, :]] = 0.0
    return edges


def shifted_correlation(base: Array, edges: Mapping[str, Array], amounts: Mapping[str, float]) -> Array:
    """Nearest correlation (R×R) to `base` moved by `amounts` (Fisher z) along each BEI's `edges`."""
    off_diagonal = base - np.eye(len(base))
    z = np.arctanh(np.clip(off_diagonal, -0.99, 0.99))
    for bei, amount in amounts.items():
        z = z + amount * edges[bei]
    return nearest_correlation(np.tanh(z) + np.eye(len(base)))


def nearest_correlation(matrix: Array) -> Array:
    """Positive definite correlation close to a symmetric matrix (R×R).

    Alternating projections (Higham 2002, IMA J. Numer. Anal. 22:329) without Dykstra's correction: eigenvalues below
    0.02 are raised to it and the diagonal is set back to one, until both hold.
    """
    for _ in range(20):
        values, vectors = np.linalg.eigh(matrix)
        if values[0] >= 0.0199:
            break
        matrix = _unit_diagonal((vectors * np.maximum(values, 0.02)) @ vectors.T)
    return matrix


def individual_correlation(expected: Array, site: Array, rng: np.random.Generator) -> Array:
    """One person's own correlation (R×R): a Wishart draw around the expected one, plus the site's component (R)."""
    draws = np.linalg.cholesky(expected) @ rng.standard_normal((len(expected), INDIVIDUAL_DOF))
    own = 0.5 * (draws @ draws.T / INDIVIDUAL_DOF) + 0.5 * expected
    return _unit_diagonal(own + np.outer(site, site))


def site_component(num_regions: int, seed: int, site: str) -> Array:
    """Loadings (R) of the component that the scanner of a site adds."""
    return generator(seed, "site", site).normal(0.0, SITE_SCALE, num_regions)


def band_limited_noise(num_volumes: int, num_series: int, tr_s: float, rng: np.random.Generator) -> Array:
    """Independent unit-variance series (T×N) with an AR(1)-like spectrum inside 0.01–0.1 Hz and little outside.

    They are cut from a run twice as long, so that the ends are not tied to each other as a Fourier series' are.
    """
    frequencies = np.fft.rfftfreq(2 * num_volumes, tr_s)
    power = 1.0 / (1.0 + (frequencies / SIGNAL_CORNER_HZ) ** 2)
    power[(frequencies < BAND_HZ[0]) | (frequencies > BAND_HZ[1])] = OUT_OF_BAND_POWER
    power[0] = 0.0
    spectrum = np.fft.rfft(rng.standard_normal((2 * num_volumes, num_series)), axis=0)
    series = np.fft.irfft(spectrum * np.sqrt(power)[:, None], n=2 * num_volumes, axis=0)[:num_volumes]
    return (series - series.mean(0)) / series.std(0)


def region_series(correlation: Array, num_volumes: int, tr_s: float, rng: np.random.Generator) -> Array:
    """Series (T×R) of unit variance whose population correlation is `correlation`."""
    noise = band_limited_noise(num_volumes, len(correlation), tr_s, rng)
    return noise @ np.linalg.cholesky(correlation).T


def describe_effects(base: Array, names: Sequence[str], effect_z: float) -> dict[str, dict[str, object]]:
    """What the simulation planted, for truth.json: a BEI's edges, the asked shift and the shift after projection.

    `effective_z` is the mean over the edges, along their sign; `elsewhere_z` the largest absolute shift of another edge.
    """
    described: dict[str, dict[str, object]] = {}
    upper = np.triu_indices(len(names), k=1)
    for bei in EFFECT_REGIONS:
        edges = effect_edges(bei, names)
        moved = shifted_correlation(base, {bei: edges}, {bei: effect_z})
        shift = (np.arctanh(moved[upper]) - np.arctanh(base[upper])) * np.where(edges[upper] == 0, 1.0, edges[upper])
        planted = edges[upper] != 0
        described[bei] = {
            "planted_z": effect_z,
            "effective_z": round(float(shift[planted].mean()), 6),
            "elsewhere_z": round(float(np.abs(shift[~planted]).max()), 6),
            "edges": [
                {"regions": [names[int(i)], names[int(j)]], "sign": int(edges[i, j])}
                for i, j in zip(*upper, strict=True)
                if edges[i, j] != 0
            ],
        }
    return described


def _stem(name: str) -> str:
    return name[:-2] if name.endswith(("_L", "_R")) else name


def _network(name: str) -> str:
    for network, beginnings in NETWORKS.items():
        if name.startswith(beginnings):
            return network
    raise ValueError(f"region {name} begins like none of the simulated networks; add it to NETWORKS")


def _unit_diagonal(covariance: Array) -> Array:
    scale = 1.0 / np.sqrt(np.diag(covariance))
    correlation = covariance * np.outer(scale, scale)
    np.fill_diagonal(correlation, 1.0)
    return correlation
