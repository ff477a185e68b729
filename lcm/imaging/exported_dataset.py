"""The files at the root of an exported dataset: what it is, what is in it, and the atlas of its regions."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcm.atlas import Atlas
from lcm.bids import description
from lcm.config import Denoise
from lcm.imaging.strategy import Strategy
from lcm.provenance import code_hash
from lcm.tables import MISSING, write_atomically

BIDS_VERSION = "1.11.1"
"""The first line of versions with `atlas-` and `tpl-` (BEP038) is 1.11."""

# Suffixes that XCP-D and fMRIPrep write and BIDS 1.11 does not know, nothing else. The validator's matcher (3.0) knows no
# text after a second * of a name, so the last pattern cannot end in `_bold.tsv`.
_IGNORED = (
    *("*_timeseries.tsv", "*_timeseries.json", "*_relmat.tsv", "*_relmat.json"),
    *("*_outliers.tsv", "*_outliers.json", "*_stat-coverage_*"),
)

ELSEWHERE = {"Description": "Series as another pipeline denoised them; lcm changed their layout only"}
"""What `processing` says of series that came denoised."""

_README = """# {name}

Region series and connectomes of the dataset {dataset}, written by the `export` stage of lcm. `desc-` is the confound
strategy, without hyphens; each JSON file says what was done. A scan that was excluded or failed has no file here.

- `*_timeseries.tsv`: denoised series, a row a volume, a column a region. A censored volume is a row of n/a, a region
  outside the brain mask a column of n/a.
- `*_outliers.tsv`: a row a volume, 1 where the volume was left out of the connectome.
- `*_stat-coverage_*_bold.tsv`: the share of each region's voxels inside the brain mask.
- `*_relmat.tsv`: the connectome, regions by regions; n/a where a region has no series. `window<n>` in `desc-` is one
  window of a run, counted from 0.
- `atlas-*`, `tpl-*`: the atlas; its authors' licence, where it came with one, is in `sourcedata/`.
"""


def write_dataset_files(root: Path, dataset: str, links: Mapping[str, Path], atlas: Atlas) -> str:
    """Write dataset_description.json, README.md, .bidsignore and the atlas; the BIDS URI of the atlas's table.

    Every batch's job writes the same bytes and renames them into place, so a race has no loser.

    Args:
        root: of the exported dataset.
        dataset: its name in config.yaml.
        links: folders that `Sources` point into, by the name that stands in a BIDS URI; the first is the dataset itself.
        atlas: of the series.
    """
    name = f"{dataset}: region series and connectomes"
    places = {link: os.path.relpath(folder.absolute(), root.absolute()) for link, folder in links.items()}
    told = _told_by_source(next(iter(links.values())))
    source = {"URL": next(iter(places.values()))} | ({"DOI": told["DatasetDOI"]} if "DatasetDOI" in told else {})
    content = json.loads(description(name, code_hash("export")))
    content |= {"BIDSVersion": BIDS_VERSION, "SourceDatasets": [source], "DatasetLinks": places}
    content |= {"License": told["License"]} if "License" in told else {}
    write_json(root / "dataset_description.json", content)
    write_text(root / "README.md", _README.format(name=name, dataset=dataset))
    write_text(root / ".bidsignore", "\n".join(_IGNORED) + "\n")
    return _copy_atlas(atlas, root)


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def processing(strategy: Strategy, settings: Denoise) -> dict[str, Any]:
    """What denoise did, as fields of the series' sidecar (names of XCP-D where it has one)."""
    applied = strategy.applied_to(settings)
    edges = {"High-pass cutoff (Hz)": applied.low_hz, "Low-pass cutoff (Hz)": applied.high_hz}
    band = {name: hz for name, hz in edges.items() if hz}
    butterworth = band | {"Filter order": applied.filter_order, "Direction": "forward and backward"}
    return {
        "Description": f"{strategy.name}: {strategy.description.strip()}",
        "SoftwareFilters": {"Butterworth": butterworth} if band else MISSING,
        "Detrending": "linear" if applied.detrend else MISSING,
        "NuisanceParameters": [*strategy.columns, *strategy.patterns],
        "CensoringCriteria": {
            "Framewise displacement over (mm)": applied.fd_mm or MISSING,
            "Standardised DVARS over": applied.std_dvars or MISSING,
            "Segments shorter than (volumes)": applied.min_segment_volumes,
        },
        "CensoredVolumes": f"rows of n/a{'; interpolated for the filter only' if band else ''}",
    }


def write_shared_sidecars(root: Path, atlas: str, label: str, *, has_outliers: bool) -> None:
    """Columns of the two small tables, once for all scans of the strategy (BIDS inheritance)."""
    coverage = {
        "Node": {"Description": "region of the atlas"},
        "coverage": {"Description": "share of the region's voxels inside the brain mask"},
    }
    write_json(root / f"atlas-{atlas}_stat-coverage_desc-{label}_bold.json", coverage)
    if has_outliers:
        outliers = {
            "framewise_displacement": {
                "Description": "whether the volume was left out, be it for motion, for DVARS, as a dummy volume or in a "
                "segment that was too short; named as XCP-D names it",
                "Levels": {"0": "kept", "1": "removed"},
            }
        }
        write_json(root / f"desc-{label}_outliers.json", outliers)


def _told_by_source(folder: Path) -> dict[str, Any]:
    """The source's own dataset_description.json; empty where it has none that can be read."""
    try:
        found = json.loads((folder / "dataset_description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _copy_atlas(atlas: Atlas, root: Path) -> str:
    """Put the atlas at the root as BIDS describes it, and remove another one that stood there."""
    if atlas.description:
        content = json.loads(atlas.description.read_text(encoding="utf-8"))
        image = root / atlas.label_image.parent.name / atlas.label_image.name
        table = image.with_name(atlas.table.name)
        _copy(atlas.table, table)
    else:
        content, image, table = _described(atlas, root)
    _copy(atlas.label_image, image)
    top = root / f"atlas-{atlas.name}_description.json"
    write_json(top, content)
    for licence in (atlas.description or atlas.label_image).parent.glob("LICEN[CS]E*"):
        # At the root it would be the licence of the people's data.
        _copy(licence, root / "sourcedata" / f"atlas-{atlas.name}" / licence.name)
    for old in (*root.glob("atlas-*_description.json"), *root.glob("tpl-*/tpl-*_atlas-*_dseg.*")):
        if old not in (top, image, table):
            old.unlink(missing_ok=True)
    return f"bids::{table.relative_to(root)}"


def _described(atlas: Atlas, root: Path) -> tuple[dict[str, str], Path, Path]:
    """Description, image and table of an atlas that came as an image with a table beside it."""
    entity = re.search(r"(?:^|_)(?:tpl|space)-([A-Za-z0-9]+)", atlas.label_image.name)
    space = entity[1] if entity else "MNI"
    suffix = ".nii.gz" if atlas.label_image.name.endswith(".gz") else ".nii"
    stem = root / f"tpl-{space}" / f"tpl-{space}_atlas-{atlas.name}_dseg"
    content = {
        "Name": atlas.name,
        "License": "not stated by the files the atlas came in; ask its authors",
        "SpatialReference": "the MNI space that the study's images are in",
        "SourceFile": f"{atlas.label_image.name} with {atlas.table.name}",
    }
    table = stem.with_name(stem.name + ".tsv")
    lines = ["index\tname\tx_mm\ty_mm\tz_mm"]
    for index, name, place in zip(atlas.ids, atlas.names, atlas.coordinates_mm, strict=True):
        lines.append("\t".join([str(index), name, *(MISSING if math.isnan(mm) else f"{mm:g}" for mm in place)]))
    write_text(table, "\n".join(lines) + "\n")
    return content, stem.with_name(stem.name + suffix), table


def _copy(source: Path, target: Path) -> None:
    with write_atomically(target) as temporary:
        shutil.copyfile(source, temporary)
