"""A paper's tables again: every printed number, ours under the paper's protocol and ours under the honest one, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from lcm.evaluation.paper_answers import HONEST, MEASURES, OPTIMISTIC, Entry, StudyAnswers, mean_entry, not_run
from lcm.evaluation.paper_comparison import PairedTest, compared
from lcm.evaluation.published import Column, PublishedRow, PublishedTable, read_table
from lcm.evaluation.table_files import PrintedTable

PUBLISHED = "published"
SOURCES = (PUBLISHED, OPTIMISTIC, HONEST)
"""Columns under every column of a paper, in reading order."""
NOT_IN_PAPER = "not in the paper"
DERIVED = "derived"
"""Origin, and note, of a number that the paper does not print."""
GROUPS = ("reference", "confound", "linear", "kernel", "network")
"""Order of rows that the paper lacks."""
TIDY = (
    "table",
    "section",
    "row",
    "model",
    "column",
    "tasks",
    "metric",
    "source",
    "protocol",
    "value",
    "spread",
    "low",
    "high",
    "num_folds",
    "num_people",
    "note",
)
"""Columns of the CSV: a row a number, or a reason in `note`."""
METRIC_NAMES = {"accuracy": "accuracy", "f1_weighted": "weighted F1"}


@dataclass(frozen=True)
class Line:
    """One row of a table: its name, the section it stands in and the printed row it repeats, if there is one."""

    name: str
    section: str
    printed: PublishedRow | None

    def model(self, column: str, published: Column) -> str | None:
        """The row of ours in a column; None where there is none."""
        return self.printed.beside(column) if self.printed else self.name + published.suffix


def paper_table(number: str, answers: StudyAnswers) -> PrintedTable:
    """Table `number` of the LCM paper in its layout, three columns under each of its own; see `SOURCES`.

    Cells hold mean ± deviation over folds (published and optimistic) or value (95 % interval), or `not run: reason`.
    """
    table = read_table(number)
    lines = _lines(table, answers)
    tidy = pd.DataFrame(
        [entry for line in lines for name in table.columns for entry in _entries(number, table, line, name, answers)],
        columns=list(TIDY),
    )
    # A lab may call a row of its own by a name of the paper's: the section tells them apart.
    by_cell: dict[tuple[str, ...], list[Any]] = {}
    for number_of in tidy.itertuples():
        place_of = (number_of.section, number_of.row, number_of.column, number_of.source)
        by_cell.setdefault(place_of, []).append(number_of)
    tests = list(_tests(table, lines, answers)) if table.p else []
    rows, sections = [], {}
    for place, line in enumerate(lines):
        if place == 0 or line.section != lines[place - 1].section:
            sections[place] = line.section
        cells = [
            _cell(by_cell[line.section, line.name, name, source], source)
            for name in table.columns
            for source in SOURCES
        ]
        rows.append((line.name, *cells))
    return PrintedTable(
        name=f"table-{number}",
        caption=_caption(table, answers),
        columns=("model", *(_source_name(source, table, answers) for _ in table.columns for source in SOURCES)),
        rows=tuple(rows),
        spans=tuple((column.label, len(SOURCES)) for column in table.columns.values()),
        sections={place: text for place, text in sections.items() if text},
        notes=(*_notes(table), *_test_notes(table, tests, answers), *_devices(table, tidy)),
        tidy=pd.concat([tidy, pd.DataFrame(_test_rows(number, table, tests, answers), columns=list(TIDY))])
        if table.p
        else tidy,
    )


def _lines(table: PublishedTable, answers: StudyAnswers) -> list[Line]:
    """The paper's rows in its order, then the majority row, then rows of ours that the paper lacks."""
    printed = [Line(row.name, row.group or "", row) for row in table.rows if row.origin == "paper"]
    further = [Line(row.name, NOT_IN_PAPER, row) for row in table.rows if row.origin == DERIVED]
    if all(column.cost for column in table.columns.values()):
        return [*printed, *further]
    known = {row.beside(name) for row in table.rows for name in table.columns}
    tasks = [task for column in table.columns.values() for task in column.tasks]
    suffixes = [column.suffix for column in table.columns.values() if column.suffix]
    own = {model for kind in (OPTIMISTIC, HONEST) for model in answers.models(kind, tasks)} - known
    own = {model for model in own if not any(model.endswith(suffix) for suffix in suffixes)}

    def order(model: str) -> tuple[int, str]:
        group = answers.group(model)
        return GROUPS.index(group) if group in GROUPS else len(GROUPS), model

    return [*printed, *further, *(Line(model, NOT_IN_PAPER, None) for model in sorted(own, key=order))]


def _entries(
    number: str, table: PublishedTable, line: Line, name: str, answers: StudyAnswers
) -> Iterable[tuple[object, ...]]:
    """One tuple of TIDY for each metric and source of a cell."""
    column = table.columns[name]
    model = line.model(name, column)
    for metric in table.metrics:
        for source in SOURCES:
            entry = _entry(source, line, name, column, metric, answers)
            protocol = None if source == PUBLISHED else answers.protocols[source]
            number_of = {key: value for key, value in asdict(entry).items() if key not in ("reason", "note")}
            note = entry.reason or entry.note
            yield (
                number,
                line.section,
                line.name,
                model,
                name,
                " ".join(column.tasks),
                metric,
                source,
                protocol,
                *number_of.values(),
                note,
            )


def _entry(source: str, line: Line, name: str, column: Column, metric: str, answers: StudyAnswers) -> Entry:
    if source == PUBLISHED:
        cell = line.printed.cells.get(name) if line.printed else None
        if cell is None:
            return Entry()
        value, spread = cell[metric]
        told = DERIVED if line.printed and line.printed.origin == DERIVED else None
        return Entry(value, float("nan") if spread is None else spread, note=told)
    model = line.model(name, column)
    if model is None:
        return not_run(line.printed.why or "" if line.printed else "")
    if column.cost:
        return answers.cost(source, model, column.cost)
    if source == OPTIMISTIC:
        return mean_entry([answers.over_folds(OPTIMISTIC, model, task, MEASURES[metric]) for task in column.tasks])
    return mean_entry([answers.scored(model, task, metric) for task in column.tasks])


def _cell(numbers: Sequence[Any], source: str) -> str:
    """The metrics of one cell with a slash between them; a reason, which they share, once."""
    texts = [_text(number, source) for number in numbers]
    return texts[0] if np.isnan(numbers[0].value) else " / ".join(texts)


def _text(number: Any, source: str) -> str:
    value, spread, low, high, note = number.value, number.spread, number.low, number.high, number.note
    if np.isnan(value):
        return "" if pd.isna(note) else str(note)
    if number.metric == "value":
        return f"{value / 1e6:,.0f} M" if number.column == "parameters" else f"{value:.2f}"
    if source == HONEST:
        return f"{value:.1f} ({low:.1f} to {high:.1f})"
    # What follows from a share is known to as many digits as its file has.
    digits = "" if note == DERIVED else ".2f"
    text = f"{value:{digits}}" if np.isnan(spread) else f"{value:{digits}} ± {spread:{digits}}"
    return text if pd.isna(note) else f"{text} ({note})"


def _source_name(source: str, table: PublishedTable, answers: StudyAnswers) -> str:
    if source == PUBLISHED:
        return PUBLISHED
    name = f"ours, {answers.protocols[source] or f'no {source} protocol'}"
    kind = " (optimistic)" if source == OPTIMISTIC else " (95 % CI)"
    return name + kind if table.unit == "percent" else name


def _caption(table: PublishedTable, answers: StudyAnswers) -> str:
    if table.unit != "percent":
        return f"{table.title}: {table.place} of {table.paper}, and ours."
    metrics = " / ".join(METRIC_NAMES[metric] for metric in table.metrics)
    return (
        f"{table.title}: {table.place} of {table.paper}, and ours. {metrics[0].upper() + metrics[1:]} in percent. "
        f"Optimistic ({_protocol(OPTIMISTIC, answers)}): the people of a fold choose the epoch that they are scored at, as "
        "the authors do; mean ± population deviation over folds, to be compared with the published number and with nothing "
        f"else. Honest ({_protocol(HONEST, answers)}): everything is chosen by validation people; value and 95 % interval "
        "over all people."
    )


def _protocol(kind: str, answers: StudyAnswers) -> str:
    name = answers.protocols[kind]
    return f"protocol {name}" if name else "no such protocol in this study"


def _notes(table: PublishedTable) -> Iterable[str]:
    yield table.prose.strip()
    for column in table.columns.values():
        if len(column.tasks) > 1:
            yield (
                f"{column.label}: {column.note or 'unweighted mean of ' + ', '.join(column.tasks)}. The interval is that "
                "of a mean of independent estimates."
            )
    told: dict[str, list[str]] = {}
    for row in table.rows:
        if row.note:
            told.setdefault(row.note, []).append(row.name)
    yield from (f"{', '.join(names)}: {note}." for note, names in told.items())


def _devices(table: PublishedTable, tidy: pd.DataFrame) -> Iterable[str]:
    """Where ours ran, of a table of times."""
    if table.unit != "percent":
        ours = tidy[(tidy["source"] != PUBLISHED) & tidy["value"].notna()]
        yield f"Ours: {', '.join(sorted(ours['note'].dropna().unique())) or 'not run'}."


@dataclass(frozen=True)
class ColumnTest:
    """LCM against the best other row of ours, in one column and protocol."""

    kind: str
    column: str
    test: PairedTest


def _tested(lines: Iterable[Line]) -> Line:
    """The row whose name differs between columns: the one that the paper tests."""
    return next(line for line in lines if line.printed and line.printed.models)


def _tests(table: PublishedTable, lines: Sequence[Line], answers: StudyAnswers) -> Iterable[ColumnTest]:
    """LCM against the best other row of ours, of each protocol and column that has both."""
    tested = _tested(lines)
    for kind in (OPTIMISTIC, HONEST):
        for name, column in table.columns.items():
            others = [model for line in lines if line != tested and (model := line.model(name, column)) is not None]
            best = compared(answers, kind, tested.model(name, column) or "", others, column.tasks[0])
            yield from (ColumnTest(kind, name, test) for test in best[:1])


def _test_notes(table: PublishedTable, tests: Sequence[ColumnTest], answers: StudyAnswers) -> Iterable[str]:
    if not table.p:
        return
    printed = ", ".join(f"{table.columns[name].label}: {p:g}" for name, p in table.p.items())
    yield f"Printed p of LCM, by a paired t test over folds: {printed}."
    for one in tests:
        test = one.test
        kind = " (optimistic)" if one.kind == OPTIMISTIC else ""
        yield (
            f"{answers.protocols[one.kind]}{kind}, {table.columns[one.column].label}: {test.model} − {test.reference} = "
            f"{test.difference:+.2f} weighted F1 over {test.num_folds} folds, paired t p = {test.p:.3g}, corrected for "
            f"shared training people p = {test.p_corrected:.3g}."
        ).replace("= -", "= −")
    if not tests:
        yield "No paired test of ours: LCM and another row of the same folds have not run."


def _test_rows(
    number: str, table: PublishedTable, tests: Sequence[ColumnTest], answers: StudyAnswers
) -> Iterable[tuple[object, ...]]:
    """The tests as rows of TIDY: the printed p, and both of ours with whom LCM is compared in `note`."""
    row = next(row.name for row in table.rows if row.models)

    def told(column: str, metric: str, source: str, value: float, test: PairedTest | None) -> tuple[object, ...]:
        protocol = answers.protocols[source] if test else None
        model, note, folds = (test.model, f"against {test.reference}", test.num_folds) if test else (None, None, 0)
        tasks = " ".join(table.columns[column].tasks)
        nothing = float("nan")
        place = (number, "", row, model, column, tasks, metric, source, protocol)
        return (*place, value, nothing, nothing, nothing, folds, 0, note)

    for name, p in table.p.items():
        yield told(name, "p_paired_t", PUBLISHED, p, None)
    for one in tests:
        yield told(one.column, "p_paired_t", one.kind, one.test.p, one.test)
        yield told(one.column, "p_corrected_t", one.kind, one.test.p_corrected, one.test)
