"""Atlases as BIDS-atlas folders: region ids, names, order, coordinates, and the label image on any grid."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHIPPED = Path(__file__).parent / "atlases"


@dataclass(frozen=True)
class Atlas:
    """A parcellation: regions in the order that every table of this study uses."""

    name: str
    ids: tuple[int, ...]
    """Value of each region in the label image; neither consecutive nor sorted in general."""
    names: tuple[str, ...]
    coordinates_mm: tuple[tuple[float, float, float], ...]
    """Centre of mass of each region in template space."""
    image: Path
    table: Path

    @property
    def files(self) -> list[str]:
        """What a stage that uses the atlas depends on."""
        return [str(self.table), str(self.image)]

    @property
    def num_regions(self) -> int:
        """Number of regions R."""
        return len(self.ids)

    def pairs(self) -> list[tuple[int, int]]:
        """Positions of left–right homologues, by name: `X_L` with `X_R`."""
        position = {name: i for i, name in enumerate(self.names)}
        return [
            (i, position[f"{name[:-2]}_R"])
            for name, i in position.items()
            if name.endswith("_L") and f"{name[:-2]}_R" in position
        ]

    def on_grid(self, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.int32]:
        """Region position + 1 (0 outside) of every voxel of a grid, by nearest neighbour in millimetres.

        Args:
            shape: of the target grid.
            affine: 4×4, voxel to millimetres, of the target grid; both images must be in the same MNI space.
        """
        import nibabel as nib
        import numpy as np
        from scipy.ndimage import affine_transform

        source: Any = nib.load(self.image)
        labels = np.asarray(source.dataobj)
        voxel_to_voxel = np.linalg.inv(source.affine) @ affine
        resampled = affine_transform(
            labels, voxel_to_voxel[:3, :3], voxel_to_voxel[:3, 3], output_shape=shape, order=0, mode="constant", cval=0
        )
        position = np.zeros(int(labels.max()) + 1, dtype=np.int32)
        position[list(self.ids)] = np.arange(1, self.num_regions + 1)
        return position[resampled]


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{folder}: an atlas folder holds exactly one {pattern}, found {len(found)}")
    return found[0]


def _mm(row: dict[str, str], axis: str) -> float:
    return float(row.get(f"{axis}_mm") or "nan")


def load_atlas(name_or_path: str) -> Atlas:
    """An atlas of `lcm/atlases` by name, or any BIDS-atlas folder by path.

    Raises ValueError when the folder, the label table or the label image is not as BIDS 1.11 describes it.
    """
    shipped = _SHIPPED / name_or_path
    folder = shipped if shipped.is_dir() else Path(name_or_path)
    if not folder.is_dir():
        known = ", ".join(sorted(p.name for p in _SHIPPED.iterdir() if p.is_dir()))
        raise ValueError(f"atlas {name_or_path!r}: neither shipped ({known}) nor a folder")
    description = _one(folder, "atlas-*_description.json")
    name = description.name.removeprefix("atlas-").removesuffix("_description.json")
    json.loads(description.read_text(encoding="utf-8"))
    table = _one(folder, f"tpl-*/*_atlas-{name}*_dseg.tsv")
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    if not rows or not {"index", "name"} <= rows[0].keys():
        raise ValueError(f"{table}: needs the columns index and name")
    names = tuple(row["name"] for row in rows)
    if len(set(names)) != len(names):
        raise ValueError(f"{table}: region names are not unique, and regions are matched by name")
    return Atlas(
        name=name,
        ids=tuple(int(row["index"]) for row in rows),
        names=names,
        coordinates_mm=tuple((_mm(row, "x"), _mm(row, "y"), _mm(row, "z")) for row in rows),
        image=_one(folder, f"tpl-*/*_atlas-{name}*_dseg.nii.gz"),
        table=table,
    )
