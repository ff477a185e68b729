"""What the tokens of the LCM authors' heads mean: sex and age for certain, the published classes by assumption, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

from lcm.tables import MISSING

Vocabulary = dict[str, tuple[str, ...]]
"""BEI → levels, in the order of the tokens; a continuous BEI has none."""

LAST: Vocabulary = {"sex": ("female", "male"), "age": ()}
"""The last three tokens of every head: their program puts sex and age behind the class groups."""

PUBLISHED: Vocabulary = {
    "parkinsons": (MISSING, "control", "parkinsons", "prodromal", "swedd"),
    "autism": (MISSING, "control", "autism"),
    "alzheimers": (MISSING, "control", "alzheimers"),
    "cognitive_state_hcpa": (MISSING, "rest", "vismotor", "carit", "facename"),
    "cognitive_state_hcpya": (MISSING, "emotion", "gambling", "language", "motor", "relational", "social", "wm"),
}
"""The 24 class tokens of the pretraining on PPMI, ABIDE, ADNI, HCPA and HCPYA, N/A first in each group.

The sizes of the groups are known. Their order, and that of the levels in each, is assumed: no file of theirs names them.
"""


class TokenMeaning(NamedTuple):
    """`assumed` holds BEIs of the vocabulary whose place and order of levels nobody has confirmed."""

    tokens: tuple[str, ...]
    vocabulary: Vocabulary
    assumed: tuple[str, ...]


def token_meaning(num_tokens: int, path: Path | None) -> TokenMeaning:
    """Names of a head's tokens in their order, by the user's file where there is one.

    Class tokens that nobody has named belong to no BEI, so that nothing is ever asked of them. Raises ValueError where
    a file names another number of tokens than the head has.
    """
    num_classes = num_tokens - len(_spelt(LAST))
    if path is not None:
        vocabulary, nameless = read_vocabulary_file(path), 0
    elif num_classes == len(_spelt(PUBLISHED)):
        vocabulary, nameless = PUBLISHED | LAST, 0
    else:
        vocabulary, nameless = dict(LAST), num_classes
    tokens = (*(f"class={place}" for place in range(nameless)), *_spelt(vocabulary))
    if len(tokens) != num_tokens:
        raise ValueError(f"{path or '--head'}: {len(tokens)} tokens are named, the head has {num_tokens}")
    assumed = () if path else tuple(name for name, levels in vocabulary.items() if levels)
    return TokenMeaning(tokens, vocabulary, assumed)


def read_vocabulary_file(path: Path) -> Vocabulary:
    """BEI → levels of a YAML or JSON file, in its order; ValueError unless each BEI has a list of distinct words."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: neither YAML nor JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: needs a BEI a line, e.g. `sex: [female, male]` or `age: []`")
    for name, levels in content.items():
        # YAML reads a bare `yes` or `1` as no word.
        words = isinstance(levels, list) and all(isinstance(level, str) for level in levels)
        if not isinstance(name, str) or not words or len(set(levels)) != len(levels) or len(levels) == 1:
            raise ValueError(
                f"{path}: {name} needs two or more different words in [ ], quoted where they are none, or []"
            )
    return {name: tuple(levels) for name, levels in content.items()}


def _spelt(vocabulary: Vocabulary) -> list[str]:
    from lcm.models.token_network import token_names

    return [token for name, levels in vocabulary.items() for token in token_names(name, levels)]
