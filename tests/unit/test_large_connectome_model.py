"""The Large Connectome Model: published sizes, an independent reference, hand-computed losses, masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lcm.models.large_connectome_model import (
    Attention,
    DecoderLayer,
    LargeConnectomeModel,
    Target,
    TwoStageLoss,
    read_out,
    token_names,
)

TOKENS = (*token_names("task", ("a", "b", "c", "d")), "sex=female", "sex=male", "age")


def tiny(**size: float) -> LargeConnectomeModel:
    """Two layers of width 16 on 6 regions."""
    torch.manual_seed(0)
    return LargeConnectomeModel(6, TOKENS, **{"num_layers": 2, "width": 16, "num_heads": 4, "feedforward": 24, **size})


@pytest.mark.parametrize(
    ("num_layers", "published"), [(4, 147_194_883), (8, 294_121_475), (20, 734_901_251), (32, 1_175_681_027)]
)
def test_parameters_are_the_published_number_less_two_unused_heads(num_layers, published):
    with torch.device("meta"):
        network = LargeConnectomeModel(116, TOKENS, num_layers=num_layers)
    assert sum(parameter.numel() for parameter in network.parameters()) == published - 2 * 2049


def reference_attention(ours: Attention) -> nn.MultiheadAttention:
    """The attention of torch, with our weights."""
    theirs = nn.MultiheadAttention(ours.query.in_features, ours.num_heads, batch_first=True)
    projections = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([linear.weight for linear in projections])
    theirs.in_proj_bias.data = torch.cat([linear.bias for linear in projections])
    theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs.eval()


def test_a_layer_equals_a_reference_of_torch_multihead_attention():
    torch.manual_seed(1)
    layer = DecoderLayer(16, 4, 24, 0.1).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    target_BPD, tokens_BPD, memory_BRD = torch.randn(3, 7, 16), torch.randn(3, 7, 16), torch.randn(3, 6, 16)
    placed = target_BPD + tokens_BPD
    x = layer.norm1(target_BPD + reference_attention(layer.self_attention)(placed, placed, target_BPD)[0])
    x = layer.norm2(x + reference_attention(layer.cross_attention)(x + tokens_BPD, memory_BRD, memory_BRD)[0])
    expected = layer.norm3(x + layer.contract(functional.relu(layer.expand(x))))
    torch.testing.assert_close(layer(target_BPD, tokens_BPD, memory_BRD), expected, rtol=1e-5, atol=1e-5)


def test_logits_have_one_entry_per_layer_scan_and_token_and_ignore_other_scans():
    network = tiny(num_layers=3).eval()
    fc_BRR = torch.randn(5, 6, 6)
    logits_LBP = network(fc_BRR)
    assert logits_LBP.shape == (3, 5, 7)
    torch.testing.assert_close(network(fc_BRR[2:3])[:, 0], logits_LBP[:, 2])


def test_the_order_of_tokens_does_not_matter():
    network = tiny().eval()
    fc_BRR = torch.randn(2, 6, 6)
    before_LBP = network(fc_BRR)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    network.token_embedding.data = network.token_embedding.data[order]
    torch.testing.assert_close(network(fc_BRR), before_LBP[..., order], rtol=1e-5, atol=1e-5)


def test_appended_tokens_leave_the_seen_ones_their_weights():
    network = tiny()
    before_PD = network.token_embedding.detach().clone()
    network.append_tokens(["autism=control", "autism=autism"])
    assert network.tokens[-2:] == ("autism=control", "autism=autism")
    assert torch.equal(network.token_embedding[:7], before_PD)
    assert network(torch.randn(2, 6, 6)).shape == (2, 2, 9)
    with pytest.raises(ValueError, match="already"):
        network.append_tokens(["age"])


def test_the_read_out_takes_a_levels_best_layer_and_the_mean_of_a_value():
    logits_LBK = torch.tensor([[[1.0, 0.0]], [[-5.0, 3.0]]])
    torch.testing.assert_close(read_out(logits_LBK, continuous=False), torch.softmax(torch.tensor([[1.0, 3.0]]), -1))
    torch.testing.assert_close(read_out(logits_LBK[..., :1], continuous=True), torch.tensor([[-2.0]]))


def test_read_out_by_name_picks_the_columns_in_the_order_asked():
    network = tiny().eval()
    logits_LBP = network(torch.randn(3, 6, 6))
    female_first = network.read_out(logits_LBP, "sex", ("female", "male"))
    torch.testing.assert_close(female_first.flip(-1), network.read_out(logits_LBP, "sex", ("male", "female")))
    with pytest.raises(ValueError, match="sex=unknown"):
        network.read_out(logits_LBP, "sex", ("unknown",))


def two_layer_example() -> tuple[TwoStageLoss, torch.Tensor, dict[str, torch.Tensor]]:
    """One BEI of two levels and age; two scans, two layers; after epoch 5 scan 0 picks layer 2, scan 1 layer 1."""
    targets = (Target("sex", ("female", "male")), Target("age", (), 1e-4))
    loss = TwoStageLoss(targets, {"sex": [0, 1], "age": [2]}, 5)
    logits_LBP = torch.tensor([[[0.0, 1.0, 30.0], [2.0, 5.0, 50.0]], [[3.0, 1.0, 40.0], [4.0, 4.0, 70.0]]])
    batch = {
        "label:sex": torch.tensor([0.0, 1.0]),
        "weight:sex": torch.ones(2),
        "label:age": torch.tensor([45.0, 50.0]),
        "weight:age": torch.ones(2),
    }
    return loss, logits_LBP, batch


def cross_entropy(logits: list[float], level: int) -> float:
    return float(torch.logsumexp(torch.tensor(logits), 0) - logits[level])


def test_the_first_stage_scores_the_layer_mean():
    loss, logits_LBP, batch = two_layer_example()
    summed, count = loss(logits_LBP, batch, 5)["sex"]
    assert float(summed) == pytest.approx(cross_entropy([1.5, 1.0], 0) + cross_entropy([3.0, 4.5], 1), rel=1e-6)
    assert int(count) == 2


def test_the_second_stage_scores_the_layer_with_the_largest_true_logit():
    loss, logits_LBP, batch = two_layer_example()
    summed, _ = loss(logits_LBP, batch, 6)["sex"]
    assert float(summed) == pytest.approx(cross_entropy([3.0, 1.0], 0) + cross_entropy([2.0, 5.0], 1), rel=1e-6)


def test_a_value_is_scored_on_the_layer_mean_in_both_stages_with_its_weight():
    loss, logits_LBP, batch = two_layer_example()
    for epoch in (5, 6):
        assert float(loss(logits_LBP, batch, epoch)["age"][0]) == pytest.approx(1e-4 * ((35 - 45) ** 2 + 10**2))


def test_validation_uses_the_read_out_whatever_the_label():
    loss, logits_LBP, batch = two_layer_example()
    summed, _ = loss.validate(logits_LBP, batch)["sex"]
    assert float(summed) == pytest.approx(cross_entropy([3.0, 1.0], 0) + cross_entropy([4.0, 5.0], 1), rel=1e-6)


@pytest.mark.parametrize("epoch", [1, 6])
def test_a_missing_label_contributes_neither_loss_nor_gradient(epoch):
    loss, logits_LBP, batch = two_layer_example()
    logits_LBP.requires_grad_()
    batch = batch | {"weight:sex": torch.tensor([0.0, 1.0]), "weight:age": torch.tensor([0.0, 1.0])}
    terms = loss(logits_LBP, batch, epoch)
    sum(summed for summed, _ in terms.values()).backward()
    assert torch.equal(logits_LBP.grad[:, 0], torch.zeros(2, 3))
    assert logits_LBP.grad[:, 1].abs().sum() > 0
    assert [int(count) for _, count in terms.values()] == [1, 1]


def test_a_pseudo_label_counts_by_its_weight():
    loss, logits_LBP, batch = two_layer_example()
    full, _ = loss(logits_LBP, batch, 1)["sex"]
    half, count = loss(logits_LBP, batch | {"weight:sex": torch.full((2,), 0.5)}, 1)["sex"]
    assert float(half) == pytest.approx(float(full) / 2)
    assert int(count) == 2


def test_starting_at_a_value_moves_no_probability():
    network = tiny().eval()
    fc_BRR = torch.randn(2, 6, 6)
    before = network.read_out(network(fc_BRR), "sex", ("female", "male"))
    network.start_at(50.0)
    torch.testing.assert_close(
        network.read_out(network(fc_BRR), "sex", ("female", "male")), before, atol=1e-5, rtol=1e-4
    )
    assert (network.read_out(network(fc_BRR), "age", ()) - 50).abs().max() < 10


def test_half_precision_does_not_round_probabilities_to_the_step_of_the_start():
    network = tiny().eval()
    fc_BRR = torch.randn(8, 6, 6)
    scores = []
    for start in (0.0, 50.0):
        network.start_at(start)
        # One context each: autocast keeps the weights it has cast until it ends.
        with torch.autocast("cpu", torch.bfloat16):
            scores.append(network.read_out(network(fc_BRR), "sex", ("female", "male")))
    # Around 50 bfloat16 has steps of 0.25, which move a probability by up to 0.06.
    torch.testing.assert_close(scores[1], scores[0], atol=1e-3, rtol=0)


def test_a_width_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="num_heads"):
        tiny(width=18)
