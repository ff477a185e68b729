"""Environments: conda's hold all that their stages import; both containers hold the program, the lock and nothing else."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lcm.config import module_of
from lcm.provenance import modules_behind
from tests.workflow.conftest import OFFLINE

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {
    path.stem: re.search(
        r"^    conda:\n        \"../../envs/(\w+)\.yaml\"$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    for path in (REPOSITORY / "workflow" / "rules").glob("*.smk")
    if path.name != "common.smk"
}
DISTRIBUTIONS = importlib.metadata.packages_distributions()
DOCKERFILE = (REPOSITORY / "envs" / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (REPOSITORY / "envs" / "lcm.def").read_text(encoding="utf-8")
INSTALL = "python -m pip install --no-cache-dir --requirement /opt/lcm/envs/requirements.lock"


def _pins(environment: str) -> dict[str, str]:
    content = yaml.safe_load((REPOSITORY / "envs" / f"{environment}.yaml").read_text(encoding="utf-8"))
    return dict(pin.lower().split("==") for pin in content["dependencies"][-1]["pip"])


@functools.cache
def _imported(module: str) -> frozenset[str]:
    """Top-level names that a module imports from elsewhere than Python and the package itself, inside functions too."""
    stem, found = REPOSITORY.joinpath(*module.split(".")), set()
    path = stem.with_suffix(".py") if stem.with_suffix(".py").is_file() else stem / "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        found |= {name.split(".")[0] for name in names}
    return frozenset(found - {"lcm", *sys.stdlib_module_names})


def _missing(stage: str, pins: set[str]) -> dict[str, str]:
    """Imports behind a stage that no pin provides, each with a module that wants it."""
    absent = {}
    # The door and the settings stand behind every stage; modules_behind leaves them out because they change no result.
    for module in ("lcm.__main__", "lcm.config", *modules_behind(stage)):
        for name in _imported(module):
            if not {provider.lower() for provider in DISTRIBUTIONS.get(name, [name])} & pins:
                absent[name] = module
    return absent


@pytest.mark.parametrize("stage", sorted(ENVIRONMENT))
def test_the_environment_of_a_rule_holds_what_its_stage_imports(stage: str):
    assert module_of(stage)
    assert ENVIRONMENT[stage] is not None, f"rule {stage} names no environment"
    assert _missing(stage, set(_pins(ENVIRONMENT[stage][1]))) == {}


def test_a_missing_package_would_be_found():
    assert _missing("pretrain", set(_pins("training")) - {"torch"}).keys() == {"torch"}
    assert "nilearn" in _missing("denoise", set(_pins("imaging")) - {"nilearn"})


def test_every_environment_has_one_python():
    versions = set()
    for name in ("imaging", "training"):
        content = yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert content["channels"] == ["conda-forge"]
        versions.add(content["dependencies"][0].removeprefix("python="))
    versions |= set(re.findall(r"^FROM \S+/python:([\d.]+)-slim", DOCKERFILE, re.MULTILINE))
    assert versions == {"3.11"}


# Stands for conda: answers what Snakemake asks about it, and keeps the file of every environment that it is told to make.
CONDA = """\
#!/bin/sh
case "$*" in
  *--version*) echo "conda 25.1.0" ;;
  *"info --json"*) echo '{"conda_prefix": "/", "root_prefix": "/", "conda_version": "25.1.0", "platform": "linux-64"}' ;;
  *channel_priority*) echo '{"get": {"channel_priority": "strict"}}' ;;
  "env create"*--file*) for word in "$@"; do case "$word" in *.yaml) cp "$word" "$MADE" ;; esac; done ;;
esac
"""


def test_snakemake_makes_both_environments_of_the_demo_study(tmp_path: Path):
    programs, made = tmp_path / "bin", tmp_path / "made"
    programs.mkdir()
    made.mkdir()
    (programs / "conda").write_text(CONDA)
    (programs / "conda").chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "1"]
    command += ["--software-deployment-method", "conda", "--conda-create-envs-only"]
    environment = os.environ | OFFLINE | {"PATH": path, "MADE": str(made)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    asked = sorted(file.read_text(encoding="utf-8") for file in made.iterdir())
    assert asked == sorted(
        (REPOSITORY / "envs" / f"{name}.yaml").read_text("utf-8") for name in ("imaging", "training")
    )


def _copied_by_docker() -> set[str]:
    copied = set()
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        *sources, target = line.split()
        assert all(target in {"/opt/lcm/", f"/opt/lcm/{source}"} for source in sources), line
        copied |= set(sources)
    return copied - {"envs/requirements.lock"}


def _section(name: str) -> str:
    return re.search(rf"^%{name}\n((?:    .*\n|\n)+)", DEFINITION, re.MULTILINE)[1]


def _copied_by_apptainer() -> set[str]:
    pairs = [line.split() for line in _section("files").splitlines() if line.strip()]
    assert all(target == f"/opt/lcm/{source}" for source, target in pairs)
    return {source for source, _ in pairs}


def test_both_containers_are_made_alike():
    assert DOCKERFILE.count("FROM ") == 1
    docker = re.search(r"^FROM (docker.io/library/python):[\w.-]+(@sha256:[0-9a-f]{64})$", DOCKERFILE, re.MULTILINE)
    assert f"From: {docker[1]}{docker[2]}\n" in DEFINITION
    assert _copied_by_docker() == _copied_by_apptainer()
    assert DOCKERFILE.count(INSTALL) == _section("post").count(INSTALL) == 1
    variables = set(re.search(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)[1].split())
    assert variables - {"HOME=/tmp", "USER=lcm"} == set(_section("environment").split()) - {"export"}
    entry = " ".join(re.findall(r'"([^"]+)"', re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)[1]))
    assert f"exec {entry} " in _section("runscript")


def test_docker_does_not_run_as_root_and_copies_nothing_else():
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == _copied_by_docker()


def test_what_the_containers_copy_is_enough_to_plan_the_demo_study(tmp_path: Path):
    program, study = tmp_path / "opt", tmp_path / "study"
    study.mkdir()
    for name in _copied_by_docker():
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, program / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            program.mkdir(exist_ok=True)
            shutil.copy(source, program / name)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(program / "Snakefile"), "--dry-run"]
    command += ["--workflow-profile", str(program / "profiles" / "default"), "--cores", "1"]
    environment = os.environ | OFFLINE | {"PYTHONPATH": str(program), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^simulate +1$", run.stdout, re.MULTILINE)
