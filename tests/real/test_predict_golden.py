"""`lcm predict` on the authors' pair and scans tells what the authors' own outputs say, by the paper's rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lcm.__main__ import main
from lcm.array_tables import connectome_schema
from lcm.atlas import load_atlas
from lcm.result_tables import PEOPLE_ANSWERED, with_answers
from lcm.tables import SCANS, read_arrow, read_tsv, write_arrow, write_tsv
from lcm.training.inference import questions_of
from lcm.training.weights import read_manifest


@pytest.fixture
def golden(shared_data: Path) -> dict[str, np.ndarray]:
    """FC of six scans and what the authors' classes made of them, layer by layer."""
    with np.load(shared_data / "lcm_golden" / "golden.npz") as arrays:
        return dict(arrays)


def write_study(folder: Path, fc_NRR: np.ndarray) -> None:
    """The scans as index and correlate would leave them."""
    regions = load_atlas("AAL").names
    names = [f"sub-{i}" for i in range(len(fc_NRR))]
    about = {"dataset": "LAB", "participant_id": names, "scan": names, "outcome": "ok"}
    scans = pd.DataFrame(about | {"batch": "0", "input": "series", "fingerprint": "x"}).reindex(
        columns=list(SCANS.columns)
    )
    write_tsv(scans, folder / "scans.tsv", SCANS)
    upper = np.triu_indices(len(regions), k=1)
    rows = [
        row | {"fc": fc_RR[upper]} for row, fc_RR in zip(pd.DataFrame(about).to_dict("records"), fc_NRR, strict=True)
    ]
    fingerprint = {"correlate.kind": "correlation", "correlate.fisher_z": False}
    schema = connectome_schema(regions, "AAL", "none", fingerprint)
    write_arrow(pa.Table.from_pylist(rows, schema=schema), folder / "correlate/LAB/0.arrow")


def test_answers_layers_and_attention_are_the_authors(golden, shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr("lcm.training.predict.draw", lambda *_: None)
    write_study(tmp_path, golden["fc"])
    pair = [str(shared_data / "lcm_golden" / f"{part}_fold0_hcpaBest.pt") for part in ("bb", "head")]
    bundle, output = tmp_path / "bundle", tmp_path / "answers"
    assert main(["import-weights", "--backbone", pair[0], "--head", pair[1], "--output", str(bundle)]) == 0
    inputs = ["--scans", str(tmp_path / "scans.tsv"), "--connectomes", str(tmp_path / "correlate")]
    assert (
        main(["predict", "--bundle", str(bundle), *inputs, "--output", str(output), "--settings", json.dumps({})]) == 0
    )

    people = read_tsv(output / "predictions.tsv", with_answers(PEOPLE_ANSWERED, questions_of(read_manifest(bundle))))
    sex_LNK = golden["sex"].astype(float)
    best_NK = sex_LNK.max(axis=0)
    expected_NK = np.exp(best_NK) / np.exp(best_NK).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(people[["sex=female", "sex=male"]], expected_NK, atol=1e-5)
    chosen_N = best_NK.argmax(axis=1)
    assert people["sex"].tolist() == [("female", "male")[k] for k in chosen_N]
    layer_NK = sex_LNK.argmax(axis=0)
    assert people["sex_layer"].tolist() == (layer_NK[np.arange(6), chosen_N] + 1).tolist()
    np.testing.assert_allclose(people["age"], golden["age"].mean(axis=0)[:, 0], atol=1e-5)

    shares = read_arrow(output / "attention_people.arrow").to_pandas()
    male_NR = np.stack(shares[(shares["target"] == "sex") & (shares["level"] == "male")]["share"])
    # The authors' order of tokens: 24 classes, female, male, age.
    np.testing.assert_allclose(male_NR, golden["cross_attention"][np.arange(6), layer_NK[:, 1], 25], atol=1e-6)
    age_NR = np.stack(shares[shares["target"] == "age"]["share"])
    np.testing.assert_allclose(age_NR, golden["cross_attention"][:, :, 26].mean(axis=1), atol=1e-6)
