"""Whom a bundle had seen of the people it is tested on: each corpus behind its weights against a fold's test people."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from lcm.training.weights import Manifest, hash_people

CLEAN, BY_DESIGN, CONTAMINATED, UNKNOWN = "clean", "by design", "contaminated", "unknown"
"""by design: the tested people chose, under `select: test`. unknown: the weights, or those they began with, were imported."""


class _Corpus(NamedTuple):
    name: str
    people: frozenset[str]
    may_be_tested: bool


def overlap(manifest: Manifest, pretrained: Manifest | None, tested: Collection[str]) -> list[dict[str, Any]]:
    """Rows of the `overlap` table for one fold, without its names: a row a corpus.

    `manifest` is the fold's bundle of finetune, `pretrained` the one it began with, where this study made it; `tested`
    the ids of the people that it is asked about. Corpora: `training`, on whom the weights were fitted; `choice`, who
    chose the epoch, the penalty and the threshold; and both of pretraining, or one where `pretrained` is not given.
    """
    tested_hashes = set(hash_people(tested))
    rows = []
    for corpus in _corpora(manifest, pretrained):
        num_seen = len(corpus.people & tested_hashes)
        status = CLEAN if num_seen == 0 else BY_DESIGN if corpus.may_be_tested else CONTAMINATED
        row = {"corpus": corpus.name, "num_corpus": len(corpus.people), "num_test": len(tested_hashes)}
        rows.append(row | {"num_seen": num_seen, "status": status})
    if manifest.people == "unknown":
        row = {"corpus": "imported weights", "num_corpus": None, "num_test": len(tested_hashes)}
        rows.append(row | {"num_seen": None, "status": UNKNOWN})
    return rows


def num_contaminated(manifest: Manifest, pretrained: Manifest | None, tested: Collection[str]) -> int:
    """How many of the people were seen by a corpus that no one tested may be in."""
    forbidden = [corpus.people for corpus in _corpora(manifest, pretrained) if not corpus.may_be_tested]
    return len(frozenset().union(*forbidden) & set(hash_people(tested)))


def _corpora(manifest: Manifest, pretrained: Manifest | None) -> list[_Corpus]:
    by_test = manifest.select == "test"
    corpora = [
        _Corpus("training", frozenset(manifest.training_people), may_be_tested=False),
        _Corpus("choice", frozenset(manifest.validation_people), may_be_tested=by_test),
    ]
    earlier = frozenset(manifest.pretraining_people)
    if pretrained is None:
        if earlier:
            corpora.append(_Corpus(f"pretraining: {manifest.model.start}", earlier, may_be_tested=False))
        return corpora
    chose = frozenset(pretrained.validation_people)
    # Whom the weights had seen that pretraining itself began with counts as fitted on.
    fitted = frozenset(pretrained.training_people) | frozenset(pretrained.pretraining_people) | (earlier - chose)
    chosen_by_test = by_test and pretrained.select == "test"
    return [
        *corpora,
        _Corpus(f"pretraining: {pretrained.name}", fitted, may_be_tested=False),
        _Corpus(f"pretraining choice: {pretrained.name}", chose, may_be_tested=chosen_by_test),
    ]
