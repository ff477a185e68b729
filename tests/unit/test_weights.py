"""The bundle: what goes in comes out, and anything else is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lcm.config import Model
from lcm.fingerprint import Fingerprint
from lcm.provenance import code_hash
from lcm.training.checkpoint import CHECKPOINT
from lcm.training.data import Cohort
from lcm.training.weights import (
    MANIFEST,
    WEIGHTS,
    Manifest,
    Unanswerable,
    hash_people,
    load_bundle,
    read_manifest,
    save_bundle,
    save_refusal,
    summary,
)

REGIONS = ("left", "right", "middle")
RAW = {"images": "bids", "denoise.strategy": "9P", "denoise.high_hz": 0.08, "correlate.fisher_z": False}
READY = {"images": "series", "denoise.strategy": "denoised elsewhere", "correlate.fisher_z": False}


def no_scans(regions: tuple[str, ...] = REGIONS, atlas: str = "AAL", fingerprint: Fingerprint | None = None) -> Cohort:
    """What a bundle is compared with, connectomes without people."""
    return Cohort(pd.DataFrame(), np.empty((0, 3), np.float32), atlas, regions, ("9P",), (fingerprint or RAW,))


@pytest.fixture
def bundle(tmp_path):
    """A bundle of two arrays, which learned from raw images and from ready series."""
    manifest = Manifest(
        stage="finetune",
        name="ridge",
        model=Model(architecture="ridge"),
        fold=1,
        vocabulary={"sex": ("female", "male"), "age": ()},
        atlas="AAL",
        regions=REGIONS,
        strategies=("9P",),
        preprocessing=(READY, RAW),
        training_people=hash_people(["abide:1", "abide:2", "abide:1"]),
        validation_people=hash_people(["abide:3"]),
        settings={"seed": 0},
    )
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7)}
    save_bundle(tmp_path / "bundle", arrays, manifest)
    return tmp_path / "bundle"


def test_arrays_and_manifest_come_back_unchanged(bundle):
    manifest, arrays = load_bundle(bundle, no_scans())
    np.testing.assert_array_equal(arrays["a"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert arrays["a"].dtype == np.float32
    assert int(arrays["count"]) == 7
    assert manifest.vocabulary == {"sex": ("female", "male"), "age": ()}
    assert len(manifest.training_people) == 2
    assert "abide" not in (bundle / MANIFEST).read_text()


def test_arrays_of_any_strides_come_back_in_order(bundle):
    square = np.arange(6.0).reshape(2, 3)
    save_bundle(bundle, {"turned": square.T, "part": square[:, ::2]}, read_manifest(bundle))
    arrays = load_bundle(bundle, no_scans())[1]
    np.testing.assert_array_equal(arrays["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(arrays["part"], [[0, 2], [3, 5]])


def test_the_manifest_says_what_code_and_libraries_made_it_and_every_size(bundle):
    small = Model(architecture="lcm", size={"num_layers": 2, "width": 64})
    save_bundle(bundle, {}, read_manifest(bundle).model_copy(update={"model": small}))
    manifest = read_manifest(bundle)
    assert manifest.code == code_hash("finetune")
    assert {"python", "numpy", "torch", "safetensors"} <= set(manifest.versions)
    assert manifest.sizes["num_layers"] == 2
    assert manifest.sizes["feedforward"] == 768
    assert manifest.resolved_model.size == manifest.sizes


def test_the_summary_is_of_the_best_epoch():
    history = [
        {"training_loss": float(n), "validation_loss": 10.0 * n, "seconds": 2.0 * n, "samples_per_s": 1000 / n}
        for n in (3, 1, 2)
    ]
    best = {"epochs": 3, "best_epoch": 2, "training_loss": 1.0, "validation_loss": 10.0}
    assert summary(history, 2) == pytest.approx(best | {"seconds": 12.0, "ms_per_scan": 2.0})


def test_another_region_order_is_refused_with_the_first_difference(bundle):
    with pytest.raises(ValueError, match=r"region 2 is 'right' for the weights and 'middle'.*or allow: \[regions\]"):
        load_bundle(bundle, no_scans(("left", "middle", "right")))


def test_another_number_of_regions_is_refused_whatever_is_allowed(bundle):
    with pytest.raises(ValueError, match="3 regions, the connectomes have 2"):
        load_bundle(bundle, no_scans(REGIONS[:2]), allow=("atlas", "regions"))


def test_another_atlas_is_refused(bundle):
    with pytest.raises(ValueError, match="atlas 'Schaefer'"):
        load_bundle(bundle, no_scans(atlas="Schaefer"))


def test_each_variant_that_was_pooled_may_come_again_and_no_mixture_of_them(bundle):
    for variant in (RAW, READY, RAW | {"correlate.new_in_a_later_version": 1}):
        load_bundle(bundle, no_scans(fingerprint=variant))
    with pytest.raises(
        ValueError, match=r"denoise.strategy: the weights learned from denoised elsewhere, these connectomes have 9P"
    ):
        load_bundle(bundle, no_scans(fingerprint=RAW | {"images": "series"}))


@pytest.mark.parametrize(
    ("fingerprint", "said"),
    [
        (RAW | {"denoise.high_hz": 0.1}, "denoise.high_hz: the weights learned from 0.08, these connectomes have 0.1;"),
        (
            RAW | {"denoise.high_hz": None},
            "denoise.high_hz: the weights learned from 0.08, these connectomes have none;",
        ),
        (RAW | {"correlate.fisher_z": True}, "correlate.fisher_z: the weights learned from False, these .* have True;"),
        (
            {k: v for k, v in RAW.items() if k != "denoise.high_hz"},
            "denoise.high_hz: .* these connectomes do not state it",
        ),
    ],
)
def test_other_preprocessing_is_refused_by_the_setting_that_differs(bundle, fingerprint, said):
    with pytest.raises(ValueError, match=said):
        load_bundle(bundle, no_scans(fingerprint=fingerprint))


@pytest.mark.parametrize("stated", [(), ({},)])
def test_weights_of_unknown_preprocessing_fit_nothing(bundle, stated):
    save_bundle(bundle, {}, read_manifest(bundle).model_copy(update={"preprocessing": stated}))
    with pytest.raises(ValueError, match="the weights state no preprocessing"):
        load_bundle(bundle, no_scans())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"sex": ("female", "other")}, "sex is female, male for the weights, asked is other"),
        ({"sex": ()}, "sex is female, male for the weights, asked is a number"),
        ({"age": ("young", "old")}, "age is a number for the weights, asked is old, young"),
    ],
)
def test_a_known_bei_in_other_words_is_refused(bundle, asked, said):
    with pytest.raises(ValueError, match=said):
        load_bundle(bundle, no_scans(), vocabulary=asked)
    load_bundle(bundle, no_scans(), vocabulary=asked, allow=("vocabulary",))


def test_known_words_and_unknown_beis_are_no_difference(bundle):
    load_bundle(bundle, no_scans(), vocabulary={"sex": ("male",), "age": (), "autism": ("control", "autism")})


def test_what_is_allowed_is_taken_with_a_warning_and_nothing_else_is(bundle, caplog):
    other = no_scans(("a", "b", "c"), "Schaefer", READY | {"correlate.fisher_z": True})
    load_bundle(bundle, other, allow=("atlas", "regions", "preprocessing"))
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split("allow: ")[1].split(":")[0] for line in said] == ["[atlas]", "[regions]", "[preprocessing]"]
    for missing in ("atlas", "regions", "preprocessing"):
        with pytest.raises(ValueError, match=rf"or allow: \[{missing}\]"):
            load_bundle(bundle, other, allow={"atlas", "regions", "preprocessing"} - {missing})


@pytest.mark.parametrize("name", [CHECKPOINT, "head_fold0.pt", WEIGHTS, "folder"])
def test_what_people_take_for_a_bundle_is_refused_with_what_to_do(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / CHECKPOINT).write_bytes(b"")
    else:
        path.write_bytes(b"")
    said = {"head_fold0.pt": "lcm import-weights", WEIGHTS: "is the folder that holds"}
    with pytest.raises(ValueError, match=said.get(name, "a checkpoint of an unfinished run")):
        load_bundle(path, no_scans())


@pytest.mark.parametrize(("content", "said"), [({"format": 1}, "format 1, 2 is read"), ([], "not a JSON object")])
def test_an_older_or_foreign_manifest_is_refused_with_what_to_do(bundle, content, said):
    (bundle / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        read_manifest(bundle)


def test_changed_bytes_are_refused(bundle):
    content = bytearray((bundle / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (bundle / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        load_bundle(bundle, no_scans())


def test_a_manifest_that_was_edited_is_refused(bundle):
    content = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(dict(reversed(content.items()))))
    assert read_manifest(bundle).vocabulary["sex"] == ("female", "male")
    content["vocabulary"]["sex"] = ["male", "female"]
    (bundle / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"not those that were written \(manifest_sha256\)"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_a_missing_file_is_an_error(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_bundle(bundle, no_scans())


def test_a_refusal_takes_the_place_of_a_bundle_and_a_bundle_that_of_a_refusal(bundle):
    manifest, arrays = load_bundle(bundle, no_scans())
    save_refusal(bundle, "nobody is labelled")
    with pytest.raises(Unanswerable, match=r"^nobody is labelled$"):
        load_bundle(bundle, no_scans())
    save_bundle(bundle, arrays, manifest)
    assert load_bundle(bundle, no_scans())[0] == manifest


def test_an_unknown_key_in_the_manifest_is_named(bundle):
    content = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(content | {"colour": "red"}))
    with pytest.raises(ValueError, match="colour"):
        load_bundle(bundle, no_scans())


def test_fitting_and_reading_a_linear_model_imports_no_torch():
    program = (
        "import sys, lcm.models as m, lcm.training.finetune, lcm.training.predict; "
        "[m.MODELS[name].load() for name in ('majority', 'ridge')]; "
        "sys.exit(any(name.split('.')[0] in ('torch', 'lightning') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
