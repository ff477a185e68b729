"""The table of architectures: explicit, light, and clear about what it does not know."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lcm.models import MODELS, architecture, check_size


def test_every_name_loads_a_class_of_its_kind():
    for name, entry in MODELS.items():
        loaded = architecture(name).load()
        needed = (
            ("fit", "refit", "predict")
            if entry.kind == "estimator"
            else ("forward", "objective", "read_out", "append_tokens", "embed")
        )
        assert all(callable(getattr(loaded, method)) for method in needed)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'rigde'.*majority, site, .*ridge, .*lcm"):
        architecture("rigde")


def test_a_size_an_architecture_does_not_take_is_named():
    check_size("lcm", {"num_layers": 2, "width": 64, "dropout": 0.3})
    with pytest.raises(ValueError, match=r"\['depth'\].*num_layers, width"):
        check_size("lcm", {"depth": 2})
    with pytest.raises(ValueError, match=r"ridge.*takes: none"):
        check_size("ridge", {"width": 2})


def test_reading_the_table_imports_no_architecture():
    program = "import sys, lcm.models; sys.exit(any(name in sys.modules for name in ('torch', 'sklearn', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_row_has_words_of_its_own_and_a_place():
    labels = [entry.label for entry in MODELS.values()]
    assert len(set(labels)) == len(labels)
    groups = {entry.group for entry in MODELS.values()}
    assert groups == {"reference", "confound", "linear", "kernel", "network"}
    assert all((entry.group == "network") == (entry.kind == "network") for entry in MODELS.values())


def test_a_named_size_is_one_that_the_architecture_takes():
    for name, entry in MODELS.items():
        for size in entry.sizes:
            assert check_size(name, size)
