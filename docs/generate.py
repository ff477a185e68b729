"""Write what is generated from the code: JSON schema, stage table and rule graph, tables of strategies, cohorts and BEIs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

# ruff: noqa: E402 - the path above makes these importable
import pandas as pd
import yaml

from lcm.cohort.source import read_source, source_names
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import STAGE_ROOMS, Study
from lcm.imaging.strategy import read_strategy
from lcm.tables import OK, SCANS, write_tsv

SCHEMA = REPOSITORY / "workflow" / "config.schema.json"
README = REPOSITORY / "README.md"
IMAGING = REPOSITORY / "docs" / "imaging.md"
PHENOTYPES = REPOSITORY / "docs" / "phenotypes.md"


def schema() -> str:
    """JSON schema of config.yaml, for editors that complete and check it."""
    return json.dumps(Study.model_json_schema(), indent=2) + "\n"


def stage_table() -> str:
    """A row a stage: command, what its rule's docstring says, its module."""
    rows = ["| stage | what it does | module |", "|---|---|---|"]
    for stage, room in STAGE_ROOMS.items():
        module = Path(*room.split("."), f"{stage}.py")
        purpose = ast.get_docstring(ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))) or ""
        sentence = purpose.splitlines()[0].split(": ", 1)[-1].rstrip(".")
        rows.append(f"| `{stage}` | {sentence} | [`{module}`]({module}) |")
    return "\n".join(rows)


def strategy_table() -> str:
    """A row a shipped confound strategy, fewest regressors first."""
    paths = (REPOSITORY / "lcm" / "imaging" / "confounds").glob("*.yaml")
    strategies = sorted(map(read_strategy, paths), key=lambda s: (len(s.columns) + len(s.patterns), s.name))
    rows = ["| strategy | regressors | its own settings | what it is |", "|---|--:|---|---|"]
    for strategy in strategies:
        count = " + ".join([str(len(strategy.columns)), *(f"`{pattern}`" for pattern in strategy.patterns)])
        own = ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in strategy.settings.items())
        rows.append(f"| `{strategy.name}` | {count} | {own} | {strategy.description} |")
    return "\n".join(rows)


def cohort_table() -> str:
    """A row a shipped cohort: what is read of it, under which policies, and whether its rows may be handed on."""
    rows = [
        "| `cohort` | what it is | BEIs | label policies, default first | rows may be handed on |",
        "|---|---|---|---|---|",
    ]
    for name in source_names():
        source = read_source(name)
        defaults = {column.default_policy for columns in source.beis.values() for column in columns}
        policies = sorted(source.policies, key=lambda policy: (policy not in defaults, policy))
        shared = "yes" if source.rows_may_be_exported else "no"
        beis = ", ".join([*source.beis, *(["cognitive_state"] if source.tasks else [])])
        named = ", ".join(f"`{policy}`" for policy in policies)
        rows.append(f"| `{name}` | {source.title}; {source.licence} | {beis} | {named} | {shared} |")
    return "\n".join(rows)


def vocabulary_table() -> str:
    """A row a BEI of the vocabulary."""
    rows = ["| BEI | role | values | what it is |", "|---|---|---|---|"]
    for name, variable in read_vocabulary().items():
        low_high = f"{variable.range[0]:g}–{variable.range[1]:g} {variable.unit}" if variable.range else ""
        values = ", ".join(variable.levels) or low_high or "the cohort's own names"
        rows.append(f"| `{name}` | {variable.role} | {values} | {variable.definition} |")
    return "\n".join(rows)


def rule_graph() -> str:
    """Mermaid graph of all rules, as Snakemake prints it for a study with one scan of each kind already indexed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = folder / "results/simulate/truth.json"
        truth.parent.mkdir(parents=True)
        truth.write_text("{}", encoding="utf-8")
        scans = pd.DataFrame([_scan(folder, "HCPA", "bids"), _scan(folder, "HCPYA", "derivatives")])
        write_tsv(scans, folder / "results/index/scans.tsv", SCANS)
        for row in scans.itertuples():
            write_tsv(
                scans[scans["dataset"] == row.dataset], folder / f"results/index/batches/{row.dataset}/0.tsv", SCANS
            )
        for dataset in yaml.safe_load((REPOSITORY / "config.yaml").read_text("utf-8"))["datasets"].values():
            (folder / dataset["phenotypes"]).mkdir(parents=True)
        arguments = ["snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", name]
        # The demo asks no bundle, and `predict` would have no place in its graph.
        bundles = 'predict={"bundles": {"one": "results/finetune/honest/lcm/sex/fold-0"}}'
        arguments += ["--configfile", str(REPOSITORY / "config.yaml"), "--config", bundles, "--rulegraph", "mermaid-js"]
        run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    lines = [line.strip() for line in run.stdout.splitlines()]
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", run.stdout))
    edges = sorted(
        ((names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", "\n".join(lines))),
        key=lambda edge: [[*STAGE_ROOMS, "all"].index(stage) for stage in edge],
    )
    edges = [edge for edge in edges if edge[1] != "all" and not _detour(edge, edges)]
    return "\n".join(["```mermaid", "flowchart LR", *(f"    {a} --> {b}" for a, b in edges), "```"])


def _detour(edge: tuple[str, str], edges: list[tuple[str, str]]) -> bool:
    """Whether the second stage is reached from the first through others as well, so that the arrow can be left out."""
    waiting = [b for a, b in edges if a == edge[0] and b != edge[1]]
    while waiting:
        stage = waiting.pop()
        if stage == edge[1]:
            return True
        waiting.extend(b for a, b in edges if a == stage)
    return False


def _scan(folder: Path, dataset: str, kind: str) -> dict[str, object]:
    image = folder / f"{dataset}.nii.gz"
    image.touch()
    row = dict.fromkeys(SCANS.columns) | {"dataset": dataset, "batch": "0", "input": kind, "bold": str(image)}
    return row | {"participant_id": "sub-1", "scan": "sub-1", "fingerprint": "x", "outcome": OK}


def with_block(text: str, name: str, content: str) -> str:
    """The text with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no block <!-- {name} --> to write into")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    readme = with_block(README.read_text(encoding="utf-8"), "stages", stage_table())
    imaging = with_block(IMAGING.read_text(encoding="utf-8"), "strategies", strategy_table())
    phenotypes = with_block(PHENOTYPES.read_text(encoding="utf-8"), "cohorts", cohort_table())
    phenotypes = with_block(phenotypes, "vocabulary", vocabulary_table())
    readme = with_block(readme, "graph", rule_graph())
    return {SCHEMA: schema(), README: readme, IMAGING: imaging, PHENOTYPES: phenotypes}


def main() -> int:
    """Write the files, or with --check name those that are out of step; 1 when there are any."""
    stale = {p: text for p, text in generated().items() if not p.is_file() or p.read_text("utf-8") != text}
    if "--check" in sys.argv:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(REPOSITORY)} is out of step with the code: run `make docs`\n")
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
