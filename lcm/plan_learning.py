"""What the rules that learn, answer and report read: the half of the plan behind `split`."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

from lcm.config import Predict, Study
from lcm.models import MODELS, architecture


class Wildcards(Protocol):
    """Snakemake's wildcards: the parts of an output's path."""

    dataset: str
    batch: str
    strategy: str
    protocol: str
    participant: str
    model: str
    task: str
    fold: str
    bundle: str
    forecaster: str


class LearningPlan(ABC):
    """Inputs of the stages from `pretrain` on; a method that takes wildcards is an input function."""

    study: Study
    asked: Predict
    connectome_folder: str
    recording_folder: str

    @abstractmethod
    def _batches(self) -> list[tuple[str, str]]:
        """Dataset and batch of every scan of the index."""

    def split_settings(self, wildcards: Wildcards) -> str:
        """The section `split` as the protocol has it, as JSON."""
        return self.study.split_of(wildcards.protocol).model_dump_json()

    def pretrain_settings(self, wildcards: Wildcards) -> str:
        """The section `pretrain` as model and protocol have it, as JSON."""
        return self.study.pretrain_of(wildcards.model, wildcards.protocol).model_dump_json()

    def finetune_settings(self, wildcards: Wildcards) -> str:
        """The section `finetune` as model and protocol have it, as JSON."""
        return self.study.finetune_of(wildcards.model, wildcards.protocol).model_dump_json()

    def select(self, wildcards: Wildcards) -> str:
        """Who chooses the epoch under a protocol."""
        return self.study.protocols[wildcards.protocol].select

    def model(self, wildcards: Wildcards) -> str:
        """The model's entry without its own settings, which `finetune_settings` holds, as JSON."""
        return self.study.models[wildcards.model].model_dump_json(exclude={"tasks", "pretrain", "finetune"})

    def gpus(self, wildcards: Wildcards) -> int:
        """GPUs that a model asks for: one, or none where it has no network to train."""
        return int(architecture(self.study.models[wildcards.model].architecture).kind == "network")

    def task(self, wildcards: Wildcards) -> str:
        """The task's entry, as JSON."""
        return self.study.tasks[wildcards.task].model_dump_json()

    def connectomes(self, _: Wildcards) -> list[str]:
        """Every batch's connectomes by the first strategy; a job finds them through the index, no name meets a shell."""
        return [f"{self.connectome_folder}/{dataset}/{batch}.arrow" for dataset, batch in self._batches()]

    def recordings(self, _: Wildcards) -> list[str]:
        """Every batch's recordings by the first strategy."""
        return [f"{self.recording_folder}/{dataset}/{batch}.arrow" for dataset, batch in self._batches()]

    def read_by(self, wildcards: Wildcards) -> list[str]:
        """What the model reads: recordings or connectomes, of every batch."""
        return self.recordings(wildcards) if self._reads_series(wildcards) else self.connectomes(wildcards)

    def reading(self, wildcards: Wildcards) -> str:
        """The flag that names the folder of what the model reads."""
        if self._reads_series(wildcards):
            return f"--recordings {self.recording_folder}"
        return f"--connectomes {self.connectome_folder}"

    def _reads_series(self, wildcards: Wildcards) -> bool:
        return architecture(self.study.models[wildcards.model].architecture).reads == "recordings"

    @property
    def predicted(self) -> list[str]:
        """Answers of every bundle that the study asks."""
        return [f"results/predict/{name}/predictions.tsv" for name in self.asked.bundles]

    def bundle(self, wildcards: Wildcards) -> str:
        """Folder of a bundle that answers; raises ValueError for a name that the configuration does not have."""
        bundles = self.asked.bundles
        if wildcards.bundle not in bundles:
            raise ValueError(f"predict.bundles has no {wildcards.bundle!r}; known: {', '.join(bundles) or 'none'}")
        return bundles[wildcards.bundle]

    def asked_scans(self, wildcards: Wildcards) -> list[str]:
        """Connectomes, or recordings, of the datasets that a bundle is asked about."""
        asked = self.asked.datasets or self.study.datasets
        folder = self.recording_folder if self._bundle_reads_series(wildcards) else self.connectome_folder
        return [f"{folder}/{name}/{batch}.arrow" for name, batch in self._batches() if name in asked]

    def asked_reading(self, wildcards: Wildcards) -> str:
        """The flag that names the folder of what a bundle reads."""
        if self._bundle_reads_series(wildcards):
            return f"--recordings {self.recording_folder}"
        return f"--connectomes {self.connectome_folder}"

    def _bundle_reads_series(self, wildcards: Wildcards) -> bool:
        """By the model whose folder it lies in, where this study makes it; else by its manifest."""
        folder = Path(self.bundle(wildcards))
        if folder.parts[0] == "results":
            name = self.study.models[folder.parts[3]].architecture
        else:
            name = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["model"]["architecture"]
        return architecture(name).reads == "recordings"

    def pretrained(self, wildcards: Wildcards) -> str | list[str]:
        """Weights to start from; none for a model that starts from scratch."""
        if self.study.models[wildcards.model].starts_from_folder:
            return self.study.models[wildcards.model].start
        trainer = self.study.pretrained_by(wildcards.model)
        return f"results/pretrain/{wildcards.protocol}/{trainer}/fold-{wildcards.fold}" if trainer else []

    def begun_from(self, wildcards: Wildcards) -> str | list[str]:
        """The bundle that pretraining begins with; none where it begins with fresh weights."""
        return self.study.pretrain_of(wildcards.model, wildcards.protocol).init_from or []

    def finetuned(self, wildcards: Wildcards) -> list[str]:
        """Weights of every fold."""
        place = f"results/finetune/{wildcards.protocol}/{wildcards.model}/{wildcards.task}"
        return [f"{place}/fold-{fold}" for fold in range(self.study.split_of(wildcards.protocol).count)]

    def pretraining(self, wildcards: Wildcards) -> list[str]:
        """Weights of every fold that a row of this study began with; none where it began with others."""
        trainer = self.study.pretrained_by(wildcards.model)
        folds = range(self.study.split_of(wildcards.protocol).count) if trainer else ()
        return [f"results/pretrain/{wildcards.protocol}/{trainer}/fold-{fold}" for fold in folds]

    def pretraining_folder(self, wildcards: Wildcards) -> str | list[str]:
        """The folder of those folds."""
        trainer = self.study.pretrained_by(wildcards.model)
        return f"results/pretrain/{wildcards.protocol}/{trainer}" if trainer else []

    def pretrained_all(self, wildcards: Wildcards) -> list[str]:
        """Weights of every fold of a model that is pretrained."""
        place = f"results/pretrain/{wildcards.protocol}/{wildcards.model}"
        return [f"{place}/fold-{fold}" for fold in range(self.study.split_of(wildcards.protocol).count)]

    def forecaster(self, wildcards: Wildcards) -> str:
        """The forecaster's entry, as JSON."""
        return self.study.forecasters[wildcards.forecaster].model_dump_json(exclude={"forecast"})

    def forecast_settings(self, wildcards: Wildcards) -> str:
        """The section `forecast` as the forecaster has it, as JSON."""
        return self.study.forecast_of(wildcards.forecaster).model_dump_json()

    def forecast_start(self, wildcards: Wildcards) -> str | list[str]:
        """Weights that a forecaster starts from; none where it starts from scratch."""
        start = self.study.forecasters[wildcards.forecaster].start
        if start == "scratch":
            return []
        return start if "/" in start else f"results/pretrain/{wildcards.protocol}/{start}/fold-{wildcards.fold}"

    @property
    def networks(self) -> str | list[str]:
        """The table of functional networks that probe reads, where it is a file."""
        asked = self.study.probe.networks if self.study.probe else None
        return asked if asked and Path(asked).is_file() else []

    @property
    def probed(self) -> list[str]:
        """What every pretrained network of series knows, under the first protocol."""
        protocol = next(iter(self.study.protocols))
        models = self.study.models if self.study.probe else {}
        trained = [name for name, model in models.items() if model.start == "pretrained"]
        asked = [name for name in trained if MODELS[models[name].architecture].pretrains == "masked"]
        return [f"results/probe/{protocol}/{model}" for model in asked]

    @property
    def forecasts(self) -> list[str]:
        """Every forecaster's forecasts, of every fold of the first protocol."""
        protocol = next(iter(self.study.protocols))
        asked = self.study.forecasters if self.study.forecast else {}
        folds = range(self.study.split_of(protocol).count)
        return [f"results/forecast/{protocol}/{name}/fold-{fold}" for name in asked for fold in folds]

    def scores(self, _: Wildcards) -> list[str]:
        """Scores of every row of every protocol."""
        protocols = self.study.protocols
        return [f"results/evaluate/{p}/{m}/{t}/scores.tsv" for p in protocols for m, t in self.study.rows_of(p)]

    @property
    def asked_for(self) -> str:
        """What the report is to show: models, tasks and protocols, in order, as JSON."""
        protocols = {
            name: {
                "select": protocol.select,
                "design": self.study.split_of(name).design,
                "rows": self.study.rows_of(name),
            }
            for name, protocol in self.study.protocols.items()
        }
        folders = [path.removeprefix("results/") for path in (*self.probed, *self.forecasts)]
        names = {"models": list(self.study.models), "tasks": list(self.study.tasks)}
        return json.dumps(names | {"protocols": protocols, "folders": folders})
