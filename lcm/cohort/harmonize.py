"""Harmonize: turn each cohort's own tables into one BEI table with a row a scan, and count everyone on the way."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydantic
import yaml

from lcm.cohort.check import check_tables, tell
from lcm.cohort.decode import OBSERVED, UNOBSERVED, decode_states, pick
from lcm.cohort.events import read_events
from lcm.cohort.flow import Flow
from lcm.cohort.labels import count_labels, data_dictionary
from lcm.cohort.linkage import Linkage, family_ties, link_people, read_linkage
from lcm.cohort.people import People, read_people
from lcm.cohort.source import STATE, Source, read_source
from lcm.cohort.suggest import suggest
from lcm.cohort.visits import session_label
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Dataset, Harmonize, read_study
from lcm.tables import BEI, COHORT_FLOW, LABELS, SCANS, read_tsv, write_atomically, write_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `lcm harmonize`."""
    parser.add_argument("--scans", type=Path, help="results/index/scans.tsv")
    parser.add_argument("--datasets", default="{}", help="the `datasets` block of config.yaml, as JSON")
    parser.add_argument(
        "--output", type=Path, help="folder for bei.tsv and what describes it; with --check a TSV of what was found"
    )
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument(
        "--check",
        nargs="?",
        const="",
        metavar="CONFIG",
        help="only read the phenotype tables of this config.yaml (else of --datasets) and tell what is wrong; needs no scans",
    )
    alone.add_argument(
        "--suggest", type=Path, metavar="BIDS", help="only print a draft of a cohort's file for this BIDS dataset"
    )


def main(options: argparse.Namespace) -> int | None:
    """Write bei.tsv, what describes it and what of it may be shared; --check and --suggest print, and leave no record."""
    if options.suggest is not None:
        sys.stdout.write(suggest(options.suggest))
        return 0
    if options.check:
        study = read_study(yaml.safe_load(Path(options.check).read_text(encoding="utf-8")))
        return _check(study.datasets, study.harmonize, options.output)
    datasets = _datasets(options.datasets)
    if options.check is not None:
        return _check(datasets, options.settings, options.output)
    if options.scans is None or options.output is None:
        raise ValueError("--scans and --output are needed, or --check or --suggest alone")
    bei, flow = harmonize(read_tsv(options.scans, SCANS), datasets, options.settings)
    write_tsv(bei, options.output / "bei.tsv", BEI)
    write_tsv(shareable(bei, sources_of(datasets)), options.output / "shareable.tsv", BEI)
    write_tsv(flow, options.output / "cohort_flow.tsv", COHORT_FLOW)
    write_tsv(count_labels(bei), options.output / "labels.tsv", LABELS)
    with write_atomically(options.output / "bei.json") as path:
        path.write_text(json.dumps(data_dictionary(), indent=2) + "\n", encoding="utf-8")
    return None


def _check(datasets: Mapping[str, Dataset], settings: Harmonize, output: Path | None) -> int:
    if not any(dataset.phenotypes for dataset in datasets.values()):
        log.warning("no dataset names a folder of phenotypes: there is nothing to check")
    check_settings(settings, sources_of(datasets))
    return tell(check_tables(datasets, settings), output)


def _datasets(text: str) -> dict[str, Dataset]:
    try:
        return pydantic.TypeAdapter(dict[str, Dataset]).validate_python(json.loads(text))
    except (json.JSONDecodeError, pydantic.ValidationError) as error:
        raise ValueError(f"--datasets: {error}") from None


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
    sources = sources_of(datasets)
    check_settings(settings, sources)
    cohort_of = scans["dataset"].map({name: dataset.cohort_name for name, dataset in datasets.items()})
    parts, flows = [], {cohort: Flow(cohort) for cohort in sources}
    for cohort, source in sources.items():
        own = {name: dataset for name, dataset in datasets.items() if dataset.cohort_name == cohort}
        parts.append(_harmonize_cohort(scans[cohort_of == cohort], source, own, settings, flows[cohort]))
    bei = _linked(pd.concat(parts).loc[scans.index], sources, datasets, settings, flows)
    rows = [row for flow in flows.values() for row in flow.rows()]
    return bei, pd.DataFrame(rows, columns=list(COHORT_FLOW.columns))


def _linked(
    bei: pd.DataFrame,
    sources: Mapping[str, Source],
    datasets: Mapping[str, Dataset],
    settings: Harmonize,
    flows: Mapping[str, Flow],
) -> pd.DataFrame:
    """The table with people joined by the linkage table and grouped by families; counts links that were used and not."""
    linkage = read_linkage(Path(settings.linkage), sources) if settings.linkage else Linkage()
    unmatched = linkage.unmatched(bei["person_id"])
    for cohort, flow in flows.items():
        own = bei.loc[bei["cohort"] == cohort, "person_id"]
        flow.add("people linked", "all", own[own.isin(linkage.person_of)].nunique())
        flow.add("links without a person", "all", unmatched.get(cohort, 0))
    folders = {(dataset.cohort_name, dataset.phenotypes) for dataset in datasets.values() if dataset.phenotypes}
    ties = [tie for cohort, folder in folders for tie in family_ties(cohort, sources[cohort], Path(folder))]
    return link_people(bei, linkage, ties)


def shareable(bei: pd.DataFrame, sources: Mapping[str, Source]) -> pd.DataFrame:
    """The rows that may be handed on: of people all of whose cohorts' terms let rows leave the lab."""
    withheld = bei["cohort"].isin([cohort for cohort, source in sources.items() if not source.rows_may_be_exported])
    # A linked person's row would say that they are in the other cohort too.
    shared = bei[~bei["group_id"].isin(bei.loc[withheld, "group_id"])]
    log.info("shareable.tsv: %d of %d rows; the terms of use withhold the others", len(shared), len(bei))
    return shared


def sources_of(datasets: Mapping[str, Dataset]) -> dict[str, Source]:
    """Source of each cohort of the study by its name. Raises ValueError where two files go by one name."""
    files: dict[str, str] = {}
    for name, dataset in datasets.items():
        if files.setdefault(dataset.cohort_name, dataset.cohort) != dataset.cohort:
            raise ValueError(
                f"datasets.{name}: cohort {dataset.cohort} and {files[dataset.cohort_name]} are two files of one name; "
                "rename one"
            )
    return {cohort: read_source(file) for cohort, file in files.items()}


def check_settings(settings: Harmonize, sources: Mapping[str, Source]) -> None:
    """Stop for a pseudo label or a policy that would silently do nothing, and for a pseudo label that no one may assume."""
    vocabulary = read_vocabulary()
    for cohort, cells in settings.pseudo_labels.items():
        _source_of(cohort, sources)
        for bei, level in cells.items():
            levels = vocabulary[bei].levels if bei in vocabulary else {}
            if level not in levels:
                known = f"levels: {', '.join(levels)}" if levels else "not a categorical BEI of vocabulary.yaml"
                raise ValueError(f"harmonize.pseudo_labels.{cohort}: {bei} = {level}; {bei}: {known}")
            if vocabulary[bei].role != "target":
                raise ValueError(f"harmonize.pseudo_labels.{cohort}: {bei} is a covariate, which is never assumed")
    for cohort, policy in settings.policies.items():
        known_policies = sorted(_source_of(cohort, sources).policies)
        if policy not in known_policies:
            raise ValueError(f"harmonize.policies.{cohort}: {policy}; known: {', '.join(known_policies) or 'none'}")


def _source_of(cohort: str, sources: Mapping[str, Source]) -> Source:
    """A cohort of the study, or one of lcm/cohort/sources: settings may speak of cohorts that this study leaves out."""
    return sources[cohort] if cohort in sources else read_source(cohort)


def _harmonize_cohort(
    scans: pd.DataFrame, source: Source, datasets: Mapping[str, Dataset], settings: Harmonize, flow: Flow
) -> pd.DataFrame:
    cohort = flow.cohort
    keys = _keys(scans, source, flow)
    sessions = scans["session_id"].map(session_label)
    people = _read_all(source, datasets, zip(keys, sessions, strict=True), settings, flow)
    _count_matches(keys, people, flow)
    table = scans[["dataset", "scan", "participant_id", "session_id"]].copy()
    table["cohort"], table["person_id"], table["group_id"] = cohort, f"{cohort}:" + keys, f"{cohort}:" + keys
    excluded = keys.isin(people.excluded if people is not None else frozenset())
    names = list(read_vocabulary())
    place_N = _places(keys, sessions, people)
    for bei in names:
        if bei == STATE:
            values, states = read_events(source, scans["bold"], *decode_states(source, scans["task"], flow), flow)
        else:
            values, states = _cells(bei, place_N, scans.index, people)
        pseudo = settings.pseudo_labels.get(cohort, {}).get(bei)
        table[bei], table[f"{bei}_source"] = _finish(values, states, pseudo, excluded)
    return table[[*BEI.columns, *names, *(f"{bei}_source" for bei in names)]]


def _keys(scans: pd.DataFrame, source: Source, flow: Flow) -> pd.Series:
    """Person's key of each scan; counts and warns where several labels, or several datasets, name one person."""
    labels = scans["participant_id"]
    keys = labels.map({label: source.person.normalise(label) for label in labels.unique()}).astype("object")
    # A label that does not fit the cohort's pattern still names a person: itself.
    keys = keys.where(keys.notna(), labels.str.removeprefix("sub-").str.lower())
    _warn_of_shared_keys(scans["dataset"], keys, flow.cohort)
    several = int((labels.groupby([scans["dataset"], keys]).nunique() > 1).sum())
    flow.add("several labels of one person", "all", several)
    if several:
        log.warning(
            "cohort %s: %d people go by several labels within one dataset; if they are several people, change `person` "
            "in the cohort's file",
            flow.cohort,
            several,
        )
    return keys


def _cells(bei: str, place_N: np.ndarray, index: pd.Index, people: People | None) -> tuple[pd.Series, pd.Series]:
    """What the tables say of each scan, by its place in `people`; silence for a person they do not describe."""
    import pandas as pd

    if people is None or bei not in people.values:
        return pd.Series(None, index=index, dtype="object"), pd.Series(UNOBSERVED, index=index)
    values_N, states_N = pick(people.values[bei], place_N, None), pick(people.states[bei], place_N, UNOBSERVED)
    return pd.Series(values_N, index=index, dtype="object"), pd.Series(states_N, index=index, dtype="object")


def _places(keys: pd.Series, sessions: pd.Series, people: People | None) -> np.ndarray:
    """Place of each scan's person and session in `people`, −1 where the tables do not describe the person."""
    import pandas as pd

    if people is None:
        return np.full(len(keys), -1)
    return people.values.index.get_indexer(pd.MultiIndex.from_arrays([keys, sessions]))


def _warn_of_shared_keys(datasets: pd.Series, keys: pd.Series, cohort: str) -> None:
    """Say how many people are taken for the same in several datasets: right for one study, wrong for two labs' `sub-01`."""
    num_shared = int((datasets.groupby(keys).nunique() > 1).sum())
    if num_shared:
        log.warning(
            "cohort %s: %d people of %s are taken for the same by their ids; if they are not, give each dataset a cohort "
            "file of its own",
            cohort,
            num_shared,
            ", ".join(sorted(datasets.unique())),
        )


def _finish(
    values: pd.Series, states: pd.Series, pseudo: str | None, refused_row: pd.Series
) -> tuple[pd.Series, pd.Series]:
    """Cells as text and their source. A pseudo label fills silence only, never a cell or row that was refused."""
    text = values.map({value: str(value) for value in values.dropna().unique()}).astype("object")
    sources = states.map({state: "observed" if state == OBSERVED else "missing" for state in states.unique()})
    if pseudo is not None:
        silent = (states == UNOBSERVED) & ~refused_row
        text, sources = text.mask(silent, pseudo), sources.mask(silent, "pseudo")
    return text, sources


def _read_all(
    source: Source,
    datasets: Mapping[str, Dataset],
    sessions: Iterable[tuple[str, str]],
    settings: Harmonize,
    flow: Flow,
) -> People | None:
    """The people of every phenotype folder the cohort's datasets name; None where none is named."""
    import pandas as pd

    folders = sorted({dataset.phenotypes for dataset in datasets.values() if dataset.phenotypes is not None})
    asked, policy = set(sessions), settings.policies.get(flow.cohort)
    read = [
        read_people(source, Path(folder), policy, flow, asked, max_refused_share=settings.max_refused_share)
        for folder in folders
    ]
    if len(read) < 2:
        return read[0] if read else None
    values = pd.concat([people.values for people in read])
    states = pd.concat([people.states for people in read])
    excluded = frozenset[str]().union(*(people.excluded for people in read))
    keep = ~values.index.duplicated(keep="first") & ~values.index.get_level_values("key").isin(excluded)
    twice = values[values.index.duplicated(keep=False)]
    if twice.groupby(level=["key", "session"]).nunique(dropna=False).gt(1).to_numpy().any():
        raise ValueError(
            f"cohort {flow.cohort}: {', '.join(folders)} describe some people differently; name one folder"
        )
    return People(values[keep], states[keep], excluded)


def _count_matches(keys: pd.Series, people: People | None, flow: Flow) -> None:
    """Phenotype rows against scans, both ways round; both sums add up."""
    known = people.keys if people is not None else frozenset()
    excluded = people.excluded if people is not None else frozenset()
    scanned = set(keys)
    matched = keys.isin(known)
    if people is not None and len(keys) and not matched.any():
        log.warning(
            "cohort %s: not one of %d scans finds a row in the phenotype tables; these are of other people, or write ids "
            "otherwise",
            flow.cohort,
            len(keys),
        )
    flow.add("people described", "all", len(known), keep_zero=True)
    flow.add("people matched", "all", len(known & scanned), keep_zero=True)
    flow.add("people without a scan", "all", len(known - scanned), keep_zero=True)
    flow.add("scans indexed", "all", len(keys), keep_zero=True)
    flow.add("scans matched", "all", int(matched.sum()), keep_zero=True)
    reason = "no phenotype table configured" if people is None else "no row"
    flow.add("scans without a phenotype row", reason, int((~matched & ~keys.isin(excluded)).sum()), keep_zero=True)
    flow.add("scans without a phenotype row", "row excluded", int(keys.isin(excluded).sum()))
