"""Between arrays and networks: missing edges, labels beside their connectomes, strict loading."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcm.config import Model, Training
from lcm.models import MODELS
from lcm.models.token_network import Target
from lcm.tables import TRAIN, VALIDATION
from lcm.training import networks
from lcm.training.checkpoint import Run
from lcm.training.data import read_cohort, tables_of
from lcm.training.networks import arrays_of, build_network, connectomes, examples, load_arrays

MODEL = Model(architecture="lcm", size={"num_layers": 1, "width": 16, "num_heads": 2})


def test_a_connectome_is_square_with_a_unit_diagonal_and_gaps_stay_gaps():
    fc_RR = connectomes(np.array([[0.5, np.nan, np.nan]], dtype=np.float32), 3)[0]
    gap = float("nan")
    expected = torch.tensor([[1.0, 0.5, gap], [0.5, 1.0, gap], [gap, gap, 1.0]])
    assert torch.equal(fc_RR.nan_to_num(-9.0), expected.nan_to_num(-9.0))


def test_a_network_on_raw_edges_reads_a_gap_as_zero():
    network = build_network(MODEL, 3, ("a", "b"), seed=1).eval()
    fc_BRR = connectomes(np.array([[0.5, np.nan, np.nan]], dtype=np.float32), 3)
    assert torch.equal(network(fc_BRR), network(fc_BRR.nan_to_num(0.0)))


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


@pytest.mark.parametrize(("precision", "held"), [("32-true", torch.float32), ("bf16-mixed", torch.float16)])
def test_pseudo_labels_teach_and_do_not_judge(study, monkeypatch, precision, held):
    cohort = read_cohort(tables_of(study.flags()), fold=0, roles=("train", "validation"))
    assumed_N = (cohort.rows["dataset"] == "AAA").to_numpy()
    cohort.rows.loc[assumed_N, ["autism", "autism_source"]] = ["control", "pseudo"]
    asked = {}
    monkeypatch.setattr(networks, "train", lambda *given: asked.update(enumerate(given)))
    network = build_network(MODEL, 10, ("autism=control", "autism=autism"), seed=0)
    settings = Training(precision=precision, stages="last_layer", first_stage_epochs=3)
    run = Run(identity={"code": "abc"})
    target = Target("autism", ("control", "autism"))
    networks.train_on(
        cohort.of_role(TRAIN), cohort.of_role(VALIDATION), network, [target], settings, pseudo_weight=0.25, run=run
    )
    training, validation = asked[2].columns, asked[3].columns
    assert sorted(set(training["weight:autism"].tolist())) == [0.25, 1.0]
    assert sorted(set(validation["weight:autism"].tolist())) == [0.0, 1.0]
    assert len(training["inputs"]) == 28
    assert training["inputs"].dtype == validation["inputs"].dtype == held
    assert (asked[1].stages, asked[1].targets) == ("last_layer", (target,))
    assert (asked[4], asked[5]) == (settings, run)


def test_a_named_size_builds_the_network_of_its_arguments():
    size = MODELS["lcm"].sizes["tiny"]
    network = build_network(Model(architecture="lcm", size="tiny"), 5, ("a",), seed=0)
    assert (len(network.layers), network.head.in_features) == (size["num_layers"], size["width"])
