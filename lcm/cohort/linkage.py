"""Who is one person and who is one family: a lab's linkage table, and the columns that relatives share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcm.cohort.phenotype_table import find_table, read_table
from lcm.cohort.source import Source, canonical_cells, read_source, source_names
from lcm.cohort.vocabulary import read_vocabulary
from lcm.tables import LINKAGE, hashed_names, read_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

FACTS = ("sex",)
"""BEIs that cannot differ between two cohorts' rows of one person; a diagnosis, an age or a site can."""


@dataclass(frozen=True)
class Linkage:
    """Person of each cohort's own id, as the linkage table says it."""

    person_of: Mapping[str, str] = field(default_factory=dict)
    """`<cohort>:<key>` → `linked:<person>`, the one id of that person in every cohort."""
    ties: frozenset[tuple[str, str]] = frozenset()
    """`linked:<person>` and the family it belongs to."""

    def unmatched(self, people: Iterable[str]) -> dict[str, int]:
        """Cohort → links whose `<cohort>:<key>` is none of `people`; cohorts without such links are absent."""
        strangers = [own.split(":")[0] for own in set(self.person_of) - set(people)]
        return {cohort: strangers.count(cohort) for cohort in sorted(set(strangers))}


def read_linkage(path: Path, sources: Mapping[str, Source]) -> Linkage:
    """The linkage table: columns cohort, id, person and, optionally, family; `n/a` is no family.

    `sources` are the study's cohorts by name; links of other shipped cohorts may stand in the table. Ids are written in
    any form that the cohort's tables or images have. Raises ValueError for a column that is not there, an unknown cohort,
    an id that does not fit its cohort, and an id that is linked to two people; people are named by hash.
    """
    rows = read_tsv(path, LINKAGE)
    known = {name: read_source(name) for name in source_names()} | dict(sources)
    strange = sorted(set(rows["cohort"]) - set(known))
    if strange:
        raise ValueError(
            f"{path}: column cohort: {', '.join(strange)} ({int(rows['cohort'].isin(strange).sum())} rows) is no cohort; "
            f"known: {', '.join(sorted(known))}"
        )
    keys = [known[cohort].person.normalise(label) for cohort, label in zip(rows["cohort"], rows["id"], strict=True)]
    misfits = rows.loc[[key is None for key in keys]]
    if len(misfits):
        raise ValueError(
            f"{path}: column id: {len(misfits)} ids do not fit the pattern of {', '.join(sorted(set(misfits['cohort'])))} "
            f"(sha256 {hashed_names(misfits['id'])}); write them as the cohort does"
        )
    rows["own"] = rows["cohort"] + ":" + keys
    rows["linked"] = "linked:" + rows["person"]
    several = rows.groupby("own")["linked"].nunique()
    twice = several.index[several > 1]
    if len(twice):
        raise ValueError(
            f"{path}: column person: {len(twice)} ids are linked to several people (sha256 {hashed_names(twice)}); "
            "keep one person for each cohort and id"
        )
    related = rows.dropna(subset=["family"]) if "family" in rows else rows.iloc[:0].assign(family="")
    ties = frozenset(zip(related["linked"], "linkage:" + related["family"], strict=True))
    return Linkage(dict(zip(rows["own"], rows["linked"], strict=True)), ties)


def family_ties(cohort: str, source: Source, folder: Path) -> frozenset[tuple[str, str]]:
    """`<cohort>:<key>` and each thing that the person shares with relatives: a column of `family` and its cell.

    A cell is compared within its column only: a mother's id that equals a father's ties no one. Empty without `family`,
    and where its table or columns are not there.
    """
    if source.family is None:
        return frozenset()
    table = source.tables[source.family.table]
    frame = read_table(find_table(folder, table), table, [table.person], source.family.columns)
    keys = frame[table.person].map(source.person.normalise)
    ties: set[tuple[str, str]] = set()
    for column in source.family.columns:
        cells = canonical_cells(frame[column])
        says = keys.notna() & ~cells.isin({*source.missing, ""})
        ties |= {
            (f"{cohort}:{key}", f"{cohort}:{column}:{cell}") for key, cell in zip(keys[says], cells[says], strict=True)
        }
    return frozenset(ties)


def link_people(bei: pd.DataFrame, linkage: Linkage, ties: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """The BEI table with `person_id` through the linkage and `group_id` through it and the cohorts' family ties.

    People who share a tie, directly or through others (in the study or not), are one group, named `family:` and the
    smallest person_id of the study in it; who has no relative in the study is a group alone, under the own person_id.
    A diagnosis assumed of a person of whom another cohort observed one is taken back. Raises ValueError where one linked
    person is described in contradictory FACTS.
    """
    person_ids = bei["person_id"].map(lambda own: linkage.person_of.get(own, own))
    linked = bei.assign(person_id=person_ids)
    _check_facts(linked[person_ids != bei["person_id"]])
    linked = _without_refuted(linked)
    every_tie = {(linkage.person_of.get(own, own), tie) for own, tie in ties} | linkage.ties
    group_of = _groups(sorted(set(person_ids)), every_tie)
    return linked.assign(group_id=person_ids.map(group_of))


def _check_facts(linked: pd.DataFrame) -> None:
    for fact in FACTS:
        said = linked[linked[f"{fact}_source"] == "observed"].groupby("person_id")[fact].nunique()
        people = said.index[said > 1]
        if len(people):
            raise ValueError(
                f"harmonize.linkage: {len(people)} linked people have several values of {fact} "
                f"(sha256 {hashed_names(people)}); a link is wrong, or a table is"
            )


def _without_refuted(linked: pd.DataFrame) -> pd.DataFrame:
    """Without the assumed diagnoses of people of whom one was observed: a patient here is no assumed control there."""
    linked = linked.copy()
    for name, variable in read_vocabulary().items():
        if variable.group == "diagnosis" and f"{name}_source" in linked:
            source = linked[f"{name}_source"]
            observed = set(linked.loc[source == "observed", "person_id"])
            refuted = (source == "pseudo") & linked["person_id"].isin(observed)
            linked[name] = linked[name].mask(refuted, None)
            linked[f"{name}_source"] = source.mask(refuted, "missing")
    return linked


def _groups(people: list[str], ties: Iterable[tuple[str, str]]) -> dict[str, str]:
    """person_id → group_id of the study's people: connected components of the graph of people and what they share."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = sorted(ties)
    if not edges:
        return {person: person for person in people}
    # A person and a tie of one name are two nodes.
    nodes = {("person", person): place for place, person in enumerate(people)}
    for person, tie in edges:
        nodes.setdefault(("person", person), len(nodes))
        nodes.setdefault(("tie", tie), len(nodes))
    ends_E2 = np.array([(nodes["person", person], nodes["tie", tie]) for person, tie in edges]).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (ends_E2[:, 0], ends_E2[:, 1])), shape=(len(nodes), len(nodes)))
    _, component_N = connected_components(graph, directed=False)
    members: dict[int, list[str]] = {}
    for person, component in zip(people, component_N.tolist(), strict=False):
        members.setdefault(component, []).append(person)
    families = [group for group in members.values() if len(group) > 1]
    if families:
        log.info(
            "%d families of %d people, the largest of %d",
            len(families),
            sum(map(len, families)),
            max(map(len, families)),
        )
    return {
        person: f"family:{min(group)}" if len(group) > 1 else person for group in members.values() for person in group
    }
