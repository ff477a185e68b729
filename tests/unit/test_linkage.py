"""Linkage: one person in several cohorts is one, relatives are one group, and a wrong link stops without a name."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.cohort.harmonize import harmonize
from lcm.cohort.linkage import Linkage, family_ties, link_people, read_linkage
from lcm.cohort.source import read_source
from lcm.cohort.split import split
from lcm.config import Dataset, Harmonize, Split
from lcm.tables import SCANS, check_folds, hashed

SOURCES = {name: read_source(name) for name in ("abide", "abide2", "hcpya")}
NO_LINKS = Linkage()


def written(folder: Path, *rows: str, header: str = "cohort\tid\tperson\tfamily") -> Path:
    """A linkage table on disk."""
    path = folder / "linkage.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def bei(*people: str, sex: tuple[str | None, ...] | None = None) -> pd.DataFrame:
    """A row a person with the sex observed where one is given."""
    sexes = list(sex) if sex else [None] * len(people)
    return pd.DataFrame(
        {
            "cohort": [person.split(":")[0] for person in people],
            "person_id": people,
            "group_id": people,
            "sex": sexes,
            "sex_source": ["missing" if value is None else "observed" for value in sexes],
        }
    )


def groups(table: pd.DataFrame) -> list[str]:
    """group_id of each row."""
    return table["group_id"].tolist()


def test_one_person_in_two_releases_has_one_id_however_the_ids_are_written(tmp_path: Path) -> None:
    path = written(tmp_path, "abide\t0050003\tP1\tn/a", "abide2\tsub-28675\tP1\tn/a")
    linkage = read_linkage(path, SOURCES)
    linked = link_people(bei("abide:50003", "abide2:28675", "abide:50004"), linkage, [])
    assert linked["person_id"].tolist() == ["linked:P1", "linked:P1", "abide:50004"]
    assert groups(linked) == ["linked:P1", "linked:P1", "abide:50004"]


def test_a_patient_of_one_cohort_is_no_assumed_control_in_another() -> None:
    linkage = Linkage({"abide:50003": "linked:P1", "hcpya:100307": "linked:P1"})
    told = {"autism": ["autism", "control", "control"], "autism_source": ["observed", "pseudo", "pseudo"]}
    linked = link_people(bei("abide:50003", "hcpya:100307", "hcpya:100408").assign(**told), linkage, [])
    assert linked["autism_source"].tolist() == ["observed", "missing", "pseudo"]
    assert linked["autism"].fillna("n/a").tolist() == ["autism", "n/a", "control"]


def test_a_table_without_families_is_complete(tmp_path: Path) -> None:
    linkage = read_linkage(written(tmp_path, "abide\t50003\tP1", header="cohort\tid\tperson"), SOURCES)
    assert linkage == Linkage({"abide:50003": "linked:P1"})


def test_a_link_that_matches_no_one_is_counted_by_cohort(tmp_path: Path) -> None:
    path = written(tmp_path, "abide\t50003\tP1\tn/a", "abide\t50004\tP2\tn/a", "abide2\t28675\tP3\tn/a")
    linkage = read_linkage(path, SOURCES)
    assert linkage.unmatched(["abide:50003"]) == {"abide": 1, "abide2": 1}
    assert linkage.unmatched(["abide:50003", "abide:50004", "abide2:28675"]) == {}


def test_a_shipped_cohort_that_is_not_in_the_study_may_be_linked(tmp_path: Path) -> None:
    path = written(tmp_path, "ppmi\t3001\tP1\tn/a")
    assert read_linkage(path, SOURCES).unmatched([]) == {"ppmi": 1}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["abyde\t50003\tP1\tn/a"], "column cohort: abyde (1 rows) is no cohort"),
        (["abide\tx50003y\tP1\tn/a"], f"column id: 1 ids do not fit the pattern of abide (sha256 {hashed('x50003y')})"),
        (
            ["abide\t50003\tP1\tn/a", "abide\t0050003\tP2\tn/a"],
            f"column person: 1 ids are linked to several people (sha256 {hashed('abide:50003')})",
        ),
        (["abide\t50003\tn/a\tn/a"], "column person: not_nullable (1 times)"),
    ],
)
def test_a_wrong_linkage_table_stops_with_column_and_count_and_names_no_one(tmp_path: Path, rows, words) -> None:
    path = written(tmp_path, *rows)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_linkage(path, SOURCES)
    assert str(path) in str(caught.value)
    assert "50003" not in str(caught.value)


def test_a_linkage_table_without_a_column_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column person: column_in_dataframe"):
        read_linkage(written(tmp_path, "abide\t50003", header="cohort\tid"), SOURCES)


def test_linked_people_of_two_sexes_stop_as_a_hash_and_unknown_sex_does_not(tmp_path: Path) -> None:
    linkage = Linkage({"abide:1": "linked:P1", "abide2:1": "linked:P1"})
    with pytest.raises(ValueError, match=r"1 linked people have several values of sex") as caught:
        link_people(bei("abide:1", "abide2:1", sex=("male", "female")), linkage, [])
    assert hashed("linked:P1") in str(caught.value)
    assert "P1" not in str(caught.value)
    linked = link_people(bei("abide:1", "abide2:1", sex=("male", None)), linkage, [])
    assert linked["person_id"].nunique() == 1


def test_an_assumed_sex_contradicts_nothing() -> None:
    table = bei("abide:1", "abide2:1", sex=("male", "female"))
    table.loc[1, "sex_source"] = "pseudo"
    linkage = Linkage({"abide:1": "linked:P1", "abide2:1": "linked:P1"})
    assert link_people(table, linkage, [])["person_id"].nunique() == 1


# ── families ──────────────────────────────────────────────────────────────────────────────────


def restricted(folder: Path, *rows: str) -> Path:
    """HCP's two tables; the restricted one with Family_ID, Mother_ID, Father_ID."""
    (folder / "unrestricted_x.csv").write_text("Subject,Gender,Age\n100206,M,26-30\n", encoding="utf-8")
    header = "Subject,Age_in_Yrs,Family_ID,Mother_ID,Father_ID"
    (folder / "RESTRICTED_x.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def families(folder: Path, *people: str) -> list[str]:
    """group_id of people of HCP-YA by the family table in `folder`."""
    table = bei(*(f"hcpya:{person}" for person in people))
    return groups(link_people(table, NO_LINKS, family_ties("hcpya", SOURCES["hcpya"], folder)))


def test_siblings_and_half_siblings_are_one_family_named_by_its_smallest_id(tmp_path: Path) -> None:
    # 1 and 2 share the family, 2 and 3 the mother, 3 and 4 the father; 5 is alone.
    folder = restricted(tmp_path, "1,30,A,M1,F1", "2,30,A,M2,F2", "3,30,B,M2,F3", "4,30,C,M4,F3", "5,30,D,M5,F5")
    assert families(folder, "4", "3", "2", "1", "5") == ["family:hcpya:1"] * 4 + ["hcpya:5"]


def test_a_relative_outside_the_study_joins_two_inside_it(tmp_path: Path) -> None:
    folder = restricted(tmp_path, "1,30,A,M1,F1", "2,30,A,M2,F2", "3,30,B,M2,F3")
    assert families(folder, "3", "1") == ["family:hcpya:1"] * 2


def test_blank_and_missing_parents_tie_no_one_and_a_mother_is_no_father(tmp_path: Path) -> None:
    folder = restricted(tmp_path, "1,30,A,,X", "2,30,B,,n/a", "3,30,C,X,NaN", "4,30,,NA,n/a")
    assert families(folder, "1", "2", "3", "4") == ["hcpya:1", "hcpya:2", "hcpya:3", "hcpya:4"]


def test_without_the_restricted_table_everyone_is_a_family_of_one(tmp_path: Path) -> None:
    folder = restricted(tmp_path)
    (folder / "RESTRICTED_x.csv").unlink()
    assert families(folder, "1", "2") == ["hcpya:1", "hcpya:2"]
    assert family_ties("abide", SOURCES["abide"], folder) == frozenset()


def test_the_linkage_table_tells_families_across_cohorts(tmp_path: Path) -> None:
    path = written(tmp_path, "abide\t50003\tP1\tsmith", "hcpya\t100206\tP2\tsmith", "hcpya\t100307\tP3\tn/a")
    linked = link_people(bei("abide:50003", "hcpya:100206", "hcpya:100307"), read_linkage(path, SOURCES), [])
    assert groups(linked) == ["family:linked:P1", "family:linked:P1", "linked:P3"]


def test_a_linked_persons_relatives_in_both_cohorts_are_one_family() -> None:
    linkage = Linkage({"abide:1": "linked:P", "hcpya:9": "linked:P"})
    ties = [("abide:1", "t"), ("abide:2", "t"), ("hcpya:9", "u"), ("hcpya:8", "u")]
    linked = link_people(bei("abide:1", "hcpya:9", "abide:2", "hcpya:8"), linkage, ties)
    assert set(groups(linked)) == {"family:abide:2"}


PEOPLE = [f"abide:{number}" for number in range(8)]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.sampled_from(PEOPLE), st.sampled_from("abcde"))), st.permutations(PEOPLE))
def test_groups_are_the_closure_of_sharing_whatever_the_order_of_the_rows(ties, order) -> None:
    linked = link_people(bei(*order), NO_LINKS, ties).set_index("person_id")["group_id"]
    # An independent closure: merge sets until none overlaps.
    sets = [{person} for person in PEOPLE]
    for _, tie in ties:
        sharing = {person for person, other in ties if other == tie}
        touched = [group for group in sets if group & sharing]
        sets = [group for group in sets if not group & sharing] + [set().union(*touched)]
    for group in sets:
        assert set(linked[sorted(group)]) == {f"family:{min(group)}" if len(group) > 1 else min(group)}


# ── in harmonize ──────────────────────────────────────────────────────────────────────────────


def scans(cohort: str, *people: str) -> pd.DataFrame:
    """Scans of a dataset that goes by its cohort's name, a scan a person."""
    rows = [{"dataset": cohort, "participant_id": f"sub-{person}", "scan": f"sub-{person}"} for person in people]
    return pd.DataFrame(rows, columns=list(SCANS.columns))


def study(folder: Path, *rows: str) -> tuple[pd.DataFrame, dict[tuple[str, str], int]]:
    """bei.tsv and the flow of three people of ABIDE I and II and two siblings of HCP-YA, linked as `rows` say."""
    for cohort in ("abide", "hcpya"):
        (folder / cohort).mkdir()
    (folder / "abide" / "Phenotypic_V1_0b.csv").write_text(
        "SUB_ID,SITE_ID,DX_GROUP,AGE_AT_SCAN,SEX\n50003,PITT,1,24,1\n50004,PITT,2,19,2\n", encoding="utf-8"
    )
    restricted(folder / "hcpya", "100206,27,A,M1,F1", "100307,29,A,M1,F1")
    datasets = {
        "abide": Dataset(path=".", input="bids", cohort="abide", phenotypes=str(folder / "abide")),
        "abide2": Dataset(path=".", input="bids", cohort="abide2"),
        "hcpya": Dataset(path=".", input="bids", cohort="hcpya", phenotypes=str(folder / "hcpya")),
    }
    every = [scans("abide", "50003", "50004"), scans("abide2", "28675"), scans("hcpya", "100206", "100307")]
    table, flow = harmonize(
        pd.concat(every, ignore_index=True), datasets, Harmonize(linkage=str(written(folder, *rows)))
    )
    return table, {(row["cohort"], row["step"]): row["count"] for row in flow.to_dict("records")}


def test_the_bei_table_has_one_person_over_two_releases_and_one_group_for_siblings(tmp_path: Path) -> None:
    table, flow = study(tmp_path, "abide\t50003\tP1\tn/a", "abide2\t28675\tP1\tn/a", "abide\t59999\tP2\tn/a")
    assert table["person_id"].tolist() == ["linked:P1", "abide:50004", "linked:P1", "hcpya:100206", "hcpya:100307"]
    assert groups(table) == ["linked:P1", "abide:50004", "linked:P1", *["family:hcpya:100206"] * 2]
    assert flow["abide", "people linked"] == flow["abide2", "people linked"] == 1
    assert flow["abide", "links without a person"] == 1
    assert ("hcpya", "people linked") not in flow


def test_folds_keep_linked_people_and_families_on_one_side() -> None:
    table = bei(*(f"{cohort}:{number}" for number in range(12) for cohort in ("abide", "abide2")))
    linkage = Linkage({f"{cohort}:{n}": f"linked:P{n}" for n in range(4) for cohort in ("abide", "abide2")})
    linked = link_people(table, linkage, [("abide:8", "t"), ("abide:9", "t"), ("abide2:9", "t")])
    for name in ("site", "alzheimers", "parkinsons", "autism", "schizophrenia"):
        linked = linked.assign(**{name: None, f"{name}_source": "missing"})
    folds = split(linked, Split(num_folds=3))
    check_folds(folds)
    assert folds["person_id"].nunique() == 20
    assert folds["group_id"].nunique() == 18
    assert folds.groupby(["group_id", "fold"])["role"].nunique().eq(1).all()
