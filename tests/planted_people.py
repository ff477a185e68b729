"""A BEI table made of what its scans differ in."""

from __future__ import annotations

import pandas as pd

from lcm.cohort.vocabulary import read_vocabulary


def bei_table(scans: list[dict[str, str | None]]) -> pd.DataFrame:
    """One row a scan: `cohort` and `id`, the BEIs observed, and `person` or `group` where more than the id ties them."""
    beis = list(read_vocabulary())
    rows = []
    for number, scan in enumerate(scans):
        person = scan.get("person") or f"{scan['cohort']}:{scan['id']}"
        cells = {name: scan.get(name) for name in beis}
        sources = {f"{name}_source": "observed" if cell else "missing" for name, cell in cells.items()}
        rows.append({
            "dataset": str(scan["cohort"]).upper(), "scan": f"sub-{scan['id']}_run-{number}", "cohort": scan["cohort"],
            "participant_id": f"sub-{scan['id']}", "session_id": None, "person_id": person,
            "group_id": scan.get("group") or person, **cells, **sources,
        })  # fmt: skip
    return pd.DataFrame(rows)


def people_of(cohort: str, count: int, **beis: str) -> list[dict[str, str | None]]:
    """Scans of `count` people, half of them with autism, a third female; ids as of ABIDE I."""
    return [
        {"cohort": cohort, "id": f"{50000 + number}", "autism": ("control", "autism")[number % 2],
         "sex": ("female", "male", "male")[number % 3], **beis}
        for number in range(count)
    ]  # fmt: skip
