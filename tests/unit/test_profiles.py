"""Profiles: every key is one that Snakemake knows, every rule exists, and the schedulers' scripts ask for what a rule needs."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from snakemake.cli import get_argument_parser
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file

from lcm.imaging.index import assign_batches
from lcm.settings import Index
from tests.workflow.conftest import OFFLINE

REPOSITORY = Path(__file__).parents[2]
GENERIC = ["lsf", "pbs", "sge"]
PROFILES = ["default", *GENERIC, "slurm", "slurm-offline"]
RULES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "workflow" / "rules").glob("*.smk")
    if path.name != "common.smk"
}


def _text(profile: str) -> str:
    return (REPOSITORY / "profiles" / profile / "config.yaml").read_text(encoding="utf-8")


def _profile(profile: str) -> dict[str, Any]:
    return yaml.safe_load(_text(profile))


def test_the_profiles_are_those_that_the_documentation_names():
    shipped = subprocess.check_output(["git", "ls-files", "profiles"], cwd=REPOSITORY, text=True).split()
    assert {Path(path).parts[1] for path in shipped} <= set(PROFILES)
    page = (REPOSITORY / "docs" / "hpc.md").read_text(encoding="utf-8")
    assert all(f"`{profile}`" in page for profile in PROFILES)


def test_the_page_counts_jobs_as_the_plan_does():
    """Its formula, for three tasks, four models (one pretrained) and five folds; test_doctor_jobs asks Snakemake."""
    page = (REPOSITORY / "docs" / "hpc.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| ([\d,]+) \| (\d+) \| (\d+) \| ([\d,]+) \|$", page, re.MULTILINE)
    table = [[int(cell.replace(",", "")) for cell in row] for row in rows]
    assert [row[0] for row in table] == [100, 1000, 10000]
    for people, batches, preprocess, other, learning, total in table:
        participants = pd.Series([f"sub-{person:05d}" for person in range(people)])
        assert batches == assign_batches(participants, Index().batch_size).nunique()
        assert (preprocess, other, learning) == (people, 3 * batches, 5 + 4 * 3 * 5 + 4 * 3)
        assert total == preprocess + other + learning + len(["index", "harmonize", "split", "report"])


@pytest.mark.parametrize("profile", PROFILES)
def test_snakemake_knows_every_key(profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parser = get_argument_parser(profiles=[REPOSITORY / "profiles" / profile])
    options = parser.parse_args(["--cores", "1"])
    assert options.keep_going
    assert options.rerun_incomplete
    assert options.scheduler == "greedy"
    # The same with a key that nobody knows must fail, or the lines above would say nothing.
    (tmp_path / "config.yaml").write_text(_text(profile) + "\nno-such-option: 1\n")
    with pytest.raises(SystemExit):
        get_argument_parser(profiles=[tmp_path]).parse_args(["--cores", "1"])
    assert "no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("profile", PROFILES)
def test_every_line_of_a_profile_says_why_it_is_there(profile: str):
    for line in _text(profile).splitlines():
        if re.match(r"[\w-]+:.*\S", line) and not re.match(r"(__\w+__|precommand):|[\w-]+:\s*$", line):
            assert "#" in line, line


def test_profiles_name_rules_that_exist():
    for profile in PROFILES:
        text = re.sub(r"^# ?", "", _text(profile), flags=re.MULTILINE)
        named = re.findall(r"^\s+(\w+): +\{|set-(?:threads|resources): \{?(\w+)[:=]", text, re.MULTILINE)
        assert {name for pair in named for name in pair if name} <= RULES.keys()


@pytest.mark.parametrize(
    ("needs", "partition"),
    [
        ({"mem_mb": 4000, "runtime": 240}, "cpu"),
        ({"mem_mb": 4000, "runtime": 240, "gpu": 0}, "cpu"),
        ({"mem_mb": 8000, "runtime": 720, "gpu": 1}, "gpu"),
        ({"mem_mb": 8000, "runtime": 3 * 24 * 60}, "cpu"),
        ({"mem_mb": 8000, "runtime": 3 * 24 * 60, "gpu": 1}, None),
    ],
)
def test_a_job_goes_to_a_partition_that_has_what_it_asks_for(needs: dict[str, int], partition: str | None):
    partitions = read_partition_file(REPOSITORY / "profiles" / "slurm" / "partitions.yaml")
    job = SimpleNamespace(name="job", threads=1, resources=needs)
    assert get_best_partition(partitions, job, logging.getLogger()) == partition


def test_on_a_cluster_a_job_that_was_killed_asks_for_more():
    for profile in set(PROFILES) - {"default"}:
        assert _profile(profile)["retries"] >= 1, profile
        assert "mem_mb" not in _profile(profile)["default-resources"]
    for name, text in RULES.items():
        assert re.search(r"mem_mb=grows\(\d+\)", text), name
        assert re.search(r"runtime=grows\(\d+\)", text), name


def test_nodes_without_network_differ_in_nothing_else():
    online, offline = _profile("slurm"), _profile("slurm-offline")
    command = offline.pop("precommand")
    assert offline.pop("slurm-partition-config") == f"../slurm/{online.pop('slurm-partition-config')}"
    assert offline == online
    assert OFFLINE.items() <= dict(re.findall(r"(\w+)=(\S+)", command)).items()


def test_the_three_other_schedulers_are_handled_alike():
    cancel = {"lsf": "bkill", "pbs": "qdel", "sge": "qdel"}
    settings = {name: _profile(name) for name in GENERIC}
    assert {name: settings[name].pop("cluster-generic-cancel-cmd") for name in GENERIC} == cancel
    assert settings["lsf"] == settings["pbs"] == settings["sge"]
    for name in GENERIC:
        for script in ("submit.py", "status.py"):
            assert os.access(REPOSITORY / "profiles" / name / script, os.X_OK)


def test_a_machine_lends_at_most_its_memory():
    options = get_argument_parser(profiles=[REPOSITORY / "profiles" / "default"]).parse_args(["--cores", "1"])
    lent = options.resources["mem_mb"].value
    whole_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    assert 0 < lent <= 0.9 * whole_mb


# One program stands for all of a scheduler's: it notes its arguments, runs what is submitted at once, and tells of the end.
SCHEDULER = """\
#!{python}
import json, pathlib, subprocess, sys
folder = pathlib.Path(__file__).parent
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps([name, *arguments]) + "\\n")
ended = folder / "exit"
if name in ("bsub", "qsub"):
    ended.write_text(str(subprocess.call(["sh", arguments[-1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
    print("Job <17> is submitted to queue <short>." if name == "bsub" else "17")
elif not ended.exists():
    print({{"bjobs": "RUN", "qacct": ""}}.get(name, "    job_state = R" if "-f" in arguments else "17 0.5 x me r now"))
elif name == "bjobs":
    print("DONE" if ended.read_text() == "0" else "EXIT")
elif name == "qacct":
    print("failed       0\\nexit_status  " + ended.read_text())
elif "-f" in arguments:
    print("Job Id: 17\\n    job_state = F\\n    Exit_status = " + ended.read_text())
"""


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for bsub, qsub and their kin, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bsub", "bjobs", "qsub", "qstat", "qacct"):
        (folder / name).write_text(SCHEDULER.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return folder


def _submitted(folder: Path) -> list[str]:
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return next(call for call in calls if call[0] in {"bsub", "qsub"})


ASKED = {
    "lsf": ["-J finetune_LCM_0", "-n 4", "-W 480", "-M 16000MB", "rusage[mem=16000MB]", "-q gpu", "-gpu num=2"],
    "sge": ["-N finetune_LCM_0", "h_rt=28800", "h_vmem=4000M", "-pe smp 4", "-l gpu=2"],
    "pbs": ["-N finetune_LCM_0", "select=1:ncpus=4:mem=16000mb:ngpus=2", "walltime=8:00:00"],
}


@pytest.mark.parametrize("profile", GENERIC)
@pytest.mark.parametrize("code", [0, 3])
def test_a_scheduler_is_asked_for_what_the_rule_needs(profile: str, code: int, scheduler: Path, tmp_path: Path):
    needs = {"mem_mb": 16000, "runtime": 480, "gpu": 2}
    job = {"rule": "finetune", "wildcards": {"model": "LCM", "fold": "0"}, "threads": 4, "resources": needs}
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n# properties = {json.dumps(job)}\nexit {code}\n")
    folder = REPOSITORY / "profiles" / profile
    status = [folder / "status.py", "17"]
    assert subprocess.check_output(status, text=True) == "running\n"
    assert subprocess.check_output([folder / "submit.py", script], text=True) == "17\n"
    asked = " ".join(_submitted(scheduler))
    assert all(option in asked for option in ASKED[profile]), asked
    assert subprocess.check_output(status, text=True) == ("success\n" if code == 0 else "failed\n")


@pytest.mark.parametrize("profile", GENERIC)
def test_a_scheduler_that_does_not_answer_means_a_job_that_runs(profile: str, tmp_path: Path):
    for name in ("bjobs", "qstat", "qacct"):
        (tmp_path / name).write_text("#!/bin/sh\necho cannot connect to the server >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    status = [REPOSITORY / "profiles" / profile / "status.py", "17"]
    assert subprocess.check_output(status, text=True, env=os.environ | path) == "running\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("error: job id 17 not found", ""),
        (
            "accounting: Permission denied",
            "qacct cannot tell how job 17 ended, so it counts as running: accounting: Permission denied\n",
        ),
    ],
)
def test_grid_engine_that_keeps_its_accounting_to_itself_is_no_silence(answer: str, told: str, tmp_path: Path):
    for name, script in (("qstat", "exit 0"), ("qacct", f"echo {answer} >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    status = [REPOSITORY / "profiles" / "sge" / "status.py", "17"]
    run = subprocess.run(status, capture_output=True, text=True, check=True, env=os.environ | path)
    assert (run.stdout, run.stderr) == ("running\n", told)


SMALL = """\
rule all:
    input: "done"
rule finetune:
    output: "done"
    threads: 2
    resources: mem_mb=300, runtime=60, gpu=1
    shell: "echo {resources.mem_mb} > {output}"
"""


# One stands for the three: their configurations are one, and their scripts are asked above.
@pytest.mark.parametrize("profile", ["sge"])
def test_snakemake_runs_a_job_through_the_profile(profile: str, scheduler: Path, tmp_path: Path):
    (tmp_path / "Snakefile").write_text(SMALL)
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(REPOSITORY / "profiles" / profile)]
    command += ["--seconds-between-status-checks", "1", "--latency-wait", "1", "--nocolor"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "done").read_text() == "300\n"
    assert ASKED[profile][0].split("_")[0] in " ".join(_submitted(scheduler))


FAILING = """\
rule all:
    log: "stage.log"
    shell: "echo no such column: agee > {log}; exit 1"
"""


def test_a_job_that_fails_is_named_and_its_log_shown(tmp_path: Path):
    """Snakemake's `quiet: rules` would filter both out, on a cluster even the scheduler's reason."""
    (tmp_path / "Snakefile").write_text(FAILING)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nocolor", "--workflow-profile"]
    command += [str(REPOSITORY / "profiles" / "default")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert re.search(r"Error in rule all:.*^no such column: agee$", run.stderr, re.MULTILINE | re.DOTALL), run.stderr
    assert {str(_profile(profile)["quiet"]) for profile in PROFILES} == {"['host']"}


# pbs and sge hold what lsf holds, slurm what slurm-offline holds (above).
@pytest.mark.parametrize("profile", ["default", "lsf", "slurm-offline"])
def test_a_study_can_be_planned_with_the_profile(profile: str, tmp_path: Path):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--workflow-profile", str(REPOSITORY / "profiles" / profile), "--directory", str(tmp_path), "--nocolor"]
    command += ["--cores", "2"] if profile == "default" else []
    run = subprocess.run(command, cwd=tmp_path, env=os.environ | OFFLINE, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^index +1$", run.stdout, re.MULTILINE), run.stdout
