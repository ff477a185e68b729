"""Seconds and peak memory of harmonising 100,000 rows, a longitudinal and a wide table, beside pandas reading the same file."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from lcm.cohort.harmonize import harmonize
from lcm.config import Dataset, Harmonize
from lcm.tables import SCANS

NUM_ROWS = 100_000
NUM_VISITS = 10
NUM_CODES = 340
"""Columns of hospital diagnoses in the wide table, nearly all blank, as in UK Biobank."""


def write_longitudinal(folder: Path, num_rows: int) -> list[tuple[str, str]]:
    """A table in ADNI's shape, a row a visit; returns a label and session for each row."""
    rng = np.random.default_rng(0)
    person = np.arange(num_rows) // NUM_VISITS
    month = 6 * (np.arange(num_rows) % NUM_VISITS)
    labels = [f"{number % 70 + 2:03d}S{number:05d}" for number in person]
    exam_dates = pd.Timestamp("2005-09-01") + pd.to_timedelta(person % 2000 + month * 30, unit="D")
    table = pd.DataFrame(
        {
            "PTID": [f"{label[:3]}_S_{label[4:]}" for label in labels],
            "VISCODE": np.where(month == 0, "bl", [f"m{number:02d}" for number in month]),
            "SITE": person % 70 + 2,
            "EXAMDATE": exam_dates.strftime("%Y-%m-%d"),
            "DX_bl": np.array(["CN", "SMC", "EMCI", "LMCI", "AD"])[person % 5],
            "AGE": np.round(55 + rng.random(num_rows // NUM_VISITS + 1) * 35, 1)[person],
            "PTGENDER": np.where(person % 2, "Male", "Female"),
            "PTEDUCAT": 8 + person % 12,
            "DX": rng.choice(["CN", "MCI", "Dementia", ""], num_rows),
        }
    )
    table.to_csv(folder / "ADNIMERGE_bench.csv", index=False)
    return [(label, f"M{number:03d}") for label, number in zip(labels, month, strict=True)]


def write_wide(folder: Path, num_rows: int) -> list[tuple[str, str]]:
    """A table in UK Biobank's shape, a row a person and a column a field and diagnosis."""
    rng = np.random.default_rng(0)
    eid = 1_000_000 + np.arange(num_rows)
    columns: dict[str, object] = {
        "eid": eid,
        "31-0.0": rng.integers(0, 2, num_rows),
        "54-2.0": rng.choice(["11025", "11026", "11027"], num_rows),
        "1707-2.0": rng.choice(["1", "2", "3", "-3"], num_rows),
        "21003-2.0": rng.integers(45, 83, num_rows),
        "21003-3.0": rng.choice(["", "70"], num_rows),
    }
    for number in range(NUM_CODES):
        codes = ["G20", "G309", "F200", "I10", "E119"]
        columns[f"41270-0.{number}"] = np.where(
            rng.random(num_rows) < 3 / (number + 3), rng.choice(codes, num_rows), ""
        )
    pd.DataFrame(columns).to_csv(folder / "ukb_bench.csv", index=False)
    return [(str(number), "2") for number in eid]


SHAPES = {"longitudinal": ("adni", write_longitudinal), "wide": ("ukb", write_wide)}


def scan_table(people: list[tuple[str, str]]) -> pd.DataFrame:
    """A scans table with one scan for each label and session."""
    text: dict[str, object] = {name: "x" for name, kind in SCANS.columns.items() if kind == "text"}
    labels, sessions = zip(*people, strict=True)
    own = {"participant_id": [f"sub-{label}" for label in labels], "session_id": [f"ses-{label}" for label in sessions]}
    scan = [f"{label}_{session}" for label, session in zip(*own.values(), strict=True)]
    return pd.DataFrame(text | own | {"dataset": "A", "scan": scan}).reindex(columns=list(SCANS.columns))


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of the work, and the peak of this process's memory after it in MB."""
    import resource

    start = time.perf_counter()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def one(shape: str, road: str, num_rows: int, folder: Path) -> dict[str, float]:
    """Measure one road over one shape in this process; `write` makes the table and its list of people."""
    cohort, write = SHAPES[shape]
    people = folder / f"{shape}.json"
    if road == "write":
        people.write_text(json.dumps(write(folder, num_rows)))
        return {}
    if road == "read_csv":
        return measured(lambda: pd.read_csv(next(folder.glob("*.csv")), dtype="str", keep_default_na=False))
    scans = scan_table([tuple(pair) for pair in json.loads(people.read_text())])
    dataset = Dataset(path="x", input="series", pattern="*", cohort=cohort, phenotypes=str(folder))
    return measured(lambda: harmonize(scans, {"A": dataset}, Harmonize()))


def main() -> None:
    """Print a line a shape and road; every road runs in a process of its own, so that peaks do not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("SHAPE", "ROAD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        shape, road, folder = options.one
        sys.stdout.write(json.dumps(one(shape, road, options.rows, Path(folder))) + "\n")
        return
    results: dict[str, dict[str, float]] = {}
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            for road in ("write", "read_csv", "harmonize"):
                command = [sys.executable, __file__, "--rows", str(options.rows), "--one", shape, road, folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results[f"{shape}, {road}"] = json.loads(done.stdout.splitlines()[-1])
    results = {name: result for name, result in results.items() if result}
    if options.json:
        sys.stdout.write(json.dumps(results) + "\n")
        return
    for name, result in results.items():
        sys.stdout.write(f"{name:<26} {result['seconds']:7.2f} s  {result['peak_mb']:7.0f} MB\n")


if __name__ == "__main__":
    main()
