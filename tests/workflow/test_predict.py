"""A bundle on scans of nobody knows whom, through the workflow: no phenotype table, no folds, figures and all."""

from __future__ import annotations

import numpy as np
import pytest

from lcm.atlas import load_atlas
from lcm.result_tables import ATTENTION, PEOPLE_ANSWERED, SCANS_ANSWERED, with_answers
from lcm.tables import read_tsv

from .conftest import SmallStudy

SIZE = {"num_layers": 2, "width": 16, "num_heads": 2, "feedforward": 8}
QUESTIONS = {"autism": ("control", "autism"), "age": ()}
NUM_PEOPLE = 5


@pytest.fixture
def new_scans(small_study: SmallStudy) -> SmallStudy:
    """Five people's ready series, the last too short, and a bundle of random weights that asks two questions."""
    import torch

    from lcm.config import Model
    from lcm.models.large_connectome_model import LargeConnectomeModel
    from lcm.models.token_network import token_names
    from lcm.training.networks import arrays_of
    from lcm.training.weights import Manifest, save_bundle

    regions = load_atlas("AAL").names
    random = np.random.default_rng(3)
    for i in range(NUM_PEOPLE):
        series_TR = random.standard_normal((60 if i < NUM_PEOPLE - 1 else 10, len(regions)))
        path = small_study.folder / f"clinic/sub-p{i}/sub-p{i}_task-rest_timeseries.tsv"
        path.parent.mkdir(parents=True)
        lines = ["\t".join(regions), *("\t".join(f"{x:.5f}" for x in row) for row in series_TR)]
        path.write_text("\n".join(lines) + "\n")
    clinic = {
        "path": "clinic",
        "input": "series",
        "cohort": "generic",
        "pattern": "sub-*/*_timeseries.tsv",
        "tr_s": 2.0,
    }
    small_study.config["datasets"] = {"CLINIC": clinic | {"denoised": True}}
    small_study.config["predict"] = {"bundles": {"tiny": "weights"}, "datasets": [], "allow": ["preprocessing"]}
    torch.manual_seed(0)
    tokens = [token for name, levels in QUESTIONS.items() for token in token_names(name, levels)]
    manifest = Manifest(
        stage="pretrain",
        name="tiny",
        model=Model(architecture="lcm", size=SIZE),
        fold=0,
        vocabulary=QUESTIONS,
        tokens=tuple(tokens),
        atlas="AAL",
        regions=regions,
        strategies=("9P",),
        preprocessing=(),
        training_people=(),
        validation_people=(),
        settings={},
    )
    network = LargeConnectomeModel(len(regions), tokens, **SIZE)
    save_bundle(small_study.folder / "weights", arrays_of(network), manifest)
    return small_study


def test_new_scans_are_answered_about_without_a_phenotype_table_or_a_fold(new_scans: SmallStudy):
    wanted = "results/predict/tiny/predictions.tsv"
    run = new_scans.snakemake(wanted)
    assert run.returncode == 0, run.stdout + run.stderr
    folder = new_scans.folder / "results"
    assert {path.name for path in folder.iterdir()} == {"index", "correlate", "predict"}
    people = read_tsv(new_scans.folder / wanted, with_answers(PEOPLE_ANSWERED, QUESTIONS)).set_index("person_id")
    assert list(people["num_scans"]) == [1, 1, 1, 1, 0]
    assert people.loc["CLINIC:sub-p4", "outcome"].startswith("excluded: fewer than 30 volumes")
    np.testing.assert_allclose((people["autism=control"] + people["autism=autism"])[:4], 1, atol=2e-6)
    scans = read_tsv(folder / "predict/tiny/scans.tsv", with_answers(SCANS_ANSWERED, QUESTIONS))
    assert list(scans["outcome"] == "ok") == [True] * 4 + [False]
    shares = read_tsv(folder / "predict/tiny/attention.tsv", ATTENTION).groupby(["target", "level"], dropna=False)[
        "share"
    ]
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-6)
    figures = sorted(path.name for path in (folder / "predict/tiny/figures").glob("*.png"))
    assert figures == ["attention_age.png", "attention_autism-autism.png", "attention_autism-control.png"]
    log = (new_scans.folder / "logs/predict/tiny.log").read_text()
    assert "5 scans in the index: 4 ok, 1 excluded: fewer than 30 volumes kept; 4 people answered about" in log
    assert "sub-p" not in log

    # A second bundle's name is no reason to ask the first again, and where nothing changed nothing runs.
    new_scans.config["predict"]["bundles"]["second"] = "weights"
    again = new_scans.snakemake("--dry-run", wanted)
    assert "Nothing to be done" in again.stdout + again.stderr
