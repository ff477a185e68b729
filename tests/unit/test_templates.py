"""Templates: what is asked for is found, fetched or refused with the remedy, and `auto` says what it took."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from lcm.config import Preprocess
from lcm.imaging.registration import load_template
from lcm.imaging.templates import resolve_template, space_name, template_origin

NAME = "MNI152NLin2009cAsym"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TEMPLATEFLOW_HOME."""
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    return tmp_path


def _write(home: Path, template: str = NAME) -> list[Path]:
    """A T1w and a brain mask of 2 mm voxels under TemplateFlow's names."""
    folder = home / f"tpl-{template}"
    folder.mkdir(exist_ok=True)
    values = np.zeros((20, 24, 20), np.float32)
    values[5:15, 5:19, 5:15] = 80
    affine = np.diag([2.0, 2, 2, 1])
    paths = [folder / f"tpl-{template}_res-01_{kind}.nii.gz" for kind in ("T1w", "desc-brain_mask")]
    nib.save(nib.Nifti1Image(values + 5, affine), paths[0])
    nib.save(nib.Nifti1Image((values > 0).astype(np.uint8), affine), paths[1])
    return paths


def _fake_templateflow(monkeypatch: pytest.MonkeyPatch, get: Callable[..., object]) -> None:
    fake = SimpleNamespace(api=SimpleNamespace(get=get))
    monkeypatch.setitem(sys.modules, "templateflow", fake)
    monkeypatch.setitem(sys.modules, "templateflow.api", fake.api)


def test_auto_takes_the_template_that_is_there(home):
    _write(home)
    assert resolve_template(Preprocess()) == NAME
    template = load_template(NAME, 2.0)
    assert template.name == NAME
    assert template.mask.sum() == 10 * 14 * 10
    assert template_origin(NAME) == f"{NAME} of TemplateFlow"


@pytest.mark.parametrize("skeleton", [True, False])
def test_auto_takes_nilearn_where_templateflow_holds_nothing_or_its_empty_skeleton(home, skeleton):
    if skeleton:
        _write(home)[1].write_bytes(b"")
    assert resolve_template(Preprocess()) == "nilearn"
    assert space_name("nilearn") == "MNI152NLin2009aSym"
    assert template_origin("nilearn").startswith("MNI152NLin2009aSym of nilearn 0.")


@pytest.mark.parametrize("empty", [True, False])
def test_a_named_template_that_is_missing_or_empty_is_refused_with_the_remedy(home, empty):
    if empty:
        _write(home, "MNI152NLin6Asym")[0].write_bytes(b"")
    name = "tpl-MNI152NLin6Asym_res-01_T1w.nii.gz"
    with pytest.raises(ValueError, match=f"{name}.*TEMPLATEFLOW_HOME.*download_templates"):
        resolve_template(Preprocess(template="MNI152NLin6Asym"))


@pytest.mark.parametrize("asked", ["auto", NAME])
def test_a_missing_template_is_fetched_when_the_settings_say_so(home, monkeypatch, asked):
    calls = []

    def get(template: str, **query: object) -> None:
        calls.append((template, query))
        _write(home)

    _fake_templateflow(monkeypatch, get)
    assert resolve_template(Preprocess(template=asked, download_templates=True)) == NAME
    assert calls == [
        (NAME, {"resolution": 1, "suffix": "T1w", "desc": None}),
        (NAME, {"resolution": 1, "suffix": "mask", "desc": "brain"}),
    ]


def test_nothing_is_fetched_that_is_there_or_unasked(home, monkeypatch):
    def get(template: str, **query: object) -> None:
        raise AssertionError(template)

    _fake_templateflow(monkeypatch, get)
    assert resolve_template(Preprocess()) == "nilearn"
    assert resolve_template(Preprocess(template="nilearn", download_templates=True)) == "nilearn"
    _write(home)
    assert resolve_template(Preprocess(download_templates=True)) == NAME


def test_a_failed_download_says_what_to_do_and_does_not_fall_back(home, monkeypatch):
    def get(template: str, **query: object) -> None:
        raise ConnectionError

    _fake_templateflow(monkeypatch, get)
    with pytest.raises(ValueError, match=rf"could not fetch {NAME} \(ConnectionError\).*TEMPLATEFLOW_HOME.*nilearn"):
        resolve_template(Preprocess(download_templates=True))


def test_a_template_cut_short_is_named(home):
    path = _write(home)[0]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"template {NAME} is cut short"):
        load_template(resolve_template(Preprocess()), 2.0)
