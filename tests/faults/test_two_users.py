"""Two who start the same: in one study folder, in two folders over the same scans, and by hand at one output."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Finished, another_study, results, said, snakemake
from .stage_process import contents, finish, start


@pytest.mark.parametrize("stage", ["index", "correlate", "harmonize", "export", "pretrain", "report"])
def test_two_jobs_at_one_output_both_end_and_leave_the_bytes_of_one(finished: Finished, stage: str, tmp_path: Path):
    study, job = finished.copy(tmp_path / "study"), finished.jobs[stage]
    both = [start(study, job.command, tmp_path / f"log{number}") for number in range(2)]
    assert [finish(process) for process in both] == [0, 0], [path.read_text() for path in tmp_path.glob("log*")]
    assert contents(study / "results") == finished.whole


def test_of_two_snakemakes_in_one_folder_one_ends_the_study_and_the_other_says_why_not(undisturbed: Path):
    study = another_study(undisturbed.parent, "shared")
    both = [snakemake(study), snakemake(study)]
    texts = dict(zip([said(run) for run in both], [run.returncode for run in both], strict=True))
    assert sorted(texts.values()) == [0, 1], texts
    assert "Directory cannot be locked" in next(text for text, code in texts.items() if code == 1)
    assert results(study) == results(undisturbed)


def test_two_studies_over_the_same_scans_do_not_meet(undisturbed: Path):
    studies = [another_study(undisturbed.parent, name) for name in ("mine", "yours")]
    for run in [snakemake(study) for study in studies]:
        text = said(run)
        assert run.returncode == 0, text
    assert results(studies[0]) == results(studies[1]) == results(undisturbed)
