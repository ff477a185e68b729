"""AUROC and accuracy of one estimator under several divisions of the same people into folds: what a division alone is worth."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lcm.cohort.split import split
from lcm.config import Model, Split, Task
from lcm.evaluation.answers import Answers
from lcm.evaluation.metrics import accuracy, auroc
from lcm.models import architecture
from lcm.tables import BEI, FOLDS, TEST, TRAIN, VALIDATION, read_tsv, write_tsv
from lcm.training.data import Tables, labels_of, read_cohort, scans_of
from lcm.training.estimators import fit_estimator


def main() -> None:
    """Print a line a division, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("studies/abide-baselines/results"))
    parser.add_argument("--strategy", default="none", help="folder of the connectomes below results/correlate")
    parser.add_argument("--architecture", default="ridge")
    parser.add_argument("--target", default="autism")
    parser.add_argument("--levels", nargs=2, default=["control", "autism"])
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[142857, 1, 2, 3, 4, 5, 6, 7])
    options = parser.parse_args()
    model = Model(architecture=options.architecture)
    task = Task(target=options.target, levels=tuple(options.levels))
    found = []
    for seed in options.seeds:
        answers = divided(options.results, options.strategy, model, task, Split(num_folds=options.folds, seed=seed))
        found.append((auroc(answers), accuracy(answers)))
        sys.stdout.write(f"seed {seed}: AUROC {found[-1][0]:.3f}, accuracy {found[-1][1]:.3f}\n")
    mean, low, high = np.mean(found, axis=0), np.min(found, axis=0), np.max(found, axis=0)
    sys.stdout.write(
        f"{len(found)} divisions: AUROC {mean[0]:.3f} ({low[0]:.3f} to {high[0]:.3f}), "
        f"accuracy {mean[1]:.3f} ({low[1]:.3f} to {high[1]:.3f})\n"
    )


def divided(results: Path, strategy: str, model: Model, task: Task, settings: Split) -> Answers:
    """What the estimator answers about everybody, each by the fold that tests them."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with tempfile.TemporaryDirectory() as folder:
        tables = Tables(
            results / "harmonize" / "bei.tsv",
            Path(folder) / "folds.tsv",
            results / "index" / "scans.tsv",
            results / "correlate" / strategy,
        )
        write_tsv(split(read_tsv(tables.bei, BEI), settings), tables.folds, FOLDS)
        for fold in range(settings.count):
            learners = read_cohort(tables, fold=fold, roles=(TRAIN, VALIDATION))
            learners = learners.keep(labels_of(learners, task.target, task.levels).weight_N > 0)
            fitted = architecture(model.architecture).load()(fit_estimator(model, task, learners, refit=True).arrays)
            tested = read_cohort(tables, fold=fold, roles=(TEST,))
            tested = tested.keep(labels_of(tested, task.target, task.levels).weight_N > 0)
            truth_N = labels_of(tested, task.target, task.levels).value_N.astype(int)
            parts.append((truth_N, fitted.predict(scans_of(tested)), np.full(len(truth_N), fold)))
    truth_N, scores_NL, fold_N = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Answers(truth_N, scores_NL, fold_N, np.arange(len(truth_N)), task.levels)


if __name__ == "__main__":
    main()
