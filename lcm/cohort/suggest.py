"""The wizard behind `lcm harmonize --suggest`: draft a cohort's YAML from a BIDS dataset's tables and data dictionaries."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lcm.bids import entities
from lcm.cohort.source import STATE, canonical
from lcm.cohort.spellings import DIAGNOSIS, guess_column, guess_diseases, guess_level, words
from lcm.cohort.vocabulary import read_vocabulary

MISSING = ("", "n/a", "na", "nan")
"""Cells that say nothing in any BIDS table; `SENTINELS` are added where a column that is read holds them."""

SENTINELS = ("-9999", "-999", "-99", "9999", "999", "unknown", "not available", "missing", ".")

_MOST_CODES = 20
"""A column with more different cells holds no codes."""

_SMALL = 5
"""A smaller count of cells is not printed."""

_FIXED = ("sex", "handedness")
"""BEIs that are the same at every visit."""

_YEARS = {"", "y", "yr", "yrs", "year", "years"}
_MONTHS = {"mo", "month", "months"}


@dataclass(frozen=True)
class Found:
    """A table of the dataset, read as text."""

    name: str
    lines: tuple[str, ...]
    """Its entry under `tables`, without the indent."""
    file: str
    cells: dict[str, list[str]]
    """Column → cells, stripped; the key columns are not among them."""
    described: Mapping[str, object]
    """The JSON beside it: column → LongName, Description, Levels, Units, TermURL."""

    @property
    def has_visits(self) -> bool:
        """Whether it has a row a visit."""
        return any(line.startswith("visit:") for line in self.lines)

    def about(self, column: str, key: str) -> str:
        """What the JSON says of a column under a key, as text; empty where it says nothing."""
        entry = self.described.get(column)
        return str(entry.get(key, "")) if isinstance(entry, dict) else ""


@dataclass
class Draft:
    """What has been found out so far."""

    beis: dict[str, list[list[str]]] = field(default_factory=dict)
    """BEI → the lines of each of its columns."""
    sentinels: set[str] = field(default_factory=set)
    unplaced: list[str] = field(default_factory=list)


def suggest(folder: Path) -> str:
    """A draft of a cohort's file for the BIDS dataset in `folder`; it loads as it is and says in comments what to check.

    Codes are printed with how often they occur (fewer than five as `<5`), people never. Raises ValueError for a folder
    without a table.
    """
    tables = list(_tables(folder))
    if not tables:
        raise ValueError(
            f"{folder}: no participants.tsv, sessions.tsv or phenotype/*.tsv with rows and participant_id; name the BIDS folder"
        )
    draft = Draft()
    for table in tables:
        for column in table.cells:
            _place(table, column, draft)
    return _yaml(folder, tables, draft)


def _tables(folder: Path) -> Iterator[Found]:
    """The dataset's tables with a participant_id, those of sessions first: a session's age beats a person's."""
    each = sorted(folder.glob("sub-*/sub-*_sessions.tsv"))
    if each:
        files = 'file: "sub-*/sub-*_sessions.tsv"', r"many: '^(sub-[0-9A-Za-z+]+)_sessions\.tsv$'"
        yield _found("sessions_of_each", files, each, folder / "sessions.json")
    for path in (folder / "sessions.tsv", folder / "participants.tsv", *sorted(folder.glob("phenotype/*.tsv"))):
        if path.is_file() and any("participant_id" in row for row in _rows(path)[:1]):
            name = "_".join(words(path.relative_to(folder).with_suffix("")).split())
            yield _found(name, (f"file: {_quoted(str(path.relative_to(folder)))}",), [path], path.with_suffix(".json"))


def _found(name: str, files: tuple[str, ...], paths: list[Path], dictionary: Path) -> Found:
    rows = [row for path in paths for row in _rows(path)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = {column: [row.get(column, "") for row in rows] for column in columns}
    lines = [*files, r'separator: "\t"', "person: participant_id"]
    if "session_id" in cells:
        order = _frequent([cell.removeprefix("ses-") for cell in cells["session_id"]])
        listed = ", ".join(_quoted(code) for code in order)
        lines.append(f"visit: {{column: session_id{f', order: [{listed}]' if order else ''}}}")
    elif len(set(cells.get("participant_id", []))) < len(rows):
        lines.append("# Some people have several rows, and no session_id tells them apart: keep one row a person.")
    described = _json(dictionary)
    values = {column: cells[column] for column in columns if column not in ("participant_id", "session_id")}
    return Found(name, tuple(lines), files[0].removeprefix("file: ").strip('"'), values, described)


def _rows(path: Path) -> list[dict[str, str]]:
    text = path.read_bytes().decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    reader = csv.DictReader(io.StringIO(text), delimiter="\t", restval="")
    return [{str(name).strip(): str(cell).strip() for name, cell in row.items() if name} for row in reader]


def _json(path: Path) -> dict[str, object]:
    """Content of a JSON file, empty where there is none. Raises ValueError for a file that is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: no JSON object; a data dictionary is one")
    return content


def _frequent(cells: list[str]) -> list[str]:
    """Session labels in natural order; none where they are so many or so rare that they may name people."""
    counts = Counter(canonical(cell) for cell in cells)
    if len(counts) > _MOST_CODES or min(counts.values(), default=0) < _SMALL:
        return []
    return sorted(
        counts, key=lambda code: [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", code)]
    )


def _may_name_people(codes: Collection[str], cells: list[str]) -> bool:
    """Whether cells are too various to be codes: names, scores or remarks, of which none may be printed."""
    return len(codes) > _MOST_CODES or (len(codes) > _SMALL and 2 * len(codes) > len(cells))


def _place(table: Found, column: str, draft: Draft) -> None:
    """Give a column its place in the draft, or say why it has none."""
    bei = guess_column(column, table.about(column, "LongName"), term=table.about(column, "TermURL"))
    where = f"{table.file}: {_flat(column)}"
    if bei is None:
        draft.unplaced.append(where)
    elif {canonical(cell) for cell in table.cells[column]} <= {*MISSING, *SENTINELS}:
        draft.unplaced.append(f"{where} (looks like {bei}, but is blank throughout)")
    elif bei == DIAGNOSIS:
        _place_diagnosis(table, column, draft)
    elif bei in draft.beis and bei != "age":
        draft.unplaced.append(f"{where} (looks like {bei} too; list it under {bei} if it says more)")
    else:
        kind = read_vocabulary()[bei].kind
        lines = _head(table, column)
        if kind == "continuous":
            problem = _numbers(table, column, bei, lines)
        else:
            problem = "" if kind == "label" else _codes(table, column, {bei: _guesses(table, column, bei)}, [lines])
        if problem:
            draft.unplaced.append(f"{where} (looks like {bei}, but {problem})")
            return
        if bei in _FIXED and table.has_visits:
            lines.append("fixed: true")
        draft.beis.setdefault(bei, []).append(lines)
        draft.sentinels |= _sentinels(table.cells[column])


def _place_diagnosis(table: Found, column: str, draft: Draft) -> None:
    texts, terms = _dictionary(table, column)
    where = f"{table.file}: {_flat(column)}"
    if _may_name_people(texts, table.cells[column]):
        draft.unplaced.append(f"{where} (looks like a diagnosis, but has {len(texts)} different cells)")
        return
    diseases = {bei: levels for bei, levels in guess_diseases(texts, terms).items() if bei not in draft.beis}
    if not diseases:
        draft.unplaced.append(f"{where} (looks like a group, but names no further disease of vocabulary.yaml)")
        return
    lines = {bei: _head(table, column) for bei in diseases}
    _codes(table, column, diseases, list(lines.values()))
    for bei, entry in lines.items():
        draft.beis[bei] = [entry]
    draft.sentinels |= _sentinels(table.cells[column])


def _head(table: Found, column: str) -> list[str]:
    return [f"table: {table.name}", f"column: {_quoted(column)}", "optional: true"]


def _numbers(table: Found, column: str, bei: str, lines: list[str]) -> str:
    """Add unit and open ends to the lines of a continuous column; answers with what forbids to read it."""
    said = [cell for cell in table.cells[column] if canonical(cell) not in {*MISSING, *SENTINELS}]
    ends = sorted({cell for cell in said if re.fullmatch(r"\d+\s*\+", cell)})
    numbers = [cell for cell in said if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", cell)]
    if len(numbers) + len([cell for cell in said if cell in ends]) < len(said) / 2:
        return "most of its cells are no numbers"
    unit = table.about(column, "Units").strip().lower()
    years = read_vocabulary()[bei].unit == "years"
    if years and unit not in _YEARS | _MONTHS:
        return f"its unit is {_flat(unit)}"
    lines.append(f"unit: {'months' if unit in _MONTHS and years else read_vocabulary()[bei].unit}")
    if ends:
        # An open end is read as its lower bound, in the vocabulary's unit.
        per = 12 if unit in _MONTHS else 1
        bounds = ", ".join(f"{_quoted(end)}: {float(end.rstrip('+ ')) / per:g}" for end in ends[:_MOST_CODES])
        lines.append(f"values: {{{bounds}}}  # open ends, read as lower bounds")
    return ""


def _dictionary(table: Found, column: str) -> tuple[dict[str, str], dict[str, str]]:
    """Of each code in the cells, what the data dictionary says of it (or else the code itself), and its term."""
    entry = table.described.get(column)
    levels = entry.get("Levels", {}) if isinstance(entry, dict) else {}
    said = {canonical(code): text for code, text in levels.items()} if isinstance(levels, dict) else {}
    silent = {*MISSING, *SENTINELS}
    codes = sorted({canonical(cell) for cell in table.cells[column]} - silent)
    texts, terms = {}, {}
    for code in codes:
        about = said.get(code, code)
        if isinstance(about, dict):
            terms[code] = str(about.get("TermURL", ""))
            about = about.get("Label") or about.get("Description") or code
        texts[code], terms[code] = str(about), terms.get(code, "")
    return texts, terms


def _guesses(table: Found, column: str, bei: str) -> dict[str, str | None]:
    texts, terms = _dictionary(table, column)
    return {code: guess_level(bei, text, terms[code]) for code, text in texts.items()}


def _codes(table: Found, column: str, guessed: Mapping[str, Mapping[str, str | None]], entries: list[list[str]]) -> str:
    """Add the levels of a categorical column to its lines; answers with what forbids to read it."""
    counts = Counter(canonical(cell) for cell in table.cells[column])
    for (bei, levels), lines in zip(guessed.items(), entries, strict=True):
        if _may_name_people(levels, table.cells[column]):
            return f"it has {len(levels)} different cells, a score perhaps"
        lines.append("levels:")
        for code, level in levels.items():
            shown = f"<{_SMALL}" if counts[code] < _SMALL else str(counts[code])
            note = "" if level else f"; set aside: no level of {bei} beyond doubt"
            lines.append(f"  {_quoted(code)}: {level or 'null'}  # {shown} cells{note}")
    return ""


def _sentinels(cells: list[str]) -> set[str]:
    return {canonical(cell) for cell in cells} & set(SENTINELS)


def _tasks(folder: Path) -> dict[str, str | None]:
    """Task of the file names → cognitive state, null for one that vocabulary.yaml does not have."""
    found = {entities(path).get("task", "") for path in folder.glob("sub-*/**/func/*_bold.nii*")} - {""}
    known = read_vocabulary()[STATE].levels
    lower = {canonical(task): re.sub(r"^rest.*", "rest", task.lower()) for task in sorted(found)}
    return {task: state if state in known else None for task, state in lower.items()} or {"rest": "rest"}


def _flat(text: str) -> str:
    """Text of the dataset on one line of a comment."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _quoted(text: str) -> str:
    """Text of the dataset as a YAML scalar, whatever letters it holds."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6).strip()


def _yaml(folder: Path, tables: list[Found], draft: Draft) -> str:
    about = _json(folder / "dataset_description.json")
    lines = [
        "# A draft by `lcm harmonize --suggest`: names and codes were guessed. Check every line, then name this file in",
        "# config.yaml. Counts are cells, not people. A code of no sure meaning is set aside (null): counted, left missing.",
        f"title: {_quoted(_flat(str(about.get('Name') or folder.resolve().name)))}",
        'description: "drafted from the BIDS tables"',
        f"licence: {_quoted(_flat(str(about.get('License') or 'not stated')))}",
        "rows_may_be_exported: false",
        "person:",
        "  pattern: '(?P<id>[0-9a-z+]+)'",
    ]
    if any(table.has_visits for table in tables):
        lines += ["sessions:", "  pattern: '(?P<visit>[0-9a-z+]+)'"]
    lines.append("tables:")
    for table in tables:
        lines += [f"  {table.name}:", *(f"    {line}" for line in table.lines)]
    missing = ", ".join(_quoted(code) for code in (*MISSING, *sorted(draft.sentinels)))
    lines += [f"missing: [{missing}]", "beis:" if draft.beis else "beis: {}"]
    for bei in sorted(draft.beis, key=list(read_vocabulary()).index):
        lines.append(f"  {bei}:")
        for entry in draft.beis[bei]:
            lines += [f"    - {entry[0]}", *(f"      {line}" for line in entry[1:])]
    tasks = ", ".join(f"{_quoted(task)}: {state or 'null'}" for task, state in _tasks(folder).items())
    lines += [f"tasks: {{{tasks}}}", 'traps: ["drafted by a program, not yet checked by a person"]']
    if draft.unplaced:
        lines += ["# Columns without a place:", *(f"#   {name}" for name in draft.unplaced)]
    return "\n".join(lines) + "\n"
