"""The methods section of the page: what each stage said of itself, and the references that it calls for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lcm.evaluation.citations import REPORT, Facts, Reference, citations, read_references
from lcm.evaluation.records import MethodsText, StageRecord


@dataclass(frozen=True)
class Paragraph:
    """What one stage did, and the numbers of the references cited there."""

    stage: str
    texts: list[MethodsText]
    numbers: list[int]


@dataclass(frozen=True)
class Methods:
    """The section: paragraphs in running order and the numbered list."""

    paragraphs: list[Paragraph]
    references: list[Reference]


def methods(
    records: Sequence[StageRecord], named: Mapping[str, Collection[str]], comparison: Collection[str]
) -> Methods:
    """The section from what ran; `named` as in `Facts`, `comparison` how models were compared (no text: they were not)."""
    said = {record.stage: record.methods for record in records if record.stage != REPORT}
    said[REPORT] = [MethodsText(_report_text(comparison, named.get("metrics", ())))]
    found = citations(read_references(), Facts(records, named), list(said))
    paragraphs = [Paragraph(stage, texts, found.numbers[stage]) for stage, texts in said.items()]
    return Methods([part for part in paragraphs if part.texts or part.numbers], found.references)


def _report_text(comparison: Collection[str], metrics: Collection[str]) -> str:
    text = (
        "Head motion was related to connectivity by QC–FC, and site and motion were predicted from connectivity by a ridge, "
        "before ComBat and after ComBat fitted on training people."
    )
    if "auroc" in metrics:
        text += " How large an AUROC so many people could show follows from the variance of Hanley and McNeil."
    if comparison:
        text += (
            f" Models were compared on the same people and folds ({'; '.join(sorted(comparison))}), with Holm's correction "
            "over all comparisons of a protocol and Nadeau and Bengio's corrected t over folds."
        )
    return text
