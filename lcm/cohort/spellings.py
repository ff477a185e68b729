"""Common spellings of column names and codes: guesses of what a column of an unknown table holds, for a person to check."""

from __future__ import annotations

import re

from lcm.cohort.vocabulary import read_vocabulary

DIAGNOSIS = "diagnosis"
"""What `guess_column` answers for a column of groups or diagnoses; which disease it is about, its codes tell."""

_COLUMNS: dict[str, tuple[str, ...]] = {
    "age": ("age", "age years", "age in years", "age at scan", "age at mri", "age at session", "scan age", "interview age"),
    "sex": ("sex", "gender", "biological sex", "sex at birth"),
    "handedness": ("handedness", "hand", "handed", "dominant hand", "handedness category"),
    "education": ("education", "education years", "years of education", "edu years", "years education", "educ"),
    "iq": ("iq", "fiq", "fsiq", "full scale iq", "full scale intelligence quotient"),
    "site": ("site", "site id", "scan site", "study site", "center", "centre", "institution"),
    "scanner": ("scanner", "scanner id", "scanner model", "scanner serial number", "manufacturers model name"),
    DIAGNOSIS: (
        "diagnosis", "dx", "group", "dx group", "diagnostic group", "diagnosis group", "patient group", "subject type",
        "cohort", "status", "clinical status", "disease",
    ),
}  # fmt: skip

_CONTROL = (
    r"controls?|ctrls?|ctl|hc|nc|cn|td|tdc|healthy|neurotypical|typically developing|typical development"
    r"|cognitively (?:normal|unimpaired)"
)
_LEVELS: dict[str, dict[str, str]] = {
    "sex": {"female": r"f|females?|wom[ae]n|girls?", "male": r"m|males?|m[ae]n|boys?"},
    "handedness": {
        "right": r"r|right|right handed|righthanded|dextral",
        "left": r"l|left|left handed|lefthanded|sinistral",
        "ambidextrous": r"a|ambi|ambidextrous|mixed|mixed handed|both",
    },
    "autism": {"control": _CONTROL, "autism": r"asd|autis(?:m|tic)|asperger(?:s|'s)?"},
    "alzheimers": {
        "control": _CONTROL,
        "mci": r"[el]?mci|mild cognitive impairment",
        "alzheimers": r"ad|alzheimer(?:s|'s)?",
    },
    "parkinsons": {"control": _CONTROL, "parkinsons": r"pd|parkinson(?:s|'s)?", "swedd": r"swedd"},
    "schizophrenia": {"control": _CONTROL, "schizophrenia": r"scz|sz|schz|schizophreni(?:a|cs?)"},
}
"""BEI → level → what names it, as whole words."""

_HEALTHY = "ncit:C94342"
"""The healthy control of every disease, also where a cohort's policy calls others controls too (Alzheimer's)."""

_DOUBT = re.compile(
    r"\b(no|non|not|without|never|siblings?|relatives?|famil\w*|parents?|offspring|first degree|risk|former|remi\w+|possible|"
    r"probable|suspected|prodrom\w*|schizoaffective|comorbid\w*)\b"
)
"""Words beside which a keyword does not mean what it says: a control's sibling, no autism, probable Alzheimer's."""


def words(text: object) -> str:
    """Lower case, words apart by one space: `Full-Scale_IQ ` → `full scale iq`, `AgeAtScan` → `age at scan`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(text))
    return " ".join(re.findall(r"[a-z0-9']+", spaced.lower()))


def guess_column(*names: str, term: str = "") -> str | None:
    """The BEI (or DIAGNOSIS) that a column holds, by the URL of its concept, else by its name or a longer name of it."""
    for bei, variable in read_vocabulary().items():
        if _same_concept(variable.term, term) and variable.origin == "table":
            return DIAGNOSIS if variable.group == "diagnosis" else bei
    for name in names:
        for bei, spellings in _COLUMNS.items():
            if words(name) in spellings or words(name).replace(" ", "") in {s.replace(" ", "") for s in spellings}:
                return bei
    return None


def _same_concept(ours: str | None, theirs: str) -> bool:
    """Whether two URLs or CURIEs (`snomed:248152002`) end in the same number; an empty one is no concept."""
    return ours is not None and re.split(r"[/#:]", ours)[-1] == re.split(r"[/#:]", theirs.strip())[-1]


def guess_level(bei: str, text: str, term: str = "") -> str | None:
    """The level that a code, or what a data dictionary says of it, names; None where that is not beyond doubt."""
    for name, level in read_vocabulary()[bei].levels.items():
        if _same_concept(level.term, term):
            return name
    said = words(text)
    if "control" in _LEVELS[bei] and (_same_concept(_HEALTHY, term) or said == "no known disorder"):
        return "control"
    hits = [name for name, pattern in _LEVELS[bei].items() if re.search(rf"\b(?:{pattern})\b", said)]
    return hits[0] if len(hits) == 1 and not _DOUBT.search(said) else None


def guess_diseases(texts: dict[str, str], terms: dict[str, str]) -> dict[str, dict[str, str | None]]:
    """BEI → code → level for the diseases that a column of diagnoses names (`texts` and `terms`: of each code).

    A code of two diseases is of neither, and a control counts for each disease that the column names.
    """
    beis = [bei for bei, variable in read_vocabulary().items() if variable.group == "diagnosis"]
    guessed = {bei: {code: guess_level(bei, text, terms[code]) for code, text in texts.items()} for bei in beis}
    for code in texts:
        sick = [bei for bei in beis if guessed[bei][code] not in (None, "control")]
        # `ASD control` is a control to all but the autism's rule, which sees two levels.
        if len(sick) > 1 or (not sick and len({guessed[bei][code] for bei in beis}) > 1):
            guessed |= {bei: guessed[bei] | {code: None} for bei in beis}
        elif sick:
            guessed |= {bei: guessed[bei] | {code: None} for bei in beis if bei != sick[0]}
    return {bei: levels for bei, levels in guessed.items() if set(levels.values()) - {None, "control"}}
