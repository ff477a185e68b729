"""How often intervals and p values are right in simulated cross-validations, with decision 16's factor and without it.

Each study is cross-validated by the models of the house; nothing is shared between studies. Without effect an interval of
AUROC should leave out 0.5, and a p be below 0.05, in 5 % of studies; with one, the interval should hold the AUROC that the
fitted models have in the population in 95 %.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from scipy.stats import kstest, norm

from lcm.evaluation.answers import Answers
from lcm.evaluation.bootstrap import draw, interval, resampled
from lcm.evaluation.comparisons import compare
from lcm.evaluation.metrics import answers_of
from lcm.evaluation.permutation import permutation_test, strata_of
from tests.simulated_study import Study, simulate

DESIGNS = {
    "100 people, 50 edges, 5 folds": {"num_people": 100, "num_edges": 50, "num_folds": 5},
    "200 people, 300 edges, 5 folds": {"num_people": 200, "num_edges": 300, "num_folds": 5},
    "200 people, 100 edges, 10 folds": {"num_people": 200, "num_edges": 100, "num_folds": 10},
    "100 people, 300 correlated edges, 5 folds": {"num_people": 100, "num_edges": 300, "num_folds": 5, "decay": 1.0},
}
EFFECTS = {"none": 0.0, "large": 1.6}
FACTORS = ("without", "with")
PAIR = ("even edges", "odd edges")
LEVEL = 0.05


class OneFold(Answers):
    """Answers whose folds are taken not to have trained on each other's people."""

    reuse = 1.0


def main() -> None:
    """Print a row a design, effect and model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--models", nargs="+", default=["ridge", "logistic"])
    options = parser.parse_args()
    for design, sizes in DESIGNS.items():
        for effect, distance in EFFECTS.items():
            sys.stdout.write(f"{design}, effect {effect}\n")
            studies = [
                simulate(seed, **sizes, effect=distance, models=(*options.models, *PAIR))
                for seed in range(options.studies)
            ]
            for model in options.models:
                _print_row(studies, model, options.resamples, is_null=distance == 0)
            _print_pair(studies)
            sys.stdout.flush()


def _print_row(studies: list[Study], model: str, num_resamples: int, *, is_null: bool) -> None:
    truth_S = np.array([study.auroc[model] for study in studies])
    areas, intervals, tests = [], [], []
    for study in studies:
        predictions = study.predictions[study.predictions["model"] == model]
        answers = answers_of(predictions)
        weights_BN = np.ones((1 + num_resamples, len(answers.truth_N)))
        weights_BN[1:] = draw(answers, num_bootstraps=num_resamples, seed=0)
        values_B = resampled(answers, weights_BN)["auroc"]
        areas.append(values_B[0])
        intervals.append([interval("auroc", values_B, factor) for factor in (1.0, answers.reuse)])
        alone = OneFold(**vars(answers))
        strata_N = strata_of(predictions)
        tests.append(
            [permutation_test(of, strata_N, num_permutations=num_resamples, seed=0).p for of in (alone, answers)]
        )
    low_S2, high_S2 = np.moveaxis(np.array(intervals), 2, 0)
    for place, said in enumerate(FACTORS):
        low_S, high_S, p_S = low_S2[:, place], high_S2[:, place], np.array(tests)[:, place]
        cells = [
            f"mean AUROC {np.mean(areas):.3f} of {truth_S.mean():.3f}",
            f"covers the models' own {np.mean((low_S <= truth_S) & (truth_S <= high_S)):.3f}",
            f"covers their mean {np.mean((low_S <= truth_S.mean()) & (truth_S.mean() <= high_S)):.3f}",
            f"leaves out 0.5 {np.mean((low_S > 0.5) | (high_S < 0.5)):.3f}",
            f"permutation p < {LEVEL}: {np.mean(p_S < LEVEL):.3f}",
        ]
        cells += [f"KS p {kstest(p_S, 'uniform').pvalue:.3f}"] if is_null else []
        sys.stdout.write(f"  {model:10s} {said:8s} {', '.join(cells)}\n")


def _print_pair(studies: list[Study]) -> None:
    model, reference = PAIR
    rows = [compare(study.predictions[study.predictions["model"].isin(PAIR)], reference).iloc[0] for study in studies]
    truth_S = np.array([study.auroc[model] - study.auroc[reference] for study in studies])
    difference_S = np.array([row["difference"] for row in rows])
    spread_S = np.array([row["ci_high"] - row["ci_low"] for row in rows]) / (2 * norm.ppf(1 - LEVEL / 2))
    for said, factor in zip(FACTORS, (1.0, 2.0), strict=True):
        z_S = difference_S / (spread_S * np.sqrt(factor / 2))
        error_S = (difference_S - truth_S) / (spread_S * np.sqrt(factor / 2))
        limit = norm.ppf(1 - LEVEL / 2)
        sys.stdout.write(
            f"  even - odd {said:8s} covers the models' own {np.mean(np.abs(error_S) <= limit):.3f}, leaves out 0 "
            f"{np.mean(np.abs(z_S) > limit):.3f}, corrected t p < {LEVEL}: "
            f"{np.mean([row['p_corrected_t'] < LEVEL for row in rows]):.3f}\n"
        )


if __name__ == "__main__":
    main()
