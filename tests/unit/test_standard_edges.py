"""Standard edges: deviations from the training mean, gaps at the mean, and a mark on each row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcm.config import Model
from lcm.models.standard_edges import StandardEdges
from lcm.training.networks import build_network

MODEL = Model(architecture="lcm", size={"num_layers": 1, "width": 16, "num_heads": 2, "edges": "standard"})


@pytest.fixture
def fc_SNN() -> torch.Tensor:
    """Forty symmetric matrices of four regions, edge (0, 1) missing in half of them."""
    random = np.random.default_rng(3).normal(0.3, 0.2, (40, 4, 4))
    matrices = (random + random.transpose(0, 2, 1)) / 2
    matrices[:, range(4), range(4)] = 1.0
    matrices[::2, 0, 1] = matrices[::2, 1, 0] = np.nan
    return torch.tensor(matrices, dtype=torch.float32)


def triangles(fc_SNN: torch.Tensor) -> np.ndarray:
    """Upper triangles, as a cohort holds its edges."""
    return fc_SNN.numpy()[:, *np.triu_indices(fc_SNN.shape[1], k=1)]


def test_mean_and_deviation_are_of_the_scans_that_have_the_edge(fc_SNN):
    edges = StandardEdges(4, mark=5.0)
    edges.fit(triangles(fc_SNN))
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(edges.mean_NN[off], np.nanmean(fc_SNN.numpy(), axis=0)[off], atol=1e-6)
    np.testing.assert_allclose(edges.scale_NN[off], np.nanstd(fc_SNN.numpy(), axis=0)[off], atol=1e-6)
    np.testing.assert_array_equal(edges.scale_NN.diagonal(), 1.0)


def test_a_gap_is_the_mean_and_the_diagonal_the_mark(fc_SNN):
    edges = StandardEdges(4, mark=5.0)
    edges.fit(triangles(fc_SNN))
    standard_SNN = edges(fc_SNN)
    assert (standard_SNN.diagonal(dim1=1, dim2=2) == 5.0).all()
    assert (standard_SNN[::2, 0, 1] == 0.0).all()
    # By hand for one scan without a gap.
    z = (fc_SNN[1].numpy() - edges.mean_NN.numpy()) / edges.scale_NN.numpy()
    np.fill_diagonal(z, 5.0)
    np.testing.assert_allclose(standard_SNN[1], z, atol=1e-5)


def test_an_edge_that_never_varies_or_is_never_seen_stays_small():
    fc_SNN = torch.full((6, 3, 3), 0.4)
    fc_SNN[:, 2, :] = fc_SNN[:, :, 2] = float("nan")
    edges = StandardEdges(3, mark=1.0)
    edges.fit(triangles(fc_SNN))
    off = ~torch.eye(3, dtype=torch.bool)
    assert edges(fc_SNN + 0.1)[:, off].abs().max() < 0.2


def test_a_bundle_carries_the_fit_and_raw_networks_have_none(fc_SNN):
    network = build_network(MODEL, 4, ("a", "b"), seed=0)
    network.fit_edges(triangles(fc_SNN))
    assert {"edges.mean_NN", "edges.scale_NN"} <= set(network.state_dict())
    raw = build_network(MODEL.model_copy(update={"size": {"num_layers": 1, "width": 16}}), 4, ("a", "b"), seed=0)
    raw.fit_edges(triangles(fc_SNN))
    assert not any(name.startswith("edges") for name in raw.state_dict())


def test_the_units_of_an_edge_do_not_matter(fc_SNN):
    first, second = (build_network(MODEL, 4, ("a", "b"), seed=0).eval() for _ in range(2))
    first.fit_edges(triangles(fc_SNN))
    second.fit_edges(triangles(7.0 * fc_SNN - 2.0))
    np.testing.assert_allclose(first(fc_SNN).detach(), second(7.0 * fc_SNN - 2.0).detach(), atol=1e-4)
