"""config.yaml as frozen types: what to make, how (lcm.settings, lcm.learning_settings), and the whole of a study."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from lcm.learning_settings import (
    Combat,  # noqa: F401 - every settings class is found here
    Evaluate,
    Finetune,
    Forecast,
    Predict,
    Pretrain,
    Probe,
    Report,
    Training,
)
from lcm.settings import (
    Collect,
    Correlate,
    Denoise,
    Export,
    Fmriprep,  # noqa: F401 - every settings class is found here
    Harmonize,
    Index,
    Name,
    Parcellate,
    Preprocess,
    Settings,
    Simulate,
    Split,
)

STAGE_ROOMS: dict[str, str] = {
    "simulate": "lcm.cohort",
    "index": "lcm.imaging",
    "preprocess": "lcm.imaging",
    "parcellate": "lcm.imaging",
    "denoise": "lcm.imaging",
    "correlate": "lcm.imaging",
    "collect": "lcm.imaging",
    "export": "lcm.imaging",
    "harmonize": "lcm.cohort",
    "split": "lcm.cohort",
    "pretrain": "lcm.training",
    "finetune": "lcm.training",
    "evaluate": "lcm.evaluation",
    "probe": "lcm.evaluation",
    "forecast": "lcm.evaluation",
    "predict": "lcm.training",
    "report": "lcm.evaluation",
}
"""Every stage in running order and the room its module lives in."""

COMMANDS: dict[str, str] = {"import-weights": "lcm.training", "doctor": "lcm.doctor"}
"""What the one door does beside the stages, by hand: no rule, no section of config.yaml."""

Section = TypeVar("Section", bound=Settings)


def module_of(name: str) -> str:
    """The module behind a stage or a command."""
    return f"{(STAGE_ROOMS | COMMANDS)[name]}.{name.replace('-', '_')}"


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


class Protocol(Settings):
    """Who is tested, and who chooses what training leaves open; each protocol has results of its own."""

    split: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of `split` that this protocol has of its own, e.g. {design: leave-site-out}",
    )
    select: Literal["validation", "test"] = Field(
        default="validation",
        description="who chooses epoch, penalty and threshold: validation people; or, as the LCM authors do, the people who "
        "are tested: its rows are optimistic, are marked so and are never ranked",
    )
    tasks: tuple[str, ...] = Field(default=(), description="tasks it asks; empty: all")
    models: tuple[str, ...] = Field(default=(), description="models it asks; empty: all")


class Task(Settings):
    """One question of the benchmark: predict a BEI in some cohorts."""

    target: str = Field(description="BEI to predict, a name of lcm/cohort/vocabulary.yaml")
    levels: tuple[str, ...] = Field(
        default=(), description="levels to tell apart, the positive one last; empty for a continuous BEI"
    )
    cohorts: tuple[str, ...] = Field(default=(), description="cohorts asked; empty: all that have the BEI")
    datasets: tuple[str, ...] = Field(default=(), description="datasets asked, of those cohorts; empty: all")
    filter: dict[str, tuple[str | float, ...]] = Field(
        default_factory=dict,
        description="people asked, by BEIs: levels, e.g. {sex: [male]}, or lowest and highest number, e.g. {age: [18, 40]}",
    )
    allow_covariate: bool = Field(
        default=False, description="predict a variable that the vocabulary calls a covariate (site, IQ, …), on purpose"
    )

    @model_validator(mode="after")
    def _levels_can_be_told_apart(self) -> Self:
        if self.levels and len(set(self.levels)) < max(2, len(self.levels)):
            raise ValueError(
                f"levels has {', '.join(self.levels)}; give two or more, all different, or [] for a number"
            )
        return self


class Model(Settings):
    """One row of the benchmark: an architecture of lcm/models, its size and where its weights start."""

    architecture: str = Field(description="a name of lcm.models.MODELS")
    start: str = Field(
        default="scratch",
        description="where finetune begins: scratch; pretrained: weights of its own `pretrain` on the same fold; the name of "
        "another model: that one's; or the folder of a bundle (with a slash), e.g. of `lcm import-weights`",
    )
    size: str | dict[str, int | float | str] = Field(
        default_factory=dict,
        description="a named size of the architecture, e.g. tiny, or its arguments, e.g. {num_layers: 2, width: 64}",
    )
    tasks: tuple[str, ...] | None = Field(
        default=None,
        description="tasks it answers, of those that a protocol asks; null: all; []: none, it is only probed",
    )
    pretrain: dict[str, Any] = Field(
        default_factory=dict, description="settings of `pretrain` that this model has of its own"
    )
    finetune: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of `finetune` that this model has of its own, e.g. {trunk: freeze} or {train_share: 0.1}",
    )

    @property
    def starts_from_folder(self) -> bool:
        """Whether its weights come from a bundle that this study did not make."""
        return "/" in self.start


class Forecaster(Settings):
    """What forecasts the frames that follow: an architecture, its size and where its weights start."""

    architecture: str = Field(description="a name of lcm.models.MODELS that forecasts")
    start: str = Field(
        default="scratch",
        description="scratch; the name of a model with `start: pretrained`; or the folder of a bundle (with a slash)",
    )
    size: str | dict[str, int | float | str] = Field(
        default_factory=dict, description="a named size of the architecture, or its arguments"
    )
    forecast: dict[str, Any] = Field(
        default_factory=dict, description="settings of `forecast` that this forecaster has of its own"
    )


class Study(Settings):
    """The whole of config.yaml."""

    datasets: dict[Name, Dataset]
    strategies: tuple[str, ...] = Field(
        min_length=1,
        description="confound strategies, names of lcm/imaging/confounds or paths of YAML files; models learn from the "
        "first, the report compares all",
    )
    protocols: dict[Name, Protocol] = Field(
        min_length=1, description="the first is the headline of the report, the others have sections of their own"
    )
    tasks: dict[Name, Task]
    models: dict[Name, Model]
    forecasters: dict[Name, Forecaster] = Field(
        default_factory=dict, description="who forecasts the frames that follow; all are asked about the same ones"
    )
    simulate: Simulate | None = Field(default=None, description="null: the datasets are real and nothing is simulated")
    index: Index
    preprocess: Preprocess
    parcellate: Parcellate
    denoise: Denoise
    correlate: Correlate
    collect: Collect
    export: Export | None = Field(default=None, description="null: nothing is exported")
    harmonize: Harmonize
    split: Split
    pretrain: Pretrain
    finetune: Finetune
    evaluate: Evaluate
    probe: Probe | None = Field(default=None, description="null: pretrained networks of series are not probed")
    forecast: Forecast | None = Field(default=None, description="null: nothing is forecast")
    predict: Predict | None = Field(default=None, description="null: no bundle is asked")
    report: Report

    def split_of(self, protocol: str) -> Split:
        """The section `split` with what the protocol has of its own."""
        own = self.protocols[protocol]
        # Where the tested choose, nobody else is kept from learning.
        nobody = {"validation_share": 0.0} if own.select == "test" else {}
        return _overridden(self.split, own.split | nobody, f"protocols.{protocol}.split")

    def pretrain_of(self, model: str, protocol: str) -> Pretrain:
        """The section `pretrain` with what the model, and then the protocol, has of its own."""
        chosen: dict[str, Any] = {"keep": "best-on-test"} if self.protocols[protocol].select == "test" else {}
        return _overridden(self.pretrain, self.models[model].pretrain | chosen, f"models.{model}.pretrain")

    def finetune_of(self, model: str, protocol: str) -> Finetune:
        """The section `finetune` with what the model, and then the protocol, has of its own."""
        by_test = self.protocols[protocol].select == "test"
        chosen: dict[str, Any] = {"keep": "best-on-test", "refit": False} if by_test else {}
        return _overridden(self.finetune, self.models[model].finetune | chosen, f"models.{model}.finetune")

    def forecast_of(self, forecaster: str) -> Forecast:
        """The section `forecast` with what the forecaster has of its own; raises ValueError where the study has none."""
        if self.forecast is None:
            raise ValueError("forecast is null, so nobody forecasts")
        return _overridden(self.forecast, self.forecasters[forecaster].forecast, f"forecasters.{forecaster}.forecast")

    def rows_of(self, protocol: str) -> list[tuple[str, str]]:
        """Model and task of every row that a protocol asks for."""
        own = self.protocols[protocol]
        rows = [(model, task) for model in own.models or self.models for task in own.tasks or self.tasks]
        answers = {name: self.tasks if model.tasks is None else model.tasks for name, model in self.models.items()}
        return [(model, task) for model, task in rows if task in answers[model]]

    def pretrained_by(self, model: str) -> str | None:
        """The model whose pretrained weights this one starts from; None where it starts from none of this study."""
        start = self.models[model].start
        if start == "scratch" or self.models[model].starts_from_folder:
            return None
        return model if start == "pretrained" else start

    @model_validator(mode="after")
    def _protocols_ask_what_there_is(self) -> Self:
        for name, protocol in self.protocols.items():
            for field, asked, known in (
                ("tasks", protocol.tasks, self.tasks),
                ("models", protocol.models, self.models),
            ):
                strange = [one for one in asked if one not in known]
                if strange:
                    raise ValueError(f"protocols.{name}.{field} has no {strange[0]!r}; known: {', '.join(known)}")
                if len(set(asked)) < len(asked):
                    raise ValueError(f"protocols.{name}.{field} has {', '.join(asked)}; a row is asked once")
            self.split_of(name)
            if protocol.select == "validation" and protocol.split.get("validation_share") == 0:
                raise ValueError(f"protocols.{name}.split.validation_share: 0 is for protocols with `select: test`")
        written = {"pretrain": self.pretrain.keep, "finetune": self.finetune.keep} | {
            f"models.{name}.{stage}": own.get("keep")
            for name, model in self.models.items()
            for stage, own in (("pretrain", model.pretrain), ("finetune", model.finetune))
        }
        by_hand = [place for place, keep in written.items() if keep == "best-on-test"]
        if by_hand or self.split.validation_share == 0:
            place = f"{by_hand[0]}.keep" if by_hand else "split.validation_share"
            raise ValueError(f"{place}: only a protocol with `select: test` lets tested people choose the epoch")
        return self

    @model_validator(mode="after")
    def _models_answer_what_there_is(self) -> Self:
        for name, model in self.models.items():
            strange = [task for task in model.tasks or () if task not in self.tasks]
            if strange:
                raise ValueError(f"models.{name}.tasks has no {strange[0]!r}; known: {', '.join(self.tasks)}")
        if (self.forecast is None) != (not self.forecasters):
            raise ValueError(
                "forecasters say who forecasts, and forecast how; give both, or `forecasters: {}` and null"
            )
        return self

    @model_validator(mode="after")
    def _models_start_somewhere(self) -> Self:
        starts: dict[str, tuple[Model | Forecaster, str | None]] = {
            f"models.{name}": (model, self.pretrained_by(name)) for name, model in self.models.items()
        }
        for name, one in self.forecasters.items():
            begins = one.start != "scratch" and "/" not in one.start
            starts[f"forecasters.{name}"] = one, one.start if begins else None
        for place, (model, trainer) in starts.items():
            if trainer is None:
                continue
            if trainer not in self.models or self.models[trainer].start != "pretrained":
                can = [other for other, m in self.models.items() if m.start == "pretrained"]
                raise ValueError(
                    f"{place}.start is '{trainer}', and no model of that name has `start: pretrained`; there are: "
                    f"{', '.join(can) or 'none'}. scratch and pretrained are words, a folder has a slash"
                )
            theirs = self.models[trainer]
            if (theirs.architecture, theirs.size) != (model.architecture, model.size):
                raise ValueError(f"{place} starts from '{trainer}', and its architecture or size is another")
        return self

    @model_validator(mode="after")
    def _own_settings_have_a_use(self) -> Self:
        for name, model in self.models.items():
            if model.pretrain and model.start != "pretrained":
                raise ValueError(
                    f"models.{name}.pretrain has {', '.join(model.pretrain)}, and its start is '{model.start}'; only "
                    "`start: pretrained` pretrains"
                )
            if model.start == "scratch" and model.finetune.get("trunk") == "freeze":
                raise ValueError(f"models.{name}.finetune.trunk is freeze, and from scratch there is nothing to keep")
        return self

    @model_validator(mode="after")
    def _combat_knows_no_target(self) -> Self:
        predicted = tuple(task.target for task in self.tasks.values())
        protocol = next(iter(self.protocols))
        for name in self.models:
            finetune, trainer = self.finetune_of(name, protocol), self.pretrained_by(name)
            _check_covariates(f"models.{name}: finetune", finetune, predicted)
            if trainer is not None:
                pretrain = self.pretrain_of(trainer, protocol)
                _check_covariates(f"models.{trainer}: pretrain", pretrain, pretrain.targets)
                if pretrain.combat != finetune.combat:
                    raise ValueError(f"models.{name}: pretrain.combat and finetune.combat differ; it starts from there")
        return self


def _overridden(section: Section, own: dict[str, Any], place: str) -> Section:
    try:
        return type(section).model_validate(section.model_dump() | own)
    except ValidationError as error:
        lines = (f"{place}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError("; ".join(lines)) from None


def _check_covariates(place: str, stage: Training, targets: tuple[str, ...]) -> None:
    names = stage.combat.forbidden(targets) if stage.combat else []
    if names:
        raise ValueError(f"{place}.combat.covariates holds {names}, predicted there; see combat.allow_target")


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
    "collect": Collect,
    "export": Export,
    "harmonize": Harmonize,
    "split": Split,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "probe": Probe,
    "forecast": Forecast,
    "predict": Predict,
    "report": Report,
}
"""The class of each stage's section; the names equal STAGE_ROOMS and the fields of Study (tested)."""
