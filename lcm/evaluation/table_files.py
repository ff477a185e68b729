"""A table as CSV, LaTeX and HTML beside the page: one description, three files, nothing formatted twice."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lcm.tables import write_atomically

if TYPE_CHECKING:
    import pandas as pd

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "²": r"$^2$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "·": r"$\cdot$",
    "–": "--",
    "—": "---",
    "’": "'",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "\n": " ",
}
"""What LaTeX reads otherwise, and signs that its default fonts lack."""


@dataclass(frozen=True)
class PrintedTable:
    """A table as it is read: headings and text cells, the first cell of a row being its heading."""

    name: str
    """Of the files, without a suffix."""
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[str, int], ...] = ()
    """Headings above those of the columns, each with the number of columns below it; the first column has its own."""
    sections: Mapping[int, str] = field(default_factory=dict)
    """Number of a row, from 0 → heading of the rows from there on."""
    notes: tuple[str, ...] = ()
    tidy: pd.DataFrame | None = None
    """One number a row, for the CSV; absent: the CSV has the cells as they are read."""

    def __post_init__(self) -> None:
        """Stop where rows or headings do not fit the columns."""
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.name}: a row has {wrong[0]} cells and there are {len(self.columns)} columns")
        if self.spans and sum(width for _, width in self.spans) != len(self.columns) - 1:
            raise ValueError(f"table {self.name}: upper headings span another number of columns than there are")


def latex_text(text: str) -> str:
    """The text with everything that LaTeX would take for a command, or cannot print, spelled out."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def latex(table: PrintedTable) -> str:
    """A floating table; the document needs the packages booktabs and graphicx."""
    width = len(table.columns)
    lines = [
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_text(table.caption)}}}",
        rf"  \label{{tab:{table.name}}}",
        r"  \resizebox{\linewidth}{!}{%",
        rf"  \begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"    \toprule",
        *_latex_spans(table),
        f"    {_latex_row(table.columns)}",
        r"    \midrule",
    ]
    for place, row in enumerate(table.rows):
        if place in table.sections:
            lines.append(rf"    \multicolumn{{{width}}}{{l}}{{\emph{{{latex_text(table.sections[place])}}}}} \\")
        lines.append(f"    {_latex_row(row)}")
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    lines += [rf"  \par\smallskip\footnotesize {latex_text(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_row(cells: tuple[str, ...]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def _latex_spans(table: PrintedTable) -> list[str]:
    if not table.spans:
        return []
    heads = [rf"\multicolumn{{{width}}}{{c}}{{{latex_text(text)}}}" for text, width in table.spans]
    rules, start = [], 2
    for _, width in table.spans:
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return ["    & " + " & ".join(heads) + r" \\", "    " + " ".join(rules)]


def html_fragment(table: PrintedTable) -> str:
    """One table element with its caption, scopes on every heading and escaped text; notes stand below it."""
    lines = ["<table>", f"<caption>{html.escape(table.caption)}</caption>", "<thead>"]
    first, *others = map(html.escape, table.columns)
    if table.spans:
        spans = "".join(
            f'<th scope="colgroup" colspan="{width}">{html.escape(text)}</th>' for text, width in table.spans
        )
        lines.append(f'<tr><th scope="col" rowspan="2">{first}</th>{spans}</tr>')
        lines.append("<tr>" + "".join(f'<th scope="col">{text}</th>' for text in others) + "</tr>")
    else:
        lines.append("<tr>" + "".join(f'<th scope="col">{text}</th>' for text in (first, *others)) + "</tr>")
    lines += ["</thead>", "<tbody>"]
    for place, (head, *cells) in enumerate(table.rows):
        if place in table.sections:
            lines += ["</tbody>", "<tbody>"] if place else []
            text = html.escape(table.sections[place])
            lines.append(f'<tr><th scope="rowgroup" colspan="{len(table.columns)}">{text}</th></tr>')
        text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{html.escape(head)}</th>{text}</tr>')
    lines += ["</tbody>", "</table>", *(f"<p>{html.escape(note)}</p>" for note in table.notes)]
    return "\n".join(lines) + "\n"


def write_printed(table: PrintedTable, folder: Path) -> None:
    """Write <name>.csv (one number a row where the table has them), <name>.tex and <name>.html."""
    import pandas as pd

    cells = pd.DataFrame(list(table.rows), columns=list(table.columns))
    frame = cells if table.tidy is None else table.tidy
    with write_atomically(folder / f"{table.name}.csv") as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    for suffix, text in ((".tex", latex(table)), (".html", html_fragment(table))):
        with write_atomically(folder / f"{table.name}{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_table_files(name: str, caption: str, frame: pd.DataFrame, folder: Path) -> None:
    """Write a table that the page shows: its columns are headings, its cells text or numbers, missing ones empty."""
    text = frame.astype("object").where(frame.notna(), "")
    rows = tuple(tuple(str(cell) for cell in row) for row in text.itertuples(index=False, name=None))
    write_printed(PrintedTable(name, caption, tuple(map(str, frame.columns)), rows, tidy=frame), folder)
