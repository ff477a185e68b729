"""The multilayer perceptron: published sizes, by hand, and all that a network owes the loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

from lcm.models import MLP_SIZES
from lcm.models.multilayer_perceptron import MultilayerPerceptron
from lcm.models.token_network import Target
from lcm.training.data import labels_of, read_cohort, tables_of
from lcm.training.weights import WEIGHTS, read_manifest
from tests.asking import scores_of

TOKENS = ("sex=female", "sex=male", "age")


def tiny(**size: object) -> MultilayerPerceptron:
    torch.manual_seed(0)
    return MultilayerPerceptron(6, TOKENS, **{"num_layers": 2, "width": 16, **size})


def connectomes(num_scans: int, seed: int = 1) -> torch.Tensor:
    upper_BNN = torch.randn(num_scans, 6, 6, generator=torch.Generator().manual_seed(seed)).triu(1)
    return upper_BNN + upper_BNN.transpose(1, 2) + torch.eye(6)


@pytest.mark.parametrize(("size", "millions"), [("small", 302.8), ("mid", 755.9), ("big", 1208.9)])
def test_the_papers_sizes_have_the_parameters_of_its_logs(size, millions):
    with torch.device("meta"):
        network = MultilayerPerceptron(116, tuple(map(str, range(27))), **MLP_SIZES[size])
    # Batch normalisation, which the authors' program lacks, adds 12,288 a layer.
    normalising = sum(p.numel() for name, p in network.named_parameters() if "norm" in name)
    counted = sum(p.numel() for p in network.parameters()) - normalising
    assert counted / 1e6 == pytest.approx(millions, abs=0.2)


@pytest.mark.parametrize("edges", ["raw", "standard"])
@pytest.mark.parametrize("reads", ["rows", "edges"])
def test_logits_are_what_a_loop_over_layers_computes(reads, edges):
    network = tiny(reads=reads, edges=edges).eval()
    fc_BNN = connectomes(5)
    if edges == "standard":
        rows, columns = np.triu_indices(6, k=1)
        network.fit_edges(connectomes(40, 2).numpy()[:, rows, columns])
    for norm in (network.input_norm, *(layer.norm for layer in network.layers)):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2.0)

    def normed(norm, x):
        return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias

    found_BP = []
    for fc_NN in fc_BNN:
        known_NN = network.edges(fc_NN[None])[0] if network.edges else fc_NN
        read = known_NN if reads == "rows" else known_NN[*torch.triu_indices(6, 6, 1)]
        hidden = functional.leaky_relu(normed(network.input_norm, network.input(read)))
        if reads == "rows":
            weights = network.pool.weight[0]
            hidden = functional.leaky_relu((weights[:, None] * hidden).sum(dim=0) + network.pool.bias)
        for layer in network.layers:
            hidden = hidden + functional.leaky_relu(normed(layer.norm, layer.linear(hidden)))
        found_BP.append(network.head.weight @ hidden + network.head.bias)
    torch.testing.assert_close(network(fc_BNN), torch.stack(found_BP)[None], atol=1e-5, rtol=1e-5)


def test_the_embedding_is_what_the_head_reads():
    network = tiny().eval()
    fc_BNN = connectomes(3)
    torch.testing.assert_close(network.head(network.embed(fc_BNN))[None], network(fc_BNN))
    assert network.embed(fc_BNN).shape == (3, 16)


def test_a_missing_edge_is_zero_when_raw_and_the_mean_when_standard():
    fc_BNN = connectomes(2)
    filled_BNN = fc_BNN.clone()
    fc_BNN[:, 2, 4] = fc_BNN[:, 4, 2] = torch.nan
    network = tiny(reads="edges").eval()
    filled_BNN[:, 2, 4] = filled_BNN[:, 4, 2] = 0
    torch.testing.assert_close(network(fc_BNN), network(filled_BNN))
    network = tiny(reads="edges", edges="standard").eval()
    edges_SE = np.full((4, 15), 0.3) + np.linspace(-0.1, 0.1, 4)[:, None]
    network.fit_edges(edges_SE)
    filled_BNN[:, 2, 4] = filled_BNN[:, 4, 2] = 0.3
    torch.testing.assert_close(network(fc_BNN), network(filled_BNN), atol=1e-5, rtol=1e-5)


def test_appended_outputs_leave_the_present_ones_as_they_are():
    network = tiny().eval()
    fc_BNN = connectomes(3)
    before = network(fc_BNN)
    network.append_tokens(["autism=control", "autism=autism"])
    after = network(fc_BNN)
    assert after.shape == (1, 3, 5)
    assert network.tokens[3:] == ("autism=control", "autism=autism")
    torch.testing.assert_close(after[..., :3], before)
    assert after[..., 3:].std() > 0
    with pytest.raises(ValueError, match=r"\['age'\] are already"):
        network.append_tokens(["age"])


def test_a_frozen_trunk_stays_as_it_is_while_the_head_learns():
    network = tiny(dropout=0.5)
    network.freeze_trunk()
    network.train()
    fc_BNN = connectomes(8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(network(fc_BNN), network(fc_BNN))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(fc_BNN).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_it_learns_a_level_and_a_value_by_the_same_loss_as_the_lcm():
    network = tiny(reads="edges")
    fc_BNN = connectomes(64)
    label_B, age_B = (fc_BNN[:, 0, 1] > 0).float(), 40 + 5 * fc_BNN[:, 2, 3]
    batch = {"label:sex": label_B, "label:age": age_B, "weight:sex": torch.ones(64), "weight:age": torch.ones(64)}
    objective = network.objective([Target("sex", ("female", "male")), Target("age", (), 1e-2)], 5)
    network.start_at(40.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for epoch in range(1, 60):
        optimizer.zero_grad()
        sum(objective(network(fc_BNN), batch, epoch).values()).backward()
        optimizer.step()
    network.eval()
    outputs = network(fc_BNN)
    said_BK = network.read_out(outputs, "sex", ("female", "male"))
    assert (said_BK.argmax(dim=1) == label_B).float().mean() > 0.95
    assert (network.read_out(outputs, "age", ())[:, 0] - age_B).abs().mean() < 2
    assert network.choose_layers(outputs, "sex", ("female", "male")).eq(0).all()


def test_the_weights_that_read_the_input_are_named():
    network = tiny()
    assert set(network.embedding_parameters()) <= set(dict(network.named_parameters()))


TINY = {
    "architecture": "mlp",
    "size": {"num_layers": 1, "width": 32, "dropout": 0.2, "reads": "edges", "edges": "standard"},
}
SETTINGS = {"max_epochs": 40, "patience": 40, "batch_size": 8, "learning_rate": 1e-3}


def people_of_test(study):
    return read_cohort(tables_of(study.flags()), fold=0, roles=("test",))


def test_the_one_loop_trains_it_and_a_planted_effect_is_found(study, run_stage):
    task = {"target": "sex", "levels": ["female", "male"]}
    folder = run_stage("finetune", "out", SETTINGS, model=TINY, task=task)
    cohort = people_of_test(study)
    truth_N = labels_of(cohort, "sex", ("female", "male")).value_N
    # The planted shift is twice the noise in each of ten edges; 16 of 20 is chance with p = 0.006.
    assert (scores_of(folder, cohort).argmax(axis=1) == truth_N).sum() >= 16
    np.testing.assert_allclose(load_file(folder / WEIGHTS)["edges.mean_NN"][0, 0], 0)


def test_pretraining_and_finetuning_append_its_outputs(study, run_stage):
    settings = SETTINGS | {"max_epochs": 2}
    pretrained = TINY | {"start": "pretrained"}
    weights = run_stage("pretrain", "pre", settings | {"targets": ["sex", "age"]}, model=pretrained)
    task = {"target": "autism", "levels": ["control", "autism"]}
    folder = run_stage("finetune", "fine", settings | {"trunk": "freeze"}, model=pretrained, task=task, weights=weights)
    before, after = load_file(weights / WEIGHTS), load_file(folder / WEIGHTS)
    assert read_manifest(folder).tokens == ("sex=female", "sex=male", "age", "autism=control", "autism=autism")
    assert after["head.weight"].shape == (5, 32)
    moved = {name for name in before if "head" not in name and not np.array_equal(before[name], after[name])}
    assert moved == set()
    assert scores_of(folder, people_of_test(study)).shape == (20, 2)
