"""Confound strategies: a YAML file each, with a name, prose, the columns to regress out and settings of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from lcm.config import Denoise, Settings

# T time, K confounds

_SHIPPED = Path(__file__).parent / "confounds"


class ConfoundsError(ValueError):
    """A confounds table that does not fit its run; the text is the run's outcome."""


class Strategy(Settings):
    """What to regress out of a run, and where its filter or censoring differs from the study's."""

    name: str = Field(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", description="the file's own name: it becomes a folder")
    description: str
    citation: str
    columns: tuple[str, ...] = Field(default=(), description="columns under fMRIPrep's names")
    patterns: tuple[str, ...] = Field(
        default=(), description="regular expressions; every column one matches wholly is taken, and one must be there"
    )
    settings: dict[str, int | float | bool | None] = Field(
        default_factory=dict, description="keys of the `denoise` section that this strategy sets itself"
    )

    @property
    def needs_confounds(self) -> bool:
        """Whether it regresses anything out."""
        return bool(self.columns or self.patterns)

    def applied_to(self, settings: Denoise) -> Denoise:
        """The study's settings with this strategy's own in their place; raises ValueError for an unknown key or value."""
        return Denoise.model_validate(settings.model_dump() | self.settings)


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
        strategy = Strategy.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        strategy.applied_to(Denoise())
        for pattern in strategy.patterns:
            re.compile(pattern)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from None
    except (re.error, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    if strategy.name != path.stem:
        raise ValueError(f"{path}: name is {strategy.name!r}; it must equal the file's name, under which results lie")
    return strategy


_MASKS = {"WM": "w", "CSF": "c"}


def _tissues_of_components(path: Path, columns: list[str]) -> dict[str, str]:
    """New names of the anatomical components of fMRIPrep before 21, which are all called `a_comp_cor_XX`.

    Their masks stand in the table's JSON alone; later versions call those of white matter `w_comp_cor_XX` and those of CSF
    `c_comp_cor_XX`, from 00 each.
    """
    sidecar = path.with_suffix(".json")
    if any(re.match(r"[wc]_comp_cor_", name) for name in columns) or not sidecar.is_file():
        return {}
    try:
        about = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfoundsError("unreadable JSON beside the confounds table") from None
    names: dict[str, str] = {}
    for mask, letter in _MASKS.items():
        own = [name for name in columns if name.startswith("a_comp_cor_") and about.get(name, {}).get("Mask") == mask]
        names |= {name: f"{letter}_comp_cor_{number:02d}" for number, name in enumerate(own)}
    return names


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
        self._frame = self._frame.rename(columns=_tissues_of_components(path, list(self._frame)))

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

    def std_dvars(self) -> NDArray[np.float64]:
        """Standardised DVARS T, 0 for the first volume, which has no predecessor."""
        return self._column("std_dvars")

    def design(self, strategy: Strategy) -> NDArray[np.float64]:
        """Regressors T×K of a strategy; raises ConfoundsError naming a column that is missing, constant or not finite."""
        columns = self._columns_of(strategy)
        if not columns:
            return np.empty((len(self._frame), 0))
        design_TK = np.column_stack([self._column(name) for name in columns])
        constant = [name for name, spread in zip(columns, np.ptp(design_TK, axis=0), strict=True) if spread == 0]
        if constant:
            raise ConfoundsError(f"confound {constant[0]} is constant")
        return design_TK

    def _columns_of(self, strategy: Strategy) -> list[str]:
        found = list(strategy.columns)
        for pattern in strategy.patterns:
            matching = [name for name in self._frame if re.fullmatch(pattern, name)]
            if not matching:
                raise ConfoundsError(f"confounds have no column like {pattern}, which strategy {strategy.name} needs")
            found += [name for name in matching if name not in found]
        return found

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
