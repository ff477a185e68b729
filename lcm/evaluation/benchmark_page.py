"""The benchmark sections of the page: one block a protocol, with what each task needs beside its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lcm.evaluation.benchmark import ProtocolTables, TaskTable, people_of_level
from lcm.evaluation.checks_page import fold_table
from lcm.evaluation.performance_page import TaskFigures, task_figures
from lcm.evaluation.text_table import TextTable, number_text
from lcm.result_tables import evaluated, read_predictions

BALANCE_COLUMNS = ("Covariate", "Cohort", "Before", "After", "Pairs")
DESIGNS = {
    "stratified": "people in folds, stratified",
    "leave-site-out": "whole sites are tested",
    "cross-cohort": "whole cohorts are tested",
    "kfold": "KFold over people without strata, as the LCM authors split",
}


@dataclass(frozen=True)
class TaskView:
    """One task of a block."""

    table: TaskTable
    detectable: str
    """The smallest AUROC that this many people would show, as text; empty where it is not asked."""
    folds: TextTable | None
    balance: TextTable | None
    figures: TaskFigures | None


@dataclass(frozen=True)
class Block:
    """One protocol on the page."""

    tables: ProtocolTables
    design: str
    tasks: list[TaskView]

    @property
    def name(self) -> str:
        """Of the protocol."""
        return self.tables.name


def blocks(
    results: Path,
    protocols: Sequence[ProtocolTables],
    designs: Mapping[str, str],
    balance: pd.DataFrame,
    *,
    min_cell: int = 0,
) -> list[Block]:
    """A block a protocol, in their order; `balance` is the `balance` table, `min_cell` what a public page hides below.

    Figures are drawn for the first protocol alone: that of the headline.
    """
    found = []
    for place, tables in enumerate(protocols):
        design = designs.get(tables.name, "")
        views = [
            TaskView(
                table,
                "" if tables.is_optimistic else detectable(table),
                _folds(results, tables.name, table, min_cell),
                balance_table(tables.name, table.task, balance),
                task_figures(results, tables.name, table, min_cell=min_cell) if place == 0 else None,
            )
            for table in tables.tasks
        ]
        found.append(Block(tables, DESIGNS.get(design, design), views))
    return found


def detectable(table: TaskTable) -> str:
    """The AUROC that people of two levels would show with 80 % power; empty for other tasks and where counts are hidden."""
    from lcm.evaluation.comparisons import detectable_auroc

    counts = list(people_of_level(table.num_per_level).values())
    if len(counts) != 2 or not all(count.isdigit() and int(count) for count in counts):
        return ""
    return number_text(detectable_auroc(int(counts[1]), int(counts[0])), 2)


def _folds(results: Path, protocol: str, table: TaskTable, min_cell: int) -> TextTable | None:
    """Of the first row over all people: every model of a task answers about the same ones."""
    models = [row.model for row in table.overall]
    paths = {
        path.parts[-3]: path
        for path in evaluated(results, "predictions.parquet", protocols=(protocol,))
        if path.parts[-2] == table.task
    }
    path = next((paths[model] for model in models if model in paths), None)
    if path is None:
        return None
    found = fold_table(f"{protocol}-{table.task}", read_predictions(path), min_cell=min_cell)
    return found if found.rows else None


def balance_table(protocol: str, task: str, balance: pd.DataFrame) -> TextTable | None:
    """How alike the levels of the matched people are, of the task's first model (its people are those of all)."""
    own = balance[(balance["protocol"] == protocol) & (balance["task"] == task)]
    own = own[own["model"] == own["model"].iloc[0]] if len(own) else own
    if own.empty:
        return None
    rows = [
        [
            str(row["covariate"]),
            str(row["cohort"]),
            number_text(row["smd_before"], 2),
            number_text(row["smd_after"], 2),
            str(int(row["num_pairs"])),
        ]
        for row in own.to_dict("records")
    ]
    caption = "Standardised mean difference of the levels before and after matching; below 0.1 is taken as balanced."
    return TextTable(f"balance-{protocol}-{task}", caption, BALANCE_COLUMNS, 2, rows)
