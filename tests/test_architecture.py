"""The laws of the house: one stage one name, imports that point down, generated files in step, rooms of a size."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lcm.config import SETTINGS, STAGE_ROOMS, Study, read_study
from lcm.imaging.strategy import read_strategy
from lcm.provenance import modules_behind

from .conftest import REPOSITORY

STAGES = list(STAGE_ROOMS)
MODULES = sorted((REPOSITORY / "lcm").rglob("*.py"))
RULES = REPOSITORY / "workflow" / "rules"
DIRECTIVES = ["input", "output", "log", "benchmark", "cache", "conda", "threads", "resources", "params", "shell"]


WHAT_TO_MAKE = ("datasets", "strategies", "protocols", "tasks", "models", "forecasters")


def _config() -> dict:
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))


def _lock() -> dict[str, str]:
    lines = (REPOSITORY / "envs" / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)


def test_a_stage_has_one_name_in_all_its_places():
    includes = re.findall(r'include: "workflow/rules/(\w+)\.smk"', (REPOSITORY / "Snakefile").read_text())
    sections = [name for name in Study.model_fields if name not in WHAT_TO_MAKE]
    assert includes == ["common", *STAGES]
    assert sections == STAGES == list(SETTINGS)
    assert [name for name in _config() if name not in WHAT_TO_MAKE] == STAGES
    for stage, room in STAGE_ROOMS.items():
        assert (REPOSITORY / Path(*room.split(".")) / f"{stage}.py").is_file()
        assert SETTINGS[stage].__name__.lower() == stage
        assert Study.model_fields[stage].annotation in (SETTINGS[stage], SETTINGS[stage] | None)


@pytest.mark.parametrize("stage", STAGES)
def test_a_rule_reads_like_every_other(stage: str):
    text = (RULES / f"{stage}.smk").read_text(encoding="utf-8")
    assert re.findall(r"^(?:rule|checkpoint) (\w+):", text, re.MULTILINE) == [stage]
    found = re.findall(
        r"^    (\w+):", text[re.search(r"^(rule|checkpoint)", text, re.MULTILINE).start() :], re.MULTILINE
    )
    assert found == [d for d in DIRECTIVES if d in found]
    # Snakemake refuses a benchmark of what may come from a cache; the record tells seconds and memory.
    assert {"output", "log", "cache" if stage == "preprocess" else "benchmark", "conda", "params", "shell"} <= set(
        found
    )
    assert re.search(rf'^(?:rule|checkpoint) {stage}:\n    """', text, re.MULTILINE)
    assert f"python -m lcm {stage} " in text
    assert f'code=code("{stage}")' in text
    for place in re.findall(r'"((?:logs|results)/[^"]*)"', text.split("output:")[1].split("conda:")[0]):
        assert place.split("/")[1] == stage
    assert "lambda" not in text
    assert "config.get" not in text


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_doors_two_functions_and_says_what_it_is_for(stage: str):
    path = REPOSITORY / Path(*STAGE_ROOMS[stage].split(".")) / f"{stage}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"arguments", "main"} <= functions
    assert ast.get_docstring(tree).startswith(f"{stage.capitalize()}: ")


def test_common_is_short_and_the_only_python_of_the_workflow():
    assert len((RULES / "common.smk").read_text().splitlines()) <= 60
    assert not list((REPOSITORY / "workflow").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_a_module_opens_with_its_purpose_and_stays_readable(path: Path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, node.name
    assert path.stem not in {"utils", "helpers", "misc", "core", "base", "lib", "common"}


def test_imports_point_down():
    run = subprocess.run(["lint-imports", "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_generated_files_are_in_step_with_the_code():
    command = [sys.executable, "docs/generate.py", "--check"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", ["config.yaml", *(f"config/{p.name}" for p in (REPOSITORY / "config").glob("*.yaml"))])
def test_a_shipped_configuration_is_valid_and_states_every_setting(path: str):
    config = yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))
    study = read_study(config)
    for stage in STAGES:
        if config[stage] is not None:
            assert set(config[stage]) == set(type(getattr(study, stage)).model_fields), stage


def test_an_unknown_key_is_refused_with_its_place():
    config = _config()
    config["denoise"]["low_hertz"] = 0.01
    config["datasets"]["HCPA"]["tr"] = 2
    with pytest.raises(ValueError, match=r"datasets.HCPA.tr: Extra inputs[^\n]*\n  denoise.low_hertz: Extra inputs"):
        read_study(config)


def test_every_shipped_strategy_is_valid_and_cited():
    for path in (REPOSITORY / "lcm" / "imaging" / "confounds").glob("*.yaml"):
        strategy = read_strategy(path)
        assert strategy.name == path.stem
        assert len(strategy.description) > 40
        assert strategy.citation


def test_every_setting_says_what_it_means():
    for settings in SETTINGS.values():
        for name, field in settings.model_fields.items():
            assert field.description, f"{settings.__name__}.{name}"


def test_the_lock_holds_every_dependency_and_pins_torch():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = _lock()
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert re.split(r"[<>=]", requirement)[0].lower() in lock, requirement
    assert lock["torch"] == "2.13.0"


# Decision 0011: training has nilearn, for the figures of predict alone.
@pytest.mark.parametrize(("name", "absent"), [("imaging", {"torch", "lightning"}), ("training", {"nipype", "antspyx"})])
def test_an_environment_pins_what_the_lock_pins(name: str, absent: set[str]):
    environment = yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))
    pins = dict(pin.split("==") for pin in environment["dependencies"][-1]["pip"])
    lock = _lock()
    assert pins == {package: lock[package] for package in pins}
    assert not absent & set(pins)


@pytest.mark.parametrize("stage", ["index", "preprocess", "parcellate", "denoise", "correlate", "harmonize", "report"])
def test_what_handles_images_and_people_never_reaches_torch(stage: str):
    for module in modules_behind(stage):
        assert not module.startswith(("lcm.training", "lcm.models")), module


def test_the_readme_names_every_direct_dependency():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for requirement in project["dependencies"]:
        assert f"`{re.split(r'[<>=]', requirement)[0]}`" in readme, requirement


def test_the_commands_of_the_readme_exist():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^ +|`)make (\w+)", readme, re.MULTILINE))
    assert {"demo", "test", "study"} <= named <= targets
    for stage in set(re.findall(r"python -m lcm ([\w-]+)", readme)):
        command = [sys.executable, "-m", "lcm", stage, "--help"]
        run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert run.returncode == 0
        assert f"usage: lcm {stage}" in run.stdout
    for path in re.findall(r"`((?:lcm|docs|config|envs|profiles|workflow)/[\w./-]*\w)`", readme):
        assert (REPOSITORY / path).exists(), path


def test_no_file_holds_a_path_of_one_machine():
    files = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    pattern = re.compile(r"""["'\s(=](/home/|/root/|/mnt/|/Users/)|cuda:\d""")
    for name in files:
        path = REPOSITORY / name
        if path.suffix in {".py", ".smk", ".yaml", ".toml", ".md"} and path != Path(__file__):
            assert not pattern.search(path.read_text(encoding="utf-8")), name
