"""The records of a study: every job once, whatever else lies beside its result."""

from __future__ import annotations

import json
from pathlib import Path

from lcm.evaluation.records import read_records


def test_a_job_is_counted_once_though_its_bundle_names_the_stage_too(tmp_path: Path):
    for fold in (0, 1):
        folder = tmp_path / f"finetune/lcm/sex/fold-{fold}"
        folder.mkdir(parents=True)
        record = {
            "stage": "finetune",
            "settings": {"seed": 1},
            "seconds": 2.0,
            "peak_mb": 100 + fold,
            "versions": {"torch": "2"},
        }
        (folder / "record.json").write_text(json.dumps(record))
        (folder / "manifest.json").write_text(json.dumps({"stage": "finetune", "settings": {"seed": 2}}))
    (found,) = read_records(tmp_path)
    assert (found.stage, found.num_jobs, found.seconds, found.peak_mb) == ("finetune", 2, 4.0, 101)
    assert found.settings == [{"seed": 1}]


def test_texts_that_differ_name_the_protocols_and_models_they_are_about(tmp_path: Path):
    said = {
        ("honest", "lcm"): "Many epochs.",
        ("honest", "mlp"): "Few epochs.",
        ("honest", "ridge"): "Many epochs.",
        ("paper", "lcm"): "Few epochs.",
    }
    for (protocol, model), text in said.items():
        folder = tmp_path / "finetune" / protocol / model / "sex" / "fold-0"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({"stage": "finetune", "seconds": 1.0, "methods": text}))
    for protocol in ("honest", "paper"):
        folder = tmp_path / "split" / protocol
        folder.mkdir(parents=True)
        (folder / "folds.json").write_text(json.dumps({"stage": "split", "seconds": 1.0, "methods": "One text."}))
    split, finetune = read_records(tmp_path)
    assert [(part.text, part.about) for part in split.methods] == [("One text.", "")]
    assert {part.text: part.about for part in finetune.methods} == {
        "Many epochs.": "honest: lcm, ridge",
        "Few epochs.": "honest: mlp; paper",
    }
