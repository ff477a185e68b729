"""A real Slurm of one node for the tests: two GPUs that are none, memory limits that kill, every process known by its id."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "munge", "sbatch", "srun", "squeue", "scontrol", "setpriv", "pgrep")
CONFIGURATION = Path("/etc/slurm/slurm.conf")
GPUS = Path("/etc/slurm/gres.conf")
MUNGE = Path("/run/munge")
# Daemons end with the tests, also where these are killed.
BOUND = ("setpriv", "--pdeathsig=TERM")
AS_MUNGE = ("--reuid=munge", "--regid=munge", "--init-groups")
LOCK = Path("/tmp/lcm-slurm-tests.lock")  # noqa: S108 - one Slurm a machine, whoever runs the tests
MARK = "# Written by lcm's tests, which delete it"

# A node may claim more memory than it has (config_overrides), so that the studies' requests fit a small machine, too.
SLURM_CONF = """\
{mark}
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=30
MinJobAge=3600
OverTimeLimit=0
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
GresTypes=gpu
DefMemPerCPU=500
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} Default=NO MaxTime=INFINITE State=UP
"""
# Without files of their own the node is refused: its count would be lower than configured.
GRES_CONF = f"{MARK}\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def why_not() -> str | None:
    """Reason why no Slurm can be started here; None where one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None and not _in_sbin(program)]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): tests/slurm/install.sh installs it"
    if os.geteuid() != 0:
        return "Slurm's daemons want root, for /etc/slurm and for the signals they send"
    for path in (CONFIGURATION, GPUS):
        if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
            return f"{path} is there: this machine has a Slurm of its own, which the tests leave alone"
    return None


def knows_munge() -> bool:
    """Whether a munged answers, ours or the machine's own."""
    return subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0


def _in_sbin(program: str) -> bool:
    return (Path("/usr/sbin") / program).exists()


def content(path: Path) -> bytes:
    """A file of a process, nothing where it has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until `condition` holds; raises TimeoutError, which says `what` did not happen."""
    end_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


@dataclass
class Cluster:
    """Daemons in a folder of their own, which hold what Slurm writes."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    host: str = os.uname().nodename.split(".")[0]

    def configure(self) -> None:
        """Write the configuration; one node with the machine's cores."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        places = {"host": self.host, "folder": self.folder, "cpus": os.cpu_count(), "mark": MARK}
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format_map(places))
        (self.folder / "gres.conf").write_text(GRES_CONF)

    def start(self, *names: str) -> None:
        """Start daemons; returns when they answer and the node takes jobs."""
        commands = {
            "munged": [*AS_MUNGE, "/usr/sbin/munged", "--foreground", "--force"],
            "slurmctld": ["/usr/sbin/slurmctld", "-D"],
            "slurmd": ["/usr/sbin/slurmd", "-D", "-N", self.host],
        }
        for name in names or [name for name in commands if name != "munged" or not knows_munge()]:
            with (self.folder / f"{name}.out").open("ab") as out:
                # A session of its own: what interrupts the tests does not end the daemons before the tests do.
                self.daemons[name] = subprocess.Popen(
                    [*BOUND, *commands[name]], stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
                )
            if name == "munged":
                until(knows_munge, "munge's socket")
        if "slurmd" in self.daemons:
            until(self.is_idle, f"an idle node; see {self.folder}/*.log")

    def is_idle(self) -> bool:
        """Whether the node takes jobs."""
        return self.ask("sinfo", "--noheader", "--partition=cpu", "--format=%T") in ("idle", "mixed", "allocated")

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one daemon, by its id; slurmd leaves its jobs running."""
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def stop_all(self) -> None:
        """Cancel what runs, then end every daemon."""
        if "slurmctld" in self.daemons:
            self.ask("scancel", "--user=root", "--quiet")
            with suppress(TimeoutError):
                until(lambda: not self.ask("squeue", "--noheader"), "end of cancelled jobs", 30)
        for name in ("slurmd", "slurmctld", "munged"):
            self.stop(name)

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands answers; nothing where the controller does not."""
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()

    def jobs(self, of: Path) -> list[dict[str, str]]:
        """Every job of the last hour from the folder `of`, as `scontrol show jobs` tells it, in the order of submission."""
        lines = self.ask("scontrol", "show", "jobs", "-o").splitlines()
        jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]
        return [job for job in jobs if job.get("WorkDir") == str(of)]

    def alive(self, of: Path) -> list[dict[str, str]]:
        """Of these, the jobs that wait, run or end just now."""
        return [job for job in self.jobs(of) if job["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED")]

    def kill(self, job: str) -> None:
        """End all that runs for a job, Slurm's own processes too, at one moment, as a node does that loses its power."""
        own = [int(process) for process in self.ask("pgrep", "--full", rf"^slurmstepd: \[{job}\.").split()]
        theirs = [
            int(place.parent.name)
            for place in Path("/proc").glob("[0-9]*/environ")
            if f"SLURM_JOB_ID={job}".encode() in content(place).split(b"\0")
        ]
        # Stopped first, none sees another's end.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in own + theirs:
                with suppress(ProcessLookupError):
                    os.kill(process, number)

    def hurry(self, of: Path) -> None:
        """Let requeued jobs begin now: Slurm lets each wait two minutes."""
        for job in self.alive(of):
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
                self.ask("scontrol", "update", f"JobId={job['JobId']}", "StartTime=now")


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A Slurm that runs inside the block; a second one on the machine waits for its turn.

    /etc/slurm gets links to the configuration, since Snakemake's plugin takes SLURM_CONF from its jobs.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = Cluster(folder)
        cluster.configure()
        links = {CONFIGURATION: folder / "slurm.conf", GPUS: folder / "gres.conf"}
        try:
            subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "0755", str(MUNGE)], check=True)
            for link, target in links.items():
                link.unlink(missing_ok=True)
                link.symlink_to(target)
            cluster.start()
            yield cluster
        finally:
            cluster.stop_all()
            for link in links:
                link.unlink(missing_ok=True)
