"""The cohort flow: counts of rows, people, scans and cells by step and reason, and which codes may be printed."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

STEPS = (
    "table absent",
    "rows read",
    "rows excluded",
    "rows kept",
    "people described",
    "people matched",
    "people without a scan",
    "scans indexed",
    "scans matched",
    "scans without a phenotype row",
    "people linked",
    "links without a person",
    "several labels of one person",
    "unknown code",
    "implausible value",
    "set aside",
    "contradiction",
    "several states",
    "column absent",
    "no row of this visit",
    "no near visit",
)
"""Steps of the cohort flow in printing order; see `Flow` for the sums that hold."""

_REMEDIES = {
    "unknown code": "if it means something, add it to the cohort's file in lcm/cohort/sources",
    "implausible value": "check the column and its unit in the cohort's file in lcm/cohort/sources",
    "contradiction": "one of its columns is wrong, or read wrongly",
}
_MOST_CODES_SHOWN = 20
_MOST_SINGLE_CODES_SHOWN = 2
_DIGITS_OF_AN_ID = 4
_LONGEST_CODE = 40


@dataclass
class Flow:
    """Counts of one cohort by step and reason.

    What adds up: rows read = rows excluded + rows kept; people described = people matched + people without a scan;
    scans indexed = scans matched + scans without a phenotype row. All other counts stand beside these sums: unknown codes,
    implausible values and what is set aside are cells (of every row; of a `fixed` column, one a person), contradictions are
    people, visits not found are sessions.
    """

    cohort: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, step: str, reason: str, count: int, *, keep_zero: bool = False) -> None:
        """Add to a count; a zero is written only where its absence would break a sum to read."""
        if count or keep_zero:
            self.counts[step, reason] += count

    def warn(self, step: str, reason: str, count: int) -> None:
        """Add to a count of cells left missing, and say what to do about it where something can be done."""
        self.add(step, reason, count)
        if count and step in _REMEDIES:
            log.warning("%s: %s in %s, %d cells left missing; %s", self.cohort, step, reason, count, _REMEDIES[step])

    def rows(self) -> list[tuple[str, str, str, int]]:
        """cohort, step, reason, count in the order of STEPS, then by reason."""
        ordered = sorted(self.counts.items(), key=lambda item: (STEPS.index(item[0][0]), item[0][1]))
        return [(self.cohort, step, reason, count) for (step, reason), count in ordered]


def shown_codes(codes: Mapping[str, int]) -> dict[str, int]:
    """Counts of codes as they may be printed, commonest first.

    A column with very many unknown codes, or with several that stand in one cell each, is likely the wrong one (ids, names,
    dates): then none of its cells is shown. Nor is a single cell that has the digits of an id or a date.
    """
    num_single = sum(count == 1 for count in codes.values())
    if len(codes) > _MOST_CODES_SHOWN:
        return {f"(more than {_MOST_CODES_SHOWN} different codes)": sum(codes.values())}
    if num_single > _MOST_SINGLE_CODES_SHOWN and 2 * num_single > len(codes):
        return {f"({len(codes)} different codes, most of them in one cell)": sum(codes.values())}
    shown: Counter[str] = Counter()
    for code, count in sorted(codes.items(), key=lambda item: (-item[1], item[0])):
        may_name = count == 1 and len(re.findall(r"\d", code)) >= _DIGITS_OF_AN_ID
        shown["(an id or a date, perhaps)" if may_name else " ".join(code.split())[:_LONGEST_CODE]] += count
    return dict(shown)


def count_refused(refused: Mapping[tuple[str, str], int], where: str, flow: Flow) -> None:
    """Write refused cells, by (step, code), to the flow: a row a code; an implausible number is never printed."""
    for step in sorted({step for step, _ in refused}):
        codes = {code: count for (problem, code), count in refused.items() if problem == step}
        if step == "implausible value":
            flow.warn(step, where, sum(codes.values()))
            continue
        for code, count in shown_codes(codes).items():
            flow.warn(step, f"{where} = {code}", count)
