"""The fMRIPrep backend through Snakemake, with a stub of Apptainer: one participant's failure is nobody else's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lcm.tables import RUNS, read_tsv
from tests.apptainer_stub import Stub

from .conftest import SmallStudy, write_image

PEOPLE = ("a", "b", "c")
TARGETS = [f"results/preprocess/LAB/sub-{label}" for label in PEOPLE]


@pytest.fixture
def stub(small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """The stub on PATH; the study has three people with two runs each, a licence and a scratch folder."""
    for label in PEOPLE:
        stem = small_study.folder / "bids" / f"sub-{label}"
        write_image(stem / "anat" / f"sub-{label}_T1w.nii.gz")
        for run in "12":
            name = f"sub-{label}_task-rest_run-{run}_bold.nii.gz"
            write_image(stem / "func" / name, num_volumes=30, tr_s=2.0)
    (small_study.folder / "licence.txt").write_text("key")
    (small_study.folder / "scratch").mkdir()
    small_study.config["preprocess"] |= {
        "backend": "fmriprep",
        "template": "auto",
        "resolution_mm": 2.0,
        "fmriprep": {
            "image": f"docker://nipreps/fmriprep@sha256:{'0' * 64}",
            "licence": "licence.txt",
            "arguments": ["--ignore", "sbref"],
        },
    }
    made = Stub(small_study.folder / "bin")
    monkeypatch.setenv("PATH", made.on_path)
    return made


def _tables(folder: Path) -> pd.DataFrame:
    tables = [read_tsv(folder / target / f"{Path(target).name}_runs.tsv", RUNS) for target in TARGETS]
    return pd.concat(tables, ignore_index=True)


def _labels(calls: list[list[str]]) -> list[str]:
    return sorted(call[call.index("--participant-label") + 1] for call in calls)


def test_a_participant_whose_container_fails_does_not_stop_the_others(small_study: SmallStudy, stub: Stub):
    stub.behave(b="crash", c="one run")
    scratch = f"preprocess:tmpdir='{small_study.folder / 'scratch'}'"
    more = ["--set-threads", "preprocess=2", "--set-resources", "preprocess:mem_mb=9000", scratch]
    run = small_study.snakemake(*TARGETS, *more)
    assert run.returncode == 0, run.stdout + run.stderr
    table = _tables(small_study.folder)
    kinds = table["outcome"].str.split(":").str[0]
    assert list(kinds) == ["ok", "ok", "failed", "failed", "ok", "failed"]
    assert table["outcome"][2].endswith("work files are kept, so that another attempt goes on from there")
    for column in ("bold", "mask", "confounds"):
        found = table[kinds == "ok"]
        root = small_study.folder / "results/preprocess/LAB"
        assert all((root / p / path).is_file() for p, path in zip(found["participant_id"], found[column], strict=True))
    assert _labels(stub.calls) == ["a", "b", "c"]
    # What the rule was given reaches fMRIPrep.
    for flag, value in {"--nprocs": "2", "--mem-mb": "9000", "--ignore": "sbref"}.items():
        assert all(call[call.index(flag) + 1] == value for call in stub.calls)
    work = sorted(path.name[:-9] for path in (small_study.folder / "scratch").iterdir())
    assert work == ["lcm-fmriprep-LAB-sub-b", "lcm-fmriprep-LAB-sub-c"]

    # Once the cause is gone, those who failed are asked for again and nobody else is.
    stub.behave()
    again = small_study.snakemake(*TARGETS, *more, "--forcerun", *TARGETS[1:])
    assert again.returncode == 0, again.stdout + again.stderr
    assert list(_tables(small_study.folder)["outcome"]) == ["ok"] * 6
    assert _labels(stub.calls[3:]) == ["b", "c"]
    assert list((small_study.folder / "scratch").iterdir()) == []

    # Snakemake deletes the folders before new code of ours runs, and no container's hours with them.
    third = small_study.snakemake(*TARGETS, *more, "--forcerun", "preprocess")
    assert third.returncode == 0, third.stdout + third.stderr
    assert list(_tables(small_study.folder)["outcome"]) == ["ok"] * 6
    assert len(stub.calls) == 5
