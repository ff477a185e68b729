"""Confound strategies: a YAML file each, with a name, prose and the columns to regress out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from lcm.config import Settings

# T time, K confounds

_SHIPPED = Path(__file__).parent / "confounds"


class ConfoundsError(ValueError):
    """A confounds table that does not fit its run; the text is the run's outcome."""


class Strategy(Settings):
    """What to regress out of a run."""

    name: str
    description: str
    citation: str
    columns: tuple[str, ...] = Field(description="columns under fMRIPrep's names")


def strategy_path(name_or_path: str) -> Path:
    """File of a shipped strategy by name, or of a lab's own by path."""
    shipped = _SHIPPED / f"{name_or_path}.yaml"
    return shipped if shipped.is_file() else Path(name_or_path)


def read_strategy(path: Path) -> Strategy:
    """Read and check a strategy file; raises ValueError naming the file and the field."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in _SHIPPED.glob("*.yaml")))
        raise ValueError(f"confound strategy {path}: no such file; shipped: {known}")
    try:
        return Strategy.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class Confounds:
    """A run's confounds table, checked against the run's length."""

    def __init__(self, path: Path, num_volumes: int) -> None:
        import pandas as pd

        try:
            self._frame = pd.read_csv(path, sep="\t", na_values=["n/a"])
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise ConfoundsError(f"unreadable confounds table ({type(error).__name__})") from None
        if len(self._frame) != num_volumes:
            raise ConfoundsError(f"confounds have {len(self._frame)} rows, the run {num_volumes} volumes")

    @property
    def num_dummies(self) -> int:
        """Volumes before the magnetisation is steady: leading ones under `non_steady_state_outlier*` (fMRIPrep)."""
        flags = self._frame.filter(regex=r"^non_steady_state_outlier").sum(axis=1) > 0
        return int(flags.cumprod().sum())

    @property
    def has_fd(self) -> bool:
        """Whether head motion is known; without censoring it is reported and not needed."""
        return "framewise_displacement" in self._frame

    def fd_mm(self) -> NDArray[np.float64]:
        """Framewise displacement T (Power), 0 for the first volume, which has no predecessor."""
        return self._column("framewise_displacement")

    def design(self, columns: tuple[str, ...]) -> NDArray[np.float64]:
        """Regressors T×K of a strategy; raises ConfoundsError naming a column that is missing, constant or not finite."""
        design_TK = (
            np.column_stack([self._column(name) for name in columns]) if columns else np.empty((len(self._frame), 0))
        )
        constant = [name for name, spread in zip(columns, np.ptp(design_TK, axis=0), strict=True) if spread == 0]
        if constant:
            raise ConfoundsError(f"confound {constant[0]} is constant")
        return design_TK

    def _column(self, name: str) -> NDArray[np.float64]:
        if name not in self._frame:
            raise ConfoundsError(f"confounds lack the column {name}")
        try:
            values_T = self._frame[name].to_numpy(dtype=np.float64)
        except ValueError:
            raise ConfoundsError(f"confound {name} holds text") from None
        # A difference has no first value: fMRIPrep writes n/a there, and no change is the value that changes nothing.
        if np.isnan(values_T[0]):
            values_T = np.concatenate([[0.0], values_T[1:]])
        if not np.isfinite(values_T).all():
            raise ConfoundsError(f"confound {name} is missing or infinite after the first volume")
        return values_T
