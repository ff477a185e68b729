"""The machine's flags: what comes of them here, who started the other processes, and whose GPU is whose."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import IO

import pytest

from lcm.training.gpu_claims import VISIBLE, claim_gpus
from lcm.training.machine import (
    FIRST_PORT,
    NUM_PORTS,
    STANDARD,
    Machine,
    World,
    add_machine_flags,
    add_place_flags,
    machine_of,
    rank_of,
    settle,
)
from tests.conftest import REPOSITORY

SRUN = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
SRUN |= {"SLURM_STEP_NODELIST": "gpu[07-09,12]", "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "0"}
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "9",
}


# ── flags ───────────────────────────────────────────────────────────────────────────────────────


def test_the_flags_describe_the_machine_and_default_to_one_device():
    parser = ArgumentParser()
    add_machine_flags(parser)
    assert machine_of(parser.parse_args([])) == STANDARD == Machine("auto", 1, 1, "auto", False, 10.0)
    words = "--accelerator gpu --devices 8 --nodes 2 --parallel fsdp --compile --checkpoint-minutes 0.5"
    assert machine_of(parser.parse_args(words.split())) == Machine("gpu", 8, 2, "fsdp", True, 0.5)


def test_a_stage_that_only_answers_has_two_of_them():
    parser = ArgumentParser()
    add_place_flags(parser)
    assert machine_of(parser.parse_args(["--accelerator", "cpu", "--devices", "0"])) == Machine("cpu", 0)


@pytest.mark.parametrize("wrong", [{"devices": -1}, {"nodes": 0}, {"checkpoint_minutes": 0}])
def test_numbers_without_a_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="devices are 0 or more, nodes 1 or more, minutes above 0"):
        Machine(**wrong)


@pytest.mark.parametrize(("devices", "nodes", "per_node"), [(1, 1, 1), (0, 1, 1), (4, 1, 4), (8, 2, 4), (0, 2, 1)])
def test_every_node_has_as_many_devices(devices, nodes, per_node):
    machine = Machine(devices=devices, nodes=nodes)
    assert (machine.per_node, machine.count) == (per_node, per_node * nodes)
    with pytest.raises(ValueError, match="--devices 3 --nodes 2: as many on each node"):
        Machine(devices=3, nodes=2)


# ── what is here ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("machine", "num_gpus", "kind"),
    [
        (Machine(), 0, "cpu"),
        (Machine(), 2, "cuda"),
        (Machine("cpu"), 2, "cpu"),
        (Machine("gpu"), 1, "cuda"),
        (Machine(devices=0), 2, "cpu"),
    ],
)
def test_auto_takes_a_gpu_where_there_is_one(machine, num_gpus, kind):
    assert machine.kind(num_gpus) == kind


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    with pytest.raises(ValueError, match=r"torch sees no GPU \(CUDA_VISIBLE_DEVICES is ''\); ask the scheduler"):
        Machine("gpu").kind(0)
    with pytest.raises(ValueError, match="--accelerator gpu --devices 0: give it a GPU"):
        Machine("gpu", 0)
    with pytest.raises(ValueError, match="--devices 4 --nodes 1: torch sees 2 GPUs here"):
        settle(Machine(devices=4), 2, None)


def test_several_devices_without_a_gpu_become_one_process_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert settle(Machine(devices=4, parallel="fsdp"), 0, None) == Machine("cpu", 1, 1, "fsdp")
    assert caplog.messages == ["no GPU here: one process on the CPU in place of 4 devices"]
    caplog.clear()
    assert settle(Machine("cpu", 4), 0, None) == Machine("cpu", 4)
    assert settle(Machine(devices=2), 2, None) == Machine("gpu", 2)
    assert settle(Machine(devices=0), 0, None) == Machine("cpu", 1)
    assert not caplog.messages


def test_started_processes_stay_without_a_gpu(caplog):
    with caplog.at_level(logging.WARNING):
        assert settle(Machine(devices=4, nodes=2), 0, World.of(SRUN)).count == 4
    assert caplog.messages == ["no GPU here: the 4 processes compute on the CPU"]


def test_gpus_are_counted_on_each_node():
    world = World.of(TORCHRUN | {"WORLD_SIZE": "8"})
    assert settle(Machine("gpu", 8, 2), 4, world) == Machine("gpu", 8, 2)
    with pytest.raises(ValueError, match="--devices 8 --nodes 2: torch sees 3 GPUs here"):
        settle(Machine("gpu", 8, 2), 3, world)


def test_other_processes_than_devices_are_an_error():
    for machine in (Machine(), Machine(devices=2), Machine(devices=8)):
        with pytest.raises(ValueError, match=f"4 processes were started, and {machine.count} are wanted"):
            settle(machine, 8, World.of(TORCHRUN))
    with pytest.raises(ValueError, match="--nodes 2: nobody started a process on each; set the resource launcher"):
        settle(Machine(devices=2, nodes=2), 1, None)


# ── who started the others ──────────────────────────────────────────────────────────────────────


def test_torchrun_and_srun_say_which_process_this_is():
    assert World.of(TORCHRUN) == World(3, 1, 1, 4, "a", 9)
    assert World.of(SRUN) == World(3, 1, 1, 4, "gpu07", FIRST_PORT + 123456 % NUM_PORTS)
    assert World.of(World.of(SRUN).as_torchrun_says()) == World.of(SRUN)
    assert [rank_of(said) for said in ({}, SRUN, TORCHRUN, {"LOCAL_RANK": "2"})] == [0, 3, 3, 2]


def test_an_allocation_of_many_tasks_with_one_process_is_one_process():
    """What a job of Snakemake's Slurm plugin sees, and a batch script that starts Python without srun."""
    step = {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    batch = {name: value for name, value in SRUN.items() if "STEP" not in name}
    assert [World.of(said) for said in (step, batch, {})] == [None, None, None]


@pytest.mark.parametrize(
    ("listed", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[3-5]", "n3"), ("n[03,07]-ib,m1", "n03-ib"), ("a,b[1-2]", "a")],
)
def test_the_first_host_of_a_list_is_the_one_that_all_meet_at(listed, first):
    assert World.of(SRUN | {"SLURM_STEP_NODELIST": listed}).address == first


def test_jobs_and_steps_beside_each_other_meet_at_other_ports():
    ports = [
        World.of(SRUN | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).port
        for job in range(99_000, 99_400)
        for step in range(4)
    ]
    assert len(set(ports)) == len(ports)
    # Linux gives 32768 and above to connections that programs open.
    assert 1024 < min(ports) <= max(ports) < 32_768


# ── whose GPU is whose ──────────────────────────────────────────────────────────────────────────

HOLD = """
import sys, time
from pathlib import Path
from lcm.training.gpu_claims import claim_gpus
print(*claim_gpus(int(sys.argv[1]), 3, Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


class Holder:
    """A process that claims GPUs of three and holds them until it ends."""

    def __init__(self, wanted: int, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(wanted), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        self.gpus = self.process.stdout.readline().split()

    def end(self, told: signal.Signals = signal.SIGKILL) -> str:
        self.process.send_signal(told)
        return self.process.communicate()[1]


@pytest.fixture
def hold(tmp_path):
    holders: list[Holder] = []

    def start(wanted: int) -> Holder:
        holders.append(Holder(wanted, tmp_path / "locks"))
        return holders[-1]

    yield start
    for holder in holders:
        if holder.process.poll() is None:
            holder.end()


def test_processes_beside_each_other_take_different_gpus_and_a_killed_one_gives_its_own_back(hold):
    first, second, third = hold(1), hold(1), hold(1)
    assert [first.gpus, second.gpus, third.gpus] == [["0"], ["1"], ["2"]]
    second.end(signal.SIGKILL)
    assert hold(1).gpus == ["1"]


def test_who_wants_several_gets_all_or_shares_and_says_so(hold):
    first = hold(2)
    assert first.gpus == ["0", "1"]
    crowded = hold(2)
    assert len(set(crowded.gpus)) == 2
    # It holds none of those that it shares, and the third is still free.
    assert hold(1).gpus == ["2"]
    assert "fewer than 2 of 3 GPUs are free; sharing GPU" in crowded.end()


def test_what_a_scheduler_gave_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "5")
    assert claim_gpus(1, 8, tmp_path / "locks") == ()
    assert os.environ[VISIBLE] == "5"
    assert not (tmp_path / "locks").exists()


def test_the_process_sees_what_it_claimed_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)
    assert claim_gpus(2, 4, tmp_path) == (0, 1)
    assert os.environ[VISIBLE] == "0,1"
    # What it sees is settled now; a second network of the same process goes there too.
    assert claim_gpus(2, 4, tmp_path) == ()


def test_a_lock_folder_that_another_may_have_made_is_refused(tmp_path, monkeypatch):
    """Or whoever makes it first could point `choosing` at any file of ours, which would be emptied."""
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)
    mine, planted = tmp_path / "mine", tmp_path / "locks"
    mine.mkdir()
    (mine / "choosing").write_text("years of work", encoding="utf-8")
    planted.symlink_to(mine)
    with pytest.raises(OSError, match="a link, or another user's"):
        claim_gpus(1, 2, planted)
    assert (mine / "choosing").read_text(encoding="utf-8") == "years of work"
    with monkeypatch.context() as another:
        another.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(OSError, match="a link, or another user's"):
            claim_gpus(1, 2, mine)
    assert VISIBLE not in os.environ


def test_a_process_that_answers_claims_a_gpu_too(tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("lcm.training.gpu_claims.lock_folder", lambda: tmp_path / "locks")
    assert Machine("cpu").place() == "cpu"
    assert VISIBLE not in os.environ
    assert Machine().place() == "cuda"
    assert os.environ[VISIBLE] == "0"


def test_one_process_chooses_at_a_time(tmp_path, monkeypatch):
    """Or two that want two of two GPUs each would each hold one, and share."""
    locked = []
    monkeypatch.setenv(VISIBLE, "")
    monkeypatch.delenv(VISIBLE)

    def flock(file: int | IO[str], how: int) -> None:
        number = file if isinstance(file, int) else file.fileno()
        locked.append((Path(f"/proc/self/fd/{number}").readlink().name, how))

    monkeypatch.setattr(fcntl, "flock", flock)
    claim_gpus(2, 2, tmp_path)
    assert locked[0] == ("choosing", fcntl.LOCK_EX)
    assert locked[1:] == [(f"gpu-{number}", fcntl.LOCK_EX | fcntl.LOCK_NB) for number in range(2)]
