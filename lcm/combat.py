"""ComBat: site effects of connectivity, estimated on some people, kept as arrays, and taken out of anybody's edges."""

# Shapes: N scans, E edges, S corrected sites, C columns of coded covariates.

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SMALLEST_SPREAD = 1e-6
"""An edge that varies less than this within sites was filled or is constant: nothing can be estimated from it."""


def sites_of(rows: pd.DataFrame) -> NDArray[np.object_]:
    """Site of every row of the BEI table as `<cohort>:<site>`, because sites of two cohorts may share a name.

    People whose site is unknown are one site of their cohort, `<cohort>`: a cohort without sites is a site, since scanner
    and protocol differ most between cohorts. Where a cohort is a disease, ComBat then takes the disease out too.
    """
    named = rows["cohort"].astype(str).str.cat(rows["site"].astype("object"), sep=":")
    return named.where(rows["site"].notna(), rows["cohort"]).to_numpy(dtype=object)


@dataclass(frozen=True)
class Covariate:
    """How a covariate becomes columns: a number in training SDs from its mean, or a column a level but the first."""

    name: str
    levels: tuple[str, ...] = ()
    mode: str = ""
    mean: float = 0.0
    spread: float = 1.0

    def columns(self, covariates: pd.DataFrame) -> NDArray[np.float64]:
        """Coded cells (N, 1) or (N, levels − 1); an unknown cell, or level, is the training mean or mode."""
        import pandas as pd

        cells = covariates[self.name]
        if not self.levels:
            standard_N = (pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64) - self.mean) / self.spread
            return np.nan_to_num(standard_N, nan=0.0)[:, None]
        names = cells.astype("object").map(str)
        known_N = names.where(names.isin(self.levels), self.mode).to_numpy(dtype=object)
        return np.stack([known_N == level for level in self.levels[1:]], axis=1).astype(np.float64)


@dataclass(frozen=True)
class FittedCombat:
    """Estimates on the edges' own scale: `corrected = model + (edge − model − shift of the site) / spread of the site`.

    `model` is mean_E plus the covariates' part. A site that is not in `sites` is returned as it is: one that the fit had
    too few people of (`left_alone`), an unseen and an unknown one. Without sites this is the identity.
    """

    sites: tuple[str, ...]
    covariates: tuple[Covariate, ...]
    people_S: NDArray[np.int64]
    mean_E: NDArray[np.float64]
    coefficient_CE: NDArray[np.float64]
    shift_SE: NDArray[np.float64]
    spread_SE: NDArray[np.float64]
    left_alone: tuple[str, ...] = ()

    def transform(
        self, edges_NE: NDArray[np.float32], site_N: NDArray[np.object_], covariates: pd.DataFrame
    ) -> NDArray[np.float32]:
        """The edges without the effect of their site, float32; NaN stays NaN, and a site without estimates stays.

        Raises ValueError when the edges are not those of the fit, or a covariate of it is not a column.
        """
        if edges_NE.shape[1] != len(self.mean_E):
            raise ValueError(
                f"ComBat was fitted on {len(self.mean_E)} edges, these connectomes have {edges_NE.shape[1]}"
            )
        corrected_NE = edges_NE.astype(np.float32, copy=True)
        place_of = {site: place for place, site in enumerate(self.sites)}
        place_N = np.array([place_of.get(site, -1) for site in site_N], dtype=np.int64)
        known_N = place_N >= 0
        log.info("ComBat: %d scans corrected, %d left as they are", known_N.sum(), (~known_N).sum())
        if known_N.any():
            design_NC = _design(self.covariates, covariates[known_N])
            model_NE = self.mean_E + design_NC @ self.coefficient_CE
            shift_NE, spread_NE = self.shift_SE[place_N[known_N]], self.spread_SE[place_N[known_N]]
            corrected_NE[known_N] = model_NE + (edges_NE[known_N] - model_NE - shift_NE) / spread_NE
        return corrected_NE

    def arrays(self) -> dict[str, NDArray]:
        """Everything that `transform` needs, as numbers; names are JSON in bytes.

        `left_alone` is not among them: the name of a site with one person may give that person away.
        """
        names = {"sites": self.sites, "covariates": [asdict(covariate) for covariate in self.covariates]}
        return {
            "names": np.frombuffer(json.dumps(names).encode(), dtype=np.uint8).copy(),
            "people_S": self.people_S,
            "mean_E": self.mean_E,
            "coefficient_CE": self.coefficient_CE,
            "shift_SE": self.shift_SE,
            "spread_SE": self.spread_SE,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> FittedCombat:
        """The estimates that `arrays` wrote, bit by bit; KeyError where one is missing."""
        names = json.loads(arrays["names"].tobytes())
        covariates = [Covariate(**entry | {"levels": tuple(entry["levels"])}) for entry in names["covariates"]]
        return cls(
            sites=tuple(names["sites"]),
            covariates=tuple(covariates),
            people_S=arrays["people_S"],
            mean_E=arrays["mean_E"],
            coefficient_CE=arrays["coefficient_CE"],
            shift_SE=arrays["shift_SE"],
            spread_SE=arrays["spread_SE"],
        )


def fit_combat(
    edges_NE: NDArray[np.float32],
    site_N: NDArray[np.object_],
    covariates: pd.DataFrame,
    *,
    min_people: int,
    person_N: Sequence[object] | None = None,
) -> FittedCombat:
    """Estimate site effects by parametric empirical Bayes (Johnson et al. 2007; Fortin et al. 2018), by neuroCombat.

    `site_N` holds names, None where unknown; `covariates` has a row a scan and a column an effect to be kept, whose cells
    are numbers or names (a column of which every known cell is a number is one, unless it is categorical by type).
    Scans of one person all enter; `person_N` says whose they are, so that `min_people` (at least 2) counts people.
    A missing edge takes its mean for the fit, an edge that does not vary is not corrected. Fewer than two sites with
    `min_people`, or fewer than two edges, give the identity. Raises ValueError when a covariate cannot be told apart
    from the sites, or the estimates are not numbers.
    """
    people = np.arange(len(site_N)) if person_N is None else np.asarray(person_N, dtype=object)
    if not len(edges_NE) == len(site_N) == len(covariates) == len(people) or min_people < 2:
        raise ValueError(
            f"ComBat: {len(edges_NE)} connectomes, {len(site_N)} sites, {len(covariates)} rows of covariates and "
            f"{len(people)} people must be as many; min_people {min_people} must be 2 or more"
        )
    people_of = _people_of(site_N, people)
    sites = tuple(sorted(site for site, count in people_of.items() if count >= min_people))
    left_alone = tuple(sorted(set(people_of) - set(sites)))
    log.info(
        "ComBat: %d sites estimated, %d left alone (fewer than %d people)", len(sites), len(left_alone), min_people
    )
    used_N = np.isin(site_N, sites)
    filled_NE = _filled(edges_NE[used_N])
    varying_E = _spread_within(filled_NE, site_N[used_N]) > SMALLEST_SPREAD
    if len(sites) < 2 or varying_E.sum() < 2:
        log.warning(
            "ComBat: %d sites with enough people, %d edges that vary; nothing is corrected", len(sites), varying_E.sum()
        )
        return _identity(edges_NE.shape[1], left_alone)
    coded = tuple(code for name in covariates for code in _coded(covariates.loc[used_N, name]))
    design_NC = _design(coded, covariates[used_N])
    _check_rank(design_NC, site_N[used_N], coded)
    found = _estimate(filled_NE[:, varying_E], site_N[used_N], design_NC)

    def placed(values_KE: NDArray[np.float64], elsewhere: float) -> NDArray[np.float64]:
        whole_KE = np.full((len(values_KE), len(varying_E)), elsewhere)
        whole_KE[:, varying_E] = values_KE
        return whole_KE

    return FittedCombat(
        sites=sites,
        covariates=coded,
        people_S=np.array([people_of[site] for site in sites], dtype=np.int64),
        mean_E=placed(found.mean_E[None], 0.0)[0],
        coefficient_CE=placed(found.coefficient_CE, 0.0),
        shift_SE=placed(found.shift_SE, 0.0),
        spread_SE=placed(found.spread_SE, 1.0),
        left_alone=left_alone,
    )


def _identity(num_edges: int, left_alone: tuple[str, ...]) -> FittedCombat:
    none_0E = np.zeros((0, num_edges))
    return FittedCombat((), (), np.zeros(0, dtype=np.int64), np.zeros(num_edges), none_0E, none_0E, none_0E, left_alone)


def _people_of(site_N: NDArray[np.object_], people: NDArray) -> dict[str, int]:
    """Site → number of distinct people; scans of an unknown site are nobody's."""
    members: dict[str, set[object]] = {}
    for site, person in zip(site_N, people, strict=True):
        if site is not None:
            members.setdefault(site, set()).add(person)
    return {site: len(own) for site, own in members.items()}


def _filled(edges_NE: NDArray[np.float32]) -> NDArray[np.float64]:
    """Edges in double precision, a missing one at its mean over the scans that have it (0 where none has)."""
    seen_NE = np.isfinite(edges_NE)
    known_NE = np.where(seen_NE, edges_NE, 0.0).astype(np.float64)
    mean_E = known_NE.sum(axis=0) / np.maximum(seen_NE.sum(axis=0), 1)
    return np.where(seen_NE, known_NE, mean_E)


def _spread_within(edges_NE: NDArray[np.float64], site_N: NDArray[np.object_]) -> NDArray[np.float64]:
    """Largest standard deviation of each edge within a site, zeros where there is no scan."""
    spread_E = np.zeros(edges_NE.shape[1])
    for site in set(site_N):
        spread_E = np.maximum(spread_E, edges_NE[site_N == site].std(axis=0))
    return spread_E


def _coded(cells: pd.Series) -> list[Covariate]:
    """The coding learned from these cells, or none where every known cell is alike and so has no effect to keep."""
    import pandas as pd

    known = cells.dropna()
    if known.nunique() < 2:
        log.warning("ComBat: covariate '%s' is the same for everyone it is known of, and is left out", cells.name)
        return []
    numbers = pd.to_numeric(known, errors="coerce")
    if numbers.notna().all() and not isinstance(cells.dtype, pd.CategoricalDtype):
        return [Covariate(str(cells.name), mean=float(numbers.mean()), spread=float(numbers.std(ddof=0)))]
    names = known.astype("object").map(str)
    return [Covariate(str(cells.name), tuple(sorted(set(names))), mode=names.mode().iloc[0])]


def _design(coded: Sequence[Covariate], covariates: pd.DataFrame) -> NDArray[np.float64]:
    """Coded covariates side by side (N, C)."""
    absent = [covariate.name for covariate in coded if covariate.name not in covariates]
    if absent:
        raise ValueError(f"ComBat was fitted with covariates {absent}, which are no columns here")
    empty_N0 = np.zeros((len(covariates), 0))
    # neuroCombat reads covariates in single precision; what it fitted is what has to be applied.
    columns = [covariate.columns(covariates).astype(np.float32) for covariate in coded]
    return np.concatenate([empty_N0, *columns], axis=1)


def _check_rank(design_NC: NDArray[np.float64], site_N: NDArray[np.object_], coded: Sequence[Covariate]) -> None:
    """Raise ValueError where sites and covariates are collinear, which neuroCombat inverts into noise."""
    site_NS = (site_N[:, None] == np.array(sorted(set(site_N)), dtype=object)).astype(np.float64)
    whole = np.concatenate([site_NS, design_NC], axis=1)
    if np.linalg.matrix_rank(whole) < whole.shape[1]:
        raise ValueError(
            f"ComBat: covariates {[covariate.name for covariate in coded]} cannot be told apart from the {site_NS.shape[1]} "
            f"sites (or one another) in {len(site_N)} training scans; take one out of combat.covariates, or set combat to null"
        )


class _Estimates(NamedTuple):
    """As in FittedCombat."""

    mean_E: NDArray[np.float64]
    coefficient_CE: NDArray[np.float64]
    shift_SE: NDArray[np.float64]
    spread_SE: NDArray[np.float64]


def _estimate(edges_NE: NDArray[np.float64], site_N: NDArray[np.object_], design_NC: NDArray[np.float64]) -> _Estimates:
    """The estimates of neuroCombat, sites in sorted order, put on the scale of the edges."""
    import pandas as pd
    from neuroCombat import neuroCombat

    names = [f"covariate{i}" for i in range(design_NC.shape[1])]
    table = pd.DataFrame(design_NC, columns=names).assign(site=site_N)
    with redirect_stdout(io.StringIO()):
        found = neuroCombat(edges_NE.T, table, batch_col="site", continuous_cols=names)["estimates"]
    # It gives the covariates' part of every scan, not their coefficients: these solve design @ coefficients = part.
    coefficient_CE = np.linalg.lstsq(design_NC, found["mod.mean"].T, rcond=None)[0]
    pooled_E = np.sqrt(found["var.pooled"][:, 0])
    estimates = _Estimates(
        mean_E=found["stand.mean"][:, 0],
        coefficient_CE=coefficient_CE,
        shift_SE=found["gamma.star"] * pooled_E,
        spread_SE=np.sqrt(found["delta.star"]),
    )
    if not all(np.isfinite(values).all() for values in estimates):
        raise ValueError(f"ComBat: the estimates of {len(set(site_N))} sites are not numbers; set combat to null")
    return estimates
