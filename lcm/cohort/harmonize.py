"""Harmonize: turn each cohort's own tables into one BEI table with a row a scan, and count everyone on the way."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic

from lcm.cohort.people import OBSERVED, UNOBSERVED, Flow, People, decode_states, read_people
from lcm.cohort.source import STATE, Source, read_source
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Dataset, Harmonize
from lcm.tables import BEI, COHORT_FLOW, SCANS, read_tsv, write_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `lcm harmonize`."""
    parser.add_argument("--scans", type=Path, required=True, help="results/index/scans.tsv")
    parser.add_argument("--datasets", required=True, help="the `datasets` block of config.yaml, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="folder for bei.tsv and cohort_flow.tsv")


def main(options: argparse.Namespace) -> None:
    """Write bei.tsv and cohort_flow.tsv."""
    try:
        datasets = pydantic.TypeAdapter(dict[str, Dataset]).validate_python(json.loads(options.datasets))
    except (json.JSONDecodeError, pydantic.ValidationError) as error:
        raise ValueError(f"--datasets: {error}") from None
    bei, flow = harmonize(read_tsv(options.scans, SCANS), datasets, options.settings)
    write_tsv(bei, options.output / "bei.tsv", BEI)
    write_tsv(flow, options.output / "cohort_flow.tsv", COHORT_FLOW)


def methods(settings: Harmonize) -> str:
    """What this stage did, in a sentence or two for a paper."""
    pseudo = "; ".join(
        f"{bei} as {level} in {cohort}"
        for cohort, cells in settings.pseudo_labels.items()
        for bei, level in cells.items()
    )
    assumed = f" Where nothing was observed, these were assumed and marked: {pseudo}." if pseudo else ""
    return f"Each cohort's phenotype tables were mapped to one vocabulary; unknown codes were left missing.{assumed}"


def harmonize(
    scans: pd.DataFrame, datasets: Mapping[str, Dataset], settings: Harmonize
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The BEI table (a row a scan, in the order of `scans`) and the cohort flow.

    Datasets that name the same cohort share its people. Raises ValueError for a dataset that is not configured, a
    label or policy that does not exist, and whatever a cohort's tables get wrong (see `read_people`).
    """
    import pandas as pd

    strangers = sorted(set(scans["dataset"]) - set(datasets))
    if strangers:
        raise ValueError(
            f"scans.tsv: dataset {', '.join(strangers)} is not in config.yaml; known: {', '.join(datasets)}"
        )
    _check_settings(settings)
    cohort_of = scans["dataset"].map({name: dataset.cohort for name, dataset in datasets.items()})
    parts, flows = [], []
    for cohort in dict.fromkeys(dataset.cohort for dataset in datasets.values()):
        own = {name: dataset for name, dataset in datasets.items() if dataset.cohort == cohort}
        flow = Flow(cohort)
        parts.append(_harmonize_cohort(scans[cohort_of == cohort], own, settings, flow))
        flows += flow.rows()
    bei = pd.concat(parts).loc[scans.index]
    return bei, pd.DataFrame(flows, columns=list(COHORT_FLOW.columns))


def _check_settings(settings: Harmonize) -> None:
    """Stop for a pseudo label or a policy that would silently do nothing."""
    vocabulary = read_vocabulary()
    for cohort, cells in settings.pseudo_labels.items():
        read_source(cohort)
        for bei, level in cells.items():
            levels = vocabulary[bei].levels if bei in vocabulary else {}
            if level not in levels:
                known = f"levels: {', '.join(levels)}" if levels else "not a categorical BEI of vocabulary.yaml"
                raise ValueError(f"harmonize.pseudo_labels.{cohort}: {bei} = {level}; {bei}: {known}")
    for cohort, policy in settings.policies.items():
        known_policies = sorted({name for column in read_source(cohort).beis.values() for name in column.policies})
        if policy not in known_policies:
            raise ValueError(f"harmonize.policies.{cohort}: {policy}; known: {', '.join(known_policies) or 'none'}")


def _harmonize_cohort(
    scans: pd.DataFrame, datasets: Mapping[str, Dataset], settings: Harmonize, flow: Flow
) -> pd.DataFrame:
    cohort = flow.cohort
    source = read_source(cohort)
    labels = scans["participant_id"]
    keys = labels.map({label: source.person.normalise(label) for label in labels.unique()})
    # A label that does not fit the cohort's pattern still names a person: itself.
    keys = keys.where(keys.notna(), labels.str.removeprefix("sub-").str.lower())
    _warn_of_shared_keys(scans["dataset"], keys, cohort)
    people = _read_all(source, datasets, settings.policies.get(cohort), flow)
    _count_matches(keys, people, flow)
    table = scans[["dataset", "scan", "participant_id", "session_id"]].copy()
    table["cohort"], table["person_id"] = cohort, f"{cohort}:" + keys
    table["site"] = keys.map(people.values["site"]) if people is not None else None
    refused_row = keys.isin(people.excluded) if people is not None else keys.notna() & False
    for bei in read_vocabulary():
        if bei == STATE:
            values, states = decode_states(source, scans["task"], flow)
        elif people is not None and bei in people.values:
            values, states = keys.map(people.values[bei]), keys.map(people.states[bei]).fillna(UNOBSERVED)
        else:
            values, states = keys.map({}).astype("object"), keys.map(lambda _: UNOBSERVED)
        pseudo = settings.pseudo_labels.get(cohort, {}).get(bei)
        table[bei], table[f"{bei}_source"] = _finish(values, states, pseudo, refused_row)
    return table[[*BEI.columns, *read_vocabulary(), *(f"{bei}_source" for bei in read_vocabulary())]]


def _warn_of_shared_keys(datasets: pd.Series, keys: pd.Series, cohort: str) -> None:
    """Say how many people are taken for the same in several datasets: right for one study, wrong for two labs' `sub-01`."""
    num_shared = int((datasets.groupby(keys).nunique() > 1).sum())
    if num_shared:
        log.warning(
            "cohort %s: %d people of %s are taken for the same by their ids; if they are not, give each dataset a cohort "
            "file of its own in lcm/cohort/sources",
            cohort,
            num_shared,
            ", ".join(sorted(datasets.unique())),
        )


def _finish(
    values: pd.Series, states: pd.Series, pseudo: str | None, refused_row: pd.Series
) -> tuple[pd.Series, pd.Series]:
    """Cells as text and their source. A pseudo label fills silence only, never a cell or row that was refused."""
    text = values.map(lambda value: None if value is None or value != value else str(value)).astype("object")
    sources = states.map(lambda state: "observed" if state == OBSERVED else "missing").astype("object")
    if pseudo is not None:
        silent = (states == UNOBSERVED) & ~refused_row
        text, sources = text.mask(silent, pseudo), sources.mask(silent, "pseudo")
    return text, sources


def _read_all(source: Source, datasets: Mapping[str, Dataset], policy: str | None, flow: Flow) -> People | None:
    """The people of every phenotype folder the cohort's datasets name; None where none is named."""
    import pandas as pd

    folders = sorted({dataset.phenotypes for dataset in datasets.values() if dataset.phenotypes is not None})
    read = [read_people(source, Path(folder), policy, flow) for folder in folders]
    if not read:
        return None
    values = pd.concat([people.values for people in read])
    states = pd.concat([people.states for people in read])
    excluded = frozenset().union(*(people.excluded for people in read))
    keep = ~values.index.duplicated(keep="first") & ~values.index.isin(excluded)
    twice = values.index[values.index.duplicated(keep=False)]
    if values.loc[twice].groupby(level=0).nunique(dropna=False).gt(1).to_numpy().any():
        raise ValueError(
            f"cohort {flow.cohort}: {', '.join(folders)} describe some people differently; name one folder"
        )
    return People(values[keep], states[keep], excluded)


def _count_matches(keys: pd.Series, people: People | None, flow: Flow) -> None:
    """Phenotype rows against scans, both ways round; both sums add up."""
    known = set(people.values.index) if people is not None else set()
    excluded = people.excluded if people is not None else frozenset()
    scanned = set(keys)
    matched = keys.isin(known)
    flow.add("people described", "all", len(known), keep_zero=True)
    flow.add("people matched", "all", len(known & scanned), keep_zero=True)
    flow.add("people without a scan", "all", len(known - scanned), keep_zero=True)
    flow.add("scans indexed", "all", len(keys), keep_zero=True)
    flow.add("scans matched", "all", int(matched.sum()), keep_zero=True)
    reason = "no phenotype table configured" if people is None else "no row"
    flow.add("scans without a phenotype row", reason, int((~matched & ~keys.isin(excluded)).sum()), keep_zero=True)
    flow.add("scans without a phenotype row", "row excluded", int(keys.isin(excluded).sum()))
