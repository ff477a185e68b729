"""The Large Connectome Model: published sizes, an independent reference, two forms of one function, hand-computed losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import PlainDecoder
from lcm.models.large_connectome_model import Attention, CrossAttention, LargeConnectomeModel, cheaper_form
from lcm.models.token_network import Target, TwoStageLoss, token_names

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


def torch_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    """Give torch's attention our weights."""
    projections = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([linear.weight for linear in projections])
    theirs.in_proj_bias.data = torch.cat([linear.bias for linear in projections])
    theirs.out_proj.load_state_dict(ours.output.state_dict())


def plain_decoder(network: LargeConnectomeModel) -> PlainDecoder:
    """The benchmark's reference, written from the paper with torch's own attention, in evaluation with our weights."""
    num_tokens, width = network.token_embedding.shape
    plain = PlainDecoder(network.region_embedding.in_features, num_tokens, len(network.layers), width)
    plain.token_embedding.weight.data = network.token_embedding.data
    for name in ("region_embedding", "region_norm", "norm", "head"):
        getattr(plain, name).load_state_dict(getattr(network, name).state_dict())
    for ours, theirs in zip(network.layers, plain.layers, strict=True):
        torch_attention(ours.self_attention, theirs.self_attention)
        torch_attention(ours.cross_attention, theirs.cross_attention)
        for name in ("expand", "contract", "norm1", "norm2", "norm3"):
            getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    return plain.eval()


def stirred(network: LargeConnectomeModel) -> LargeConnectomeModel:
    """The network with no weight, bias or running statistic left at its start."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if "tracked" not in name:
            spread = 0.3 if tensor.ndim < 2 else tensor.shape[1] ** -0.5
            tensor.data = torch.randn_like(tensor) * spread + 1.0 * ("norm" in name and "bias" not in name)
            tensor.data = tensor.abs() + 0.1 if name.endswith("running_var") else tensor
    return network


SHAPES = [(7, 6, 16, 4), (3, 24, 32, 2), (24, 3, 32, 8), (27, 116, 64, 8)]
"""Tokens, regions, width, heads."""


def network_of(shape: tuple[int, int, int, int], form: str, **size: float) -> LargeConnectomeModel:
    num_tokens, num_regions, width, num_heads = shape
    torch.manual_seed(1)
    tokens = [f"q={i}" for i in range(num_tokens)]
    size = {"num_layers": 2, "width": width, "num_heads": num_heads, "feedforward": 24} | size
    return stirred(LargeConnectomeModel(num_regions, tokens, form=form, **size))


@pytest.mark.parametrize("form", ["standard", "absorbed"])
@pytest.mark.parametrize("num_scans", [1, 3])
def test_each_form_equals_a_decoder_of_torch_multihead_attention(form, num_scans):
    network = network_of((7, 6, 16, 8), form, feedforward=768, num_layers=3).eval()
    fc_BNN = torch.randn(num_scans, 6, 6)
    torch.testing.assert_close(network(fc_BNN), plain_decoder(network)(fc_BNN), rtol=1e-5, atol=1e-5)


def logits_and_gradients(network: LargeConnectomeModel, fc_BNN: torch.Tensor) -> dict[str, torch.Tensor]:
    inputs_BNN = fc_BNN.clone().requires_grad_()
    logits_LBP = network(inputs_BNN)
    logits_LBP.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"logits": logits_LBP.detach(), "inputs": inputs_BNN.grad} | gradients


@pytest.mark.parametrize("mode", ["evaluation", "training without dropout"])
@pytest.mark.parametrize("shape", SHAPES)
def test_absorbed_is_standard_in_logits_and_in_every_gradient(shape, mode):
    training = mode != "evaluation"
    fc_BNN = torch.randn(4, shape[1], shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = {}
    for kind in (torch.float32, torch.float64):
        for form in ("standard", "absorbed"):
            network = network_of(shape, form, dropout=0.0 if training else 0.1).to(kind).train(training)
            found[kind, form] = logits_and_gradients(network, fc_BNN.to(kind))
    largest = max(float(gradient.norm()) for gradient in found[torch.float64, "standard"].values())
    for name, expected in found[torch.float64, "standard"].items():
        assert (found[torch.float64, "absorbed"][name] - expected).norm() <= 1e-10 * expected.norm().clamp(min=1), name
        # A gradient that is the small difference of large ones has the rounding of the large ones.
        single = found[torch.float32, "absorbed"][name] - found[torch.float32, "standard"][name]
        assert single.norm() <= 1e-5 * (expected.norm() if name == "logits" else largest), name
    assert found[torch.float64, "standard"]["layers.1.cross_attention.key.weight"].norm() > 0.1


def test_the_forms_agree_at_the_published_width():
    network = network_of((27, 116, 2048, 8), "standard", num_layers=1, feedforward=768).eval()
    fc_BNN = torch.randn(2, 116, 116)
    with torch.no_grad():
        standard_LBP = network(fc_BNN)
        network.form = "absorbed"
        torch.testing.assert_close(network(fc_BNN), standard_LBP, rtol=1e-5, atol=1e-5)


def test_absorbed_drops_the_same_weights_as_the_formula_does():
    torch.manual_seed(3)
    attention = CrossAttention(16, 4, dropout=0.5).train()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    query_BPD, memory_BND = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    query, key, value = (
        linear(x).unflatten(-1, (4, 4)).transpose(1, 2)
        for linear, x in ((attention.query, query_BPD), (attention.key, memory_BND), (attention.value, memory_BND))
    )
    torch.manual_seed(4)
    kept_BHPN = functional.dropout((query @ key.mT / 2).softmax(dim=-1), 0.5)
    expected = attention.output((kept_BHPN @ value).transpose(1, 2).flatten(2))
    torch.manual_seed(4)
    torch.testing.assert_close(attention.read(query_BPD, memory_BND, "absorbed"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES, (27, 116, 2048, 8), (27, 116, 256, 8), (100, 90, 2048, 8)])
def test_the_form_of_choice_needs_fewer_operations(shape):
    num_tokens, num_regions, width, num_heads = shape
    counted = {}
    for form in ("standard", "absorbed"):
        with torch.device("meta"):
            attention = CrossAttention(width, num_heads, dropout=0.0).requires_grad_(False)
            query_BPD, memory_BND = torch.empty(2, num_tokens, width), torch.empty(2, num_regions, width)
        with FlopCounterMode(display=False) as counter:
            attention.read(query_BPD, memory_BND, form)
        counted[form] = counter.get_total_flops()
    assert cheaper_form(num_tokens, num_regions, width, num_heads) == min(counted, key=counted.get)


def test_the_published_model_is_absorbed_and_a_narrow_one_is_not():
    assert cheaper_form(27, 116, 2048, 8) == "absorbed"
    assert cheaper_form(27, 116, 64, 8) == "standard"
    fc_BNN = torch.randn(2, 6, 6)
    chosen = cheaper_form(7, 6, 16, 4)
    assert torch.equal(tiny().eval()(fc_BNN), tiny(form=chosen).eval()(fc_BNN))


@pytest.mark.parametrize("form", ["standard", "absorbed"])
def test_attention_is_shown_as_torch_shows_it_and_moves_no_logit(form):
    network = network_of((7, 6, 16, 8), form, feedforward=768).eval()
    fc_BNN = torch.randn(3, 6, 6)
    plain, shown = plain_decoder(network), []
    for layer in plain.layers:
        layer.cross_attention.register_forward_hook(lambda _module, _inputs, outputs: shown.append(outputs[1]))
    plain(fc_BNN)
    logits_LBP, attention_LBPN = network.attend(fc_BNN)
    torch.testing.assert_close(attention_LBPN, torch.stack(shown), rtol=0, atol=1e-6)
    torch.testing.assert_close(attention_LBPN.sum(dim=-1), torch.ones(2, 3, 7))
    assert torch.equal(logits_LBP, network(fc_BNN))


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


def two_layers_of_logits() -> torch.Tensor:
    """One scan, two layers: the levels of sex are best in layer 1 and in layer 2, ages 10 and 40."""
    logits_LBP = torch.zeros(2, 1, 7)
    logits_LBP[:, 0, 4:] = torch.tensor([[1.0, 0.0, 10.0], [-5.0, 3.0, 40.0]])
    return logits_LBP


def test_the_read_out_takes_a_levels_best_layer_and_the_mean_of_a_value():
    network, logits_LBP = tiny(), two_layers_of_logits()
    expected = torch.softmax(torch.tensor([[1.0, 3.0]]), -1)
    torch.testing.assert_close(network.read_out(logits_LBP, "sex", ("female", "male")), expected)
    torch.testing.assert_close(network.read_out(logits_LBP, "age", ()), torch.tensor([[25.0]]))
    assert network.choose_layers(logits_LBP, "sex", ("female", "male")).tolist() == [[0, 1]]


def test_where_the_last_layer_learns_alone_it_is_read_alone():
    network, logits_LBP = tiny(), two_layers_of_logits()
    expected = torch.softmax(torch.tensor([[-5.0, 3.0]]), -1)
    torch.testing.assert_close(network.read_out(logits_LBP, "sex", ("female", "male"), "last_layer"), expected)
    torch.testing.assert_close(network.read_out(logits_LBP, "age", (), "last_layer"), torch.tensor([[40.0]]))
    assert network.choose_layers(logits_LBP, "sex", ("female", "male"), "last_layer").tolist() == [[1, 1]]


def test_read_out_by_name_picks_the_columns_in_the_order_asked():
    network = tiny().eval()
    logits_LBP = network(torch.randn(3, 6, 6))
    female_first = network.read_out(logits_LBP, "sex", ("female", "male"))
    torch.testing.assert_close(female_first.flip(-1), network.read_out(logits_LBP, "sex", ("male", "female")))
    with pytest.raises(ValueError, match="sex=unknown"):
        network.read_out(logits_LBP, "sex", ("unknown",))


def two_layer_example(stages: str = "both") -> tuple[TwoStageLoss, torch.Tensor, dict[str, torch.Tensor]]:
    """One BEI of two levels and age; two scans, two layers; by best layer, scan 0 picks layer 2 and scan 1 layer 1."""
    targets = (Target("sex", ("female", "male")), Target("age", (), 1e-4))
    loss = TwoStageLoss(targets, {"sex": [0, 1], "age": [2]}, 5, stages)
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


LAYER_MEAN = cross_entropy([1.5, 1.0], 0) + cross_entropy([3.0, 4.5], 1)
BEST_LAYER = cross_entropy([3.0, 1.0], 0) + cross_entropy([2.0, 5.0], 1)
LAST_LAYER = cross_entropy([3.0, 1.0], 0) + cross_entropy([4.0, 4.0], 1)


@pytest.mark.parametrize(
    ("stages", "epoch", "expected"),
    [
        ("both", 1, LAYER_MEAN),
        ("both", 5, LAYER_MEAN),
        ("both", 6, BEST_LAYER),
        ("first", 1, LAYER_MEAN),
        ("first", 99, LAYER_MEAN),
        ("second", 1, BEST_LAYER),
        ("last_layer", 1, LAST_LAYER),
        ("last_layer", 99, LAST_LAYER),
    ],
)
def test_a_stage_scores_its_layers(stages, epoch, expected):
    loss, logits_LBP, batch = two_layer_example(stages)
    assert float(loss(logits_LBP, batch, epoch)["sex"]) == pytest.approx(expected, rel=1e-6)


def test_a_value_is_scored_on_the_layer_mean_in_both_stages_with_its_weight():
    loss, logits_LBP, batch = two_layer_example()
    for epoch in (5, 6):
        assert float(loss(logits_LBP, batch, epoch)["age"]) == pytest.approx(1e-4 * ((35 - 45) ** 2 + 10**2))
    last, logits_LBP, batch = two_layer_example("last_layer")
    assert float(last(logits_LBP, batch, 1)["age"]) == pytest.approx(1e-4 * ((40 - 45) ** 2 + (70 - 50) ** 2))


@pytest.mark.parametrize(("stages", "last"), [("both", False), ("first", False), ("last_layer", True)])
def test_validation_uses_the_read_out_whatever_the_label(stages, last):
    loss, logits_LBP, batch = two_layer_example(stages)
    best = cross_entropy([3.0, 1.0], 0) + cross_entropy([4.0, 5.0], 1)
    assert float(loss.validate(logits_LBP, batch)["sex"]) == pytest.approx(LAST_LAYER if last else best, rel=1e-6)


@pytest.mark.parametrize("epoch", [1, 6])
def test_a_missing_label_contributes_neither_loss_nor_gradient(epoch):
    loss, logits_LBP, batch = two_layer_example()
    logits_LBP.requires_grad_()
    batch = batch | {"weight:sex": torch.tensor([0.0, 1.0]), "weight:age": torch.tensor([0.0, 1.0])}
    torch.stack(list(loss(logits_LBP, batch, epoch).values())).sum().backward()
    assert torch.equal(logits_LBP.grad[:, 0], torch.zeros(2, 3))
    assert logits_LBP.grad[:, 1].abs().sum() > 0
    assert {name: covered.tolist() for name, covered in loss.covers(batch).items()} == {
        "sex": [False, True],
        "age": [False, True],
    }


def test_a_pseudo_label_counts_by_its_weight():
    loss, logits_LBP, batch = two_layer_example()
    full = loss(logits_LBP, batch, 1)["sex"]
    batch["weight:sex"] = torch.full((2,), 0.5)
    assert float(loss(logits_LBP, batch, 1)["sex"]) == pytest.approx(float(full) / 2)
    assert loss.covers(batch)["sex"].all()


@pytest.mark.parametrize("names", [("sex", "age"), ("task", "sex")])
def test_bei_loss_is_the_same_wherever_its_tokens_stand(names):
    network = tiny().eval()
    targets = {
        "sex": Target("sex", ("male", "female")),
        "age": Target("age", ()),
        "task": Target("task", ("d", "a", "c", "b")),
    }
    logits_LBP = torch.randn(2, 3, 7)
    batch = {f"label:{name}": torch.tensor([0.0, 1.0, 1.0]) for name in names}
    batch |= {f"weight:{name}": torch.ones(3) for name in names}
    terms = network.objective([targets[name] for name in names], 5)(logits_LBP, batch, 1)
    for name in names:
        mean_BK = logits_LBP.mean(dim=0)[:, [network.tokens.index(t) for t in token_names(name, targets[name].levels)]]
        label_B = batch[f"label:{name}"]
        of_value, of_level = functional.mse_loss, functional.cross_entropy
        scored = (of_level, mean_BK, label_B.long()) if targets[name].levels else (of_value, mean_BK[:, 0], label_B)
        torch.testing.assert_close(terms[name], scored[0](*scored[1:], reduction="sum"))


def test_a_frozen_trunk_stays_as_it_is_while_tokens_and_head_learn():
    network = tiny(dropout=0.5)
    network.freeze_trunk()
    network.train()
    fc_BNN = torch.randn(4, 6, 6)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(network(fc_BNN), network(fc_BNN))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(fc_BNN).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"token_embedding", "head.weight", "head.bias"}


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


def test_the_embedding_is_the_mean_over_tokens_of_what_the_head_reads():
    network = tiny().eval()
    embedded_BD = network.embed(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(3)))
    logits_LBP = network(torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(3)))
    assert embedded_BD.shape == (3, network.head.in_features)
    # The head is linear: the mean of the last layer's logits is its answer to the mean stream.
    torch.testing.assert_close(network.head(embedded_BD)[:, 0], logits_LBP[-1].mean(dim=1))


def test_a_confusion_counts_known_scans_by_the_read_out():
    loss, logits_LBP, batch = two_layer_example()
    # Read out: scan 0 (truth 0) as 0 by 3 > 1, scan 1 (truth 1) as 1 by 5 > 4.
    torch.testing.assert_close(loss.confuse(logits_LBP, batch)["sex"], torch.eye(2, dtype=torch.float64))
    batch["label:sex"] = torch.tensor([1.0, 1.0])
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(loss.confuse(logits_LBP, batch)["sex"], expected)
    batch["weight:sex"] = torch.tensor([0.0, 1.0])
    assert loss.confuse(logits_LBP, batch)["sex"].tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert set(loss.confuse(logits_LBP, batch)) == {"sex"}
