"""The authors' checkpoint pair, imported by the command, gives the authors' outputs: logits, sex, age, attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lcm.__main__ import main
from lcm.training.weights import Manifest, load_bundle
from tests.unit.test_weights import no_scans

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict[str, np.ndarray]:
    """FC of six scans and what the authors' classes made of them, layer by layer."""
    with np.load(shared_data / "lcm_golden" / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def bundle(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden pair as `lcm import-weights` leaves it."""
    folder, output = shared_data / "lcm_golden", tmp_path_factory.mktemp("bundles") / "golden"
    backbone, head = (str(folder / f"{part}_fold0_hcpaBest.pt") for part in ("bb", "head"))
    assert main(["import-weights", "--backbone", backbone, "--head", head, "--output", str(output)]) == 0
    return output


def test_sizes_and_tokens_are_those_of_the_specification(bundle, shared_data):
    size = json.loads((shared_data / "lcm_golden" / "spec.json").read_text())
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    ours = {"layers": "num_layers", "dim": "width", "heads": "num_heads", "feedforward": "feedforward"}
    assert {theirs: manifest.sizes[name] for theirs, name in ours.items()} == {key: size[key] for key in ours}
    assert [len(manifest.vocabulary[name]) for name in list(manifest.vocabulary)[:5]] == [5, 3, 3, 5, 8]
    assert manifest.tokens[-3:] == ("sex=female", "sex=male", "age")
    assert (manifest.stage, manifest.people, manifest.fold) == ("imported", "unknown", None)


@pytest.mark.parametrize("form", ["standard", "absorbed"])
def test_logits_sex_age_and_attention_of_every_layer_agree(bundle, golden, form):
    from lcm.training.networks import build_network, load_arrays

    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    manifest, arrays = load_bundle(bundle, no_scans(regions=manifest.regions, fingerprint=manifest.preprocessing[0]))
    model = manifest.resolved_model.model_copy(update={"size": manifest.sizes | {"form": form}})
    network = build_network(model, len(manifest.regions), manifest.tokens, seed=0)
    load_arrays(network, arrays)
    fc_BRR = torch.from_numpy(golden["fc"])
    with torch.no_grad():
        plain_LBP = network.eval()(fc_BRR).numpy()
        logits_LBP, attention_LBPR = (tensor.numpy() for tensor in network.attend(fc_BRR))
    expected_LBP = np.concatenate([golden["logits"], golden["sex"], golden["age"]], axis=-1)
    np.testing.assert_allclose(plain_LBP, expected_LBP, atol=1e-5, rtol=0)
    np.testing.assert_allclose(logits_LBP, expected_LBP, atol=1e-5, rtol=0)
    np.testing.assert_allclose(attention_LBPR, golden["cross_attention"].swapaxes(0, 1), atol=1e-6, rtol=0)
