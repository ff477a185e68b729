"""Which counts of people a public table hides: small ones, and what would give them away by subtraction.

One mark stands for every hidden cell. Two (small; hidden for another's sake) would say more than they seem to: of a sum of
6 split into a cell below 5 and one of 5 or more, the first must be 1. A count of 0 describes nobody and is shown.

Shape suffixes: L levels (lines), G groups (columns).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lcm.evaluation.table_one import ALL

BOUNDS = ("min", "max")
"""Statistics that are one person's own number, however large the group."""
COUNTS = ("n", "percent", "missing")


HIDDEN = "hidden"
"""What a hidden number holds that is no small count: a sum, a mean, a range."""


def mark(min_cell: int) -> str:
    """What a hidden cell holds: fewer than `min_cell` people, or (the star) a number that would give such a cell away."""
    return f"<{min_cell}*"


def is_small(counts: NDArray[np.int_], min_cell: int) -> NDArray[np.bool_]:
    """Whether a count describes someone, and fewer people than `min_cell`."""
    return (counts > 0) & (counts < min_cell)


def hidden_parts(counts_L: NDArray[np.int_], min_cell: int) -> NDArray[np.bool_]:
    """Mask (L) of the parts that are hidden where their sum is shown.

    Small parts, and the next smallest that hold someone, until two or more are hidden that hold `min_cell` people together:
    then each of them may be anything from 0 to what is missing from the sum. A sum of one part alone cannot be kept
    apart from it; the caller has to hide that.
    """
    hidden_L = is_small(counts_L, min_cell)
    if not hidden_L.any():
        return hidden_L
    for place in np.argsort(counts_L, kind="stable"):
        if hidden_L.sum() >= 2 and counts_L[hidden_L].sum() >= min_cell:
            break
        hidden_L[place] |= counts_L[place] > 0
    return hidden_L


def hidden_lines(counts_LG: NDArray[np.int_], min_cell: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks (L), (L) of the lines whose sum over groups is hidden, and of those hidden in every group.

    `counts_LG` splits people by level and group; shown beside it are each group's people (its column sum) and each level's
    people over all groups (its row sum). A level with a small cell is hidden in all groups, and others with it until no
    small cell can be worked out: what hidden lines leave open in cell (l, g) is the interval from max(0, r + c − n) to
    min(r, c) (Fréchet), with r and c the sums of its line and of the hidden part of its column, and n of all that is
    hidden; it holds one value alone just when r, c, n − r or n − c is 0.
    """
    in_sums_L = hidden_parts(counts_LG.sum(axis=1), min_cell)
    hidden_L = in_sums_L | is_small(counts_LG, min_cell).any(axis=1)
    for place in np.argsort(counts_LG.sum(axis=1), kind="stable"):
        if not _is_open(counts_LG, hidden_L, in_sums_L, min_cell):
            hidden_L[place] = True
    return in_sums_L, hidden_L


def _is_open(
    counts_LG: NDArray[np.int_], hidden_L: NDArray[np.bool_], in_sums_L: NDArray[np.bool_], min_cell: int
) -> bool:
    """Whether every small cell of the hidden lines has several values that fit all sums.

    Lines whose own sum is hidden are two or more with people in them, and may exchange people within any group.
    """
    block_LG = counts_LG * hidden_L[:, None]
    row_LG, column_LG = block_LG.sum(axis=1, keepdims=True), block_LG.sum(axis=0, keepdims=True)
    width_LG = np.minimum(np.minimum(row_LG, column_LG), block_LG.sum() - np.maximum(row_LG, column_LG))
    asked_LG = is_small(counts_LG, min_cell) & (hidden_L & ~in_sums_L)[:, None]
    return bool((width_LG[asked_LG] > 0).all())


def suppress_table_one(table: pd.DataFrame, min_cell: int) -> pd.DataFrame:
    """The `table_one` table with every small count of people, and what reveals it, replaced by the mark or by `hidden`.

    Minimum and maximum are hidden always; a group that is hidden is so with all its statistics, missing ones too, since a
    group without a standard deviation has one person.
    """
    parts = [_suppress_cohort(own, min_cell) for _, own in table.groupby("cohort", sort=False)]
    return pd.concat(parts) if parts else table


def _suppress_cohort(table: pd.DataFrame, min_cell: int) -> pd.DataFrame:
    hidden = table["statistic"].isin(BOUNDS)
    families = [name for name in table["group"].str.split(": ").str[0].unique() if name != ALL]
    is_all = table["group"] == ALL
    if not families:
        hidden |= is_all & _hidden_rows(table[is_all], [ALL], min_cell)
    for family in families:
        inside = table["group"].str.startswith(f"{family}: ")
        groups = list(table.loc[inside, "group"].unique())
        people_G = _people(table, groups)
        closed = [name for name, closes in zip(groups, hidden_parts(people_G, min_cell), strict=True) if closes]
        hidden |= table["group"].isin(closed)
        hidden |= (is_all | inside) & _hidden_rows(table[is_all | inside], groups, min_cell, closed)
    if _people(table, [ALL])[0] < min_cell:
        hidden |= True
    is_count = table["statistic"].isin(COUNTS)
    return table.assign(value=table["value"].mask(hidden & is_count, mark(min_cell)).mask(hidden & ~is_count, HIDDEN))


def _people(table: pd.DataFrame, groups: Sequence[str]) -> NDArray[np.int_]:
    of_group = table[(table["variable"] == "people") & (table["statistic"] == "n")].set_index("group")["value"]
    return np.array([int(of_group[name]) for name in groups])


def _hidden_rows(table: pd.DataFrame, groups: list[str], min_cell: int, closed: Sequence[str] = ()) -> pd.Series:
    """Mask over one family's rows (its groups and `all`) of what its small cells hide, one variable at a time."""
    hidden = pd.Series(data=False, index=table.index)
    for _, own in table[~table["variable"].isin(["people", "scans"])].groupby("variable", sort=False):
        # A continuous variable splits its people into known and missing, as a categorical one does into levels.
        counts = own[own["statistic"].isin(["n", "missing"])]
        counts = counts.assign(line=counts["level"].fillna(counts["statistic"]))
        by_line = counts.pivot(index="line", columns="group", values="value").astype(int)
        opened = [name for name in groups if name not in closed]
        merged = by_line[opened]
        if closed:
            merged = merged.assign(closed=by_line[list(closed)].sum(axis=1))
        masks = hidden_lines(merged.to_numpy(), min_cell)
        in_all, in_groups = ({str(line) for line in by_line.index[mask]} for mask in masks)
        line = own["level"].fillna(own["statistic"])
        is_all, is_count = own["group"] == ALL, own["statistic"].isin(COUNTS)
        hits = is_count & (line.isin(in_all) | (line.isin(in_groups) & ~is_all))
        if "n" in in_groups:
            # One mean that is missing, or that of `all` less the others, says how many are known and what they said.
            hits |= ~is_count & ~is_all & bool((merged.loc["n"] < min_cell).any())
            hits |= ~is_count & is_all & bool(by_line.loc["n", ALL] < min_cell)
        hidden[own.index] |= hits
    return hidden


def suppress_labels(table: pd.DataFrame, min_cell: int) -> pd.DataFrame:
    """The `labels` table as text: people of a cohort's BEI by level and source, where their sum is shown.

    Scans go with the people. Returns the columns of the table; num_people and num_scans are text.
    """
    shown = table.assign(num_people=table["num_people"].astype(str), num_scans=table["num_scans"].astype(str))
    for _, own in table.groupby(["cohort", "bei"], sort=False):
        hidden = own.index[hidden_parts(own["num_people"].to_numpy(dtype=int), min_cell)]
        shown.loc[hidden, ["num_people", "num_scans"]] = mark(min_cell)
    return shown


def suppress_site_effects(table: pd.DataFrame, num_people: pd.Series, min_cell: int) -> pd.DataFrame:
    """The `site_effects` table without the number of people where it, or what it leaves of its cohort, is small.

    `num_people` is of each cohort in the study; rows that could not be computed lose the reason, which counts people.
    """
    of_cohort = table["cohort"].map(num_people).fillna(num_people.sum())
    counts = table["num_people"].astype("Int64")
    small = is_small(counts.to_numpy(dtype=int), min_cell) | is_small(
        (of_cohort - counts).to_numpy(dtype=int), min_cell
    )
    # The whole study less its other cohorts is the one that is hidden.
    if small.any() or is_small(num_people.to_numpy(dtype=int), min_cell).any():
        small |= (table["cohort"] == ALL).to_numpy()
    notes = table["note"].where(table["note"].isna(), "not run: too few people or sites")
    return table.assign(num_people=counts.mask(small), note=notes)


def suppress_scores(scores: pd.DataFrame, min_cell: int) -> pd.DataFrame:
    """The `scores` table without the cohorts of a task that have too few test people, and with small levels hidden.

    A cohort's row goes with all its metrics: of three people, an accuracy says who was right. A subset (see SCORES) is shown
    over all cohorts alone, where at no level few people are in it, or out of it.
    """
    parts = []
    for _, own in scores.groupby(["protocol", "model", "task"], sort=False):
        whole = own[own["subset"] == ALL]
        parts += [_suppress_task(whole, min_cell)] if len(whole) else []
        parts += _open_subsets(own, min_cell)
    return pd.concat(parts) if parts else scores


def _open_subsets(scores: pd.DataFrame, min_cell: int) -> list[pd.DataFrame]:
    of_all = scores[(scores["cohort"] == ALL)]
    whole = of_all[of_all["subset"] == ALL]
    if whole.empty:
        return []
    total = _people_of_levels(whole.iloc[0])
    shown = []
    for _, own in of_all[of_all["subset"] != ALL].groupby("subset", sort=False):
        inside = _people_of_levels(own.iloc[0])
        parts = [
            count for level, all_of in total.items() for count in (inside.get(level, 0), all_of - inside.get(level, 0))
        ]
        if own["num_people"].iloc[0] > 0 and not is_small(np.array(parts), min_cell).any():
            shown.append(own)
    return shown


def _people_of_levels(row: pd.Series) -> Mapping[str, int]:
    """People of each level, or of the one group that a continuous target has."""
    return _by_level(row["num_per_level"]) or {"": int(row["num_people"])}


def _suppress_task(scores: pd.DataFrame, min_cell: int) -> pd.DataFrame:
    people = scores.drop_duplicates("cohort").set_index("cohort")
    cohorts = people.drop(index=ALL, errors="ignore")
    gone = cohorts.index[hidden_parts(cohorts["num_people"].to_numpy(dtype=int), min_cell)]
    if ALL in people.index and is_small(np.array([people.loc[ALL, "num_people"]]), min_cell).any():
        return scores.iloc[:0]
    split = {name: _by_level(text) for name, text in cohorts["num_per_level"].items()}
    if not split or not any(split.values()):
        return scores[~scores["cohort"].isin(gone)]
    counts = pd.DataFrame({name: split[name] for name in split if name not in gone}).fillna(0)
    if len(gone):
        counts["gone"] = pd.DataFrame({name: split[name] for name in gone}).fillna(0).sum(axis=1)
    masks = hidden_lines(counts.to_numpy(dtype=int), min_cell)
    in_all, in_cohorts = (set(counts.index[mask]) for mask in masks)
    levels = [
        _text_of_levels(text, in_all if cohort == ALL else in_cohorts, min_cell)
        for cohort, text in zip(scores["cohort"], scores["num_per_level"], strict=True)
    ]
    return scores.assign(num_per_level=levels)[~scores["cohort"].isin(gone)]


def _by_level(text: object) -> Mapping[str, int]:
    if not isinstance(text, str) or "=" not in text:
        return {}
    return {level: int(count) for level, count in (part.rsplit("=", 1) for part in text.split(";"))}


def _text_of_levels(text: object, hidden: set[str], min_cell: int) -> object:
    counts = _by_level(text)
    if not counts:
        return text
    return ";".join(f"{level}={mark(min_cell) if level in hidden else count}" for level, count in counts.items())
