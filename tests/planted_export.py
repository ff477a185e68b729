"""A batch as index, denoise and correlate would leave it, and the export of it through the door."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lcm.__main__ import main
from lcm.array_tables import connectome_schema, denoised_schema
from lcm.atlas import load_atlas
from lcm.config import Correlate
from lcm.imaging.preprocessed import write_runs
from lcm.tables import EXPORTED, OK, RUNS, SCANS, excluded, read_tsv, write_arrow, write_tsv

NUM_VOLUMES, CENSORED, UNCOVERED = 40, (0, 7, 8), 5
SCANS_PLANTED = ("sub-01_task-rest_run-1", "sub-01_task-rest_run-2", "sub-02_ses-a_task-rest")


@dataclass
class PlantedBatch:
    """Two people of dataset HCPA; change a field and `plant` again for another state of the study."""

    folder: Path
    scans: tuple[str, ...] = SCANS_PLANTED
    outcomes: dict[str, str] = field(default_factory=lambda: {"sub-01_task-rest_run-2": excluded("too short")})
    strategy: str = "9P"
    atlas: str = "AAL"
    correlate: Correlate = field(default_factory=Correlate)
    windows: int = 1
    everyone: tuple[str, ...] = ("sub-01", "sub-02", "sub-77")

    @property
    def tree(self) -> Path:
        """Root of the exported dataset."""
        return self.folder / "results" / "export" / "HCPA"

    @property
    def output(self) -> Path:
        """The batch's list of files."""
        return self.folder / "results" / "export" / "HCPA.batches" / self.strategy / "0000.tsv"

    def export(self) -> pd.DataFrame:
        """Plant the tables, run the stage in the folder, and give its table back."""
        assert main(self.plant()) == 0
        return read_tsv(self.output, EXPORTED)

    def plant(self) -> list[str]:
        """Write the tables the stage reads; the arguments of its call."""
        regions = load_atlas(self.atlas).names
        self._plant_scans()
        (self.folder / "raw").mkdir(exist_ok=True)
        denoise = self.folder / "denoise.arrow"
        correlate = self.folder / "correlate.arrow"
        series = [self._series_row(number, scan, len(regions)) for number, scan in enumerate(self.scans)]
        _write(series, denoised_schema(regions, "any", self.strategy), denoise)
        fc = [row for entry in series for row in self._connectome_rows(entry, len(regions))]
        kind = {"kind": self.correlate.kind, "fisher_z": self.correlate.fisher_z}
        _write(fc, connectome_schema(regions, "any", self.strategy, **kind), correlate)
        strategy = Path(__file__).parents[1] / "lcm" / "imaging" / "confounds" / f"{self.strategy}.yaml"
        flags = {"scans": self.folder / "batch.tsv", "index": self.folder / "scans.tsv", "source": self.folder / "raw"}
        flags |= {"runs": self.folder / "results/preprocess/HCPA", "series": denoise, "connectomes": correlate}
        flags |= {"strategy": strategy, "correlate": self.correlate.model_dump_json(), "atlas": self.atlas}
        flags |= {"tree": self.tree, "output": self.output}
        return ["export", *(str(part) for name, value in flags.items() for part in (f"--{name}", value))]

    def _plant_scans(self) -> None:
        people = [scan.split("_")[0] for scan in self.scans]
        rows = pd.DataFrame({"scan": self.scans, "participant_id": people, "task": "rest"})
        rows = rows.assign(dataset="HCPA", batch="0000", input="bids", fingerprint="0", outcome=OK, tr_s=2.0)
        rows["bold"] = [
            str(self.folder / "raw" / name / f"{scan}_bold.nii.gz")
            for name, scan in zip(people, self.scans, strict=True)
        ]
        rows = rows.reindex(columns=list(SCANS.columns))
        write_tsv(rows, self.folder / "batch.tsv", SCANS)
        others = [f"{name}_task-rest" for name in sorted(set(self.everyone) - set(people))]
        more = pd.DataFrame({"scan": others, "participant_id": [name.split("_")[0] for name in others]}, dtype="str")
        more = more.assign(dataset="HCPA", batch="0001", input="bids", fingerprint="0", outcome=OK)
        everything = pd.concat([rows, more.reindex(columns=list(SCANS.columns))]) if others else rows
        write_tsv(everything, self.folder / "scans.tsv", SCANS)
        for name, of_person in rows.groupby("participant_id"):
            root = self.folder / "results/preprocess/HCPA"
            run = of_person[["dataset", "participant_id", "scan", "outcome"]].assign(template="MNI152NLin2009cAsym")
            run["bold"] = [str(root / str(name) / "func" / f"{scan}_desc-preproc_bold.nii.gz") for scan in run["scan"]]
            write_runs(run.reindex(columns=list(RUNS.columns)), root / str(name))

    def _series_row(self, number: int, scan: str, num_regions: int) -> dict[str, object]:
        outcome = self.outcomes.get(scan, OK)
        row: dict[str, object] = {
            "dataset": "HCPA",
            "participant_id": scan.split("_")[0],
            "scan": scan,
            "outcome": outcome,
        }
        if outcome != OK:
            return row
        series_TR = np.random.default_rng(number).standard_normal((NUM_VOLUMES, num_regions)).astype(np.float32)
        series_TR[list(CENSORED)], series_TR[:, UNCOVERED] = np.nan, np.nan
        coverage_R = np.ones(num_regions, dtype=np.float32)
        coverage_R[UNCOVERED] = 0.25
        kept_T = ~np.isin(np.arange(NUM_VOLUMES), CENSORED)
        row |= {"tr_s": 2.0, "num_volumes": NUM_VOLUMES, "coverage": coverage_R, "num_kept": int(kept_T.sum())}
        return row | {"mean_fd_mm": 0.2, "kept": kept_T, "series": series_TR.ravel()}

    def _connectome_rows(self, row: dict, num_regions: int) -> list[dict]:
        if row["outcome"] != OK:
            return [row]
        series_TR = np.asarray(row["series"], dtype=np.float64).reshape(-1, num_regions)[row["kept"]]
        fc_RR = np.corrcoef(series_TR.T)
        fc = {"fc": fc_RR[np.triu_indices(num_regions, k=1)].astype(np.float32)}
        return [row | fc | {"window": number, "window_start": 10 * number} for number in range(self.windows)]


def _write(rows: list[dict], schema: pa.Schema, path: Path) -> None:
    write_arrow(
        pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema), path
    )
