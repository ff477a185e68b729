"""Simulated people: age, sex, site and diagnosis of everyone in the demo cohorts, and who is defective on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lcm.cohort.simulated_series import INDIVIDUAL_SPREAD, generator

YEARS_PER_AGE_UNIT = 40.0
"""Age moves its edges by the setting `effect` every 40 years, counted from the age of 5."""


@dataclass(frozen=True)
class Plan:
    """How a cohort recruits: groups, then sexes, then sites are dealt in turn, so that none confounds another."""

    label: str
    """Participant label without `sub-`; `{number}` counts from `first`, `{group}` is the cohort's own code."""
    first: int
    ages_years: tuple[float, float]
    groups: tuple[str, ...] = ("",)
    sexes: tuple[str, ...] = ("female", "male")
    sites: tuple[str, ...] = ("",)
    diagnosis: str | None = None
    """BEI that the groups move; None where the cohort has no diagnosis."""
    doses: Mapping[str, float] = field(default_factory=dict)
    """Group code → share of the diagnosis' effect; 0 where absent."""
    tasks: tuple[str, ...] = ("",)
    num_rows_without_scan: int = 1


PLANS: dict[str, Plan] = {
    "HCPA": Plan("HCA{number}", 9600001, (36, 88), sites=("WashU", "UCLA"), tasks=("rest", "carit")),
    "HCPYA": Plan("{number}", 990101, (22, 37), tasks=("rest", "WM")),
    "ADNI": Plan(
        "{site}S{number}",
        9001,
        (56, 89),
        groups=("CN", "AD", "SMC", "LMCI", "CN", "AD", "EMCI", "LMCI"),
        sites=("901", "902", "903"),
        diagnosis="alzheimers",
        doses={"EMCI": 0.1, "LMCI": 0.9, "AD": 1.0},
        num_rows_without_scan=3,
    ),
    "PPMI": Plan(
        "{number}",
        990001,
        (45, 82),
        groups=("1", "2", "1", "2", "1", "2", "4", "1", "2", "3"),
        diagnosis="parkinsons",
        doses={"1": 1.0, "4": 0.5},
        num_rows_without_scan=2,
    ),
    "ABIDE": Plan(
        "{number:07d}",
        59001,
        (7, 40),
        groups=("1", "2"),
        sexes=("male", "female", "male"),
        sites=("PITT", "NYU", "UM_1"),
        diagnosis="autism",
        doses={"1": 1.0},
        num_rows_without_scan=3,
    ),
    "Taowu": Plan(
        "{group}{number:06d}", 39001, (57, 76), groups=("control", "patient"), diagnosis="parkinsons",
        doses={"patient": 1.0}, num_rows_without_scan=0,
    ),
    "Neurocon": Plan(
        "{group}{number:06d}", 39501, (45, 86), groups=("patient", "control"), diagnosis="parkinsons",
        doses={"patient": 1.0}, num_rows_without_scan=2,
    ),
    "SZ": Plan(
        "{number:07d}", 49001, (18, 65), groups=("Control", "Patient"), diagnosis="schizophrenia",
        doses={"Patient": 1.0}, num_rows_without_scan=2,
    ),
}  # fmt: skip
"""The eight cohorts; every identifier lies outside the ranges that the real ones use."""

SCAN_WITHOUT_ROW = {"ABIDE": 5, "SZ": 7}
"""Cohort → position of the person whose scan no table mentions."""

UNKNOWN_CODE = {"PPMI": (9, "9")}
"""Cohort → position of the person whose group the table writes as a code that nobody defined."""

ZERO_REGION = {"ABIDE": (2, "Temporal_Pole_Mid_L")}
"""Cohort → position of the person without signal in a region: no coverage there."""

SHORT_RUN = {"PPMI": (3, 12)}
"""Cohort → position of the person whose run stopped after so many volumes."""

NO_T1W = {"HCPA": -1}
"""Cohort → position of the person without an anatomical image."""


@dataclass(frozen=True)
class Person:
    """One simulated participant."""

    cohort: str
    position: int
    label: str
    number: int
    site: str
    age_years: float
    sex: str
    group: str
    tasks: tuple[str, ...]
    """Tasks scanned; empty for a row without a scan, ("",) where file names carry no task."""
    has_row: bool = True


def recruit(cohort: str, num_scanned: int, seed: int) -> list[Person]:
    """The people of a cohort: `num_scanned` with scans, then those that only the tables mention."""
    plan = PLANS[cohort]
    rng = generator(seed, cohort, "people")
    people = []
    for position in range(num_scanned + plan.num_rows_without_scan):
        group = plan.groups[position % len(plan.groups)]
        turn = position // len(plan.groups)
        site = plan.sites[(turn // len(plan.sexes)) % len(plan.sites)]
        number = plan.first + position
        # Every other person did the second task too, in an order (yes no no yes) that does not follow the sexes.
        tasks = plan.tasks if (position + position // 2) % 2 == 0 else plan.tasks[:1]
        people.append(
            Person(
                cohort=cohort,
                position=position,
                label=plan.label.format(number=number, group=group, site=site),
                number=number,
                site=site,
                age_years=round(float(rng.uniform(*plan.ages_years)), 2),
                sex=plan.sexes[turn % len(plan.sexes)],
                group=group,
                tasks=tasks if position < num_scanned else (),
                has_row=SCAN_WITHOUT_ROW.get(cohort) != position,
            )
        )
    return people


def lacks_t1w(person: Person, num_scanned: int) -> bool:
    """Whether this is the raw cohort's person without a T1w (never the only one there is)."""
    return num_scanned > 1 and NO_T1W.get(person.cohort) == person.position - num_scanned


def shift_amounts(person: Person, task: str, effect_z: float, seed: int) -> dict[str, float]:
    """How far, in Fisher z, each BEI moves its edges in this person: the level's dose with individual spread, never below 0."""
    plan = PLANS[person.cohort]
    doses = {
        "sex": 1.0 if person.sex == "female" else 0.0,
        "age": (person.age_years - 5.0) / YEARS_PER_AGE_UNIT,
        "cognitive_state": 0.0 if task in ("", "rest") else 1.0,
    }
    if plan.diagnosis is not None:
        doses[plan.diagnosis] = plan.doses.get(person.group, 0.0)
    rng = generator(seed, person.cohort, person.label, "strength")
    return {bei: effect_z * max(0.0, dose + rng.normal(0.0, INDIVIDUAL_SPREAD)) for bei, dose in doses.items()}


def describe_defects() -> list[dict[str, object]]:
    """The defects planted on purpose, for truth.json; `position` counts the cohort's participants from 0."""
    defects: list[dict[str, object]] = []
    for cohort, plan in PLANS.items():
        if plan.num_rows_without_scan:
            defects.append({"cohort": cohort, "kind": "rows without a scan", "count": plan.num_rows_without_scan})
    for cohort, position in SCAN_WITHOUT_ROW.items():
        defects.append({"cohort": cohort, "kind": "scan without a row", "position": position})
    for cohort, (position, code) in UNKNOWN_CODE.items():
        defects.append({"cohort": cohort, "kind": "unknown code", "position": position, "code": code})
    for cohort, (position, region) in ZERO_REGION.items():
        defects.append({"cohort": cohort, "kind": "all-zero region", "position": position, "region": region})
    for cohort, (position, volumes) in SHORT_RUN.items():
        defects.append({"cohort": cohort, "kind": "short run", "position": position, "num_volumes": volumes})
    for cohort in NO_T1W:
        defects.append({"cohort": cohort, "kind": "no T1w", "position": "last"})
    return defects
