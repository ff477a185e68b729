"""Every stage killed with SIGKILL, at any moment and around each file it moves into place: started again, the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .conftest import KILLS, STAGES, Finished, Job, another_study, results, said, snakemake
from .stage_process import Death, contents, finish, kill, start, timed

IN_PROGRESS = (".checkpoint/", "results/simulate/.")
"""What a stage keeps from one attempt to the next beside hidden files, and no other stage reads."""


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def torn(results: Path, whole: dict[str, str]) -> list[str]:
    """Files at their final path that are not those of the run that nobody disturbed."""
    return [
        name
        for name, content in contents(results).items()
        if not name.endswith("/")
        and whole.get(name) != content
        and not Path(name).name.startswith(".")
        and not any(mark in f"results/{name}" for mark in IN_PROGRESS)
    ]


def die(study: Path, job: Job, log: Path, chance: random.Random, *, writing: bool) -> str:
    """Kill the job at any moment, or just before or after it moves a file into place; what became of it."""
    if writing:
        death = Death(chance.randint(1, job.num_moved), chance.choice(("before", "after")))
        assert finish(start(study, job.command, log, death=death)) == -signal.SIGKILL, log.read_text()
        return f"killed {death.when} a move"
    process = start(study, job.command, log)
    kill(process, chance.uniform(0, job.seconds))
    return "killed at a moment" if process.exitcode == -signal.SIGKILL else "had ended"


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_leaves_nothing_torn_and_ends_with_the_same_bytes(
    finished: Finished, stage: str, tmp_path: Path
):
    study, job, log = finished.copy(tmp_path / "study"), finished.jobs[stage], tmp_path / "log"
    chance, fates = random.Random(stage), Counter[str]()  # noqa: S311 - moments, no secrets
    for attempt in range(KILLS):
        # In turn over nothing, as Snakemake starts a job anew, and over what an earlier run left, as by hand.
        if attempt % 4 in (1, 2):
            remove(study / job.output)
        fates[die(study, job, log, chance, writing=attempt % 2 == 1)] += 1
        assert torn(study / "results", finished.whole) == []
        timed(study, job.command, log)
        assert contents(study / "results") == finished.whole
        # Shown by `pytest -s` or `-rP`, after each kill: a long run that somebody ends early has told what it saw.
        seen = ", ".join(f"{fates[fate]} {fate}" for fate in sorted(fates))
        sys.stdout.write(f"{stage}: {attempt + 1} of {KILLS} ({seen}); the same bytes in {len(finished.whole)} files\n")


def test_a_killed_snakemake_goes_on_to_the_same_bytes(undisturbed: Path):
    study, chance = another_study(undisturbed.parent, "killed"), random.Random(0)  # noqa: S311 - moments, no secrets
    begun = min(path.stat().st_mtime for path in undisturbed.rglob("*") if path.is_file())
    seconds = max(path.stat().st_mtime for path in (undisturbed / "results").rglob("*")) - begun
    for _ in range(KILLS):
        run = snakemake(study, "--rerun-incomplete")
        with contextlib.suppress(subprocess.TimeoutExpired):
            # What an earlier attempt finished is not made again: the later ones are shorter.
            run.wait(chance.uniform(1, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        said(run)
        if (study / "results").exists():
            assert set(torn(study / "results", contents(undisturbed / "results"))) <= {"report/index.html"}
        # A killed Snakemake cannot remove its lock; who is sure that it is dead does.
        said(snakemake(study, "--unlock"))
    run = snakemake(study, "--rerun-incomplete")
    text = said(run)
    assert run.returncode == 0, text
    assert results(study) == results(undisturbed)
