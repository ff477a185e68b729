"""A table as a page prints it: texts under headings, which also go beside the page as CSV and LaTeX."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pandas as pd

_NUMBER = re.compile(r"[−-]?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class TextTable:
    """Rows of texts; the first column heads its row, the first `num_words` columns are words and the others numbers."""

    name: str
    """Of its files."""
    caption: str
    columns: tuple[str, ...]
    num_words: int
    rows: list[list[str]]

    @property
    def frame(self) -> pd.DataFrame:
        """The texts as a table, a column a heading."""
        return pd.DataFrame(self.rows, columns=list(self.columns), dtype="str")


def sort_value(text: str) -> str:
    """The first number in a cell, by which a browser sorts it; empty where there is none or it is a bound."""
    found = _NUMBER.search(text.replace(",", ""))
    if found is None or text.startswith(("n/a", "hidden", "not run")):
        return ""
    return found[0].replace("−", "-")


def number_text(value: object, digits: int) -> str:
    """A number with a true minus sign; a missing one is n/a."""
    number = float("nan") if value is None or value is pd.NA else float(str(value))
    if math.isnan(number):
        return "n/a"
    text = f"{number:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def p_text(value: object) -> str:
    """A p value to three digits; below them it says so."""
    text = number_text(value, 3)
    return "< 0.001" if text == "0.000" else text


def count_text(value: object) -> str:
    """A count; a missing one is unknown."""
    return "unknown" if value is None or pd.isna(value) else str(int(str(value)))  # type: ignore[call-overload]
