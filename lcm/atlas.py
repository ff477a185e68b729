"""Atlases of every form: region ids, names, order, coordinates, and the label image on any grid."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHIPPED = Path(__file__).parent / "atlases"
_IMAGES = (".nii.gz", ".nii")
_TABLES = (".tsv", ".csv", ".txt", ".dat")
_COLOURED = re.compile(r"(\d+)\s+(\S+)(?:\s+\d+){4}")
"""A line of a FreeSurfer look-up table: index, name, red, green, blue, transparency."""
_LARGEST_ID = 10_000_000
_NOWHERE = (float("nan"),) * 3

Mm = tuple[float, float, float]


@dataclass(frozen=True)
class Atlas:
    """A parcellation: regions in the order that every table of this study uses."""

    name: str
    """Letters and digits only: it is a label in BIDS file names."""
    ids: tuple[int, ...]
    """Value of each region in the label image; neither consecutive nor sorted in general."""
    names: tuple[str, ...]
    coordinates_mm: tuple[Mm, ...]
    """Place of each region in template space as its table has it, NaN where it has none; see `centres_mm`."""
    image: Path | None
    """The label image; a bare label table has none, and serves ready series alone."""
    table: Path
    description: Path | None = None
    """JSON file of a BIDS-atlas folder; an image with a table beside it has none."""

    @property
    def files(self) -> list[str]:
        """What a stage that uses the atlas depends on."""
        return [str(path) for path in (self.table, self.image) if path]

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

    @property
    def label_image(self) -> Path:
        """The label image; ValueError where there is none."""
        if self.image is None:
            raise ValueError(
                f"atlas {self.name}: {self.table} is a label table without an image, which serves ready series alone; "
                "give the NIfTI, with this table beside it"
            )
        return self.image

    @property
    def knows_places(self) -> bool:
        """Whether table or image tell where every region is, so that `centres_mm` has an answer."""
        return self.image is not None or not any(math.isnan(x) for place in self.coordinates_mm for x in place)

    def check(self) -> None:
        """Read the image, if there is one, and stop unless it and the table hold the same regions; `on_grid` does too.

        Raises ValueError when the image is not 3D, its values are no labels, or a region is in one of the two only.
        """
        if self.image is not None:
            self._positions()

    def centres_mm(self) -> NDArray[np.float64]:
        """Centre of every region, R×3, always finite: from the table, or else the centre of mass of its voxels.

        Raises ValueError when image and table do not fit.
        """
        import numpy as np

        centres_R3 = np.array(self.coordinates_mm, dtype=np.float64)
        missing_R = ~np.isfinite(centres_R3).all(axis=1)
        if missing_R.any():
            positions, affine = self._positions()
            inside = np.nonzero(positions)
            region_V = positions[inside] - 1
            size_R = np.bincount(region_V, minlength=self.num_regions)
            voxels_R3 = np.stack([np.bincount(region_V, weights=axis) / size_R for axis in inside], axis=1)
            centres_R3[missing_R] = (voxels_R3 @ affine[:3, :3].T + affine[:3, 3])[missing_R]
        return centres_R3

    def on_grid(self, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.int32]:
        """Region position + 1 (0 outside) of every voxel of a grid, by nearest neighbour in millimetres.

        Args:
            shape: of the target grid.
            affine: 4×4, voxel to millimetres, of the target grid; both images must be in the same MNI space.

        Raises:
            ValueError: the atlas's image and table do not fit.
        """
        import numpy as np

        positions, own_affine = self._positions()
        to_own = np.linalg.inv(own_affine) @ affine
        steps = np.ogrid[: shape[0], : shape[1], : shape[2]]
        nearest, inside = [], np.ones(shape, dtype=bool)
        for row, length in zip(to_own[:3], positions.shape, strict=True):
            place = row[0] * steps[0] + row[1] * steps[1] + row[2] * steps[2] + row[3]
            # Many grids put voxel centres half-way between two labels; rounding first lets no last bit of an affine decide.
            index = np.floor(np.round(place, 6) + 0.5).astype(np.int32)
            inside &= (index >= 0) & (index < length)
            nearest.append(np.clip(index, 0, length - 1))
        return np.where(inside, positions[tuple(nearest)], 0).astype(np.int32)

    def _positions(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Region position + 1 (0 outside) on the image's own grid, and its affine; image and table are compared here."""
        import nibabel as nib
        import numpy as np

        image = self.label_image
        source: Any = nib.load(image)
        values = np.asarray(source.dataobj)
        if values.ndim != 3:
            raise ValueError(f"{image}: a label image is 3D, this one has shape {values.shape}")
        with np.errstate(invalid="ignore"):
            whole = values.dtype.kind != "f" or bool((np.abs(values - np.rint(values)) < 1e-3).all())
        if not whole or values.min() < 0 or values.max() > _LARGEST_ID:
            raise ValueError(f"{image}: not a label image: values are not whole numbers from 0 to {_LARGEST_ID}")
        labels = np.rint(values).astype(np.int64)
        position = np.zeros(max(*self.ids, int(labels.max())) + 1, dtype=np.int32)
        position[list(self.ids)] = np.arange(1, self.num_regions + 1)
        found = np.flatnonzero(np.bincount(labels.ravel()))
        self._same(set(found.tolist()) - {0})
        return position[labels], source.affine

    def _same(self, found: set[int]) -> None:
        for names, where in ((set(self.ids) - found, "table, not in the image"), (found - set(self.ids), "image only")):
            if names:
                first = ", ".join(str(label) for label in sorted(names)[:3])
                raise ValueError(
                    f"atlas {self.name}: {len(names)} regions are in the {where} (first {first}); "
                    f"{self.table.name} and {self.label_image.name} must hold the same"
                )


def load_atlas(name_or_path: str) -> Atlas:
    """An atlas of `lcm/atlases` by name, a BIDS-atlas folder by path, or a NIfTI label image with its table beside it.

    A label table alone is an atlas of ready series.

    The image itself is not read; `Atlas.check` does. Raises ValueError when a file is missing or the table is no label
    table.
    """
    shipped = _SHIPPED / name_or_path
    path = shipped if shipped.is_dir() else Path(name_or_path)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file() and path.name.endswith(_IMAGES):
        return _from_image(path)
    if path.is_file() and path.suffix in _TABLES:
        return _atlas(_label(path.stem), None, path, None)
    known = ", ".join(sorted(p.name for p in _SHIPPED.iterdir() if p.is_dir()))
    raise ValueError(f"atlas {name_or_path!r}: neither shipped ({known}) nor a folder, a NIfTI image or a label table")


def _from_folder(folder: Path) -> Atlas:
    description = _one(folder, "atlas-*_description.json")
    name = description.name.removeprefix("atlas-").removesuffix("_description.json")
    try:
        json.loads(description.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{description}: not JSON ({error})") from None
    table, image = (_one(folder, f"tpl-*/*_atlas-{name}*_dseg{ext}") for ext in (".tsv", ".nii.gz"))
    return _atlas(name, image, table, description)


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(
            f"{folder}: an atlas folder holds exactly one {pattern}, found {len(found)}; of several, name the image itself"
        )
    return found[0]


def _from_image(image: Path) -> Atlas:
    stem = image.name.removesuffix(".gz").removesuffix(".nii")
    return _atlas(_label(stem), image, _table_beside(image, stem), None)


def _label(stem: str) -> str:
    """An atlas's name by that of its file."""
    entity = re.search(r"(?:^|_)atlas-([A-Za-z0-9]+)", stem)
    # What follows a + says the grid (A424+2mm, AFNI's +tlrc), not the atlas.
    return entity[1] if entity else re.sub(r"[^A-Za-z0-9]", "", stem.split("+")[0])


def _table_beside(image: Path, stem: str) -> Path:
    """The table of the image's own stem, TSV first; else the inherited one; else the only one that begins like the image.

    Names are compared up to a +, as in A424+2mm.
    """
    for extension in _TABLES:
        if (found := image.with_name(stem + extension)).is_file():
            return found
    if inherited := _inherited(image, stem):
        return inherited
    begin = stem.split("+")[0]
    others = sorted(p for p in image.parent.iterdir() if p.name.startswith(begin) and p.suffix in _TABLES)
    if len(others) == 1:
        return others[0]
    raise ValueError(
        f"{image}: needs its label table beside it: looked for {stem}({'|'.join(_TABLES)}), "
        f"then for one {begin}*({'|'.join(_TABLES)}) and found {len(others)}"
    )


def _inherited(image: Path, stem: str) -> Path | None:
    """The TSV that shares the most entities with the image and has no others (BIDS 1.11, inheritance principle).

    One table serves every resolution: `tpl-M_atlas-X_dseg.tsv` is that of `tpl-M_res-2_atlas-X_dseg.nii.gz`.
    """
    *entities, suffix = stem.split("_")
    own = set(entities)
    # A template's table of tissues, tpl-M_dseg.tsv, has no other entity either.
    needed = {entity for entity in own if entity.startswith("atlas-")}
    shared = {p: set(p.stem.split("_")[:-1]) for p in image.parent.glob(f"*_{suffix}.tsv")} if needed else {}
    fitting = {path: len(found) for path, found in shared.items() if needed <= found <= own}
    best = [path for path, count in fitting.items() if count == max(fitting.values())]
    return best[0] if len(best) == 1 else None


def _atlas(name: str, image: Path | None, table: Path, description: Path | None) -> Atlas:
    rows = [row for row in _read_table(table) if row[0] != 0]
    width = len(str(max((index for index, _, _ in rows), default=0)))
    names = tuple(given or f"{name}_{index:0{width}d}" for index, given, _ in rows)
    ids = tuple(index for index, _, _ in rows)
    if not rows or not all(0 < index <= _LARGEST_ID for index in ids):
        raise ValueError(f"{table}: needs regions with an index from 1 to {_LARGEST_ID}; 0 is the background")
    for what, values in (("names", names), ("ids", ids)):
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"{table}: region {what} are not unique, and regions are matched by name ({twice} twice)")
    return Atlas(name, ids, names, tuple(place for _, _, place in rows), image, table, description)


def _read_table(path: Path) -> list[tuple[int, str, Mm]]:
    """Index, name (may be empty) and coordinates (may be NaN) of each row; raises ValueError naming the line."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise ValueError(f"{path}: an empty label table")
    delimiter = next((mark for mark in ("\t", ",") if mark in numbered[0][1]), None)
    header = _cells(numbered[0][1], delimiter)
    named = {"index", "name"} <= set(header)
    if path.suffix == ".tsv" and not named:
        raise ValueError(f"{path}: needs the columns index and name")
    rows = []
    for number, line in numbered[1:] if named else numbered:
        cells = _cells(line, delimiter)
        try:
            rows.append(_named_row(dict(zip(header, cells, strict=False))) if named else _bare_row(line, cells))
        except (ValueError, KeyError):
            raise ValueError(
                f"{path}, line {number}: neither `index name`, `index x y z` nor AAL's `short name index`"
            ) from None
    return rows


def _cells(line: str, delimiter: str | None) -> list[str]:
    cells = line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter))
    return [cell.strip() for cell in cells]


def _named_row(row: dict[str, str]) -> tuple[int, str, Mm]:
    x, y, z = (_number(row.get(f"{axis}_mm", "")) for axis in "xyz")
    if not row["name"]:
        raise ValueError("no name")
    return int(row["index"]), row["name"], (x, y, z)


def _number(cell: str) -> float:
    return float("nan") if cell in ("", "n/a") else float(cell)


def _bare_row(line: str, cells: list[str]) -> tuple[int, str, Mm]:
    if not cells[0].lstrip("-").isdigit():
        return int(cells[-1]), cells[-2], _NOWHERE
    if len(cells) == 4 and all(re.fullmatch(r"[-+]?\d+\.?\d*", cell) for cell in cells[1:]):
        return int(cells[0]), "", (float(cells[1]), float(cells[2]), float(cells[3]))
    coloured = _COLOURED.fullmatch(line.strip())
    if coloured:
        return int(coloured[1]), coloured[2], _NOWHERE
    name = cells[1] if "\t" in line or "," in line else " ".join(cells[1:])
    if not name:
        raise ValueError("no name")
    return int(cells[0]), name, _NOWHERE
