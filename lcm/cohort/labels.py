"""What bei.tsv holds: how often each level is observed, assumed or missing, and the data dictionary beside the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcm.cohort.vocabulary import Variable, read_vocabulary
from lcm.tables import LABELS

if TYPE_CHECKING:
    import pandas as pd

ANY = "any"
"""The one level of a continuous or label BEI, whose values are not counted one by one."""

_SOURCES = {
    "observed": "read from a table of the cohort, or from the task or events of the scan",
    "pseudo": "not observed: assumed by a rule of the configuration (harmonize.pseudo_labels)",
    "missing": "unknown: not asked, not answered, set aside or not readable; it is not a negative answer",
}
_KEYS = {
    "dataset": "Dataset of the study, a name of config.yaml",
    "scan": "The run, as results/index/scans.tsv names it",
    "cohort": "Cohort whose tables describe the person",
    "participant_id": "The person as the dataset's folders name it",
    "session_id": "The session as the dataset's folders name it",
    "person_id": "The person in the whole study: cohort and id, or `linked:` and the name in the linkage table",
    "group_id": "The family where one is known, else the person; never on two sides of a fold",
}


def count_labels(bei: pd.DataFrame) -> pd.DataFrame:
    """People and scans of each cohort, BEI, level and source, in that order; columns as lcm.tables.LABELS.

    A person whose scans differ (at two visits, in two tasks) counts once under each level.
    """
    import pandas as pd

    parts: list[pd.DataFrame] = []
    for name in (name for name in read_vocabulary() if f"{name}_source" in bei):
        values = bei[name]
        levels = values if read_vocabulary()[name].levels else values.where(values.isna(), ANY)
        rows = bei[["cohort", "person_id"]].assign(level=levels, source=bei[f"{name}_source"])
        by_level = rows.groupby(["cohort", "level", "source"], dropna=False)["person_id"]
        counts = by_level.agg(num_people="nunique", num_scans="size").reset_index()
        parts.append(counts.assign(bei=name, order=len(parts)))
    counted = pd.concat(parts).sort_values(["cohort", "order", "level", "source"], na_position="last")
    return counted[list(LABELS.columns)].reset_index(drop=True)


def data_dictionary() -> dict[str, dict[str, object]]:
    """The JSON beside bei.tsv as BIDS asks for it: each column with what it means, its levels, unit and term."""
    entries: dict[str, dict[str, object]] = {name: {"Description": text} for name, text in _KEYS.items()}
    columns = read_vocabulary()
    entries |= {name: _entry(name, variable) for name, variable in columns.items()}
    for name in columns:
        entries[f"{name}_source"] = {"Description": f"Where the cell of {name} comes from", "Levels": dict(_SOURCES)}
    return entries


def _entry(name: str, variable: Variable) -> dict[str, object]:
    entry: dict[str, object] = {"LongName": name.replace("_", " "), "Description": variable.definition}
    if variable.levels:
        # BIDS lets a level be a text, or an object of Description and TermURL.
        entry["Levels"] = {
            level: {"Description": told.definition} | ({"TermURL": told.term} if told.term else {})
            for level, told in variable.levels.items()
        }
    if variable.unit:
        entry["Units"] = variable.unit
    if variable.term:
        entry["TermURL"] = variable.term
    return entry
