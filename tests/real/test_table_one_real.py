"""Table 1 of ABIDE I from its own phenotype table; counts only, against pandas on the file and the published numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lcm.cohort.harmonize import harmonize
from lcm.config import Dataset, Harmonize
from lcm.evaluation.study_people import first_visits, usable_scans
from lcm.evaluation.suppression import suppress_table_one
from lcm.evaluation.table_one import read_variables, table_one
from lcm.tables import OK, SCANS

pytestmark = pytest.mark.real


def test_table_one_of_abide_is_its_own_table(shared_data: Path):
    folder = shared_data / "phenotypes"
    raw = pd.read_csv(folder / "Phenotypic_V1_0b_preprocessed1.csv", dtype="str")
    raw = raw[raw["FILE_ID"] != "no_filename"]
    scans = pd.DataFrame({"participant_id": "sub-" + raw["SUB_ID"], "task": "rest"}).reindex(
        columns=list(SCANS.columns)
    )
    scans = scans.assign(dataset="ABIDE", scan=scans["participant_id"], outcome=OK)
    dataset = Dataset(
        path="none", input="series", cohort="abide", phenotypes=str(folder), pattern="*.1D", denoised=True, tr_s=2.0
    )
    bei = harmonize(scans, {"ABIDE": dataset}, Harmonize())[0]
    people = first_visits(usable_scans(bei, scans)).assign(mean_fd_mm=float("nan"))
    table = table_one(people, read_variables())
    value = table.set_index(["group", "variable", "level", "statistic"])["value"]
    of_all = table[(table["variable"] == "people")].set_index("group")["value"].to_dict()
    # Craddock et al. 2013: of 1,112 people 1,035 have a preprocessed scan, 505 with autism and 530 without.
    assert of_all == {"all": "1035", "autism: control": "530", "autism: autism": "505"}
    for code, level in (("1", "male"), ("2", "female")):
        for group, diagnosis in (("autism: autism", "1"), ("autism: control", "2")):
            expected = ((raw["SEX"] == code) & (raw["DX_GROUP"] == diagnosis)).sum()
            assert value[group, "sex", level, "n"] == str(expected)
    sites = table[(table["variable"] == "site") & (table["group"] == "all") & (table["statistic"] == "n")]
    assert sites.loc[sites["level"] != "unknown", "value"].astype(int).sum() == len(raw)
    assert (sites["level"] != "unknown").sum() == raw["SITE_ID"].nunique()
    counts = suppress_table_one(table, 5)
    assert counts.loc[counts["statistic"].isin(["n", "missing"]), "value"].str.isdigit().all()
