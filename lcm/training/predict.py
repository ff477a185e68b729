"""Predict: a trained bundle on new scans; answers a row a person and a scan, and where each token looked.

What is written is health data about single people: it stays where the scans may lie, and no log repeats a row of it.
"""

# Shapes: N connectomes, U units (people or scans), K levels of one BEI (1 where it is continuous), R regions.

from __future__ import annotations

import logging
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lcm.array_tables import attention_schema
from lcm.config import Predict
from lcm.glass_brain import centres_of, draw, in_words
from lcm.result_tables import ATTENTION, PEOPLE_ANSWERED, SCANS_ANSWERED, with_answers
from lcm.tables import OK, SCAN_KEY, write_arrow, write_atomically, write_tsv
from lcm.training.data import add_reading_flags
from lcm.training.inference import Answer, Questions, ask, questions_of
from lcm.training.machine import add_place_flags, machine_of
from lcm.training.new_scans import NOT_ASKED, Asked, read_scans
from lcm.training.units import mean_of_units, most_frequent
from lcm.training.weights import Manifest, Unanswerable, load_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

DIGITS = 6
"""Of probabilities and values: more than a spreadsheet shows, and levels still sum to 1."""


def arguments(parser: ArgumentParser) -> None:
    """Flags of the stage."""
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle that answers")
    parser.add_argument("--scans", type=Path, required=True, help="scans.tsv of index")
    add_reading_flags(parser)
    parser.add_argument(
        "--bei",
        type=Path,
        nargs="?",
        help="bei.tsv of harmonize, which knows who is one person; else a person is a participant of a dataset",
    )
    parser.add_argument("--atlas", help="atlas of the figures, a name or path; default: the connectomes' own, by name")
    add_place_flags(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the tables and figures")


def methods(settings: Predict) -> str:
    """One sentence for a paper's methods section."""
    seen = "were not told apart" if "people" in settings.allow else "were left out"
    return (
        "Trained weights answered about further scans; probabilities and values of several connectomes of a person were "
        f"averaged. People whom training had seen {seen}."
    )


def main(options: Namespace) -> None:
    """Write predictions.tsv, scans.tsv, attention.tsv, attention_people.arrow and the figures."""
    settings: Predict = options.settings
    asked = read_scans(
        options.scans,
        options.connectomes,
        recordings=options.recordings,
        bei=options.bei,
        datasets=settings.datasets,
    )
    answers: dict[str, Answer] = {}
    questions: Questions = {}
    caution = None
    try:
        manifest, arrays = load_bundle(options.bundle, asked.cohort, allow=settings.allow)
        questions, caution = questions_of(manifest), _caution(manifest, described=options.bei is not None)
        if "people" not in settings.allow:
            asked = asked.without_seen(manifest)
        if len(asked.cohort.rows):
            answers = ask(manifest, arrays, asked.cohort, attend=True, machine=machine_of(options))
    except Unanswerable as reason:
        # A fold that finetune could not fit stops neither the other bundles nor the report.
        log.warning("nothing answers: %s", reason)
        asked = asked.without_all(f"nothing was fitted, {reason}")
    _say(asked, caution)
    _write_answers(asked, answers, questions, caution, options.output)
    shares = shares_of_people(asked, answers)
    _write_shares(shares, asked, options.output)
    _write_figures(shares, asked, options.atlas or asked.cohort.atlas, options.output / "figures")


def _caution(manifest: Manifest, *, described: bool) -> str | None:
    """What nobody knows about these answers; ValueError where they cannot be given without the BEI table."""
    kept = (manifest.settings.get("combat") or {}).get("covariates", [])
    if kept and not described:
        raise ValueError(
            f"the bundle's ComBat keeps the effect of {', '.join(kept)}, which only a BEI table tells; give --bei"
        )
    unknown = []
    if manifest.people == "unknown" or not described:
        unknown.append("whether training has seen this person is not known")
    if manifest.assumed:
        unknown.append(f"the order of the levels of {', '.join(manifest.assumed)} is assumed")
    return "; ".join(unknown) or None


def _say(asked: Asked, caution: str | None) -> None:
    counts = asked.scans["outcome"].value_counts()
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    people = asked.cohort.rows["person_id"].nunique()
    log.info("%d scans in the index: %s; %d people answered about", len(asked.scans), parts, people)
    if caution:
        log.warning("of every answer: %s", caution)


# ── answers ─────────────────────────────────────────────────────────────────────────────────────


def _write_answers(
    asked: Asked, answers: Mapping[str, Answer], questions: Questions, caution: str | None, output: Path
) -> None:
    """Write the tables of people and of scans; who or what got no answer has a row, and its outcome says why."""
    rows = asked.cohort.rows
    of_people = answers_of_units(answers, rows["person_id"].to_numpy())
    of_scans = answers_of_units(answers, pd.MultiIndex.from_frame(rows[list(SCAN_KEY)]).to_numpy())
    scans = asked.scans.set_index(pd.MultiIndex.from_frame(asked.scans[list(SCAN_KEY)]).to_numpy())
    people = _people(asked.scans)
    tables = {"predictions.tsv": (people, of_people, PEOPLE_ANSWERED), "scans.tsv": (scans, of_scans, SCANS_ANSWERED)}
    for name, (units, found, table) in tables.items():
        known = with_answers(table, questions)
        frame = units.join(found.round(DIGITS)).reindex(columns=list(known.columns))
        write_tsv(frame.fillna({"num_connectomes": 0}).assign(caution=caution), output / name, known)


def _people(scans: pd.DataFrame) -> pd.DataFrame:
    """A row a person asked about: scans with an answer, and `ok` if there is one, else the first scan's outcome."""
    scans = scans[scans["outcome"] != NOT_ASKED].assign(answered=lambda rows: rows["outcome"] == OK)
    by_person = scans.sort_values("answered", ascending=False, kind="stable").groupby("person_id", sort=True)
    people = by_person.agg(num_scans=("answered", "sum"), outcome=("outcome", "first"))
    return people.assign(person_id=people.index)


def answers_of_units(answers: Mapping[str, Answer], unit_N: NDArray[np.object_]) -> pd.DataFrame:
    """Columns of `with_answers` for each unit that the connectomes belong to, and `num_connectomes`.

    A unit's probabilities, or value, are the mean over its connectomes. Its level is the one with the highest mean, its
    layer the one that most of its connectomes read this level's score from (the lowest of several).
    """
    code_N, units = pd.factorize(unit_N)
    columns: dict[str, NDArray] = {"num_connectomes": np.bincount(code_N, minlength=len(units))}
    for name, answer in answers.items():
        scores_UK = mean_of_units(answer.scores_NK, code_N, len(units))
        if not answer.levels:
            columns[name] = scores_UK[:, 0]
            continue
        best_U = scores_UK.argmax(axis=1)
        columns[name] = np.array(answer.levels, dtype=object)[best_U]
        if answer.layers_NK is not None:
            layer_N = answer.layers_NK[np.arange(len(code_N)), best_U[code_N]]
            columns[f"{name}_layer"] = most_frequent(layer_N, code_N, len(units))
        columns |= {f"{name}={level}": scores_UK[:, k] for k, level in enumerate(answer.levels)}
    return pd.DataFrame(columns, index=units)


# ── attention ───────────────────────────────────────────────────────────────────────────────────

Shares = dict[tuple[str, str | None], "NDArray[np.float64]"]
"""(BEI, level; None where it is continuous) → share of each region in the attention for each person, (U, R)."""


def shares_of_people(asked: Asked, answers: Mapping[str, Answer]) -> Shares:
    """Each person's mean over connectomes, people in the order of their first connectome; empty for an estimator."""
    code_N, people = pd.factorize(asked.cohort.rows["person_id"])
    shares: Shares = {}
    for name, answer in answers.items():
        if answer.attention_NKR is not None:
            shares_UKR = mean_of_units(answer.attention_NKR, code_N, len(people))
            shares |= {(name, level): shares_UKR[:, k] for k, level in enumerate(answer.levels or (None,))}
    return shares


def _write_shares(shares: Shares, asked: Asked, output: Path) -> None:
    import pyarrow as pa

    regions, people = asked.cohort.regions, asked.cohort.rows["person_id"].unique()
    parts = [
        pd.DataFrame({"target": name, "level": level, "region": regions, "share": shares_UR.mean(axis=0).round(9)})
        for (name, level), shares_UR in shares.items()
    ]
    columns = pd.DataFrame(columns=list(ATTENTION.columns))
    write_tsv(pd.concat([columns, *parts]).assign(num_people=len(people)), output / "attention.tsv", ATTENTION)
    schema = attention_schema(regions, asked.cohort.atlas)
    batches = [
        pa.record_batch(
            [list(people), [name] * len(people), [level] * len(people), list(shares_UR.astype(np.float32))],
            schema=schema,
        )
        for (name, level), shares_UR in shares.items()
    ]
    write_arrow(pa.Table.from_batches(batches, schema), output / "attention_people.arrow")


def _write_figures(shares: Shares, asked: Asked, atlas: str, folder: Path) -> None:
    """A glass brain a token, and beside it the same in words; none where nobody knows where the regions are."""
    from lcm.models.token_network import token_names

    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*folder.glob("attention_*.png"), *folder.glob("attention_*.txt")):
        stale.unlink()
    if not shares:
        return
    regions = asked.cohort.regions
    try:
        centres_R3 = centres_of(atlas, regions)
    except ValueError as error:
        log.warning("no figure: %s", error)
        return
    for (name, level), shares_UR in shares.items():
        (token,) = token_names(name, () if level is None else (level,))
        title, mean_R = f"{token}, mean of {len(shares_UR)} people", shares_UR.mean(axis=0)
        path = folder / f"attention_{re.sub(r'[^A-Za-z0-9._-]', '-', token)}.png"
        draw(mean_R, centres_R3, title, path)
        with write_atomically(path.with_suffix(".txt")) as temporary:
            temporary.write_text(in_words(mean_R, regions, title) + "\n", encoding="utf-8")
