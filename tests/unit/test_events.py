"""Events: a run's trial types give its cognitive state, where they agree."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from lcm.cohort.decode import OBSERVED, REFUSED, UNOBSERVED, decode_states
from lcm.cohort.events import SEVERAL, read_events, states_of_events, trial_types
from lcm.cohort.flow import Flow
from lcm.cohort.harmonize import harmonize
from lcm.cohort.source import Source, read_source, source_path
from lcm.config import Dataset, Harmonize
from lcm.tables import SCANS

EVENTS = {"0bk_faces": "wm", "2bk_faces": "wm", "story": "language", "cue": None}


@pytest.fixture
def source() -> Source:
    """HCP-YA with trial types of two tasks, and one that says nothing of the state."""
    return read_source("hcpya").model_copy(update={"events": EVENTS})


def bids_run(folder: Path, run: int, types: list[str] | None) -> str:
    """A run's image name, with an events file beside it unless `types` is None."""
    folder.mkdir(exist_ok=True)
    if types is not None:
        rows = "".join(f"{onset}\t1.0\t{name}\n" for onset, name in enumerate(types))
        (folder / f"sub-1_task-x_run-{run}_events.tsv").write_text("onset\tduration\ttrial_type\n" + rows)
    return str(folder / f"sub-1_task-x_run-{run}_bold.nii.gz")


@pytest.mark.parametrize(
    ("types", "state"),
    [
        (["0bk_faces", "2bk_faces", "0BK_faces "], "wm"),
        (["2bk_faces", "cue", "n/a"], "wm"),
        (["2bk_faces", "story"], SEVERAL),
        (["2bk_faces", "button"], "wm"),
        (["button"], None),
        (["cue"], None),
        ([], None),
        (None, None),
    ],
)
def test_a_run_has_the_state_on_which_all_its_known_trial_types_agree(tmp_path, source, types, state) -> None:
    states, _ = states_of_events(source, pd.Series([bids_run(tmp_path, 1, types)]))
    assert states.tolist() == [state]


def test_an_unknown_trial_type_is_counted_once_a_run(tmp_path, source) -> None:
    runs = [bids_run(tmp_path, 1, ["button", "button"]), bids_run(tmp_path, 2, ["button", "story"])]
    states, unknown = states_of_events(source, pd.Series(runs, index=[7, 3]))
    assert unknown == {"button": 2}
    assert states.to_dict() == {7: None, 3: "language"}


def test_the_conditions_of_an_hcp_run_are_the_names_in_evs(tmp_path: Path, source) -> None:
    run = tmp_path / "tfMRI_WM_LR"
    (run / "EVs").mkdir(parents=True)
    for name in ("0bk_faces", "2bk_faces"):
        (run / "EVs" / f"{name}.txt").write_text("36.159 27.5 1\n")
    (run / "EVs" / "Stats.csv").write_text("x\n")
    image = run / "tfMRI_WM_LR.nii.gz"
    assert trial_types(image) == {"0bk_faces", "2bk_faces"}
    assert states_of_events(source, pd.Series([str(image)]))[0].tolist() == ["wm"]


def test_events_without_trial_types_say_nothing(tmp_path: Path, source) -> None:
    path = bids_run(tmp_path, 1, None)
    Path(path.replace("_bold.nii.gz", "_events.tsv")).write_text("onset\tduration\n0\t1\n")
    states, unknown = states_of_events(source, pd.Series([path, None]))
    assert states.isna().all()
    assert not unknown


def test_a_cohort_without_events_reads_no_file(tmp_path: Path) -> None:
    path = bids_run(tmp_path, 1, ["story"])
    states, unknown = states_of_events(read_source("abide"), pd.Series([path]))
    assert states.tolist() == [None]
    assert not unknown


def test_a_trial_type_of_a_state_that_does_not_exist_is_refused() -> None:
    entry = yaml.safe_load(source_path("abide").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="events: level daydream is not in vocabulary"):
        Source.model_validate(entry | {"events": {"x": "daydream"}})


def test_a_scan_reads_its_events_only_where_its_task_says_no_state(tmp_path: Path, source: Source) -> None:
    tasks = pd.Series(["rest", "tone", "tone", None])
    bold = pd.Series(
        [
            bids_run(tmp_path, run, types)
            for run, types in enumerate([["story"], ["story"], ["story", "0bk_faces"], None])
        ]
    )
    flow = Flow("hcpya")
    values, states = read_events(source, bold, *decode_states(source, tasks, flow), flow)
    assert values.tolist() == ["rest", "language", None, None]
    assert states.tolist() == [OBSERVED, OBSERVED, REFUSED, UNOBSERVED]
    assert flow.counts["several states", "events: trial_type"] == 1


def test_an_unknown_trial_type_is_in_the_flow(tmp_path: Path, source: Source) -> None:
    flow = Flow("hcpya")
    runs = pd.Series([bids_run(tmp_path, 1, ["button"])])
    read_events(source, runs, pd.Series([None]), pd.Series([UNOBSERVED]), flow)
    assert flow.counts == {("unknown code", "events: trial_type = button"): 1}


def test_harmonize_takes_the_state_from_the_events_beside_the_image(tmp_path: Path) -> None:
    entry = yaml.safe_load(source_path("hcpya").read_text(encoding="utf-8")) | {"events": EVENTS}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(entry), encoding="utf-8")
    row = {
        "dataset": "A",
        "participant_id": "sub-1",
        "scan": "x",
        "task": "tone",
        "bold": bids_run(tmp_path, 1, ["story"]),
    }
    scans = pd.DataFrame([row], columns=list(SCANS.columns))
    datasets = {"A": Dataset(path=".", input="bids", cohort=str(tmp_path / "lab.yaml"))}
    bei, _ = harmonize(scans, datasets, Harmonize(pseudo_labels={"lab": {"cognitive_state": "rest"}}))
    assert bei.loc[0, ["cohort", "cognitive_state", "cognitive_state_source"]].tolist() == [
        "lab",
        "language",
        "observed",
    ]


HCP_CONDITIONS = {
    "wm": ("0bk_body", "2bk_tools", "all_bk_cor", "Sync"),
    "gambling": ("win", "loss", "neut_event", "Sync"),
    "motor": ("cue", "lf", "rh", "t", "Sync"),
    "language": ("story", "math", "cue", "present_story", "Sync"),
    "social": ("mental", "rnd", "other_resp"),
    "relational": ("relation", "match", "error"),
    "emotion": ("fear", "neut", "Sync"),
}


@pytest.mark.parametrize(("state", "conditions"), HCP_CONDITIONS.items())
def test_the_conditions_of_each_hcp_task_say_its_state(tmp_path: Path, state: str, conditions: tuple[str, ...]) -> None:
    (tmp_path / "EVs").mkdir()
    for name in conditions:
        (tmp_path / "EVs" / f"{name}.txt").write_text("0\t1\t1\n")
    states, unknown = states_of_events(read_source("hcpya"), pd.Series([str(tmp_path / "run.nii.gz")]))
    assert states.tolist() == [state]
    assert not unknown
