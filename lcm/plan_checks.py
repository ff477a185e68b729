"""Names in a configuration behind which nothing stands stop a study here, before its first job."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lcm.atlas import Atlas, load_atlas
from lcm.cohort.harmonize import check_settings, sources_of
from lcm.cohort.vocabulary import read_vocabulary
from lcm.config import Predict, Study, Task
from lcm.models import MODELS, check_size, resolve_size


def check_names(study: Study, strategies: Collection[str]) -> None:
    """Stop before the first job for a name in the configuration behind which nothing stands; raises ValueError."""
    atlas = load_atlas(study.parcellate.atlas)
    for name, dataset in study.datasets.items():
        if dataset.input != "series" or study.export:
            _ = atlas.label_image
        for folder in (dataset.path, dataset.phenotypes):
            if folder and not folder.startswith("results/") and not Path(folder).is_dir():
                raise ValueError(f"dataset {name}: no such folder: {folder} (relative to {Path.cwd()})")
    _check_cohorts(study)
    _check_split_and_combat(study)
    _check_export(study, strategies)
    _check_predict(study)
    for name, task in study.tasks.items():
        _check_task(study, name, task)
    for name in study.models:
        _check_model(study, name)
    for name in study.forecasters:
        _check_forecaster(study, name)
    _check_held_out(study)
    _check_networks(study, atlas)


def _check_networks(study: Study, atlas: Atlas) -> None:
    """Stop for functional networks that stand neither in the atlas's table nor in a file, hours before `probe` would."""
    asked = study.probe.networks if study.probe else None
    if asked in (None, "yeo7") or Path(str(asked)).is_file():
        return
    header = atlas.table.read_text(encoding="utf-8-sig").split("\n", 1)[0].rstrip("\r").split("\t")
    if atlas.table.suffix != ".tsv" or asked not in header:
        raise ValueError(
            f"probe.networks is '{asked}': no column of {atlas.table} and no file (relative to {Path.cwd()}); give a TSV with "
            "the columns region and network, 'yeo7' or null"
        )


def _check_model(study: Study, name: str) -> None:
    """Stop for a model that cannot be built or begun, hours before its training would; raises ValueError."""
    model = study.models[name]
    if model.architecture not in MODELS:
        raise ValueError(f"model {name}: no architecture {model.architecture!r}; known: {', '.join(MODELS)}")
    resolve_size(model.architecture, model.size)
    if model.start != "scratch" and MODELS[model.architecture].pretrains is None:
        raise ValueError(f"model {name}: {model.architecture} has no weights to start from; use `start: scratch`")
    pretrain = study.pretrain_of(name, next(iter(study.protocols)))
    _check_series_model(study, name)
    folders = [model.start] if model.starts_from_folder else []
    for folder in [*folders, *filter(None, [pretrain.init_from])]:
        _check_bundle(f"model {name}", folder)
    learns_beis = model.start == "pretrained" and MODELS[model.architecture].pretrains == "beis"
    for target in pretrain.targets if learns_beis else ():
        if target not in read_vocabulary():
            raise ValueError(f"pretrain.targets: {target!r} is no BEI; known: {', '.join(read_vocabulary())}")
        _check_target("pretrain.targets", target, allow_covariate=False)


def _check_series_model(study: Study, name: str) -> None:
    """Stop for what a network of series, or one of connectomes, cannot do."""
    model, protocol = study.models[name], next(iter(study.protocols))
    entry, pretrain, finetune = (
        MODELS[model.architecture], study.pretrain_of(name, protocol), study.finetune_of(name, protocol)
    )  # fmt: skip
    if not entry.answers and model.tasks != ():
        raise ValueError(f"model {name}: {model.architecture} answers no task, it is only probed; give it `tasks: []`")
    if entry.reads == "connectomes" and finetune.readout != "head":
        raise ValueError(
            f"model {name}: finetune.readout is {finetune.readout}, for pretrained networks that read series"
        )
    if finetune.readout != "head" and model.start == "scratch":
        raise ValueError(f"model {name}: finetune.readout reads a pretrained network; give it a start")
    if finetune.readout == "head" and finetune.readout_components is not None:
        raise ValueError(f"model {name}: finetune.readout_components is for a readout, and finetune.readout is head")
    if entry.reads == "recordings" and (finetune.combat or (model.start != "scratch" and pretrain.combat)):
        raise ValueError(
            f"model {name}: combat takes site effects out of connectivity, and {model.architecture} reads series"
        )
    probed = study.probe is not None and model.start == "pretrained" and entry.pretrains == "masked"
    if probed and study.protocols[protocol].select == "test":
        raise ValueError(
            f"model {name}: protocol {protocol} is the first and has `select: test`, and no network is probed by the people "
            "who chose its epoch; put another protocol first, or set `probe: null`"
        )
    _check_datasets(study, f"model {name}: pretrain.datasets", pretrain.datasets)


def _check_forecaster(study: Study, name: str) -> None:
    """Stop for a forecaster that cannot forecast, or would learn from datasets that there are not."""
    forecaster = study.forecasters[name]
    known = [other for other, entry in MODELS.items() if entry.forecasts]
    if forecaster.architecture not in known:
        raise ValueError(f"forecaster {name}: {forecaster.architecture!r} does not forecast; known: {', '.join(known)}")
    protocol = next(iter(study.protocols))
    if study.protocols[protocol].select == "test":
        raise ValueError(
            f"forecaster {name}: protocol {protocol} is the first and has `select: test`, and validation people choose a "
            "forecaster's epoch; put another protocol first"
        )
    resolve_size(forecaster.architecture, forecaster.size)
    if "/" in forecaster.start:
        _check_bundle(f"forecaster {name}", forecaster.start)
    datasets = study.forecast_of(name).datasets
    _check_datasets(study, f"forecaster {name}: forecast.datasets", datasets)
    if forecaster.start in study.models:
        learned = study.pretrain_of(forecaster.start, next(iter(study.protocols))).datasets
        if set(learned) != set(datasets):
            raise ValueError(
                f"forecaster {name}: forecast.datasets is {list(datasets)}, and the weights it starts from learn from "
                f"{list(learned)}; make pretrain.datasets the same, or the external people are not external"
            )


def _check_held_out(study: Study) -> None:
    """Stop where one forecaster would have learned from people about whom another is asked."""
    learned = {name: set(study.forecast_of(name).datasets or study.datasets) for name in study.forecasters}
    for name, datasets in learned.items():
        first, others = next(iter(learned.items()))
        if datasets != others:
            raise ValueError(
                f"forecasters {first} and {name} learn from other datasets; give all one forecast.datasets"
            )


def _check_datasets(study: Study, place: str, wanted: Collection[str]) -> None:
    for name in sorted(set(wanted) - set(study.datasets)):
        raise ValueError(f"{place} has no {name!r}; known: {', '.join(study.datasets)}")


def _check_windows(study: Study) -> None:
    """Stop where forecasters would be asked about different frames; it takes their classes to know their defaults."""
    asked = {
        name: (check_size(one.architecture, one.size)["num_frames"], study.forecast_of(name).horizon_volumes)
        for name, one in study.forecasters.items()
    }
    for name, (frames, horizon) in asked.items():
        if horizon >= frames:
            raise ValueError(
                f"forecaster {name}: of {frames} frames the last {horizon} cannot be forecast from those before"
            )
    if len(set(asked.values())) > 1:
        said = ", ".join(f"{name}: {frames} frames, last {horizon}" for name, (frames, horizon) in asked.items())
        raise ValueError(
            f"forecasters are compared on the same frames; give all one size.num_frames and horizon ({said})"
        )


@contextmanager
def checked_aside(study: Study) -> Iterator[None]:
    """Run check_sizes in a process of its own beside the block, and raise its ValueError where the block ends.

    To know a network's arguments takes torch: a second, and 200 MB that Snakemake would hold as long as the study runs.
    """
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command, given = [sys.executable, "-m", "lcm.plan_checks"], study.model_dump_json()
    with ThreadPoolExecutor(1) as aside:
        check = aside.submit(
            subprocess.run, command, input=given, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        yield
    if check.result().returncode != 0:
        raise ValueError(check.result().stderr.strip())


def check_sizes(study: Study) -> None:
    """Stop for a size that a network does not take; raises ValueError. Without torch nothing can be told."""
    if find_spec("torch") is None:
        return
    for model in study.models.values():
        check_size(model.architecture, model.size)
    _check_windows(study)


def _check_cohorts(study: Study) -> None:
    check_settings(study.harmonize, sources_of(study.datasets))
    linkage = study.harmonize.linkage
    if linkage and not Path(linkage).is_file():
        raise ValueError(f"harmonize.linkage: no such file: {linkage} (relative to {Path.cwd()})")


def _check_split_and_combat(study: Study) -> None:
    """Stop for a cohort that cannot be tested, or a covariate that is none, hours before those stages would."""
    cohorts = {d.cohort_name for d in study.datasets.values()}
    asked: dict[str, tuple[Collection[str], Collection[str]]] = {}
    for protocol in study.protocols:
        split = study.split_of(protocol)
        asked[f"protocol {protocol}: split.test_cohorts"] = (
            cohorts,
            [name for part in split.test_cohorts for name in part],
        )
        asked[f"protocol {protocol}: split.cohort_folds"] = (cohorts, split.cohort_folds)
    # A label (site, scanner) is what ComBat takes out.
    kept = {name for name, v in read_vocabulary().items() if v.kind != "label"}
    sections = {"pretrain": study.pretrain_of, "finetune": study.finetune_of}
    for stage, section_of in sections.items():
        combats = [section_of(name, next(iter(study.protocols))).combat for name in study.models]
        covariates = [covariate for combat in combats if combat for covariate in combat.covariates]
        asked[f"{stage}.combat.covariates"] = (kept, covariates)
    for field, (names, wanted) in asked.items():
        for name in sorted(set(wanted) - set(names)):
            raise ValueError(f"{field} has no {name!r}; known: {', '.join(sorted(names))}")


def _check_export(study: Study, strategies: Collection[str]) -> None:
    asked = study.export
    known = {"datasets": list(study.datasets), "strategies": list(strategies)} if asked else {}
    for field, names in known.items():
        for name in sorted(set(getattr(asked, field)) - set(names)):
            raise ValueError(f"export.{field} has no {name!r}; known: {', '.join(names)}")


def _check_predict(study: Study) -> None:
    wanted, own = study.predict or Predict(), _own_bundles(study)
    for name, folder in wanted.bundles.items():
        # What this study makes itself need not be there yet.
        if not folder.startswith("results/"):
            _check_bundle(f"predict.bundles.{name}", folder)
        elif folder.rstrip("/") not in own:
            raise ValueError(f"predict.bundles.{name}: this study does not make {folder}, but e.g. {own[0]}")
    for name in sorted(set(wanted.datasets) - set(study.datasets)):
        raise ValueError(f"predict.datasets has no {name!r}; known: {', '.join(study.datasets)}")


def _own_bundles(study: Study) -> list[str]:
    """Folders of all bundles that the study makes."""
    found = []
    for protocol in study.protocols:
        rows = study.rows_of(protocol)
        trainers = {study.pretrained_by(model) for model, _ in rows}
        places = [f"finetune/{protocol}/{model}/{task}" for model, task in rows]
        places += [f"pretrain/{protocol}/{trainer}" for trainer in sorted(filter(None, trainers))]
        found += [f"results/{place}/fold-{fold}" for place in places for fold in range(study.split_of(protocol).count)]
    return found


def _check_task(study: Study, name: str, task: Task) -> None:
    known = {
        "target": (set(read_vocabulary()), (task.target,)),
        "cohorts": ({d.cohort_name for d in study.datasets.values()}, task.cohorts),
        "datasets": (set(study.datasets), task.datasets),
    }
    if task.target in read_vocabulary():
        known["levels"] = (set(read_vocabulary()[task.target].levels), task.levels)
    known["filter"] = (set(read_vocabulary()), tuple(task.filter))
    for field, (names, asked) in known.items():
        strange = sorted(set(asked) - names)
        if strange:
            raise ValueError(f"task {name}: {field} has no {strange[0]!r}; known: {', '.join(sorted(names))}")
    for bei, wanted in task.filter.items():
        _check_filter(f"task {name}: filter.{bei}", bei, wanted)
    _check_target(f"task {name}", task.target, allow_covariate=task.allow_covariate)


def _check_filter(where: str, bei: str, wanted: tuple[str | float, ...]) -> None:
    """Stop for a filter that keeps nobody: a level that the BEI has not, or bounds that are none."""
    levels = read_vocabulary()[bei].levels
    if levels:
        for strange in sorted(map(str, set(wanted) - set(levels))):
            raise ValueError(f"{where} has no {strange!r}; known: {', '.join(levels)}")
    elif read_vocabulary()[bei].kind == "continuous":
        numbers = [bound for bound in wanted if isinstance(bound, int | float)]
        if len(numbers) != 2 or len(wanted) != 2 or numbers[0] > numbers[1]:
            raise ValueError(f"{where} is {list(wanted)}; of a number give the lowest and the highest, e.g. [18, 40]")


def _check_bundle(where: str, folder: str) -> None:
    if not Path(folder, "manifest.json").is_file():
        raise ValueError(f"{where}: no bundle in {folder} (a folder with manifest.json; relative to {Path.cwd()})")


def _check_target(where: str, target: str, *, allow_covariate: bool) -> None:
    """Stop for a BEI that no model should predict, or only on purpose; raises ValueError that says why."""
    variable = read_vocabulary()[target]
    if variable.kind == "label":
        raise ValueError(
            f"{where}: {target!r} cannot be predicted: its values are names that mean nothing beyond their cohort"
        )
    if variable.role == "covariate" and not allow_covariate:
        raise ValueError(
            f"{where}: {target!r} is a covariate: it is there to describe people and to test confounding, not to be learned; "
            "a task of its own with `allow_covariate: true` predicts it on purpose"
        )


if __name__ == "__main__":
    try:
        check_sizes(Study.model_validate_json(sys.stdin.read()))
    except ValueError as error:
        sys.exit(str(error))
