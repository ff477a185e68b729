"""Between arrays and networks: missing edges, labels beside their connectomes, strict loading."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcm.config import Model
from lcm.training.data import read_cohort, tables_of
from lcm.training.networks import arrays_of, build_network, connectomes, examples, load_arrays

MODEL = Model(architecture="lcm", size={"num_layers": 1, "width": 16, "num_heads": 2})


def test_edges_of_an_uncovered_region_are_zero_and_the_diagonal_is_one():
    fc_RR = connectomes(np.array([[0.5, np.nan, np.nan]], dtype=np.float32), 3)[0]
    assert torch.equal(fc_RR, torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]))


def test_examples_carry_value_and_weight_of_every_bei(study):
    cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train",))
    columns = examples(cohort, {"sex": ("female", "male"), "age": (), "autism": ("control", "autism")}).columns
    assert columns["inputs"].shape == (28, 10, 10)
    assert columns["label:sex"].tolist() == [float(level == "male") for level in cohort.rows["sex"]]
    assert columns["weight:autism"].tolist() == [float(name == "BBB") for name in cohort.rows["dataset"]]
    assert torch.isfinite(columns["label:autism"]).all()


def test_weights_survive_the_way_through_arrays():
    first = build_network(MODEL, 5, ("a", "b"), seed=1).eval()
    other = build_network(MODEL, 5, ("a", "b"), seed=2).eval()
    load_arrays(other, arrays_of(first))
    fc_BRR = torch.randn(3, 5, 5)
    assert torch.equal(first(fc_BRR), other(fc_BRR))


@pytest.mark.parametrize("damage", ["missing", "further", "shape"])
def test_arrays_that_do_not_fit_are_refused(damage):
    network = build_network(MODEL, 5, ("a", "b"), seed=1)
    arrays = arrays_of(network)
    if damage == "missing":
        del arrays["head.bias"]
    elif damage == "further":
        arrays["tail.bias"] = np.zeros(1)
    else:
        arrays["head.bias"] = np.zeros(2)
    with pytest.raises(ValueError, match="do not fit"):
        load_arrays(network, arrays)
