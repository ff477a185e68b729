"""Dry runs over the shapes that BIDS datasets take: every one plans the jobs it should, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from .conftest import SmallStudy, write_image

T1W = "sub-{0}/anat/sub-{0}_T1w.nii.gz"
_RUNS = ("_bold", "rfMRI_REST", "filtered_func")
"""Parts of the names of 4D images."""

REST = "sub-{0}/func/sub-{0}_task-rest_bold.nii.gz"


@dataclass(frozen=True)
class Shape:
    """Files of a dataset, and what must come of them."""

    files: tuple[str, ...]
    people: int
    batches: int
    refused: str = ""
    kind: str = "bids"
    more: dict[str, object] = field(default_factory=dict)
    """Further fields of the dataset."""
    stages: tuple[str, ...] = ("parcellate", "denoise", "correlate")
    """Those that have a job a batch."""


def _people(*templates: str, labels: Sequence[str] = "abc") -> tuple[str, ...]:
    return tuple(t.format(label) for label in labels for t in templates)


SHAPES = {
    "one run and a T1w": Shape(_people(T1W, REST, labels="a"), people=1, batches=1),
    "three people": Shape(_people(T1W, REST), people=3, batches=2),
    "no T1w": Shape(_people(REST), people=3, batches=2),
    "T1w for one only": Shape((T1W.format("a"), *_people(REST)), people=3, batches=2),
    "two runs": Shape(_people(T1W, REST.replace("rest", "rest_run-1"), REST.replace("rest", "rest_run-2")), 3, 2),
    "two tasks": Shape(_people(T1W, REST, REST.replace("rest", "nback")), people=3, batches=2),
    "sessions": Shape(
        _people(*(f"sub-{{0}}/ses-{s}/func/sub-{{0}}_ses-{s}_task-rest_bold.nii.gz" for s in "12")), people=3, batches=2
    ),
    "sessions for some": Shape(
        (*_people(REST, labels="ab"), "sub-c/ses-1/func/sub-c_ses-1_task-rest_bold.nii.gz"), people=3, batches=2
    ),
    "T1w in the first session only": Shape(
        ("sub-a/ses-1/anat/sub-a_ses-1_T1w.nii.gz", "sub-a/ses-2/func/sub-a_ses-2_task-rest_bold.nii.gz"), 1, 1
    ),
    "acq, dir and rec": Shape(_people("sub-{0}/func/sub-{0}_task-rest_acq-x_dir-AP_run-01_bold.nii.gz"), 3, 2),
    "plain .nii": Shape(
        _people("sub-{0}/func/sub-{0}_task-rest_bold.nii"), people=3, batches=2, refused="RepetitionTime"
    ),
    "multi-echo": Shape(
        _people(*(REST.replace("_bold", f"_echo-{e}_bold") for e in "12"), labels="a"), 0, 1, refused="multi-echo"
    ),
    "a sbref and a fieldmap beside": Shape(
        _people(T1W, REST, REST.replace("bold", "sbref"), "sub-{0}/fmap/sub-{0}_phasediff.nii.gz"), 3, 2
    ),
    "fMRIPrep derivatives": Shape(
        _people(
            *(
                f"sub-{{0}}/func/sub-{{0}}_task-rest_{name}"
                for name in (
                    "space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
                    "space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz",
                    "space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz",
                    "desc-confounds_timeseries.tsv",
                )
            )
        ),
        people=0,
        batches=2,
        kind="derivatives",
    ),
    "fMRIPrep derivatives with CIFTI only": Shape(
        _people("sub-{0}/func/sub-{0}_task-rest_space-fsLR_den-91k_bold.dtseries.nii"),
        people=0,
        batches=2,
        refused="CIFTI only",
        kind="derivatives",
    ),
    "HCP folders": Shape(
        _people(
            *(
                f"{{0}}/MNINonLinear/Results/rfMRI_REST1_{direction}/{name}"
                for direction in ("LR", "RL")
                for name in (
                    f"rfMRI_REST1_{direction}.nii.gz",
                    f"rfMRI_REST1_{direction}_hp2000_clean.nii.gz",
                    "brainmask_fs.2.0.nii.gz",
                    "Movement_Regressors.txt",
                )
            )
        ),
        people=3,
        batches=2,
        kind="hcp",
    ),
    "UK Biobank folders": Shape(
        _people(
            "{0}_20227_2_0/fMRI/rfMRI.json",
            *(
                f"{{0}}_20227_2_0/fMRI/rfMRI.ica/{name}"
                for name in (
                    "filtered_func_data_clean.nii.gz",
                    "mask.nii.gz",
                    "mc/prefiltered_func_data_mcf.par",
                    "reg/example_func2standard_warp.nii.gz",
                )
            ),
            labels="123",
        ),
        people=3,
        batches=2,
        kind="ukb",
    ),
    "series of XCP-D": Shape(
        _people("sub-{0}/func/sub-{0}_task-rest_space-MNI152NLin2009cAsym_seg-AAL_stat-mean_timeseries.tsv"),
        people=0,
        batches=2,
        kind="series",
        more={"pattern": "sub-*/func/*_seg-AAL_stat-mean_timeseries.tsv", "denoised": True},
        stages=("correlate",),
    ),
    "series of giga_connectome": Shape(
        _people("sub-{0}/func/sub-{0}_task-rest_seg-AAL_desc-denoiseSimple+gsr_timeseries.tsv", labels=("x+Y", "Z")),
        people=0,
        batches=1,
        kind="series",
        more={"pattern": "sub-*/func/*_desc-denoiseSimple+gsr_timeseries.tsv", "denoised": True},
        stages=("correlate",),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_plans_its_jobs(name: str, small_study: SmallStudy):
    shape = SHAPES[name]
    for file in shape.files:
        path = small_study.folder / "bids" / file
        if file.endswith((".tsv", ".txt", ".par", ".json", ".dtseries.nii")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"RepetitionTime": 2.0}' if file.endswith(".json") else "csf\n1\n")
        elif any(part in path.name for part in _RUNS):
            write_image(path, num_volumes=40, tr_s=2.0 if file.endswith(".gz") else None)
        else:
            write_image(path)
    small_study.config["datasets"]["LAB"] |= {"input": shape.kind, **shape.more}
    small_study.config["index"]["batch_size"] = 2
    assert small_study.index().returncode == 0
    table = (small_study.folder / "results/index/scans.tsv").read_text()
    assert (shape.refused in table) if shape.refused else table.count("\tok\n") == table.count("\n") - 1
    jobs = small_study.planned()
    refused_all = bool(shape.refused)
    assert jobs.pop("preprocess", 0) == (0 if refused_all else shape.people)
    batches = {stage: jobs.pop(stage) for stage in ("parcellate", "denoise", "correlate") if stage in jobs}
    assert batches == dict.fromkeys(shape.stages, shape.batches)
    assert {stage: jobs[stage] for stage in ("harmonize", "split", "finetune", "evaluate", "report")} == {
        "harmonize": 1,
        "split": 1,
        "finetune": 4,
        "evaluate": 2,
        "report": 1,
    }


def test_a_typo_in_the_configuration_stops_the_plan_and_names_the_key(small_study: SmallStudy):
    small_study.config["correlate"]["fischer_z"] = True
    run = small_study.snakemake("--dry-run")
    assert run.returncode != 0
    assert "correlate.fischer_z: Extra inputs are not permitted" in run.stdout + run.stderr


def test_a_missing_dataset_is_named(small_study: SmallStudy):
    run = small_study.index()
    assert run.returncode == 1
    assert "dataset LAB: no such folder: bids" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_swapped_phenotype_table_stops_the_study_before_any_image(small_study: SmallStudy):
    people = [f"p{number:02d}" for number in range(12)]
    for person in people:
        write_image(
            small_study.folder / f"bids/sub-{person}/func/sub-{person}_task-rest_bold.nii.gz", num_volumes=40, tr_s=2.0
        )
    rows = "".join(f"sub-{person}\tmale\t{20 + number}\n" for number, person in enumerate(people))
    (small_study.folder / "bids/participants.tsv").write_text("participant_id\tage\tsex\n" + rows)
    small_study.config["datasets"]["LAB"]["phenotypes"] = "bids"
    run = small_study.snakemake()
    assert run.returncode != 0
    log = (small_study.folder / "logs/index/index.log").read_text()
    assert "participants.tsv: column 'sex': 12 of 12 cells that say something are unknown codes" in log
    assert not (small_study.folder / "results/index/scans.tsv").exists()
    assert not list((small_study.folder / "results/preprocess").glob("*/sub-*"))
    assert not any(person in log for person in people)
