"""Settings of the stages that learn, answer and report: from pretraining to the page."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field, model_validator

from lcm.settings import Name, Settings

Precision = Literal["32-true", "bf16-mixed"]


class Combat(Settings):
    """Site effects taken out of connectivity by ComBat, fitted on a fold's training people alone."""

    covariates: tuple[str, ...] = Field(
        default=(),
        description="BEIs whose effect is kept, e.g. [age, sex]; missing cells take the training mean or mode",
    )
    allow_target: bool = Field(
        default=False,
        description="let a covariate be the target too: it shapes the fit, and counts as missing when edges are corrected",
    )
    min_people: int = Field(
        default=5, ge=2, description="a site with fewer training people, or none (unseen), is left as it is"
    )

    def forbidden(self, targets: Collection[str]) -> list[str]:
        """Covariates that are predicted and not allowed: where classes and sites go together they carry the answer.

        Source: Nieto et al. 2026, Neurocomputing 680:133146.
        """
        return [] if self.allow_target else [name for name in self.covariates if name in targets]


class Training(Settings):
    """What the one loop needs; pretrain and finetune share it."""

    max_epochs: int = Field(default=40, ge=1, description="most passes over the training people")
    patience: int = Field(default=10, ge=1, description="epochs without a better validation loss before it stops")
    keep: Literal["best", "last", "best-on-test"] = Field(
        default="best",
        description="best: the epoch with the lowest validation loss; last: all of max_epochs, where validation people are so "
        "few that their loss is noise; best-on-test: highest weighted F1 on the tested people, set by `select: test` alone",
    )
    batch_size: int = Field(
        default=32, ge=1, description="scans behind one change of the weights, on all devices together"
    )
    gradient_accumulation: int = Field(
        default=1, ge=1, description="parts a batch is computed in, where it does not fit the device's memory"
    )
    max_gradient_norm: float | None = Field(default=None, gt=0, description="longer gradients are cut; null: never")
    learning_rate: float = Field(default=1e-4, gt=0, description="Adam; the LCM paper's value is 1e-4")
    scaling: Literal["robust", "published"] = Field(
        default="robust",
        description="networks that read series, from fresh weights: (x − median) / IQR of each region over the training "
        "people; or x − median / IQR, the slip of BrainLM's toolkit",
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="of the learning rate; cosine: half a cosine down to 0 at max_epochs (BrainLM)"
    )
    warmup_share: float = Field(
        default=0.0, ge=0, lt=1, description="first share of all steps in which the rate rises from 0 (BrainLM: 0.05)"
    )
    schedule_epochs: int | None = Field(
        default=None, ge=1, description="epochs that the schedule is made for; null: max_epochs"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled (AdamW)")
    trunk_rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the learning rate that everything gets but the weights that read the input (LCM: the region "
        "embedding), which learn at the full rate",
    )
    average_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="keep, and judge epochs by, a running average of the weights with this decay a step; null: the weights",
    )
    stages: Literal["both", "first", "second", "last_layer"] = Field(
        default="both",
        description="LCM's two-stage learning: both; only the layer mean; only the best layer; or the last layer alone, "
        "as the authors train from scratch (paper Table 5)",
    )
    first_stage_epochs: int = Field(
        default=5, ge=0, description="LCM: epochs on the layer mean before the best layer is trained (paper m = 5)"
    )
    precision: Precision = Field(default="32-true", description="Fabric's precision flag")
    seed: int = Field(default=0, ge=0, description="weights, shuffling and dropout")
    combat: Combat | None = Field(default=None, description="null: connectivity keeps its site effects")
    allow: tuple[Literal["atlas", "regions", "vocabulary", "preprocessing"], ...] = Field(
        default=(),
        description="accepted differences between these scans and those that the weights it starts from learned",
    )


class Pretrain(Training):
    """Multitask pretraining on a fold's training people."""

    targets: tuple[str, ...] = Field(
        default=("sex", "age", "cognitive_state", "alzheimers", "parkinsons", "autism"),
        description="BEIs that supervise; a missing label is masked",
    )
    na_levels: tuple[str, ...] = Field(
        default=(),
        description="categorical BEIs with one more level, n/a, that scans without a label learn (the LCM authors: all "
        "but sex)",
    )
    pseudo_weight: float = Field(default=0.0, ge=0, le=1, description="weight of pseudo labels in the training loss")
    loss_weights: dict[str, float] = Field(
        default_factory=lambda: {"age": 1e-4}, description="per BEI, 1 where absent (LCM paper: age 1e-4, in years)"
    )
    mask_ratio: float = Field(
        default=0.75, gt=0, lt=1, description="networks that read series: share hidden (BrainLM: 0.2, 0.75, 0.9)"
    )
    masking: Literal["random", "future"] = Field(
        default="random", description="networks that read series: any patches are hidden, or the last of every region"
    )
    datasets: tuple[str, ...] = Field(
        default=(), description="networks that read series: datasets learned from; empty: all. The others are external"
    )
    train_share: float = Field(
        default=1.0, gt=0, le=1, description="networks that read series: share of training people used (scaling)"
    )
    init_from: str | None = Field(
        default=None,
        description="bundle whose weights pretraining begins with, e.g. of `lcm import-weights`; null: fresh weights",
    )

    @model_validator(mode="after")
    def _names_are_targets(self) -> Pretrain:
        for field, names in {"na_levels": self.na_levels, "loss_weights": self.loss_weights}.items():
            # The default weight of age is no request: a study may well leave age out.
            strange = sorted(set(names) - set(self.targets) - {"age"})
            if strange:
                raise ValueError(f"{field} has {strange}, which no target is; targets: {', '.join(self.targets)}")
        return self


class Finetune(Training):
    """One task on one fold, from scratch or from the fold's pretrained weights."""

    max_epochs: int = Field(
        default=40, ge=0, description="most passes over the training people; 0: pretrained weights answer as they are"
    )
    refit: bool = Field(
        default=True,
        description="once epoch and penalty are chosen, fit again on training and validation people together",
    )
    train_share: float = Field(default=1.0, gt=0, le=1, description="share of training people used (few-shot)")
    trunk: Literal["train", "freeze"] = Field(
        default="train", description="freeze: pretrained weights stay, only the task's tokens and the head learn"
    )
    target_transform: Literal["none", "zscore", "minmax", "log-minmax"] = Field(
        default="none",
        description="of a continuous target while a network learns it, fitted on training people and undone in its answers "
        "(BrainLM: age zscore, neuroticism minmax, PTSD and anxiety log-minmax)",
    )
    readout: Literal["head", "knn", "svm-rbf", "svm-linear", "ridge", "logistic"] = Field(
        default="head",
        description="networks that read series: their head, or an estimator on the embedding of the pretrained network as it "
        "is (BrainLM's zero-shot probes)",
    )
    readout_components: int | None = Field(
        default=None,
        ge=1,
        description="principal components of the embedding that a readout other than head reads; "
        "null: the embedding itself (BrainLM: 200)",
    )


class Forecast(Training):
    """Forecasters of the frames that follow, each trained on a fold's training people."""

    horizon_volumes: int = Field(
        default=20, ge=1, description="last frames of a window that are forecast (BrainLM: 20)"
    )
    datasets: tuple[str, ...] = Field(
        default=(), description="datasets learned from; empty: all. The others are external"
    )


class Probe(Settings):
    """What a network that was pretrained on series knows, asked without teaching it anything more."""

    mask_ratios: tuple[float, ...] = Field(
        default=(0.2, 0.75, 0.9), description="shares of a window hidden, at random, that it has to fill in"
    )
    networks: str | None = Field(
        default="yeo7",
        description="table of each region's functional network: a column of that name in the atlas's table, or the path of "
        "a TSV with the columns region and network; null: networks are not identified",
    )
    neighbours: int = Field(default=5, ge=1, description="k of the nearest neighbours that name a region's network")
    test_share: float = Field(default=0.2, gt=0, lt=1, description="share of a recording's regions to be named")
    max_recordings: int = Field(
        default=1000,
        ge=1,
        description="held-out recordings of a fold that networks and maps are made of (BrainLM: 1,000)",
    )
    map: Literal["pca", "umap"] = Field(default="pca", description="how embeddings are laid out in two dimensions")
    contrasts: tuple[str, ...] = Field(
        default=("sex",), description="categorical BEIs whose levels' attention maps are told apart"
    )
    num_bootstraps: int = Field(default=1000, ge=100, le=100000, description="person-level resamples for the 95 % CI")
    seed: int = Field(default=0, ge=0, description="of draws of regions, layout and bootstrap")


class Predict(Settings):
    """Trained bundles on the study's scans."""

    bundles: dict[Name, str] = Field(
        default_factory=dict, description="name → folder of a bundle; the name is the folder of its answers"
    )
    datasets: tuple[str, ...] = Field(default=(), description="datasets answered about; empty: all")
    allow: tuple[Literal["atlas", "regions", "preprocessing", "people"], ...] = Field(
        default=(),
        description="differences between bundle and scans that are accepted: other atlas or region order (the numbers "
        "of regions must agree), other preprocessing, people whom training has seen",
    )


class Evaluate(Settings):
    """Predictions of the test people, one row a person, and their scores."""

    num_bootstraps: int = Field(default=1000, ge=100, le=100000, description="person-level resamples for the 95 % CI")
    num_permutations: int = Field(
        default=1000, ge=100, le=100000, description="permutations of the labels within sites, for the p value of a row"
    )
    low_motion_fd_mm: float = Field(
        default=0.2, gt=0, description="people with a mean FD up to this are the subset low-motion"
    )
    decode_embeddings: bool = Field(
        default=True, description="read site and head motion from each network's embedding of test people"
    )
    seed: int = Field(default=0, ge=0, description="of bootstrap and permutations")


class Report(Settings):
    """The benchmark table, the figures and the page that holds them."""

    title: str = Field(default="Connectome benchmark", description="heading of the page")
    reference_model: str = Field(default="ridge", description="model that every other row is compared with")
    num_qc_scans: int = Field(default=6, ge=1, le=100, description="scans a dataset shown in the QC section")
    min_test_people_per_level: int = Field(default=30, ge=1, description="a row with fewer is printed without ranking")
    share: Literal["private", "public"] = Field(
        default="private",
        description="public: counts of people below min_cell are suppressed, with what would reveal them",
    )
    min_cell: int = Field(default=5, ge=2, description="share: public only: the smallest count of people that is shown")
