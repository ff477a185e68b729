"""The code hash: sees what a stage imports, and nothing that cannot change a result."""

from __future__ import annotations

import pytest

from lcm import provenance
from lcm.config import COMMANDS, STAGE_ROOMS, module_of


def _forget() -> None:
    for remembered in (provenance._read, provenance.modules_behind, provenance.code_hash):
        remembered.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    room = tmp_path / "lcm" / "imaging"
    room.mkdir(parents=True)
    for folder in (tmp_path / "lcm", room):
        (folder / "__init__.py").write_text('"""A room."""\n')
    (room / "index.py").write_text(
        '"""Index."""\n\n\ndef main():\n    from lcm.imaging.header import read\n\n    return read\n'
    )
    (room / "header.py").write_text("def read():\n    return 1\n")
    (room / "denoise.py").write_text("def main():\n    return 2\n")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "lcm")

    def hashes() -> dict[str, str]:
        _forget()
        return {stage: provenance.code_hash(stage) for stage in ("index", "denoise")}

    yield room, hashes
    _forget()


def test_a_module_imported_inside_a_function_changes_its_stage_and_no_other(package):
    room, hashes = package
    before = hashes()
    (room / "header.py").write_text("def read():\n    return 3\n")
    after = hashes()
    assert after["index"] != before["index"]
    assert after["denoise"] == before["denoise"]


def test_comments_docstrings_and_layout_change_nothing(package):
    room, hashes = package
    before = hashes()
    (room / "header.py").write_text('"""New words."""\n\n\n# why\ndef read():\n    """More."""\n    return (1)\n')
    assert hashes() == before
    (room / "header.py").write_text("# why\ndef read():\n\n    return (1)  # because\n")
    assert hashes() == before


@pytest.mark.parametrize("name", STAGE_ROOMS | COMMANDS)
def test_every_stage_and_command_reaches_its_own_module(name):
    assert module_of(name) in provenance.modules_behind(name)


def test_each_module_is_parsed_once_for_all_stages(package, monkeypatch: pytest.MonkeyPatch):
    room, hashes = package
    (room / "denoise.py").write_text("from lcm.imaging.header import read\n")
    parsed = []
    monkeypatch.setattr(
        provenance.ast, "parse", lambda text, parse=provenance.ast.parse: parsed.append(text) or parse(text)
    )
    first = hashes()
    assert len(parsed) == len(set(parsed)) > 0
    assert hashes() == first
