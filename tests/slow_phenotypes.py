"""An independent reading of a cohort's tables: plain Python, one scan and one cell at a time, to compare the fast one with."""

from __future__ import annotations

import csv
import fnmatch
import io
import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from lcm.cohort.source import Column, Source, Table, When, canonical
from lcm.cohort.vocabulary import read_vocabulary

Row = dict[str, str]
Value = str | float | None
Clock = tuple[str, float | str]
"""What a session says: ("visit", code), ("entry", days since entry) or ("date", day number)."""

DAYS = {"days": 1.0, "months": 365.25 / 12, "years": 365.25}


def read_slowly(
    source: Source, files: Mapping[str, str], policy: str | None, person: str, session: str | None
) -> dict[str, Value]:
    """BEI → level or number for one scan of one person; None where nothing usable is said."""
    key = source.person.normalise(person)
    tables = {name: _rows(source, table, files) for name, table in source.tables.items()}
    for drop in source.drop:
        rows = [row for row in tables[drop.table] if row["key"] == key]
        if any(not drop.values or canonical(row[drop.column]) in drop.values for row in rows):
            return dict.fromkeys(source.beis)
    mine = {name: [row for row in rows if row["key"] == key] for name, rows in tables.items()}
    return {bei: _value(source, bei, policy, mine, session) for bei in source.beis}


def _rows(source: Source, table: Table, files: Mapping[str, str]) -> list[Row]:
    """A table's rows under the names that the source uses, each with the person's key."""
    found = [text for name, text in files.items() if fnmatch.fnmatchcase(name, table.file)]
    if not found:
        assert table.optional, table.file
        return []
    separator = table.separator or ("\t" if "\t" in found[0].split("\n")[0] else ",")
    lines = list(csv.reader(io.StringIO(found[0]), delimiter=separator))
    header = list(table.header) or lines.pop(0)
    own = {alias: name for name, aliases in table.aliases.items() for alias in aliases}
    rows = []
    for line in lines:
        row = {own.get(name, name): cell.strip() for name, cell in zip(header, line, strict=True)}
        for name, pattern in table.gather.items():
            cells = [cell for column, cell in zip(header, line, strict=True) if cell and re.fullmatch(pattern, column)]
            row[name] = "|".join(cells)
        key = source.person.normalise(row[table.person])
        if key is not None:
            rows.append(row | {"key": key})
    return rows


def _value(source: Source, bei: str, policy: str | None, tables: Mapping[str, list[Row]], session: str | None) -> Value:
    """The first column that says anything holds; another that observes another level contradicts it."""
    columns = [column for column in source.beis[bei] if source.levels(column, policy) is not None]
    said: list[tuple[bool, Value]] = []
    for column in columns:
        together = [other for other in columns if other.table == column.table and not other.fixed]
        row = _row(source, bei, policy, column, together, tables[column.table], session)
        heard = None if row is None else _decode(source, bei, column, policy, _cell(column, row, session))
        if heard is not None and row is not None:
            usable, value = heard
            if usable and isinstance(value, float):
                value += _years_since(source, column, row, tables[column.table], session)
            said.append((usable, value))
    if not said or not said[0][0]:
        return None
    first = said[0][1]
    contradicted = read_vocabulary()[bei].kind == "categorical" and any(
        usable and value != first for usable, value in said
    )
    return None if contradicted else first


def _cell(column: Column, row: Row, session: str | None) -> str:
    return row.get(column.sessions.get(canonical(session or ""), column.column), "")


def _row(
    source: Source, bei: str, policy: str | None, column: Column, together: Sequence[Column], rows: list[Row],
    session: str | None,
) -> Row | None:  # fmt: skip
    """The row that speaks for the session."""
    visit = source.tables[column.table].visit
    if visit is None or not rows:
        return rows[0] if rows else None

    def earliness(row: Row) -> tuple[float, ...]:
        code = canonical(row[visit.column]) if visit.column else ""
        place = visit.order.index(code) if code in visit.order else len(visit.order)
        times = [_time(when, row) for when in (visit.entry, visit.date)]
        return (place, *(float("inf") if time is None else time for time in times))

    def speaks(row: Row, columns: Sequence[Column]) -> bool:
        return any(_decode(source, bei, other, policy, _cell(other, row, session)) is not None for other in columns)

    rows = sorted(rows, key=earliness)
    if column.fixed:
        return next((row for row in rows if speaks(row, [column])), None)
    clock = _clock(source, session)
    if clock is not None and clock[0] == "visit" and visit.column:
        return next((row for row in rows if canonical(row[visit.column]) == clock[1]), None)
    when = None if clock is None else {"entry": visit.entry, "date": visit.date}.get(clock[0])
    if clock is None or when is None:
        return rows[0]
    times = [(row, _time(when, row)) for row in rows if speaks(row, together)]
    near = [(abs(time - float(clock[1])), time, row) for row, time in times if time is not None]
    distance, _, row = min(near, key=lambda found: found[:2], default=(float("inf"), 0.0, None))
    return row if visit.within_days is None or distance <= visit.within_days else None


def _clock(source: Source, session: str | None) -> Clock | None:
    match = re.fullmatch(source.sessions.pattern, session.lower()) if source.sessions and session else None
    for name, text in (match.groupdict() if match else {}).items():
        if text and name == "visit":
            return "visit", dict(source.sessions.visits).get(
                canonical(text), canonical(text)
            ) if source.sessions else ""
        if text and name == "date":
            return "date", float(datetime.strptime(text, "%Y%m%d").toordinal())
        if text:
            return "entry", float(text) * DAYS[name]
    return None


def _time(when: When | None, row: Row) -> float | None:
    """Days since entry, or the day's number."""
    if when is None:
        return None
    match = re.search(when.extract, row[when.column]) if when.extract else None
    text = match[1] if match else row[when.column]
    if canonical(text) in when.values:
        return when.values[canonical(text)] * DAYS[when.unit]
    if when.unit != "date":
        return float(text) * DAYS[when.unit] if re.fullmatch(r"-?\d+(\.\d+)?", text) else None
    for form in when.formats:
        try:
            return float(datetime.strptime(text, form).toordinal())
        except ValueError:
            continue
    return None


def _years_since(source: Source, column: Column, row: Row, rows: Sequence[Row], session: str | None) -> float:
    """Years to add to an age that was counted at entry, or at the row's own time."""
    clock, visit = _clock(source, session), source.tables[column.table].visit
    if clock is None or column.ages_from is None:
        return 0.0
    whens = {"entry": visit.entry, "date": visit.date} if visit else {}
    now: dict[str, float | None] = {clock[0]: float(clock[1])} if clock[0] != "visit" else {}
    if visit and visit.column and clock[0] == "visit":
        named = next((other for other in rows if canonical(other[visit.column]) == clock[1]), None)
        now = {name: _time(when, named) for name, when in whens.items()} if named else {}
    if column.ages_from == "entry":
        return (now.get("entry") or 0.0) / 365.25
    for name in ("entry", "date"):
        then, today = _time(whens.get(name), row), now.get(name)
        if then is not None and today is not None:
            return (today - then) / 365.25
    return 0.0


def _decode(source: Source, bei: str, column: Column, policy: str | None, cell: str) -> tuple[bool, Value] | None:
    """(usable, value) of a cell; None: it says nothing."""
    if canonical(cell) in {*source.missing, *column.missing}:
        return None
    match = re.search(column.extract, cell) if column.extract else None
    if column.silent and match is None:
        return None
    code, variable = canonical(match[1] if match else cell), read_vocabulary()[bei]
    if variable.kind == "label":
        return True, cell
    if variable.kind == "categorical":
        level = (source.levels(column, policy) or {}).get(code)
        return level is not None, level
    if code in column.values:
        return True, float(column.values[code])
    if re.fullmatch(r"[+-]?\d+(\.\d*)?", code) is None:
        return False, None
    number = float(code) / 12 if column.unit == "months" else float(code)
    low, high = column.range or variable.range or (number, number)
    return low <= number <= high, number
