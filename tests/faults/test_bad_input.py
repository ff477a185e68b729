"""A cohort in which seven things are wrong at once: each ends in one clear message, and everyone else in the report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lcm.array_tables import region_names
from lcm.atlas import load_atlas
from lcm.tables import BEI, COHORT_FLOW, OUTCOMES, read_arrow, read_tsv
from tests.workflow.conftest import SmallStudy, derivative_study, small_study

__all__ = ["derivative_study", "small_study"]


def _files(study: SmallStudy, person: str) -> tuple[Path, Path, Path]:
    stem = study.folder / f"fmriprep/sub-{person}/func/sub-{person}_task-rest"
    bold = Path(f"{stem}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
    return bold, Path(str(bold).replace(".nii.gz", ".json")), Path(f"{stem}_desc-confounds_timeseries.tsv")


def _spoil(study: SmallStudy) -> None:
    bold, *_ = _files(study, "p00")
    bold.write_bytes(bold.read_bytes()[:-5000])
    _, sidecar, _ = _files(study, "p01")
    sidecar.write_text("{}")
    *_, confounds = _files(study, "p02")
    confounds.write_text("\n".join(confounds.read_text().splitlines()[:-10]) + "\n")
    _zero_region(_files(study, "p03")[0], "Precentral_L")
    table = study.folder / "fmriprep/participants.tsv"
    lines = table.read_text().splitlines()
    lines = [line for line in lines if not line.startswith("sub-p04")]
    lines = [line.replace("male", "7") if line.startswith("sub-p05") else line for line in lines]
    table.write_text("\n".join([*lines, "sub-ghost\t40\tfemale"]) + "\n")


def _zero_region(bold: Path, name: str) -> None:
    image, atlas = nib.load(bold), load_atlas("AAL")
    data = image.get_fdata(dtype=np.float32)
    data[atlas.on_grid(image.shape[:3], image.affine) == atlas.names.index(name) + 1] = 0
    nib.save(nib.Nifti1Image(data, image.affine, image.header), bold)


@pytest.fixture
def finished(derivative_study: SmallStudy) -> tuple[SmallStudy, str]:
    """The spoiled study after one run, and what that run printed."""
    _spoil(derivative_study)
    run = derivative_study.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    return derivative_study, "\n".join(p.read_text() for p in (derivative_study.folder / "logs").rglob("*.log"))


def test_every_defect_has_its_outcome_and_the_rest_goes_on(finished: tuple[SmallStudy, str]):
    study, logs = finished
    results = study.folder / "results"
    tables = [read_arrow(path) for path in sorted((results / "correlate/9P/LAB").glob("*.arrow"))]
    outcome = {row["scan"]: row["outcome"] for t in tables for row in t.select(["scan", "outcome"]).to_pylist()}
    assert len(outcome) == 12
    bad = {scan[4:7]: reason for scan, reason in outcome.items() if reason != "ok"}
    assert bad == {
        "p00": "failed: truncated image: the file ends before its last voxel",
        "p01": "failed: no RepetitionTime in the JSON sidecars",
        "p02": "failed: confounds have 80 rows, the run 90 volumes",
    }

    # an all-zero region: missing in this scan's connectome, with its coverage recorded; no other region is touched
    row = next(r for t in tables for r in t.to_pylist() if r["scan"].startswith("sub-p03"))
    hole = region_names(tables[0]).index("Precentral_L")
    touched = [hole in pair for pair in zip(*np.triu_indices(116, 1), strict=True)]
    assert row["coverage"][hole] == 0
    assert np.isnan(np.array(row["fc"])[touched]).all()
    assert not np.isnan(np.array(row["fc"])[~np.array(touched)]).all()

    # phenotypes: a row without a scan, a scan without a row, an unknown code
    bei = read_tsv(results / "harmonize/bei.tsv", BEI).set_index("participant_id")
    assert bei.loc["sub-p04", "sex_source"] == bei.loc["sub-p05", "sex_source"] == "missing"
    assert bei.loc["sub-p06", "sex"] == "female"
    flow = read_tsv(results / "harmonize/cohort_flow.tsv", COHORT_FLOW)
    text = flow.to_csv(sep="\t")
    assert "sex = fe7" in text or "sex = 7" in text
    assert flow.loc[flow["step"].str.contains("without"), "count"].sum() >= 2
    assert "unknown code" in logs

    # the report counts them all, and the verdict tells the truth
    counts = read_tsv(results / "report/outcomes.tsv", OUTCOMES)
    assert counts["count"].sum() == 12
    assert Counter(outcome.values())["ok"] == counts.set_index("outcome").loc["ok", "count"] == 9
    verdict = study.lcm("report", "--verdict", "--output", "results/report")
    assert verdict.returncode == 1
    assert "results/report/index.html" in verdict.stdout


def test_no_participant_is_named_in_logs_or_report(finished: tuple[SmallStudy, str]):
    study, logs = finished
    page = (study.folder / "results/report/index.html").read_text(encoding="utf-8")
    for person in ("sub-p00", "sub-p03", "sub-p05", "sub-ghost"):
        assert person not in logs
        assert person not in page
