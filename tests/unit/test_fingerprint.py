"""The fingerprint: every stage of the images leaves its settings in the table, and those that shape nothing are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lcm.__main__ import main
from lcm.array_tables import fingerprint_of
from lcm.atlas import load_atlas
from lcm.config import Preprocess, Task
from lcm.evaluation.fold_answers import Asked, ask_fold
from lcm.fingerprint import Fingerprint
from lcm.imaging.connectivity import write_reference
from lcm.imaging.preprocessed import write_runs
from lcm.tables import RUNS, SCANS, read_arrow, write_arrow, write_tsv
from lcm.training.data import read_cohort, tables_of
from tests.asking import scores_of

STRATEGY = "lcm/imaging/confounds/9P.yaml"


class Batch:
    """A batch whose only scan has failed before, so that stages have nothing to compute and a fingerprint to write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.strategy = Path(__file__).parents[2] / STRATEGY

    def write(self, images: str, preprocess: dict[str, Any] | None = None) -> None:
        scan = {"dataset": "D", "participant_id": "sub-1", "scan": "sub-1_task-rest", "outcome": "failed: no image"}
        row = scan | {"batch": "0", "input": images, "fingerprint": "f"}
        write_tsv(pd.DataFrame([dict.fromkeys(SCANS.columns) | row]), self.folder / "scans.tsv", SCANS)
        if preprocess is not None:
            runs = dict.fromkeys(RUNS.columns) | scan | {"template": "MNI152NLin2009aSym"}
            write_runs(pd.DataFrame([runs]), self.folder / "sub-1")
            settings = Preprocess.model_validate(preprocess).model_dump(mode="json")
            (self.folder / "sub-1" / "record.json").write_text(json.dumps({"settings": settings}))

    def connectomes(self, *stages: str, **settings: dict[str, Any]) -> Fingerprint:
        """The fingerprint after some of parcellate, denoise and correlate."""
        own = {
            "parcellate": ["--runs", str(self.folder)],
            "denoise": ["--atlas", "AAL", "--strategy", str(self.strategy)],
            "correlate": ["--atlas", "AAL"],
        }
        before = None
        for stage in stages:
            output = self.folder / f"{stage}.arrow"
            flags = ["--scans", str(self.folder / "scans.tsv"), "--output", str(output), *own[stage]]
            flags += ["--series", str(before)] if before else []
            assert main([stage, *flags, "--settings", json.dumps(settings.get(stage, {}))]) == 0
            before = output
        return fingerprint_of(read_arrow(before))


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


ALL = ("parcellate", "denoise", "correlate")


def test_raw_images_are_followed_from_the_template_to_the_correlation(batch):
    batch.write("bids", {"resolution_mm": 2.0})
    assert batch.connectomes(*ALL, denoise={"high_hz": 0.1}) == {
        "images": "bids",
        "preprocess.backend": "builtin",
        "preprocess.template": "MNI152NLin2009aSym",
        "preprocess.resolution_mm": 2.0,
        "preprocess.slice_timing": True,
        "preprocess.registration_mm": 2.0,
        "preprocess.normalization": "SyN",
        "parcellate.min_coverage": 0.5,
        "denoise.strategy": "9P",
        "denoise.columns": [
            *("csf", "global_signal", "rot_x", "rot_y", "rot_z", "trans_x", "trans_y", "trans_z", "white_matter"),
        ],
        "denoise.patterns": [],
        "denoise.low_hz": 0.01,
        "denoise.high_hz": 0.1,
        "denoise.filter_order": 2,
        "denoise.detrend": True,
        "denoise.fd_mm": 0.5,
        "denoise.std_dvars": None,
        "denoise.min_segment_volumes": 1,
        "correlate.kind": "correlation",
        "correlate.fisher_z": False,
        "correlate.reference": None,
        "correlate.window_volumes": None,
    }


def test_fmriprep_output_has_no_preprocessing_of_ours(batch):
    batch.write("derivatives", {})
    found = batch.connectomes(*ALL)
    assert found["images"] == "derivatives"
    assert not [key for key in found if key.startswith("preprocess.")]


def test_hcp_images_were_at_most_resampled_here(batch):
    batch.write("hcp", {"normalization": "Affine"})
    keys = [key for key in batch.connectomes(*ALL) if key.startswith("preprocess.")]
    assert keys == ["preprocess.template", "preprocess.resolution_mm"]


def test_ready_series_begin_at_denoise_or_say_that_it_was_done_elsewhere(batch):
    batch.write("series")
    here, elsewhere = batch.connectomes("denoise", "correlate"), batch.connectomes("correlate")
    assert here["images"] == elsewhere["images"] == "series"
    assert elsewhere["denoise.strategy"] == "denoised elsewhere"
    assert [key for key in elsewhere if key.startswith("denoise.")] == ["denoise.strategy"]


@pytest.mark.parametrize(
    ("stage", "settings", "same"),
    [
        ("parcellate", {"min_coverage": 0.6}, False),
        ("denoise", {"low_hz": None}, False),
        ("denoise", {"min_minutes": 5}, True),
        ("correlate", {"fisher_z": True}, False),
        ("correlate", {"window_volumes": 100}, False),
        ("correlate", {"min_volumes": 50}, True),
        ("correlate", {"window_tail": "drop"}, True),
    ],
)
def test_what_shapes_values_is_there_and_what_leaves_runs_out_is_not(batch, stage, settings, same):
    batch.write("derivatives")
    assert (batch.connectomes(*ALL) == batch.connectomes(*ALL, **{stage: settings})) is same


def test_the_tail_counts_where_there_are_windows(batch):
    batch.write("derivatives")
    keep, drop = (
        batch.connectomes(*ALL, correlate={"window_volumes": 100, "window_tail": tail}) for tail in ("keep", "drop")
    )
    assert keep != drop


def test_a_strategy_of_the_same_name_and_other_columns_is_another(batch):
    batch.write("derivatives")
    shipped = batch.connectomes(*ALL)
    text = batch.strategy.read_text(encoding="utf-8")
    batch.strategy = batch.folder / "9P.yaml"
    batch.strategy.write_text(text.replace("  - csf\n", ""), encoding="utf-8")
    changed = batch.connectomes(*ALL)
    assert {key for key in shipped if shipped[key] != changed[key]} == {"denoise.columns"}


def test_a_tangent_reference_counts_by_its_content_wherever_it_lies(batch):
    batch.write("derivatives")
    regions = list(load_atlas("AAL").names)
    found = []
    for name, scale in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        path = batch.folder / f"{name}.tsv"
        write_reference(scale * np.eye(len(regions)), regions, path)
        found.append(batch.connectomes(*ALL, correlate={"kind": "tangent", "reference": str(path)}))
    assert found[0] == found[1] != found[2]


def test_weights_refuse_connectomes_made_otherwise_and_a_studys_own_evaluation_warns(study, run_stage, caplog):
    sex = {"target": "sex", "levels": ["female", "male"]}
    for number in (0, 1):
        path = study.folder / "correlate" / "BBB" / f"batch-{number}.arrow"
        table = read_arrow(path)
        made = fingerprint_of(table) | {"correlate.fisher_z": True}
        write_arrow(table.replace_schema_metadata(table.schema.metadata | {b"fingerprint": json.dumps(made)}), path)
    for fold in range(3):
        asked = sex | {"cohorts": ["aaa"]}
        run_stage("finetune", f"weights/fold-{fold}", {}, model={"architecture": "ridge"}, task=asked, fold=fold)
    tables = tables_of(study.flags())
    own, other = (read_cohort(tables, fold=0, roles=("test",), cohorts=(name,)) for name in ("aaa", "bbb"))
    said = "correlate.fisher_z: the weights learned from False, these connectomes have True"
    scores_of(study.folder / "weights/fold-0", own)
    with pytest.raises(ValueError, match=said):
        scores_of(study.folder / "weights/fold-0", other)
    caplog.clear()
    row = Asked(tables, Task.model_validate(sex), "validation", study.folder / "weights", None, decodes=False)
    assert sum(len(ask_fold(row, fold).predictions) for fold in range(3)) == len(study.people)
    assert sum(said in record.getMessage() for record in caplog.records) == 3
