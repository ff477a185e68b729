"""A participant's folder of `preprocess`: where its table of runs lies, and paths in it that hold wherever the folder lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcm.tables import RUNS, read_tsv, relative_path, write_tsv

if TYPE_CHECKING:
    import pandas as pd

_FILES = ("bold", "mask", "confounds")


def runs_table(dataset: Path, participant: str) -> Path:
    """Path of a participant's table below `results/preprocess/<dataset>`."""
    return dataset / participant / f"{participant}_runs.tsv"


def record_of(dataset: Path, participant: str) -> Path:
    """Path of the record of what was done to a participant's images."""
    return dataset / participant / "record.json"


def write_runs(runs: pd.DataFrame, folder: Path) -> None:
    """Write the table of a participant's folder, with paths as seen from that folder.

    A BOLD that lies elsewhere, because it was taken as it came, is n/a: the folder may be shared between studies that reach
    the data by other paths, and each has that path in its own scans table.
    """
    runs = runs.copy()
    for name in _FILES:
        runs[name] = runs[name].map(lambda path: _inside(folder, path), na_action="ignore")
    write_tsv(runs, runs_table(folder.parent, folder.name), RUNS)


def read_runs(dataset: Path, participant: str) -> pd.DataFrame:
    """A participant's table of runs, with paths as seen from the working directory; n/a for a BOLD taken as it came."""
    path = runs_table(dataset, participant)
    runs = read_tsv(path, RUNS)
    for name in _FILES:
        runs[name] = runs[name].map(lambda part: relative_path(path.parent / part), na_action="ignore")
    return runs


def files_of(run: dict[str, Any], scan: dict[str, Any]) -> dict[str, Any]:
    """BOLD, mask and confounds of a row of `read_runs`; the BOLD of the scans table where it was taken as it came."""
    files = {name: run[name] for name in _FILES}
    return files if isinstance(run["bold"], str) or not isinstance(run["mask"], str) else files | {"bold": scan["bold"]}


def _inside(folder: Path, path: str | Path) -> str | None:
    found, root = Path(path).absolute(), folder.absolute()
    return str(found.relative_to(root)) if found.is_relative_to(root) else None
