"""Tables beside the page: LaTeX that compiles in form, HTML with real headings, CSV that is tidy."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pandas as pd
import pytest

from lcm.evaluation.table_files import PrintedTable, html_fragment, latex, latex_text, write_printed, write_table_files

TABLE = PrintedTable(
    name="table-x",
    caption="Scores in % & more: {1,2}_a <b>",
    columns=("model", "published", "ours", "published", "ours"),
    rows=(("BrainGNN", "83.48 ± 6.99", "not run: no row x_1", "1", "2"), ("LCM {1}", "−1.0", "≥ 2", "3", "4")),
    spans=(("A & B", 2), ("C", 2)),
    sections={0: "graph models", 1: "not in the paper"},
    notes=("50 % of 2^3 ~ 4",),
    tidy=pd.DataFrame({"row": ["BrainGNN"], "value": [83.48], "note": [None]}),
)


def test_latex_leaves_nothing_that_latex_would_read_otherwise():
    assert latex_text("a_b & 50 % {x} #1 $ ^ ~") == (r"a\_b \& 50 \% \{x\} \#1 \$ \textasciicircum{} \textasciitilde{}")
    assert latex_text("\\cmd ± − ≥ ↑ ²") == r"\textbackslash{}cmd $\pm$ $-$ $\geq$ $\uparrow$ $^2$"
    plain = re.sub(r"\\.", "", re.sub(r"(?m)^%.*$", "", latex(TABLE)))
    assert "%" not in plain.replace("{%\n", "")
    assert plain.count("{") == plain.count("}")


def test_every_row_of_the_latex_has_as_many_cells_as_the_tabular_has_columns():
    text = latex(TABLE)
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert columns == "lrrrr"
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 6
    for row in rows:
        spans = [int(width) for width in re.findall(r"\\multicolumn\{(\d+)\}", row)]
        cells = len(re.findall(r"(?<!\\)&", row)) + 1
        assert cells + sum(spans) - len(spans) == 5, row
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in body
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 1
    assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]


class _Cells(html.parser.HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_has_a_caption_and_a_scope_on_every_heading_and_closes_what_it_opens():
    parser = _Cells()
    parser.feed(html_fragment(TABLE))
    assert parser.open == []
    headings = [attributes for tag, attributes in parser.tags if tag == "th"]
    scopes = [attributes["scope"] for attributes in headings]
    assert scopes == ["col", "colgroup", "colgroup", "col", "col", "col", "col", "rowgroup", "row", "rowgroup", "row"]
    assert [tag for tag, _ in parser.tags].count("td") == 8
    assert [tag for tag, _ in parser.tags].count("tbody") == 2
    assert "Scores in % & more: {1,2}_a <b>" in parser.text
    assert "<b>" not in html_fragment(TABLE)


def test_the_csv_is_the_tidy_table_or_else_the_cells(tmp_path: Path):
    write_printed(TABLE, tmp_path)
    assert (tmp_path / "table-x.csv").read_text(encoding="utf-8") == "row,value,note\nBrainGNN,83.48,\n"
    frame = pd.DataFrame({"model": ["ridge", "lcm"], "AUROC": [0.7, None], "people": [3, 4]})
    write_table_files("benchmark", "Scores", frame, tmp_path)
    assert (tmp_path / "benchmark.csv").read_text(encoding="utf-8") == "model,AUROC,people\nridge,0.7,3\nlcm,,4\n"
    assert "lcm &  & 4" in (tmp_path / "benchmark.tex").read_text(encoding="utf-8")
    assert '<th scope="row">lcm</th><td></td><td>4</td>' in (tmp_path / "benchmark.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("rows", "spans"), [((("a", "b"),), ()), ((("a", "b", "c"),), (("x", 3),))])
def test_a_table_that_does_not_fit_its_headings_is_refused(rows: tuple, spans: tuple):
    with pytest.raises(ValueError, match="table t: "):
        PrintedTable("t", "caption", ("", "one", "two"), rows, spans)
