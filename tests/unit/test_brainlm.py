"""BrainLM's token model: the golden checkpoint, the published sizes, and that what is hidden stays hidden."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.reconstruction import SIZE, TRAINING, Planted, compared, learned
from lcm.config import Training
from lcm.models import MODELS, check_size
from lcm.models.brainlm import BLOCK, BrainLM, ConvolvedAttention, convolved, frames_of, patches_of
from lcm.models.series_network import MaskedLoss, Masking, Windows, noise_of
from lcm.training.brainlm_import_token import NUM_TIMES, token_arrays, token_shapes, token_size
from lcm.training.loop import InMemory, train
from lcm.training.networks import load_arrays
from tests.small_run import on_cpu

SMALL = {"num_frames": 20, "patch_frames": 5, "width": 16, "feedforward": 32, "num_layers": 2, "num_heads": 2}
SMALL |= {"decoder_layers": 1, "conv_kernel": 5, "dropout": 0.0}
NUM_REGIONS = 6
NUM_TOKENS = NUM_REGIONS * 4
HALF = Masking(0.5)


def small(tokens: tuple[str, ...] = (), **size: object) -> BrainLM:
    torch.manual_seed(0)
    network = BrainLM(NUM_REGIONS, tokens, **{**SMALL, **size})
    places_R3 = np.random.default_rng(0).uniform(-70, 70, (NUM_REGIONS, 3))
    network.fit_series(np.tile([[-0.5], [0.0], [0.5]], NUM_REGIONS), places_R3)
    return network.eval()


def windows(num: int, masking: Masking | None = None, seed: int = 1) -> Windows:
    series_BTR = torch.randn(num, 20, NUM_REGIONS, generator=torch.Generator().manual_seed(seed))
    return Windows(series_BTR, torch.arange(num) + 10, masking)


def num_of(*parts: torch.nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


# The golden checkpoint.


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Configuration, published tensors, and inputs with exact outputs."""
    folder = shared_data / "brainlm_golden" / "token"
    config = json.loads((folder / "config.json").read_text())
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    with np.load(folder / "golden.npz", allow_pickle=False) as arrays:
        return config, tensors, {name: torch.from_numpy(arrays[name]) for name in arrays}


def imported(golden) -> BrainLM:
    config, tensors, exact = golden
    network = BrainLM(config["num_brain_voxels"], (), **token_size(config))
    fixed = {name: buffer.numpy() for name, buffer in network.named_buffers() if name in network.state_dict()}
    load_arrays(network, token_arrays(tensors, config) | fixed)
    network.fit_series(np.tile([[-0.5], [0.0], [0.5]], network.num_regions), exact["xyz"][0].numpy())
    return network.eval()


@pytest.mark.real
@torch.no_grad()
def test_the_published_checkpoint_gives_its_outputs(golden):
    config, _, exact = golden
    network = imported(golden)
    asked = Windows(exact["signal"].transpose(1, 2), torch.zeros(3), Masking(config["mask_ratio"]))
    said = network.fill(asked, exact["noise"])
    patches = (len(asked.series_BTR), network.num_regions, network.num_patches, -1)
    torch.testing.assert_close(
        patches_of(said.predicted_BTR, 20).reshape(patches), exact["logits"], rtol=1e-5, atol=1e-5
    )
    assert torch.equal(patches_of(said.scored_BTR, 20).reshape(patches).float().mean(-1), exact["mask"])
    loss = MaskedLoss().validate(said, {})["masked"] / len(asked.series_BTR)
    torch.testing.assert_close(loss, exact["loss"], rtol=0, atol=1e-5)
    torch.testing.assert_close(network.encode(asked, exact["noise"]), exact["latent"], rtol=0, atol=1e-5)
    found_BHSS = network.last_attention(asked, exact["noise"])
    torch.testing.assert_close(found_BHSS, exact["last_attention"], rtol=0, atol=1e-6)
    # The tokens' order matters: this is what the switch is for.
    network.order = "sorted"
    assert (network.fill(asked, exact["noise"]).predicted_BTR - said.predicted_BTR).abs().max() > 0.01


CONFIG = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "qkv_bias": True, "loss_fn": "mse",
    "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2, "conv_kernel_size": 5,
    "decoder_hidden_size": 8, "decoder_intermediate_size": 12, "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1, "num_landmarks": 64, "segment_means_seq_len": 64, "num_timepoints_per_voxel": 12,
    "timepoint_patching_size": 4, "norm_pix_loss": False, "use_tanh_decoder": False, "num_channels": 3, "patch_size": 2,
}  # fmt: skip


def published(config: dict = CONFIG) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=drawn) for name, shape in token_shapes(config).items()}
    time = torch.arange(NUM_TIMES)[:, None] / 10000 ** (torch.arange(8) // 2 * 2 / 8)
    table = torch.where(torch.arange(8) % 2 == 0, time.sin(), time.cos())
    return tensors | {name: table for name in tensors if name.endswith(".pe")}


def test_published_tensors_fill_the_whole_network():
    network = BrainLM(3, (), **token_size(CONFIG))
    arrays = token_arrays(published(), CONFIG)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: tuple(parameter.shape) for name, parameter in network.named_parameters()
    }
    kernel = published()["vit.encoder.layer.1.attention.self.conv.weight"]
    assert np.array_equal(arrays["layers.1.attention.kernel_HK"], kernel[:, 0, :, 0])


def test_tensors_that_do_not_fit_are_refused_by_name():
    tensors = published()
    tensors["extra.weight"] = tensors.pop("decoder.mask_token")
    tensors["vit.layernorm.bias"] = torch.zeros(9)
    found = r"decoder.mask_token: missing; extra.weight: unknown; vit.layernorm.bias: shape \(9,\), expected \(8,\)"
    with pytest.raises(ValueError, match=found):
        token_arrays(tensors, CONFIG)
    shifted = published()
    shifted["vit.embeddings.pos_embedding.pe"] = shifted["vit.embeddings.pos_embedding.pe"].roll(1, 0)
    with pytest.raises(ValueError, match=r"vit.embeddings.pos_embedding.pe: not the sines"):
        token_arrays(shifted, CONFIG)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_landmarks": 32}, "segment_means_seq_len 64 differs from num_landmarks 32"),
        ({"decoder_hidden_size": 4}, "decoder_hidden_size 4 differs from hidden_size 8"),
        ({"hidden_act": "relu"}, "hidden_act is relu, not gelu"),
    ],
)
def test_a_configuration_of_another_network_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        token_size(CONFIG | changed)
    with pytest.raises(ValueError, match=r"^conv_kernel_size not given"):
        token_shapes({name: value for name, value in CONFIG.items() if name != "conv_kernel_size"})


# Sizes.


@pytest.mark.parametrize(("size", "encoder", "whole"), [("13M", 8.43, 13.04), ("5M", None, 4.85)])
def test_the_published_sizes_have_their_parameters(size, encoder, whole):
    with torch.device("meta"):
        network = BrainLM(424, (), **check_size("brainlm", MODELS["brainlm"].sizes[size]))
    assert num_of(network) / 1e6 == pytest.approx(whole, abs=0.005)
    if encoder:
        assert num_of(*network.encoder()) / 1e6 == pytest.approx(encoder, abs=0.005)
        assert num_of(network.decoder) / 1e6 == pytest.approx(whole - encoder, abs=0.005)
    assert num_of(*network.encoder(), network.decoder) == num_of(network)


@pytest.mark.parametrize(
    ("size", "message"),
    [({"num_frames": 21}, "num_frames 21"), ({"num_heads": 3}, "width 16"), ({"conv_kernel": 4}, "conv_kernel 4")],
)
def test_sizes_that_do_not_divide_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        small(**size)


def test_windows_of_another_length_are_refused():
    short = Windows(torch.zeros(1, 15, NUM_REGIONS), torch.zeros(1))
    with pytest.raises(ValueError, match=r"\(15, 6\) frames × regions; expected \(20, 6\)"):
        small(("age",))(short)


# Attention and convolution against torch's own, and against a loop.


@pytest.mark.parametrize("length", [3, BLOCK, 2 * BLOCK + 7])
def test_the_band_matrix_convolves_as_torch_does(length):
    drawn = torch.Generator().manual_seed(0)
    value_BHSd = torch.randn(2, 3, length, 4, generator=drawn, dtype=torch.float64)
    kernel_HK = torch.randn(3, 9, generator=drawn, dtype=torch.float64)
    expected = functional.conv2d(value_BHSd, kernel_HK[:, None, :, None], padding=(4, 0), groups=3)
    torch.testing.assert_close(convolved(value_BHSd, kernel_HK), expected, rtol=0, atol=1e-12)


def test_fused_attention_is_the_explicit_one():
    torch.manual_seed(0)
    attention = ConvolvedAttention(8, num_heads=2, kernel=3, dropout=0.5).double().eval()
    x_BSD = torch.randn(2, 11, 8, dtype=torch.float64)
    weights_BHSS = attention.weights(x_BSD, attention.keys(x_BSD))
    value_BHSd = attention.value(x_BSD).unflatten(-1, (2, 4)).transpose(1, 2)
    read_BHSd = weights_BHSS @ value_BHSd
    for head, place in np.ndindex(2, 11):
        for step, other in enumerate(range(place - 1, place + 2)):
            if 0 <= other < 11:
                read_BHSd[:, head, place] += attention.kernel_HK[head, step] * value_BHSd[:, head, other]
    torch.testing.assert_close(
        attention(x_BSD), attention.output(read_BHSd.transpose(1, 2).flatten(2)), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(weights_BHSS.sum(-1), torch.ones(2, 2, 11, dtype=torch.float64))


def test_patches_are_frames_of_one_region_in_order():
    series_BTR = torch.arange(2 * 20 * 6).reshape(2, 20, 6)
    patches_BNF = patches_of(series_BTR, 5)
    assert torch.equal(patches_BNF[1, 4 * 2 + 3], series_BTR[1, 15:20, 2])
    assert torch.equal(frames_of(patches_BNF, 4), series_BTR)


# What is hidden.


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("masking", [HALF, Masking(0.9), Masking(0.25, "future"), Masking(0.4, "future")])
@torch.no_grad()
def test_predictions_do_not_depend_on_what_is_hidden(masking, order):
    network = small(order=order)
    asked = windows(3, masking)
    said = network(asked)
    hidden_BTR = said.scored_BTR
    assert hidden_BTR.double().mean() == pytest.approx(masking.ratio, abs=1 / NUM_TOKENS)
    for other in (7.0, torch.randn(3, 20, NUM_REGIONS)):
        changed_BTR = torch.where(hidden_BTR, other, asked.series_BTR)
        assert torch.equal(network(asked._replace(series_BTR=changed_BTR)).predicted_BTR, said.predicted_BTR)
    moved_BTR = torch.where(hidden_BTR, asked.series_BTR, asked.series_BTR + 1)
    assert not torch.equal(network(asked._replace(series_BTR=moved_BTR)).predicted_BTR, said.predicted_BTR)


@pytest.mark.parametrize(("ratio", "first"), [(0.25, 15), (0.4, 12), (0.05, 19)])
def test_the_future_is_the_last_frames_of_every_region(ratio, first):
    said = small()(windows(2, Masking(ratio, "future")))
    assert not said.scored_BTR[:, :first].any()
    assert said.scored_BTR[:, first:].all()


@torch.no_grad()
def test_a_patch_that_the_future_cuts_is_read_up_to_there():
    network = small()
    asked = windows(1, Masking(0.4, "future"))
    said = network(asked).predicted_BTR
    for frame, read in ((11, True), (12, False)):
        asked.series_BTR[:, frame] += 1
        assert torch.equal(network(asked).predicted_BTR, said) != read
        said = network(asked).predicted_BTR


def test_a_mask_follows_from_the_seed_alone():
    network = small()
    asked = windows(5, HALF)
    whole = network(asked).scored_BTR
    swapped = Windows(asked.series_BTR[[3, 1]] * 2, asked.seed_B[[3, 1]], HALF)
    assert torch.equal(network(swapped).scored_BTR, whole[[3, 1]])
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 5


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("num_unknown", [2, 16])
def test_unknown_tokens_are_hidden_first_and_never_scored(num_unknown, order):
    network = small(order=order)
    asked = windows(4, HALF)
    patches_BNF = patches_of(asked.series_BTR.clone(), 5)
    unknown_U = torch.randperm(NUM_TOKENS, generator=torch.Generator().manual_seed(3))[:num_unknown]
    patches_BNF[:, unknown_U] = torch.nan
    patches_BNF[:, :, 0] = torch.nan  # one frame of every patch as well: that makes no token unknown
    series_BTR = frames_of(patches_BNF, 4)
    hidden_BTR, visible_BV = network.hide(series_BTR.isfinite(), asked.masking, noise_of(asked.seed_B, NUM_TOKENS))
    said = network(asked._replace(series_BTR=series_BTR))
    seen_unknown_B = torch.isin(visible_BV, unknown_U).sum(dim=1)
    assert (seen_unknown_B == max(0, num_unknown - NUM_TOKENS // 2)).all()
    assert torch.equal(said.scored_BTR, hidden_BTR & series_BTR.isfinite())
    assert said.predicted_BTR.isfinite().all()
    assert said.target_BTR.isfinite().all()
    assert not patches_of(said.scored_BTR, 5)[:, unknown_U].any()


def test_nine_tenths_hidden_leaves_a_tenth_visible():
    network = BrainLM(424, (), **{**SMALL, "num_frames": 200, "patch_frames": 20})
    known_BTR = torch.ones(1, 200, 424, dtype=torch.bool)
    noise_BN = noise_of(torch.zeros(1), 4240)
    assert network.hide(known_BTR, Masking(0.9), noise_BN)[1].shape == (1, 424)
    assert network.hide(known_BTR, Masking(0.2), noise_BN)[1].shape == (1, 3392)


def test_the_order_of_visible_tokens_is_a_switch():
    noise_BN = noise_of(torch.arange(2), NUM_TOKENS)
    known_BTR = torch.ones(2, 20, NUM_REGIONS, dtype=torch.bool)
    _, sorted_BV = small().hide(known_BTR, HALF, noise_BN)
    _, shuffled_BV = small(order="shuffled").hide(known_BTR, HALF, noise_BN)
    assert torch.equal(shuffled_BV, noise_BN.argsort(dim=1)[:, :12])
    assert torch.equal(sorted_BV, shuffled_BV.sort(dim=1).values)
    # Only the convolution knows the order; where its kernel is one place wide, nothing does.
    for kernel, same in ((1, True), (5, False)):
        by_order = {
            order: small(conv_kernel=kernel, order=order)(windows(2, HALF)).predicted_BTR
            for order in ("sorted", "shuffled")
        }
        assert torch.allclose(by_order["sorted"], by_order["shuffled"], atol=1e-5) == same


@torch.no_grad()
def test_learned_places_take_the_place_of_unknown_centres():
    asked, unknown_R3 = windows(2, HALF), torch.full((NUM_REGIONS, 3), torch.nan)
    for places, follows in (("mm", True), ("learned", False)):
        network = small(places=places)
        assert network.reads_places == follows
        said = network(asked).predicted_BTR
        network.places_R3.copy_(unknown_R3)
        assert torch.equal(network(asked).predicted_BTR, said) != follows
    # Regions whose series are alike are told apart by their places alone.
    alike = asked._replace(
        series_BTR=asked.series_BTR[..., :1].expand(-1, -1, NUM_REGIONS), masking=Masking(0.25, "future")
    )
    for places in ("mm", "learned"):
        said_BTR = small(places=places, conv_kernel=1)(alike).predicted_BTR
        assert (said_BTR[..., 0] - said_BTR[..., 1]).abs().max() > 1e-4


# What CLS looks at, and what it says.


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@torch.no_grad()
def test_cls_attention_sums_to_one_and_shares_are_its_regions(order):
    network = small(("a", "b"), order=order)
    asked = windows(3)
    row_BHS = network.cls_attention(asked)
    assert row_BHS.shape == (3, 2, 1 + NUM_TOKENS)
    torch.testing.assert_close(row_BHS.sum(-1), torch.ones(3, 2))
    weights_BN = row_BHS.mean(dim=1)[:, 1:]
    by_hand_BR = torch.stack([weights_BN[:, 4 * r : 4 * r + 4].sum(1) for r in range(NUM_REGIONS)], dim=1)
    look_BR = network.look(asked)
    torch.testing.assert_close(look_BR, by_hand_BR / by_hand_BR.sum(1, keepdim=True))
    torch.testing.assert_close(look_BR.sum(1), torch.ones(3))
    logits_1BP, shares_1BPR = network.attend(asked)
    assert torch.equal(logits_1BP, network(asked))
    assert shares_1BPR.shape == (1, 3, 2, NUM_REGIONS)
    assert torch.equal(shares_1BPR[0, :, 1], look_BR)


@torch.no_grad()
def test_cls_looks_where_its_query_points():
    network = small(("a",), num_layers=1, order="shuffled")
    attention = network.layers[0].attention
    target = 4
    tokens_SD = network.embedding(torch.zeros(1, NUM_TOKENS, 5), torch.arange(NUM_TOKENS)[None], network.places_R3)[0]
    # A query that is the same for all: the mean place of one region's tokens, less that of all.
    asked_D = tokens_SD[1 + 4 * target : 5 + 4 * target].mean(0) - tokens_SD[1:].mean(0)
    attention.query.weight.zero_()
    attention.query.bias.copy_(100 * asked_D / asked_D.norm())
    attention.key.weight.copy_(torch.eye(16))
    look_BR = network.look(Windows(torch.zeros(8, 20, NUM_REGIONS), torch.arange(8)))
    assert (look_BR.argmax(dim=1) == target).all()


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@torch.no_grad()
def test_region_features_are_sums_of_the_whole_attention(order):
    network = small(order=order)
    asked = windows(3)
    features_BRR = network.region_features(asked)
    assert torch.equal(features_BRR.diagonal(dim1=1, dim2=2), torch.zeros(3, NUM_REGIONS))
    if order == "sorted":
        whole_BSS = network.last_attention(asked, torch.zeros(3, NUM_TOKENS)).mean(dim=1)[:, 1:, 1:]
        expected_BRR = whole_BSS.reshape(3, NUM_REGIONS, 4, NUM_REGIONS, 4).sum(4).mean(2)
        off_RR = ~torch.eye(NUM_REGIONS, dtype=torch.bool)
        torch.testing.assert_close(features_BRR[:, off_RR], expected_BRR[:, off_RR])
    else:
        # A kernel of one place makes the order indifferent, and regions must come out in their own.
        one, other = (small(order=o, conv_kernel=1).region_features(asked) for o in ("sorted", "shuffled"))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_mean_of_tokens_is_another_readout():
    asked = windows(2)
    by_cls, by_mean = small(("a",)), small(("a",), pool="mean")
    by_mean.load_state_dict(by_cls.state_dict())
    encoded_BSD = by_cls.encode(asked, torch.zeros(2, NUM_TOKENS))
    torch.testing.assert_close(by_cls.embed(asked), encoded_BSD[:, 0])
    assert torch.equal(by_cls.embed(asked._replace(masking=HALF)), by_cls.embed(asked))
    torch.testing.assert_close(by_mean.embed(asked), encoded_BSD[:, 1:].mean(dim=1))


def test_the_first_token_takes_the_decoder_away_and_leaves_the_encoder():
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    asked = windows(2)
    embedded_BD = network.embed(asked)
    network.append_tokens(("sex=f", "sex=m"))
    assert not [name for name in network.state_dict() if name.startswith("decoder")]
    assert {name for name in before if not name.startswith("decoder")} <= set(network.state_dict())
    assert torch.equal(network.embed(asked), embedded_BD)
    assert network(asked).shape == (1, 2, 2)
    with pytest.raises(ValueError, match="one with tokens has none"):
        network(asked._replace(masking=HALF))


@pytest.mark.parametrize("tokens", [(), ("a", "b")])
@pytest.mark.parametrize("size", [{"pool": "mean"}, {"places": "learned"}, {"order": "shuffled"}])
def test_a_gradient_reaches_every_weight(tokens, size):
    network = small(tokens, dropout=0.1, **size).train()
    if tokens:
        network(windows(4)).square().sum().backward()
    else:
        asked = windows(4, HALF)
        MaskedLoss()(network(asked), {}, 1)["masked"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # Softmax cancels a bias of keys: its gradient is there, and 0 but for rounding.
        assert name.endswith("key.bias") or parameter.grad.abs().max() > 0, name


# Learning.


class HeldWindows(InMemory):
    """Windows in memory, all hidden by one masking."""

    def __init__(self, columns: dict, masking: Masking = HALF) -> None:
        super().__init__(columns)
        self.masking = masking

    def batch(self, index_B: torch.Tensor) -> dict:
        columns = super().batch(index_B)
        return columns | {"inputs": Windows(columns["inputs"], columns["seed"], self.masking)}


def test_eight_windows_are_learned_by_heart():
    network = small(width=48, feedforward=96, num_heads=4)
    asked = windows(8)
    examples = HeldWindows({"inputs": asked.series_BTR, "seed": asked.seed_B})
    settings = Training(batch_size=8, learning_rate=4e-3, max_epochs=80, patience=80, max_gradient_norm=1.0)
    state = train(network, MaskedLoss(), examples, examples, settings, devices=on_cpu())
    # Before learning, the best answer is 0, and its error the variance of the noise, 1.
    assert state.history[0]["training_loss"] > 0.9
    assert state.best_loss < 0.05


def test_planted_series_have_the_spectrum_and_the_networks_that_were_planted():
    planted = Planted(num_regions=4, num_networks=2, num_frames=12)
    drawn_NTR = planted.draw(20_000, seed=0)
    lag_TT = np.arange(12)[:, None] - np.arange(12)
    own_TT = np.einsum("nt,nu->tu", drawn_NTR[..., 1], drawn_NTR[..., 1]) / 20_000
    assert np.abs(own_TT - planted.autocovariance(lag_TT)).max() < 0.04
    for other, shared in ((3, planted.shared), (2, 0.0)):
        across = np.mean(drawn_NTR[:, :, 1] * drawn_NTR[:, :, other])
        assert across == pytest.approx((1 - planted.noise) * shared, abs=0.02)


def test_it_learns_what_no_interpolation_can():
    planted = Planted(num_regions=6, num_networks=2, num_frames=40, shared=0.9)
    size = SIZE | {"num_frames": 20, "patch_frames": 5, "width": 32, "feedforward": 64, "conv_kernel": 5}
    settings = TRAINING.model_copy(update={"max_epochs": 30, "patience": 30})
    said, lines, own, ceiling = compared(planted, learned(planted, 256, size, settings, HALF), HALF).values()
    assert lines < own < ceiling
    assert own + 0.1 < said < ceiling + 0.02
