"""Cognitive state of a run from its events: the trial types beside the image, where the task in its name says none."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lcm.cohort.decode import OBSERVED, REFUSED
from lcm.cohort.flow import Flow, count_refused
from lcm.cohort.source import Source, canonical
from lcm.tables import MISSING

if TYPE_CHECKING:
    import pandas as pd

SEVERAL = "several states"
"""A run whose trial types belong to several cognitive states; it has none of them."""


def event_files(bold: Path) -> list[Path]:
    """What lies beside a run and names its conditions; empty where nothing does.

    BIDS: `<run>_events.tsv` in the folder of `<run>_bold.nii.gz`. HCP folders: the files in `EVs`, a file a condition.
    """
    stem, is_bold, _ = bold.name.rpartition("_bold.nii")
    events = bold.with_name(f"{stem}_events.tsv")
    return [*([events] if is_bold and events.is_file() else []), *sorted((bold.parent / "EVs").glob("*.txt"))]


def trial_types(bold: Path) -> set[str]:
    """Trial types of a run in canonical form: column `trial_type` of its events, the names of HCP's files."""
    found: set[str] = set()
    for path in event_files(bold):
        if path.suffix == ".txt":
            found.add(canonical(path.stem))
            continue
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t")
            found |= {canonical(row.get("trial_type") or MISSING) for row in rows}
    return found - {"", MISSING}


def states_of_events(source: Source, bold: pd.Series) -> tuple[pd.Series, Counter[str]]:
    """Cognitive state of runs by their trial types, aligned with `bold` (paths), and how many runs hold which unknown type.

    A run whose known trial types all mean one state has that state; one with types of several is SEVERAL; None where no
    type is known. A type that `Source.events` sets aside (null) says nothing. Nothing is read for a cohort without `events`.
    """
    import pandas as pd

    unknown: Counter[str] = Counter()
    states: list[str | None] = []
    for path in bold:
        types = trial_types(Path(path)) if source.events and isinstance(path, str) else set()
        unknown.update(types - set(source.events))
        said = {source.events[name] for name in types & set(source.events)} - {None}
        states.append(None if not said else SEVERAL if len(said) > 1 else said.pop())
    return pd.Series(states, index=bold.index, dtype="object"), unknown


def read_events(
    source: Source, bold: pd.Series, values: pd.Series, states: pd.Series, flow: Flow
) -> tuple[pd.Series, pd.Series]:
    """`values` and `states` of the cognitive state, completed from the events of runs of which the task said none.

    A run of several states is refused, so that no pseudo label fills it; it and the unknown trial types are counted.
    """
    open_ = states != OBSERVED
    found, unknown = states_of_events(source, bold[open_])
    count_refused({("unknown code", name): count for name, count in unknown.items()}, "events: trial_type", flow)
    several = found.index[found == SEVERAL]
    flow.add("several states", "events: trial_type", len(several))
    told = found.index[found.notna() & (found != SEVERAL)]
    values, states = values.copy(), states.copy()
    values[told], states[told], states[several] = found[told], OBSERVED, REFUSED
    return values, states
