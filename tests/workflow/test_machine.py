"""What a profile says of the machine reaches the command of a job, and nothing else."""

from __future__ import annotations

import re

from .conftest import SmallStudy

MODELS = {"ridge": {"architecture": "ridge"}, "lcm": {"architecture": "lcm", "size": "tiny", "start": "pretrained"}}


def _commands(study: SmallStudy, *arguments: str) -> dict[tuple[str, str], str]:
    """(stage, model) → what stands before `python`, and the machine's flags, of the jobs of fold 0."""
    run = study.snakemake("--dry-run", "--printshellcmds", "--quiet", "host", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    found = re.findall(
        r"^.*\bexec (.*) python -m lcm (\w+) --model (\S+) .*--fold 0 .*(--devices .*?) --output",
        run.stdout + run.stderr,
        re.MULTILINE,
    )
    return {(stage, model): f"{before} | {flags}" for before, stage, model, flags in found}


def test_resources_become_launcher_and_flags_and_a_model_without_a_network_asks_for_no_gpu(
    derivative_study: SmallStudy,
):
    study = derivative_study
    study.config["models"] = MODELS
    assert study.index().returncode == 0
    one = "env | --devices 1 --nodes 1 --accelerator auto"
    assert _commands(study) == {
        ("pretrain", "lcm"): one,
        ("finetune", "lcm"): one,
        ("finetune", "ridge"): "env | --devices 0 --nodes 1 --accelerator auto",
    }
    changed = ["pretrain:gpu=8", "pretrain:nodes=2", "pretrain:launcher=srun --nodes=2", "finetune:machine='--compile'"]
    found = _commands(study, "--set-resources", *changed)
    assert found["pretrain", "lcm"] == "srun --nodes=2 | --devices 8 --nodes 2 --accelerator auto"
    assert found["finetune", "lcm"] == "env | --devices 1 --nodes 1 --compile"
