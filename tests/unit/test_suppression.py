"""No small count of people can be worked out from what a public table shows; a linear programme tries to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.optimize import linprog

from lcm.evaluation.flow import Block, CohortFlow, Step, suppressed, suppressed_counts
from lcm.evaluation.study_people import first_visits
from lcm.evaluation.suppression import (
    HIDDEN,
    hidden_lines,
    hidden_parts,
    mark,
    suppress_labels,
    suppress_scores,
    suppress_site_effects,
    suppress_table_one,
)
from lcm.evaluation.table_one import read_variables, table_one
from lcm.result_tables import SCORES
from lcm.tables import LABELS, OUTCOMES, SITE_EFFECTS

MIN = 5
MARK = mark(MIN)


class Attack:
    """What follows for one number, or a sum, from numbers that are shown and sums that must hold; all are 0 or more."""

    def __init__(self) -> None:
        self.place: dict[object, int] = {}
        self.rows: list[tuple[dict[object, float], float]] = []

    def knows(self, parts: dict[object, float], value: float = 0.0) -> None:
        """The weighted sum of the named numbers is `value`."""
        for name in parts:
            self.place.setdefault(name, len(self.place))
        self.rows.append((parts, value))

    def interval(self, name: object) -> tuple[float, float]:
        """Least and greatest value that fits."""
        matrix = np.zeros((len(self.rows), len(self.place)))
        for row, (parts, _) in enumerate(self.rows):
            for part, weight in parts.items():
                matrix[row, self.place[part]] = weight
        goal = np.zeros(len(self.place))
        goal[self.place[name]] = 1
        ends = []
        for sign in (1, -1):
            done = linprog(sign * goal, A_eq=matrix, b_eq=[value for _, value in self.rows], bounds=(0, None))
            # Without an upper end there is more than one value, too.
            ends.append(np.inf if done.status == 3 else sign * done.fun)
        return ends[0], ends[1]


counts = st.one_of(st.integers(0, 4), st.integers(0, 60))


@given(st.lists(counts, min_size=1, max_size=6).map(np.array))
def test_hidden_parts_of_a_sum_may_be_anything(parts):
    hidden = hidden_parts(parts, MIN)
    assert not ((parts > 0) & (parts < MIN) & ~hidden).any()
    if parts.sum() >= MIN and hidden.any():
        rest = parts[hidden].sum()
        assert rest >= MIN
        assert ((parts[hidden] < rest) | (parts[hidden] == 0)).all()


def test_a_table_without_small_counts_stays_as_it_is():
    assert not hidden_parts(np.array([5, 0, 100]), MIN).any()
    assert not hidden_lines(np.array([[5, 9], [0, 12]]), MIN)[1].any()


@settings(max_examples=150, deadline=None)
@given(npst.arrays(int, npst.array_shapes(min_dims=2, max_dims=2, max_side=4), elements=counts))
def test_no_small_cell_of_a_table_with_both_sums_can_be_worked_out(counts_LG):
    assume((counts_LG.sum(axis=0) >= MIN).all())
    in_sums, in_groups = hidden_lines(counts_LG, MIN)
    attack = Attack()
    levels, groups = (range(size) for size in counts_LG.shape)
    for level in levels:
        attack.knows({("cell", level, group): 1 for group in groups} | {("sum", level): -1})
        if not in_sums[level]:
            attack.knows({("sum", level): 1}, counts_LG[level].sum())
        if not in_groups[level]:
            for group in groups:
                attack.knows({("cell", level, group): 1}, counts_LG[level, group])
    for group in groups:
        attack.knows({("cell", level, group): 1 for level in levels}, counts_LG[:, group].sum())
    small = [("cell", *place) for place in np.argwhere((counts_LG > 0) & (counts_LG < MIN)).tolist()]
    small += [("sum", level) for level in levels if 0 < counts_LG[level].sum() < MIN]
    for name in small:
        low, high = attack.interval(name)
        assert high - low >= 1 - 1e-6, name


def study(person_N: list[tuple[str, str | None, str, float | None]]) -> pd.DataFrame:
    """Table 1 of one cohort from autism, sex (None: unknown), site and age of its people."""
    frame = pd.DataFrame(person_N, columns=["autism", "sex", "site", "age"])
    frame = frame.assign(
        person_id=[f"abide:{place}" for place in frame.index], cohort="abide", dataset="A", mean_fd_mm=0.1
    )
    for name in ("autism", "sex", "site", "age"):
        frame[name] = frame[name].astype("object").where(frame[name].notna(), None)
        frame[f"{name}_source"] = frame[name].notna().map({True: "observed", False: "missing"})
    return table_one(first_visits(frame.assign(scan=frame["person_id"], session_id=None)), read_variables())


def counts_of(table: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Every number of people in the table by group, variable and level; known and missing are levels of an age."""
    own = table[table["statistic"].isin(["n", "missing"]) & (table["variable"] != "scans")]
    line = own["level"].fillna(own["statistic"])
    return dict(zip(zip(own["group"], own["variable"], line, strict=True), own["value"], strict=True))


people_strategy = st.lists(
    st.tuples(
        st.sampled_from(["autism", "control", "control", None]),
        st.sampled_from(["male", "male", "male", "female", None]),
        st.sampled_from(["Pitt", "Pitt", "Yale", "NYU"]),
        st.sampled_from([20.0, 30.0, 40.0, 50.0, None]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(people_strategy)
def test_no_small_count_of_table_one_can_be_worked_out(person_N):
    table = study(person_N)
    truth, shown = counts_of(table), counts_of(suppress_table_one(table, MIN))
    groups = [group for group in table["group"].unique() if group != "all"]
    lines = {(variable, line) for _, variable, line in truth if variable != "people"}
    attack = Attack()
    for variable, line in sorted(lines | {("people", "n")}, key=str):
        if groups:
            attack.knows({(group, variable, line): 1 for group in groups} | {("all", variable, line): -1})
    for group in ["all", *groups]:
        for variable in {variable for variable, _ in lines}:
            own = {(group, variable, line): 1 for name, line in lines if name == variable}
            attack.knows(own | {(group, "people", "n"): -1})
    for name, value in shown.items():
        attack.place.setdefault(name, len(attack.place))
        if value != MARK:
            attack.knows({name: 1}, int(value))
    for name, value in truth.items():
        if 0 < int(value) < MIN:
            assert shown[name] == MARK
            low, high = attack.interval(name)
            assert high - low >= 1 - 1e-6, name


def test_extremes_and_statistics_of_small_groups_are_never_public():
    people = [("autism", "male", "Pitt", 20.0)] * 12 + [("control", "male", "Pitt", 30.0)] * 9
    people += [("control", "male", "Pitt", None)] * 6 + [("autism", "male", "Pitt", None)] * 6
    open_table = suppress_table_one(study(people), MIN).set_index(["group", "variable", "statistic"])["value"]
    assert set(open_table.loc[:, "age", ["min", "max"]]) == {HIDDEN}
    assert open_table["autism: autism", "age", "mean"] == "20.00"
    few = [("control", "male", "Pitt", 30.0)] * 3 + [("control", "male", "Pitt", None)] * 12 + people[:12]
    closed = suppress_table_one(study(few), MIN).set_index(["group", "variable", "statistic"])["value"]
    assert closed["autism: control", "age", "mean"] == HIDDEN
    assert closed["autism: autism", "age", "mean"] == HIDDEN
    assert closed["all", "age", "mean"] == "22.00"


def test_the_only_known_age_among_hidden_groups_cannot_be_subtracted():
    people = [("autism", "male", "Pitt", 20.0)] * 10 + [("autism", "male", "Pitt", 30.0)] * 10
    people += [("control", "male", "Pitt", 77.0)] + [("control", "male", "Pitt", None)] * 3
    people += [(None, "male", "Pitt", None)] * 3
    # 21 ages in all, of which the mean is shown; were that of the 20 shown, too, the last would follow.
    table = suppress_table_one(study(people), MIN)
    shown = table.set_index(["group", "variable", "statistic"])["value"].sort_index()
    assert shown["all", "age", "mean"] == "27.48"
    for group in ("autism: autism", "autism: control", "autism: unknown"):
        assert set(shown[group, "age"]) == {MARK, HIDDEN}, group


def test_a_statistic_that_is_absent_does_not_tell_a_hidden_count():
    people = [("autism", "male", "Pitt", 20.0)] * 17 + [("autism", "male", "Pitt", None)] * 3
    people += [("control", "male", "Pitt", None)] * 20
    # A control group without a mean has no known age, so that 3 of the autism group would be those without one.
    table = suppress_table_one(study(people), MIN)
    shown = table.set_index(["group", "variable", "statistic"])["value"].sort_index()
    for group in ("autism: autism", "autism: control"):
        assert set(shown[group, "age"]) == {MARK, HIDDEN}, group


def test_a_cohort_of_few_people_shows_nothing():
    table = suppress_table_one(study([("autism", "male", "Pitt", 20.0)] * 4), MIN)
    assert set(table["value"].dropna()) == {MARK, HIDDEN}


def test_nothing_is_hidden_where_every_count_is_large():
    table = study([("autism", "male", "Pitt", 20.0), ("control", "male", "Pitt", 30.0)] * 10)
    changed = suppress_table_one(table, MIN)["value"].ne(table["value"]) & table["value"].notna()
    assert set(table.loc[changed, "statistic"]) == {"min", "max"}


def test_a_flow_with_a_small_count_shows_no_sum_but_the_people_of_the_study():
    lines = [Step("start", "rows read", 50), Step("minus", "later visit", 3), Step("minus", "sentinel", 7)]
    people = [Step("start", "people scanned", 40), Step("end", "people in the study", 40)]
    flow = CohortFlow("abide", [Block("rows", [*lines, Step("total", "rows kept", 40)]), Block("people", people)])
    outcomes = pd.DataFrame(columns=list(OUTCOMES.columns))
    shown = {
        step.label: step.hidden or step.count
        for block in suppressed(flow, outcomes, MIN).blocks
        for step in block.steps
    }
    assert shown == {
        "rows read": HIDDEN,
        "later visit": MARK,
        "sentinel": 7,
        "rows kept": HIDDEN,
        "people scanned": HIDDEN,
        "people in the study": 40,
    }


def test_a_flow_without_small_counts_is_whole_but_for_the_cells_of_few():
    lines = [Step("start", "rows read", 47), Step("minus", "sentinel", 7), Step("total", "rows kept", 40)]
    cells = [Step("beside", "unknown code: SEX = 9", 1), Step("beside", "unknown code: DX = 3", 8)]
    flow = CohortFlow("abide", [Block("rows", lines), Block("cells", cells)])
    found = suppressed(flow, pd.DataFrame(columns=list(OUTCOMES.columns)), MIN)
    assert [block.steps for block in found.blocks] == [lines, cells[1:]]


def test_an_outcome_that_is_rare_in_one_dataset_is_hidden_in_the_flow():
    counts = pd.DataFrame({"dataset": ["A", "B"], "outcome": "excluded: short", "count": [2, 10]})
    lines = [Step("start", "scans indexed", 40), Step("minus", "excluded: short", 12), Step("end", "usable", 28)]
    found = suppressed(CohortFlow("abide", [Block("scans", lines)]), counts, MIN)
    assert [step.hidden for step in found.blocks[0].steps] == [HIDDEN, MARK, ""]
    assert suppressed_counts(counts, MIN)["count"].isna().tolist() == [True, False]


def test_labels_of_few_people_are_hidden_with_another_level():
    rows = [("abide", "autism", level, "observed", count, count) for level, count in (("control", 40), ("autism", 3))]
    rows += [("abide", "autism", None, "missing", 9, 9), ("abide", "age", "any", "observed", 52, 60)]
    shown = suppress_labels(pd.DataFrame(rows, columns=list(LABELS.columns)), MIN)
    assert shown["num_people"].tolist() == ["40", MARK, MARK, "52"]
    assert shown["num_scans"].tolist() == ["40", MARK, MARK, "60"]


def scores(subset: str = "all", **per_cohort: str) -> pd.DataFrame:
    row = {"protocol": "honest", "select": "validation", "model": "lcm", "group": "network", "task": "autism"}
    row |= {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "chance": 0.5, "training_people": "listed", "subset": subset}
    rows = []
    for cohort, text in per_cohort.items():
        count = sum(int(part.split("=")[1]) for part in text.split(";"))
        people = {"cohort": cohort, "num_people": count, "num_per_level": text}
        rows += [row | people | {"metric": metric} for metric in ("auroc", "accuracy")]
    return pd.DataFrame(rows)[list(SCORES.columns)]


@pytest.mark.parametrize(
    ("inside", "is_shown"),
    [("no=20;yes=8", True), ("no=33;yes=8", False), ("no=4;yes=8", False), ("no=35;yes=16", True)],
)
def test_a_subset_is_public_where_few_are_neither_in_it_nor_out_of_it(inside, is_shown):
    whole = scores(all="no=35;yes=16", abide="no=35;yes=16")
    part = scores("low-motion", all=inside, abide=inside)
    shown = suppress_scores(pd.concat([whole, part], ignore_index=True), MIN)
    assert (shown["subset"] == "low-motion").sum() == (2 if is_shown else 0)
    assert (shown["subset"] == "all").sum() == 4


def test_a_cohort_of_few_test_people_has_no_public_score():
    table = scores(all="no=33;yes=30", abide="no=20;yes=20", sz="no=11;yes=9", tiny="no=2;yes=1")
    shown = suppress_scores(table, MIN).drop_duplicates("cohort").set_index("cohort")["num_per_level"]
    assert set(shown.index) == {"all", "abide"}
    assert shown["abide"] == "no=20;yes=20"


def test_a_small_level_is_hidden_in_every_cohort_and_its_score_stays():
    table = scores(all="no=35;yes=12", abide="no=15;yes=10", sz="no=20;yes=2")
    shown = suppress_scores(table, MIN)
    assert len(shown) == len(table)
    texts = shown.drop_duplicates("cohort").set_index("cohort")["num_per_level"]
    assert texts["all"] == "no=35;yes=12"
    assert set(texts[["abide", "sz"]]) == {f"no={MARK};yes={MARK}"}


@pytest.mark.parametrize(("asked", "is_hidden"), [(40, False), (38, True), (35, False), (3, True)])
def test_the_people_of_a_site_row_do_not_give_the_rest_of_the_cohort_away(asked, is_hidden):
    row = {"cohort": "abide", "predicted": "site", "combat": "off", "metric": "balanced_accuracy", "value": 0.5}
    row |= {"chance": 0.5, "num_people": asked, "num_sites": 2, "note": None}
    table = pd.DataFrame([row], columns=list(SITE_EFFECTS.columns))
    shown = suppress_site_effects(table, pd.Series({"abide": 40}), MIN)
    assert shown["num_people"].isna().tolist() == [is_hidden]


def test_the_people_of_the_whole_study_do_not_give_a_small_cohort_away():
    row = {
        "predicted": "motion",
        "combat": "off",
        "metric": "r",
        "value": 0.1,
        "chance": 0.0,
        "num_sites": 2,
        "note": None,
    }
    rows = [row | {"cohort": cohort, "num_people": count} for cohort, count in (("abide", 40), ("all", 42))]
    table = pd.DataFrame(rows)[list(SITE_EFFECTS.columns)]
    shown = suppress_site_effects(table, pd.Series({"abide": 40, "hcpa": 2}), MIN)
    assert shown["num_people"].isna().tolist() == [False, True]
