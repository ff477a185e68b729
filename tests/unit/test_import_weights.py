"""Importing the authors' pair: what the tensors say is taken, what they do not say is told apart, all else is refused."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from lcm.__main__ import main
from lcm.atlas import load_atlas
from lcm.training.data import read_cohort, tables_of
from lcm.training.import_weights import Sizes, backbone_shapes, head_shapes, read_tensors
from lcm.training.token_meaning import PUBLISHED, token_meaning
from lcm.training.weights import Manifest, load_bundle, read_manifest
from tests.asking import scores_of
from tests.unit.conftest import REGIONS
from tests.unit.test_weights import no_scans

torch = pytest.importorskip("torch")

AAL = load_atlas("AAL").names
TINY = Sizes(num_regions=116, num_tokens=27, num_layers=2, width=16, feedforward=8)
STATED = {"correlate.kind": "correlation", "correlate.fisher_z": False}


class Pair:
    """A pair of random tensors in the authors' layout, its files and the command that imports it."""

    def __init__(self, folder: Path, sizes: Sizes = TINY) -> None:
        self.folder = folder
        draw = torch.Generator().manual_seed(1)
        self.backbone, self.head = (
            {name: torch.rand(shape, generator=draw) for name, shape in shapes.items()}
            for shapes in (backbone_shapes(sizes), head_shapes(sizes))
        )

    def run(self, *more: str) -> int:
        for name, tensors in (("bb.pt", self.backbone), ("head.pt", self.head)):
            torch.save(tensors, self.folder / name)
        files = ["--backbone", str(self.folder / "bb.pt"), "--head", str(self.folder / "head.pt")]
        return main(["import-weights", *files, "--output", str(self.folder / "bundle"), *more])

    def manifest(self, *more: str) -> Manifest:
        assert self.run(*more) == 0
        return read_manifest(self.folder / "bundle")


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def test_sizes_come_from_the_tensors_and_all_tensors_fit_the_network(pair):
    from lcm.training.networks import build_network, load_arrays

    manifest = pair.manifest("--num-heads", "4")
    expected = {"num_layers": 2, "width": 16, "feedforward": 8, "num_heads": 4, "dropout": 0.1}
    assert {name: manifest.sizes[name] for name in expected} == expected
    assert manifest.regions == AAL
    _, arrays = load_bundle(pair.folder / "bundle", no_scans(regions=AAL, fingerprint=STATED))
    load_arrays(build_network(manifest.resolved_model, 116, manifest.tokens, seed=0), arrays)
    stacked = pair.head["decoder.layers.1.multihead_attn.in_proj_weight"].numpy()
    key = arrays["layers.1.cross_attention.key.weight"]
    np.testing.assert_array_equal(key, stacked[16:32])


def reference(pair: Pair, fc_BRR: torch.Tensor, num_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (L, B, P) and head-averaged cross-attention (L, B, P, R) of the paper's formulas, by torch's own attention."""
    from torch.nn import functional

    bb, head, width = pair.backbone, pair.head, TINY.width

    def attend(
        name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = torch.nn.MultiheadAttention(width, num_heads, batch_first=True)
        prefix = f"{name}."
        own.load_state_dict({key.removeprefix(prefix): x for key, x in head.items() if key.startswith(prefix)})
        return own(query, key, value)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, head[f"{name}.weight"], head[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (width,), head[f"{name}.weight"], head[f"{name}.bias"])

    rows = functional.linear(fc_BRR, bb["lin.0.weight"], bb["lin.0.bias"])
    scale = bb["lin.1.weight"] / (bb["lin.1.running_var"] + 1e-5).sqrt()
    memory = functional.leaky_relu((rows - bb["lin.1.running_mean"]) * scale + bb["lin.1.bias"])
    tokens = head["object_query.weight"].expand(len(fc_BRR), -1, -1)
    stream, logits, shares = torch.zeros_like(tokens), [], []
    for layer in range(TINY.num_layers):
        place = f"decoder.layers.{layer}"
        stream = norm(f"{place}.norm1", stream + attend(f"{place}.self_attn", *[stream + tokens] * 2, stream)[0])
        read, weights = attend(f"{place}.multihead_attn", stream + tokens, memory, memory)
        stream = norm(f"{place}.norm2", stream + read)
        hidden = functional.relu(linear(f"{place}.linear1", stream))
        stream = norm(f"{place}.norm3", stream + linear(f"{place}.linear2", hidden))
        logits.append(linear("class_embed", norm("decoder.norm", stream)).squeeze(-1))
        shares.append(weights)
    return torch.stack(logits), torch.stack(shares)


@pytest.mark.parametrize("num_heads", [1, 4])
def test_the_imported_network_computes_the_papers_formulas(pair, num_heads):
    from lcm.training.networks import build_network, load_arrays

    manifest = pair.manifest("--num-heads", str(num_heads))
    network = build_network(manifest.resolved_model, 116, manifest.tokens, seed=0).eval()
    load_arrays(network, load_bundle(pair.folder / "bundle", no_scans(regions=AAL, fingerprint=STATED))[1])
    fc_BRR = torch.rand(3, 116, 116, generator=torch.Generator().manual_seed(2)) - 0.5
    with torch.no_grad():
        expected, found = reference(pair, fc_BRR, num_heads), network.attend(fc_BRR)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    assert float(found[0].std(dim=1).min()) > 1e-4, "scans must differ, or this test sees nothing"


def test_the_published_layer_counts_have_the_published_parameter_counts():
    for num_layers, published in ((4, 147_194_883), (32, 1_175_681_027)):
        shapes = head_shapes(Sizes(116, 4 + 3, num_layers, 2048, 768)) | backbone_shapes(Sizes(116, 7, 1, 2048, 768))
        # Running statistics and their counter are no parameters.
        learned = [shape for name, shape in shapes.items() if "running" not in name and "tracked" not in name]
        assert sum(int(np.prod(shape)) for shape in learned) == published


def test_what_nobody_knows_is_said_in_the_manifest_and_once_in_the_log(pair, caplog):
    manifest = pair.manifest()
    assert (manifest.stage, manifest.people, manifest.fold) == ("imported", "unknown", None)
    assert manifest.assumed == (*PUBLISHED, "sex")
    assert sum("assumed, not known" in record.getMessage() for record in caplog.records) == 1
    assert manifest.settings == {"stages": "both"}
    record = json.loads((pair.folder / "bundle" / "record.json").read_text())
    assert set(record["inputs"]) == {"backbone", "head"}


def test_connectomes_as_fisher_z_are_refused_and_any_denoising_is_not(pair):
    pair.manifest()
    load_bundle(pair.folder / "bundle", no_scans(regions=AAL, fingerprint=STATED | {"denoise.strategy": "36P"}))
    with pytest.raises(ValueError, match="fisher_z"):
        load_bundle(pair.folder / "bundle", no_scans(regions=AAL, fingerprint=STATED | {"correlate.fisher_z": True}))


def test_a_command_stands_beside_the_stages_and_takes_no_settings(pair, capsys):
    assert main(["--help"]) == 0
    assert "commands beside them:\n  import-weights\n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pair.run("--settings", "{}")
    assert "unrecognized arguments: --settings" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_vocabulary_file_names_the_tokens_in_its_order_and_nothing_is_assumed(tmp_path, suffix):
    words = {"autism": ["n/a", "control", "autism"], "sex": ["male", "female"], "age": []}
    path = tmp_path / f"words.{suffix}"
    path.write_text(
        json.dumps(words) if suffix == "json" else "autism: [n/a, control, autism]\nsex: [male, female]\nage: []"
    )
    manifest = Pair(tmp_path, TINY._replace(num_tokens=6)).manifest("--vocabulary", str(path), "--stages", "last_layer")
    assert manifest.tokens == ("autism=n/a", "autism=control", "autism=autism", "sex=male", "sex=female", "age")
    assert {name: list(levels) for name, levels in manifest.vocabulary.items()} == words
    assert manifest.assumed == ()
    assert manifest.settings == {"stages": "last_layer"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sex: [female, male]\nage: []", "3 tokens are named, the head has 27"),
        ("sex: [female, female]", "sex needs two or more different words"),
        ("answer: [yes, no]", "answer needs two or more different words"),
        ("- sex", "needs a BEI a line"),
        ("sex: [", "neither YAML nor JSON"),
    ],
)
def test_a_vocabulary_file_that_cannot_be_is_refused(pair, caplog, text, said):
    (pair.folder / "words.yaml").write_text(text)
    assert pair.run("--vocabulary", str(pair.folder / "words.yaml")) == 1
    assert said in caplog.text


def test_class_tokens_of_another_number_stay_nameless_and_are_asked_nothing():
    tokens, vocabulary, assumed = token_meaning(7, None)
    assert tokens == ("class=0", "class=1", "class=2", "class=3", "sex=female", "sex=male", "age")
    assert vocabulary == {"sex": ("female", "male"), "age": ()}
    assert assumed == ("sex",)


def test_a_finetuned_heads_further_tokens_are_refused_by_name(pair, caplog):
    pair.head["more_queries.weight"] = torch.rand(2, 16)
    assert pair.run() == 1
    assert "head.pt: the tensor more_queries.weight has no place here (1 unknown)" in caplog.text
    assert "run finetune" in caplog.text
    assert not (pair.folder / "bundle").exists()


def _lose(pair: Pair) -> None:
    del pair.head["decoder.layers.1.norm3.bias"]


def _skip_a_layer(pair: Pair) -> None:
    pair.head = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in pair.head.items()}


def _turn(pair: Pair) -> None:
    pair.head["decoder.layers.0.linear2.weight"] = torch.rand(8, 16)


def _spoil(pair: Pair) -> None:
    pair.backbone["lin.1.running_var"][3] = float("nan")


def _swap(pair: Pair) -> None:
    pair.backbone, pair.head = pair.head, pair.backbone


def _nest(pair: Pair) -> None:
    pair.backbone = {"state_dict": pair.backbone}


def _list(pair: Pair) -> None:
    pair.head = list(pair.head.values())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_lose, "head.pt: lacks the tensor decoder.layers.1.norm3.bias (1 missing)"),
        (_skip_a_layer, "head.pt: lacks the tensor decoder.layers.1."),
        (_turn, "decoder.layers.0.linear2.weight has shape (8, 16), (16, 8) fits the others"),
        (_spoil, "bb.pt: lin.1.running_var is not finite"),
        (_swap, "--backbone: no matrix lin.0.weight; it has: age_embed.bias"),
        (_nest, "bb.pt: holds a dict, not names and tensors"),
        (_list, "head.pt: holds a list, not names and tensors"),
    ],
)
def test_a_damaged_pair_is_refused_by_file_and_tensor(pair, caplog, damage, said):
    damage(pair)
    assert pair.run() == 1
    assert said in caplog.text
    assert not (pair.folder / "bundle").exists()


@pytest.mark.parametrize("layout", ["zip", "bare pickle"])
def test_a_file_that_would_execute_something_is_refused_and_nothing_happens(pair, caplog, layout):
    class Malice:
        def __reduce__(self):
            return Path.touch, (pair.folder / "executed",)

    pair.run()
    bad = pair.folder / "bad.pt"
    if layout == "zip":
        torch.save({"lin.0.weight": Malice()}, bad)
    else:
        bad.write_bytes(pickle.dumps({"lin.0.weight": Malice()}, protocol=2))
    output = pair.folder / "out"
    assert (
        main(
            ["import-weights", "--backbone", str(bad), "--head", str(pair.folder / "head.pt"), "--output", str(output)]
        )
        == 1
    )
    assert "not a file of tensors alone" in caplog.text
    assert not output.exists()
    assert not (pair.folder / "executed").exists()
    # The trap is a real one.
    with contextlib.suppress(RuntimeError):
        torch.load(bad, weights_only=False)
    assert (pair.folder / "executed").exists()


def test_text_instead_of_a_checkpoint_and_a_missing_file_are_refused(pair, caplog):
    (pair.folder / "text.pt").write_text("{}")
    for name in ("text.pt", "absent.pt"):
        arguments = ["--backbone", str(pair.folder / name), "--head", "any", "--output", str(pair.folder / "bundle")]
        assert main(["import-weights", *arguments]) == 1
        assert name in caplog.text


def test_regions_in_another_order_than_the_atlas_have_a_file(pair, caplog):
    order = pair.folder / "regions.txt"
    order.write_text("\n".join(reversed(AAL)) + "\n")
    assert pair.manifest("--regions", str(order)).regions == AAL[::-1]
    order.write_text("\n".join((*AAL[:-1], "Elsewhere")))
    assert pair.run("--regions", str(order)) == 1
    assert "Elsewhere" in caplog.text


def test_parameters_and_half_precision_are_read_as_tensors_of_single(pair):
    pair.backbone["lin.0.weight"] = torch.nn.Parameter(pair.backbone["lin.0.weight"])
    pair.head["class_embed.weight"] = pair.head["class_embed.weight"].bfloat16()
    pair.manifest()
    _, arrays = load_bundle(pair.folder / "bundle", no_scans(regions=AAL, fingerprint=STATED))
    assert {arrays[name].dtype for name in ("region_embedding.weight", "head.weight")} == {np.dtype(np.float32)}


def test_weights_of_another_number_of_regions_or_heads_are_refused(tmp_path, caplog):
    assert Pair(tmp_path, TINY._replace(num_regions=100)).run() == 1
    assert "--atlas AAL has 116 regions" in caplog.text
    assert Pair(tmp_path).run("--num-heads", "5") == 1
    assert "the width 16 is not divisible" in caplog.text


def test_finetuning_goes_on_from_imported_weights_and_says_that_they_may_have_seen_anybody(study, run_stage, caplog):
    (study.folder / "atlas-tiny_dseg.tsv").write_text(
        "index\tname\n" + "".join(f"{number}\t{name}\n" for number, name in enumerate(REGIONS, start=1))
    )
    imported = Pair(study.folder, TINY._replace(num_regions=10))
    assert imported.run("--atlas", str(study.folder / "atlas-tiny_dseg.tsv")) == 0
    weights = study.folder / "bundle"
    model = {"architecture": "lcm", "start": f"{weights}/", "size": {"num_layers": 2, "width": 16, "feedforward": 8}}
    task = {"target": "sex", "levels": ["female", "male"]}
    folder = run_stage("finetune", "out", {"max_epochs": 2}, model=model, task=task, weights=weights)
    manifest = read_manifest(folder)
    assert manifest.people == "unknown"
    assert manifest.tokens == read_manifest(weights).tokens
    assert "is not known" in caplog.text
    test_people = read_cohort(tables_of(study.flags()), fold=0, roles=("test",))
    np.testing.assert_allclose(scores_of(folder, test_people).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x02X\x01\x00\x00\x00\xff."])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "bb.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"bb\.pt: not a file of tensors alone"):
        read_tensors(tmp_path / "bb.pt")
