"""AUROC of the models of config/abide.yaml over all people and over the half that took no part in any choice, beside ridge.

The network's settings for ABIDE were chosen by cross-validation inside one half of its people (decision 15). This
prints the other half by itself: whose answers, in each fold, come from a model that neither saw them nor was shaped on
them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from lcm.evaluation.comparisons import compare
from lcm.evaluation.metrics import answers_of, auroc
from lcm.result_tables import read_predictions
from lcm.tables import BEI, SCANS, read_tsv

CHOICE_SEED = 20251121
LEVELS = ("autism", "control")


def chosen_on(bei: pd.DataFrame, scans: pd.DataFrame) -> set[str]:
    """Ids of the half in which settings were chosen: a random half of every site and diagnosis."""
    rows = bei.merge(scans[["dataset", "scan", "series"]], on=["dataset", "scan"], validate="one_to_one")
    rows = rows.assign(file=rows["series"].map(lambda path: Path(path).name)).sort_values("file", ignore_index=True)
    stratum = rows["site"] + "_" + rows["autism"].map({level: str(code) for code, level in enumerate(LEVELS, start=1)})
    generator, half, carry = np.random.default_rng(CHOICE_SEED), [], 0
    for name in np.unique(stratum.to_numpy(dtype=str)):
        places = generator.permutation(np.flatnonzero(stratum == name))
        count = len(places) // 2
        if len(places) % 2:
            count, carry = count + carry, 1 - carry
        half += list(places[:count])
    return set(rows["person_id"].iloc[half])


def main() -> None:
    """Print a row a model and task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("studies/abide/results"))
    parser.add_argument("--protocol", default="honest")
    options = parser.parse_args()
    bei = read_tsv(options.results / "harmonize" / "bei.tsv", BEI)
    half = chosen_on(bei, read_tsv(options.results / "index" / "scans.tsv", SCANS))
    everybody = set(bei["person_id"])
    evaluated = options.results / "evaluate" / options.protocol
    for task in sorted(path.name for path in (evaluated / "ridge").iterdir()):
        title = "AUROC (difference to ridge, its 95 % interval) over all people, then over the untouched half"
        sys.stdout.write(f"{task}: {title}\n")
        found = {path.parts[-3]: read_predictions(path) for path in evaluated.glob(f"*/{task}/predictions.parquet")}
        found["mean of seeds"] = averaged(
            [found[model] for model in found if model == "lcm-scratch" or model.startswith("lcm-seed-")]
        )
        for model in sorted(found):
            cells = (row(found[model], found["ridge"], kept) for kept in (everybody, everybody - half))
            sys.stdout.write(f"  {model:16s} {'  '.join(cells)}\n")


def averaged(members: list[pd.DataFrame]) -> pd.DataFrame:
    """One model whose scores are the mean of the members', which answered about the same people."""
    aligned = [member.sort_values("person_id", ignore_index=True) for member in members]
    mean_NL = np.mean([np.stack(member["scores"].to_list()) for member in aligned], axis=0)
    return aligned[0].assign(scores=list(mean_NL))


def row(predictions: pd.DataFrame, ridge: pd.DataFrame, kept: set[str]) -> str:
    """The score of the people kept, beside ridge's."""
    own, other = (frame[frame["person_id"].isin(kept)] for frame in (predictions, ridge))
    rows = compare(pd.concat([own.assign(model="own"), other.assign(model="ridge")]), "ridge")
    difference, low, high = rows[["difference", "ci_low", "ci_high"]].iloc[0]
    return f"{len(own):5d} people {auroc(answers_of(own)):.3f} ({difference:+.3f}, {low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
