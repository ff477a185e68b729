"""The architecture is the authors': their checkpoint format, given our names, gives their outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lcm.models.large_connectome_model import LargeConnectomeModel  # noqa: E402

NAMES = {
    "linear1": "expand",
    "linear2": "contract",
    "norm1": "norm1",
    "norm2": "norm2",
    "norm3": "norm3",
}


def our_weights(backbone: dict, head: dict, num_layers: int) -> dict:
    """The authors' two state dicts under the names of LargeConnectomeModel."""
    ours = {"token_embedding": head["object_query.weight"]}
    for kind in ("weight", "bias"):
        ours[f"region_embedding.{kind}"] = backbone[f"lin.0.{kind}"]
        ours[f"norm.{kind}"] = head[f"decoder.norm.{kind}"]
        ours[f"head.{kind}"] = head[f"class_embed.{kind}"]
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        ours[f"region_norm.{name}"] = backbone[f"lin.1.{name}"]
    for layer in range(num_layers):
        theirs = f"decoder.layers.{layer}"
        for kind in ("weight", "bias"):
            for old, new in NAMES.items():
                ours[f"layers.{layer}.{new}.{kind}"] = head[f"{theirs}.{old}.{kind}"]
            for old, new in (("self_attn", "self_attention"), ("multihead_attn", "cross_attention")):
                parts = head[f"{theirs}.{old}.in_proj_{kind}"].chunk(3)
                for part, projection in zip(parts, ("query", "key", "value"), strict=True):
                    ours[f"layers.{layer}.{new}.{projection}.{kind}"] = part
                ours[f"layers.{layer}.{new}.output.{kind}"] = head[f"{theirs}.{old}.out_proj.{kind}"]
    return ours


def test_the_authors_weights_give_the_authors_outputs(shared_data: Path):
    folder = shared_data / "lcm_golden"
    size, golden = json.loads((folder / "spec.json").read_text()), np.load(folder / "golden.npz")
    backbone, head = (
        torch.load(folder / f"{part}_fold0_hcpaBest.pt", weights_only=True, map_location="cpu")
        for part in ("bb", "head")
    )
    tokens = [f"class={i}" for i in range(size["num_classes"])] + ["sex=0", "sex=1", "age"]
    network = LargeConnectomeModel(
        golden["fc"].shape[1],
        tokens,
        num_layers=size["layers"],
        width=size["dim"],
        num_heads=size["heads"],
        feedforward=size["feedforward"],
    )
    network.load_state_dict(our_weights(backbone, head, size["layers"]), strict=True)
    with torch.no_grad():
        logits_LBP = network.eval()(torch.from_numpy(golden["fc"])).numpy()
    expected_LBP = np.concatenate([golden["logits"], golden["sex"], golden["age"]], axis=-1)
    np.testing.assert_allclose(logits_LBP, expected_LBP, atol=1e-5, rtol=0)
