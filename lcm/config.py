"""config.yaml as frozen types: what to make, how (lcm.settings), and the whole of a study."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from lcm.settings import (
    Combat,  # noqa: F401 - every settings class is found here
    Correlate,
    Denoise,
    Evaluate,
    Export,
    Finetune,
    Fmriprep,  # noqa: F401 - every settings class is found here
    Harmonize,
    Index,
    Parcellate,
    Preprocess,
    Pretrain,
    Report,
    Settings,
    Simulate,
    Split,
    Training,  # noqa: F401 - every settings class is found here
)

STAGE_ROOMS: dict[str, str] = {
    "simulate": "lcm.cohort",
    "index": "lcm.imaging",
    "preprocess": "lcm.imaging",
    "parcellate": "lcm.imaging",
    "denoise": "lcm.imaging",
    "correlate": "lcm.imaging",
    "export": "lcm.imaging",
    "harmonize": "lcm.cohort",
    "split": "lcm.cohort",
    "pretrain": "lcm.training",
    "finetune": "lcm.training",
    "evaluate": "lcm.evaluation",
    "report": "lcm.evaluation",
}
"""Every stage in running order and the room its module lives in."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")]
"""A dataset, task or model name: it becomes a folder, so no slash, dot, underscore or space."""


# ── what to make ────────────────────────────────────────────────────────────────────────────────


class Dataset(Settings):
    """One folder of scans and the cohort whose phenotype tables describe its people."""

    path: str = Field(description="folder of the dataset, relative to the working directory")
    input: Literal["bids", "derivatives", "hcp", "ukb", "series"] = Field(
        description="bids: raw images; derivatives: fMRIPrep output; hcp: minimal-preprocessing folders; "
        "ukb: UK Biobank folders; series: ready region series"
    )
    cohort: str = Field(
        description="how the cohort's own tables are read: a file of lcm/cohort/sources by name, or the path of a YAML file"
    )
    phenotypes: str | None = Field(default=None, description="folder of the cohort's tables; null: BEIs stay missing")
    pattern: str | None = Field(default=None, description="series only: glob of the files inside path")
    tr_s: float | None = Field(
        default=None, gt=0, le=20, description="series only: repetition time of files without a JSON sidecar"
    )
    denoised: bool = Field(default=False, description="series only: confounds are already regressed out")

    @property
    def cohort_name(self) -> str:
        """The cohort as tables and tasks call it: a lab's own file goes by its stem."""
        return PurePath(self.cohort).stem if self.cohort.endswith((".yaml", ".yml")) else self.cohort

    @model_validator(mode="after")
    def _series_fields_belong_to_series(self) -> Dataset:
        if self.input == "series" and self.pattern is None:
            raise ValueError("a series dataset needs `pattern`, the glob of its files, e.g. '*_rois_aal.1D'")
        if self.input != "series" and (self.pattern or self.tr_s or self.denoised):
            raise ValueError("pattern, tr_s and denoised are for `input: series` only")
        return self


class Task(Settings):
    """One question of the benchmark: predict a BEI in some cohorts."""

    target: str = Field(description="BEI to predict, a name of lcm/cohort/vocabulary.yaml")
    levels: tuple[str, ...] = Field(
        default=(), description="levels to tell apart, the positive one last; empty for a continuous BEI"
    )
    cohorts: tuple[str, ...] = Field(default=(), description="cohorts asked; empty: all that have the BEI")
    datasets: tuple[str, ...] = Field(default=(), description="datasets asked, of those cohorts; empty: all")
    allow_covariate: bool = Field(
        default=False, description="predict a variable that the vocabulary calls a covariate (site, IQ, …), on purpose"
    )


class Model(Settings):
    """One row of the benchmark: an architecture of lcm/models, its size and where its weights start."""

    architecture: str = Field(description="a name of lcm.models.MODELS")
    start: Literal["scratch", "pretrained"] = Field(
        default="scratch", description="pretrained: finetune begins from the weights of `pretrain` on the same fold"
    )
    size: dict[str, int | float] = Field(
        default_factory=dict, description="arguments of the architecture, e.g. {num_layers: 2, width: 64}"
    )


class Study(Settings):
    """The whole of config.yaml."""

    datasets: dict[Name, Dataset]
    strategies: tuple[str, ...] = Field(
        min_length=1,
        description="confound strategies, names of lcm/imaging/confounds or paths of YAML files; models learn from the "
        "first, the report compares all",
    )
    tasks: dict[Name, Task]
    models: dict[Name, Model]
    simulate: Simulate | None = Field(default=None, description="null: the datasets are real and nothing is simulated")
    index: Index
    preprocess: Preprocess
    parcellate: Parcellate
    denoise: Denoise
    correlate: Correlate
    export: Export | None = Field(default=None, description="null: nothing is exported")
    harmonize: Harmonize
    split: Split
    pretrain: Pretrain
    finetune: Finetune
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _combat_knows_no_target(self) -> Study:
        asked = {"finetune": tuple(task.target for task in self.tasks.values())}
        if any(model.start == "pretrained" for model in self.models.values()):
            asked["pretrain"] = self.pretrain.targets
            if self.pretrain.combat != self.finetune.combat:
                raise ValueError("pretrain.combat and finetune.combat differ; a model starts from pretrained weights")
        for stage, targets in asked.items():
            combat = getattr(self, stage).combat
            names = combat.forbidden(targets) if combat else []
            if names:
                raise ValueError(f"{stage}.combat.covariates holds {names}, predicted there; see combat.allow_target")
        return self


def read_study(config: dict[str, object]) -> Study:
    """The configuration as a Study; an unknown key, a wrong value or a missing section is named with its place."""
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError("the configuration is not valid:\n" + "\n".join(lines)) from None


SETTINGS: dict[str, type[Settings]] = {
    "simulate": Simulate,
    "index": Index,
    "preprocess": Preprocess,
    "parcellate": Parcellate,
    "denoise": Denoise,
    "correlate": Correlate,
    "export": Export,
    "harmonize": Harmonize,
    "split": Split,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "report": Report,
}
"""The class of each stage's section; the names equal STAGE_ROOMS and the fields of Study (tested)."""
