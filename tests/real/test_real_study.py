"""The real study (config/real.yaml): raw images and ready series to connectomes, BEIs and a benchmark table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from lcm.array_tables import region_names, square
from lcm.atlas import load_atlas
from lcm.result_tables import SCORES
from lcm.tables import BEI, OUTCOMES, read_arrow, read_tsv
from tests.conftest import REPOSITORY
from tests.workflow.conftest import SmallStudy

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of config/real.yaml with three folds instead of five, to save minutes; nothing else differs."""
    text = (REPOSITORY / "config" / "real.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text.replace("../../../shared/data", str(shared_data)))
    config["split"]["num_folds"] = 3
    study = SmallStudy(tmp_path_factory.mktemp("real"), config)
    run = study.snakemake()
    logs = "\n".join(f"{p}: {p.read_text()[-400:]}" for p in (study.folder / "logs").rglob("*.log"))
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:] + logs
    return study.folder / "results"


def _connectomes(real: Path, dataset: str) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for path in sorted((real / "correlate" / "9P" / dataset).glob("*.arrow")):
        table = read_arrow(path)
        num_regions = len(region_names(table))
        assert region_names(table) == list(load_atlas("AAL").names)
        for row in table.to_pylist():
            matrix = square(np.array([row["fc"]]), num_regions)[0]
            found[row["scan"]] = {"fc": matrix, "coverage": np.array(row["coverage"])}
    return found


# The cerebellum of sub-sforrest02 lies below its BOLD's field of view: by the image headers and an affine T1w-to-MNI
# match alone, without any of our registration, 97 regions are at least 80 % inside and 10 are wholly outside.
@pytest.mark.parametrize(
    ("scan", "num_uncovered"),
    [("sub-sforrest02_task-oneback_run-01", range(10, 26)), ("sub-rapidtide01_task-rest", range(6))],
)
def test_raw_images_become_connectomes_with_brain_structure(real: Path, scan: str, num_uncovered: range):
    found = _connectomes(real, "BIDS")[scan]
    fc, coverage = found["fc"], found["coverage"]
    assert fc.shape == (116, 116)
    np.testing.assert_array_equal(fc, fc.T)
    assert (fc.diagonal() == 1).all()
    uncovered = coverage < 0.5
    assert uncovered.sum() in num_uncovered
    off_diagonal = ~np.eye(116, dtype=bool)
    np.testing.assert_array_equal(np.isnan(fc) & off_diagonal, (uncovered[:, None] | uncovered) & off_diagonal)
    homotopic = np.nanmean([fc[pair] for pair in load_atlas("AAL").pairs()])
    mean = np.nanmean(fc[off_diagonal])
    assert homotopic > 0.35
    assert homotopic > mean + 0.25


def test_every_person_is_counted_and_found_in_the_phenotype_tables(real: Path):
    counts = read_tsv(real / "report" / "outcomes.tsv", OUTCOMES).set_index("dataset")["count"]
    assert counts.to_dict() == {"ABIDE-GSR": 92, "ABIDE-noGSR": 66, "BIDS": 2, "Neurocon": 41}
    bei = read_tsv(real / "harmonize" / "bei.tsv", BEI)
    neurocon = bei[bei["dataset"] == "Neurocon"]
    assert neurocon["parkinsons"].value_counts().to_dict() == {"parkinsons": 26, "control": 15}
    assert (bei.loc[bei["dataset"].str.startswith("ABIDE"), "autism_source"] == "observed").all()
    assert (bei.loc[bei["dataset"] == "BIDS", "sex_source"] == "missing").all()


def test_two_preparations_of_the_same_cohort_differ_as_told(real: Path):
    def mean(dataset: str) -> float:
        return float(
            np.mean([np.nanmean(c["fc"][np.triu_indices(116, 1)]) for c in _connectomes(real, dataset).values()])
        )

    assert abs(mean("ABIDE-GSR")) < 0.05
    assert mean("ABIDE-noGSR") > 0.3


def test_every_model_has_its_row_in_every_task(real: Path):
    scores = read_tsv(real / "report" / "benchmark.tsv", SCORES)
    scores = scores[(scores["subset"] == "all") & (scores["cohort"] == "all")]
    auroc = scores[scores["metric"] == "auroc"].set_index(["task", "model"])
    assert len(auroc) == 12
    assert (auroc["ci_low"] <= auroc["value"]).all()
    assert (auroc["value"] <= auroc["ci_high"]).all()
    for task, people in {"autism": 92, "parkinsons": 41, "sex": 199}.items():
        assert (auroc.loc[task, "num_people"] == people).all()
        assert auroc.loc[(task, "majority"), "value"] == 0.5
