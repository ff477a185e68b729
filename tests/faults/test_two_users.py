"""Two who start the same: in one study folder, in two over the same scans, at one cache, and by hand at one output."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.workflow.test_cache import FOLDERS, PEOPLE, SERIES, write_hcp

from .conftest import ALL, Finished, another_study, derivative_config, results, said, snakemake
from .stage_process import contents, finish, start

STAGES = ["index", "correlate", "harmonize", "export", "pretrain", "report"] if ALL else ["correlate", "harmonize"]


@pytest.mark.parametrize("stage", STAGES)
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


def test_two_studies_that_fill_one_cache_at_once_both_end_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_hcp(tmp_path / "people")
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(cache))
    lab = {"LAB": {"path": "../people", "input": "hcp", "cohort": "generic"}}
    studies = [another_study(tmp_path, name) for name in ("mine", "yours")]
    for study in studies:
        (study / "study.yaml").write_text(yaml.safe_dump(derivative_config() | {"datasets": lab}))
    # Behind the checkpoint Snakemake knows the batches only when the index is there.
    for targets in (["results/index/scans.tsv"], [SERIES, "--cache", "preprocess"]):
        for run in [snakemake(study, *targets) for study in studies]:
            text = said(run)
            assert run.returncode == 0, text
    # An entry a person, whoever was first, and nothing of a move that did not end.
    assert len(list(cache.iterdir())) == len(PEOPLE)
    assert (studies[0] / SERIES).read_bytes() == (studies[1] / SERIES).read_bytes()
    for study in studies:
        for folder, label in zip(FOLDERS, PEOPLE, strict=True):
            # The folder is a link to the entry, or one of links into it.
            entry = (study / folder / f"sub-{label}_runs.tsv").resolve().parent
            held = {name: value for name, value in contents(entry).items() if name != ".snakemake_timestamp"}
            # Snakemake moves the entry of who comes second into the first one: a whole copy, which nobody reads.
            copy = {name: value for name, value in held.items() if name.startswith(f"{entry.name}/")}
            own = {name: value for name, value in held.items() if name not in copy}
            assert {name.split("/")[0] for name in own} == {"record.json", "figures", "func", f"sub-{label}_runs.tsv"}
            assert copy in ({}, {f"{entry.name}/{name}": value for name, value in own.items()})
        # What is there now is the other's as well as one's own: nothing is made again.
        assert "Nothing to be done" in said(snakemake(study, SERIES, "--cache", "preprocess"))
