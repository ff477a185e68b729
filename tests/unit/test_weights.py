"""The bundle: what goes in comes out, and anything else is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from lcm.config import Model
from lcm.training.weights import (
    MANIFEST,
    WEIGHTS,
    Manifest,
    Unanswerable,
    hash_people,
    load_bundle,
    save_bundle,
    save_refusal,
)

REGIONS = ("left", "right", "middle")


@pytest.fixture
def bundle(tmp_path):
    """A bundle of two arrays."""
    manifest = Manifest(
        stage="finetune",
        name="ridge",
        model=Model(architecture="ridge"),
        fold=1,
        vocabulary={"sex": ("female", "male"), "age": ()},
        atlas="AAL",
        regions=REGIONS,
        strategies=("9P",),
        training_people=hash_people(["abide:1", "abide:2", "abide:1"]),
        validation_people=hash_people(["abide:3"]),
        settings={"seed": 0},
    )
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7)}
    save_bundle(tmp_path / "bundle", arrays, manifest)
    return tmp_path / "bundle"


def test_arrays_and_manifest_come_back_unchanged(bundle):
    manifest, arrays = load_bundle(bundle, regions=REGIONS, atlas="AAL")
    np.testing.assert_array_equal(arrays["a"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert arrays["a"].dtype == np.float32
    assert int(arrays["count"]) == 7
    assert manifest.vocabulary == {"sex": ("female", "male"), "age": ()}
    assert len(manifest.training_people) == 2
    assert "abide" not in (bundle / MANIFEST).read_text()


def test_another_region_order_is_refused_with_the_first_difference(bundle):
    with pytest.raises(ValueError, match="region 2 is 'right' for the weights and 'middle'"):
        load_bundle(bundle, regions=("left", "middle", "right"), atlas="AAL")
    with pytest.raises(ValueError, match="3 regions"):
        load_bundle(bundle, regions=REGIONS[:2], atlas="AAL")


def test_another_atlas_is_refused(bundle):
    with pytest.raises(ValueError, match="atlas 'Schaefer'"):
        load_bundle(bundle, regions=REGIONS, atlas="Schaefer")


def test_changed_bytes_are_refused(bundle):
    content = bytearray((bundle / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (bundle / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        load_bundle(bundle, regions=REGIONS, atlas="AAL")


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_a_missing_file_is_an_error(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_bundle(bundle, regions=REGIONS, atlas="AAL")


def test_a_refusal_takes_the_place_of_a_bundle_and_a_bundle_that_of_a_refusal(bundle):
    manifest, arrays = load_bundle(bundle, regions=REGIONS, atlas="AAL")
    save_refusal(bundle, "nobody is labelled")
    with pytest.raises(Unanswerable, match=r"^nobody is labelled$"):
        load_bundle(bundle, regions=REGIONS, atlas="AAL")
    save_bundle(bundle, arrays, manifest)
    assert load_bundle(bundle, regions=REGIONS, atlas="AAL")[0] == manifest


def test_an_unknown_key_in_the_manifest_is_named(bundle):
    content = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(content | {"colour": "red"}))
    with pytest.raises(ValueError, match="colour"):
        load_bundle(bundle, regions=REGIONS, atlas="AAL")


def test_fitting_and_reading_a_linear_model_imports_no_torch():
    program = (
        "import sys, lcm.models as m, lcm.training.finetune, lcm.training.predict; "
        "[m.MODELS[name].load() for name in ('majority', 'ridge')]; "
        "sys.exit(any(name.split('.')[0] in ('torch', 'lightning') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
