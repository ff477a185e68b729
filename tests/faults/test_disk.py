"""A disk that is full or cannot be written to: the stage stops with one line, leaves nothing torn, and ends later as ever."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import STAGES, Finished, Job
from .stage_process import contents, finish, start, timed
from .test_killed_stages import remove, torn

SPARE_BYTES = 4 << 20
"""Room of the small disk beside what the study takes; it is filled up for the test."""


def _mount(*arguments: str) -> None:
    run = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        pytest.skip(f"mounts need root: {run.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to mount something small on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    # os.path.ismount does not see a folder bound on the same disk; what is not mounted is refused.
    while subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False).returncode == 0:
        pass


def _fill(folder: Path, leave_bytes: int) -> Path:
    """A file that takes all room but `leave_bytes`."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(1 << 16)):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - leave_bytes))
    return filler


def _stops(study: Path, job: Job, log: Path, reason: str) -> None:
    """The job ends with 1, and the last line that it says is an error that names a file in the study and the reason."""
    assert finish(start(study, job.command, log)) == 1, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()
    errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR lcm: ")]
    assert len(errors) == 1, log.read_text()
    assert re.search(reason, errors[0]), errors[0]
    assert "results" in errors[0]


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_stops_the_stage_and_with_room_it_ends_with_the_same_bytes(
    finished: Finished, stage: str, tmp_path: Path, disk: Path
):
    job, log = finished.jobs[stage], tmp_path / "log"
    size = sum(path.stat().st_blocks * 512 for path in finished.folder.rglob("*"))
    _mount("-t", "tmpfs", "-o", f"size={size + SPARE_BYTES}", "none", str(disk))
    study = finished.copy(disk / "study")
    remove(study / job.output)
    # Nothing at all, and as much as lets the stage begin to write.
    for leave_bytes in (0, 1 << 12):
        filler = _fill(disk, leave_bytes)
        _stops(study, job, log, "the disk is full")
        assert torn(study / "results", finished.whole) == []
        filler.unlink()
    timed(study, job.command, log)
    assert contents(study / "results") == finished.whole


@pytest.mark.parametrize("stage", STAGES)
def test_a_study_that_cannot_be_written_to_stops_the_stage_and_stays_as_it_is(
    finished: Finished, stage: str, tmp_path: Path, disk: Path
):
    job, log = finished.jobs[stage], tmp_path / "log"
    study = finished.copy(tmp_path / "study")
    # chmod does not bind root, a mount does.
    _mount("--bind", str(study), str(disk))
    _mount("-o", "remount,bind,ro", str(disk))
    _stops(disk, job, log, "Read-only file system")
    assert contents(study / "results") == finished.whole
