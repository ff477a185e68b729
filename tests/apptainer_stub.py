"""A stand-in for `apptainer`: it records how it was called and writes what fMRIPrep would, or what goes wrong."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

SPACE = "MNI152NLin2009cAsym"

# The script runs in a process of its own, so all it knows is beside it: `behaviour.json` says what to do for whom.
SCRIPT = """#!{python}
import gzip, json, os, signal, sys, time
from pathlib import Path

import nibabel as nib
import numpy as np

here, args = Path(__file__).parent, sys.argv[1:]
label = args[args.index("--participant-label") + 1]
with (here / "calls.jsonl").open("a") as stream:
    stream.write(json.dumps(args) + "\\n")
behaviour = json.loads((here / "behaviour.json").read_text()).get(label, "complete")
pairs = [args[i + 1].split(":") for i, a in enumerate(args) if a == "--bind"]
inside = {{pair[1]: Path(pair[0]) for pair in pairs}}
(inside["/work"] / "node").write_text("intermediate")
if behaviour == "hang":
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (here / f"pid-{{os.getpid()}}").touch()
    time.sleep(60)
space = args[args.index("--output-spaces") + 1].replace(":", "_")
runs = sorted((inside["/data"] / f"sub-{{label}}").rglob("*_bold.nii.gz"))
if behaviour == "crash":
    sys.exit(1)
if behaviour == "killed":
    sys.exit(137)
if behaviour == "one run":
    runs = runs[:1]
for raw in runs:
    scan = raw.name.removesuffix("_bold.nii.gz")
    folder = inside["/out"] / f"sub-{{label}}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{{folder / scan}}_space-{{space}}"
    num_volumes = nib.load(raw).shape[3] - (behaviour == "short")
    rng = np.random.default_rng(0)
    bold = nib.Nifti1Image(rng.normal(100, 1, (4, 4, 4, num_volumes)).astype("float32"), np.eye(4))
    path = Path(f"{{stem}}_desc-preproc_bold.nii.gz")
    nib.save(bold, path)
    if behaviour == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    content = {{"RepetitionTime": 2.0, "SliceTimingCorrected": True, "StartTime": 0.95}}
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(content))
    if behaviour != "no mask":
        mask = np.full((4, 4, 4 - (behaviour == "small mask")), behaviour != "empty mask", "uint8")
        nib.save(nib.Nifti1Image(mask, np.eye(4)), f"{{stem}}_desc-brain_mask.nii.gz")
    fd = ["n/a"] + ["0.2"] * (num_volumes - 1 - 3 * (behaviour == "few rows"))
    rows = ["framewise_displacement\\tnon_steady_state_outlier00"] + [f"{{v}}\\t{{int(t == 0)}}" for t, v in enumerate(fd)]
    (folder / f"{{scan}}_desc-confounds_timeseries.tsv").write_text("\\n".join(rows) + "\\n")
sys.exit(1 if behaviour == "complete but crashed" else 0)
"""


class Stub:
    """The executable in a folder that tests put on PATH."""

    def __init__(self, folder: Path, name: str = "apptainer") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / name
        self.path.write_text(SCRIPT.format(python=sys.executable), encoding="utf-8")
        self.path.chmod(0o755)
        self.behave()

    def behave(self, **labels: str) -> None:
        """What happens for each participant label; `complete` where none is given."""
        (self.folder / "behaviour.json").write_text(json.dumps(labels), encoding="utf-8")

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def on_path(self) -> str:
        """PATH with the stub first."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"
