"""Export: denoised series and connectomes as a BIDS derivative dataset, six files a scan and strategy."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcm.array_tables import region_names, square
from lcm.atlas import Atlas, load_atlas
from lcm.bids import derivative_path
from lcm.config import Correlate, Denoise
from lcm.imaging.exported_dataset import ELSEWHERE, processing, write_dataset_files, write_json, write_shared_sidecars
from lcm.imaging.preprocessed import files_of, read_runs, runs_table
from lcm.imaging.series import SeriesError, read_series
from lcm.imaging.strategy import read_strategy
from lcm.provenance import file_hash
from lcm.tables import EXPORTED, MISSING, OK, SCANS, failed, read_arrow, read_tsv, write_atomically, write_tsv

if TYPE_CHECKING:
    import pandas as pd

# T time, R regions, E edges of the upper triangle

log = logging.getLogger(__name__)

_MEASURES = {
    "correlation": ("pearsoncorrelation", "Pearson correlation coefficient"),
    "partial correlation": ("partialcorrelation", "partial correlation coefficient"),
    "covariance": ("covariance", "covariance"),
    "tangent": ("tangent", "tangent-space projection of the covariance"),
}
"""Label of `stat-` and name of the measure, by `correlate.kind`."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One scan's results: residual series T×R, NaN rows where a volume was censored, NaN columns without coverage."""

    series_TR: NDArray[np.floating]
    kept_T: NDArray[np.bool_] | None
    """None for series that were denoised elsewhere: nobody said what was left out."""


@dataclass(frozen=True)
class Tree:
    """Where a batch goes, and what its sidecars say of every scan."""

    root: Path
    label: str
    atlas: Atlas
    node_file: str
    links: Mapping[str, Path]
    processing: Row
    correlate: Correlate

    def path(self, scan: Row, suffix: str, *, window: int | None = None, **entities: str) -> Path:
        """Path of one file of a scan."""
        more = entities | ({"space": scan["space"]} if "atlas" in entities and isinstance(scan["space"], str) else {})
        label = self.label if window is None else f"{self.label}window{window}"
        return derivative_path(self.root, scan["scan"], suffix, desc=label, **more)

    def sources(self, *paths: object) -> list[str]:
        """BIDS URIs of those paths that lie below a linked folder."""
        return [uri for path in paths if isinstance(path, str) for uri in self._uri(Path(path).absolute())]

    def _uri(self, path: Path) -> Iterator[str]:
        for name, folder in self.links.items():
            if path.is_relative_to(folder.absolute()):
                yield f"bids:{name}:{path.relative_to(folder.absolute())}"
                return


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own flags."""
    parser.add_argument("--scans", type=Path, required=True, help="the batch's table, from results/index/batches")
    parser.add_argument("--index", type=Path, required=True, help="scans.tsv of the index stage: who is in the study")
    parser.add_argument("--runs", type=Path, required=True, help="results/preprocess/<dataset>, read for raw datasets")
    parser.add_argument("--source", type=Path, required=True, help="folder of the dataset, to which `Sources` point")
    parser.add_argument(
        "--series", type=Path, nargs="?", help="the batch's series from denoise; absent: denoised elsewhere"
    )
    parser.add_argument("--connectomes", type=Path, required=True, help="the batch's table from correlate")
    parser.add_argument("--strategy", type=Path, required=True, help="YAML file of the confound strategy")
    parser.add_argument("--denoise", default="{}", help="the `denoise` section of config.yaml, as JSON")
    parser.add_argument("--correlate", default="{}", help="the `correlate` section of config.yaml, as JSON")
    parser.add_argument("--atlas", required=True, help="as in parcellate.atlas")
    parser.add_argument("--tree", type=Path, required=True, help="root of the exported dataset")
    parser.add_argument("--output", type=Path, required=True, help="table of the files written, with their hashes")


def main(options: argparse.Namespace) -> None:
    """Write the batch's files and their table, and remove what an earlier run left of these scans."""
    import pandas as pd

    scans, everyone = read_tsv(options.scans, SCANS), read_tsv(options.index, SCANS)
    dataset = str(scans["dataset"].iloc[0])
    connectomes = read_arrow(options.connectomes)
    tree = _tree(options, dataset, connectomes)
    read = _reader(options.series, tree.atlas)
    described = _with_preprocessed(scans, options.runs)
    rows = [row for scan in _joined(described, connectomes) for row in _rows(scan, read, tree)]
    everyone = everyone[everyone["dataset"] == dataset]
    _remove_stale(
        tree, {row.get("file") for row in rows}, set(scans["participant_id"]), set(everyone["participant_id"])
    )
    # A dataset that shrank has fewer batches, and the lists of the others name people who left.
    for path in options.output.parent.glob("[!.]*.tsv"):
        if path.stem not in set(everyone["batch"]):
            path.unlink(missing_ok=True)
    write_tsv(pd.DataFrame(rows, columns=list(EXPORTED.columns)), options.output, EXPORTED)


def desc_label(strategy: str) -> str:
    """The strategy's name as a BIDS label, which has no hyphen: `36P-scrub` is `desc-36Pscrub`."""
    return re.sub(r"[^A-Za-z0-9]", "", strategy)


def _tree(options: argparse.Namespace, dataset: str, connectomes: Any) -> Tree:
    atlas = load_atlas(options.atlas)
    if region_names(connectomes) != list(atlas.names):
        raise ValueError(f"{options.connectomes}: its regions are not those of {atlas.name}; run correlate again")
    for other in options.output.parent.parent.iterdir() if options.output.parent.parent.is_dir() else ():
        own = options.output.parent.name
        if other.name != own and desc_label(other.name) == desc_label(own):
            raise ValueError(
                f"strategies {own} and {other.name} have one label in BIDS names; rename one, remove {other}"
            )
    links = {"source": options.source}
    links |= {"preprocessed": options.runs} if options.runs.is_dir() else {}
    node_file = write_dataset_files(options.tree, dataset, links, atlas)
    label = desc_label(connectomes.schema.metadata[b"strategy"].decode())
    write_shared_sidecars(options.tree, atlas.name, label, has_outliers=bool(options.series))
    done = processing(read_strategy(options.strategy), Denoise.model_validate_json(options.denoise))
    return Tree(
        root=options.tree,
        label=label,
        atlas=atlas,
        node_file=node_file,
        links=links,
        processing=done if options.series else ELSEWHERE,
        correlate=Correlate.model_validate_json(options.correlate),
    )


def _with_preprocessed(scans: pd.DataFrame, runs_folder: Path) -> list[Row]:
    """Rows of the batch, with files and space of `preprocess` where it made them."""
    rows = [{str(name): value for name, value in row.items()} for row in scans.to_dict("records")]
    found: dict[str, Row] = {}
    for person in {row["participant_id"] for row in rows if row["input"] not in ("derivatives", "series")}:
        if runs_table(runs_folder, person).is_file():
            found |= {row["scan"]: row for row in read_runs(runs_folder, person).to_dict("records")}
    for row in rows:
        if run := found.get(row["scan"]):
            row |= files_of(run, row) | {"space": run["template"]}
    return rows


def _reader(series: Path | None, atlas: Atlas) -> Callable[[Row], Run]:
    """How a scan's series are found: in denoise's table, or in the file that came denoised."""
    if series is None:
        return lambda scan: Run(read_series(Path(scan["series"]), atlas), None)
    table = read_arrow(series)
    if region_names(table) != list(atlas.names):
        raise ValueError(f"{series}: its regions are not those of {atlas.name}; run denoise again")
    at = {name: number for number, name in enumerate(table["scan"].to_pylist())}

    def read(scan: Row) -> Run:
        number = at[scan["scan"]]
        series_TR = np.asarray(table["series"][number].values).reshape(-1, atlas.num_regions)
        return Run(series_TR, np.asarray(table["kept"][number].values))

    return read


def _joined(scans: list[Row], connectomes: Any) -> Iterator[Row]:
    """The scans with their outcome and windows from correlate."""
    found: dict[str, list[Row]] = {}
    for batch in connectomes.to_batches(max_chunksize=1):
        row = batch.drop_columns(["fc"]).to_pylist()[0] | {"fc": batch.column("fc")[0].values}
        found.setdefault(row["scan"], []).append(row)
    for scan in scans:
        if scan["scan"] not in found:
            raise ValueError("the connectomes lack a scan of the batch; run correlate again")
        windows = found[scan["scan"]]
        yield scan | {"outcome": windows[0]["outcome"], "tr_s": windows[0]["tr_s"], "windows": windows}


def _rows(scan: Row, read: Callable[[Row], Run], tree: Tree) -> list[Row]:
    """A row a file written; one without a file for a scan that has none."""
    said = {name: scan[name] for name in ("dataset", "participant_id", "scan", "outcome")}
    if scan["outcome"] != OK:
        return [said]
    try:
        run = read(scan)
    except SeriesError as error:
        log.warning("a scan of dataset %s failed: %s", scan["dataset"], error)
        return [said | {"outcome": failed(str(error))}]
    written = [*_write_series(scan, run, tree), *_write_connectomes(scan, tree)]
    return [said | {"file": str(path.relative_to(tree.root)), "sha256": file_hash(path)} for path in written]


def _write_series(scan: Row, run: Run, tree: Tree) -> Iterator[Path]:
    """The series with their sidecar, which volumes are missing in them, and the regions' coverage."""
    import pandas as pd

    atlas, tr_s, first = tree.atlas, scan["tr_s"], scan["windows"][0]
    path = tree.path(scan, "timeseries.tsv", atlas=atlas.name)
    yield _write_table(pd.DataFrame(run.series_TR, columns=list(atlas.names)), path)
    content: Row = {"TaskName": scan["task"]} if isinstance(scan["task"], str) else {}
    if tr_s and tr_s > 0:
        content |= {"RepetitionTime": tr_s, "SamplingFrequency": 1 / tr_s}
    content |= tree.processing | {"NumberOfVolumes": len(run.series_TR)}
    if run.kept_T is not None:
        content["NumberOfVolumesCensored"] = int((~run.kept_T).sum())
    if first["mean_fd_mm"] is not None:
        content["MeanFramewiseDisplacement"] = first["mean_fd_mm"]
    content["Sources"] = tree.sources(*(scan[name] for name in ("bold", "mask", "confounds", "series")))
    yield _write_sidecar(path, content)
    if run.kept_T is not None:
        removed = pd.DataFrame({"framewise_displacement": (~run.kept_T).astype(int)})
        yield _write_table(removed, tree.path(scan, "outliers.tsv"))
    coverage = pd.DataFrame({"Node": atlas.names, "coverage": np.asarray(first["coverage"], dtype=np.float32)})
    yield _write_table(coverage, tree.path(scan, "bold.tsv", atlas=atlas.name, stat="coverage"))


def _write_connectomes(scan: Row, tree: Tree) -> Iterator[Path]:
    """The matrix of every window with its sidecar."""
    import pandas as pd

    settings, names = tree.correlate, list(tree.atlas.names)
    stat, measure = _MEASURES[settings.kind]
    series = tree.path(scan, "timeseries.tsv", atlas=tree.atlas.name).relative_to(tree.root)
    content = {
        "RelationshipMeasure": measure,
        "Weighted": True,
        "Directed": False,
        "ValidDiagonal": False,
        "StorageFormat": "Full",
        "NodeFiles": [tree.node_file],
        "Estimator": "sample, without shrinkage",
        "FisherZ": settings.fisher_z,
        "Sources": [f"bids::{series}"],
    }
    for row in scan["windows"]:
        window = None if settings.window_volumes is None else row["window"]
        path = tree.path(scan, "relmat.tsv", atlas=tree.atlas.name, stat=stat, window=window)
        fc_RR = square(np.asarray(row["fc"])[None], len(names))[0]
        np.fill_diagonal(fc_RR, np.nan)
        if settings.kind == "correlation" and not settings.fisher_z:
            np.fill_diagonal(fc_RR, np.where(np.isnan(fc_RR).all(axis=1), np.nan, 1))
        yield _write_table(pd.DataFrame(fc_RR, columns=names, index=pd.Index(names, name="Node")), path, index=True)
        span: Row = {"NumberOfVolumes": row["num_kept"]}
        if window is not None:
            span |= {"WindowStart": row["window_start"], "WindowVolumes": settings.window_volumes}
        yield _write_sidecar(path, content | span)


def _write_table(frame: pd.DataFrame, path: Path, *, index: bool = False) -> Path:
    with write_atomically(path) as temporary:
        # Nine digits give a float32 back exactly.
        frame.to_csv(temporary, sep="\t", index=index, na_rep=MISSING, float_format="%.9g", lineterminator="\n")
    return path


def _write_sidecar(path: Path, content: Row) -> Path:
    sidecar = path.with_suffix(".json")
    write_json(sidecar, content)
    return sidecar


def _remove_stale(tree: Tree, written: set[object], batch: set[str], everyone: set[str]) -> None:
    """Remove this strategy's files of the batch's people that are not of this run, and of people who left the study."""
    ours = re.compile(rf"sub-.+_desc-{tree.label}(window\d+)?_(timeseries|outliers|bold|relmat)\.(tsv|json)")
    of_other_batches = everyone - batch
    for person in sorted(tree.root.glob("sub-*")):
        if person.name in of_other_batches:
            continue
        # The job of every batch removes the people who left, so anything may be gone by now; os.walk passes over that.
        for folder, _, names in os.walk(person, topdown=False):
            for path in (Path(folder, name) for name in names if ours.fullmatch(name)):
                if str(path.relative_to(tree.root)) not in written:
                    path.unlink(missing_ok=True)
            if person.name not in everyone:
                # A folder that still holds another strategy's files cannot be removed and stays for its job.
                with suppress(OSError):
                    Path(folder).rmdir()
