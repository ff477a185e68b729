"""How each stage works: one class a stage of config.yaml, every value with a unit, a range and a reason.

Other rooms import these from `lcm.config`, which no code hash follows: settings reach a stage by value.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")]
"""Of a dataset, task, model or bundle: it becomes a folder, so no slash, dot, underscore or space."""


class Settings(BaseModel):
    """Base of every section: frozen, and an unknown key is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Simulate(Settings):
    """The demo study: eight small cohorts with planted effects, in their cohorts' own layouts."""

    seed: int = Field(default=20251018, ge=0, description="every simulated number follows from it")
    raw_people: int = Field(default=3, ge=1, le=50, description="people of the raw BIDS cohort (HCPA)")
    derivative_people: int = Field(default=8, ge=2, le=500, description="people of the fMRIPrep cohort (HCPYA)")
    series_people: int = Field(default=48, ge=8, le=5000, description="people of each cohort of ready series")
    num_volumes: int = Field(default=120, ge=40, le=2000, description="volumes of every simulated run")
    tr_s: float = Field(default=2.0, gt=0, le=10, description="repetition time")
    voxel_mm: float = Field(default=4.0, ge=3, le=8, description="voxel size of the simulated BOLD")
    effect: float = Field(
        default=0.35, ge=0, le=1.5, description="shift, in Fisher z, of the edges that age, sex and diagnosis move"
    )


class Index(Settings):
    """Find every run, once."""

    batch_size: int = Field(
        default=200,
        ge=1,
        le=5000,
        description="most participants a batch job takes on average; up to eight batches a dataset they are 50 at most",
    )


class Fmriprep(Settings):
    """The official fMRIPrep container, run through Apptainer."""

    image: str = Field(
        pattern=r"^(docker|oras)://\S+@sha256:[0-9a-f]{64}$",
        description="docker://… image pinned by digest, as `…@sha256:<64 hex digits>`",
    )
    licence: str = Field(description="FreeSurfer licence file, which fMRIPrep asks for even without surfaces")
    arguments: tuple[str, ...] = Field(
        default=(), description="further fMRIPrep flags, e.g. [--use-syn-sdc]; ours come last and win"
    )


class Preprocess(Settings):
    """Raw BOLD to MNI with nipype and antspyx or in fMRIPrep's container, confounds under fMRIPrep's names."""

    backend: Literal["builtin", "fmriprep"] = Field(
        default="builtin", description="builtin: nipype and antspyx, from wheels; fmriprep: the official container"
    )
    template: Literal["auto", "nilearn", "MNI152NLin2009cAsym", "MNI152NLin6Asym"] = Field(
        default="auto",
        description="auto: MNI152NLin2009cAsym where TEMPLATEFLOW_HOME holds it, else nilearn; nilearn: the "
        "MNI152NLin2009aSym inside that package; others: from TEMPLATEFLOW_HOME, an error where missing",
    )
    download_templates: bool = Field(
        default=False, description="let TemplateFlow fetch what TEMPLATEFLOW_HOME lacks; false: nothing is downloaded"
    )
    slice_timing: bool = Field(default=True, description="correct slice timing of runs whose JSON has SliceTiming")
    resolution_mm: float = Field(default=3.0, ge=1, le=6, description="voxel size of the BOLD written in MNI space")
    registration_mm: float = Field(default=2.0, ge=1, le=6, description="grid on which T1w and template are matched")
    normalization: Literal["SyN", "Affine"] = Field(default="SyN", description="T1w (or mean BOLD) to template")
    min_volumes: int = Field(default=20, ge=5, le=1000, description="a shorter run is excluded")
    seed: int = Field(default=1, ge=1, description="ANTs' random sampling of the similarity metric")
    fmriprep: Fmriprep | None = Field(default=None, description="what the fmriprep backend needs; null: not used")

    @model_validator(mode="after")
    def _the_container_is_described(self) -> Preprocess:
        if self.backend == "fmriprep" and self.fmriprep is None:
            raise ValueError("backend fmriprep needs the block `fmriprep`: image and licence at least")
        return self


class Parcellate(Settings):
    """Mean series of every atlas region, in one pass over the file."""

    atlas: str = Field(
        default="AAL",
        description="folder of lcm/atlases, a path to a BIDS-atlas folder, or a NIfTI with a label table beside it",
    )
    min_coverage: float = Field(
        default=0.5, ge=0, le=1, description="a region with a smaller share of its voxels in the brain mask is NaN"
    )


class Denoise(Settings):
    """Filtering and censoring of region series; a strategy's own `settings` come before these."""

    low_hz: float | None = Field(default=0.01, ge=0, lt=1, description="high-pass edge; null: none")
    high_hz: float | None = Field(default=0.08, gt=0, lt=2, description="low-pass edge; null: none")
    filter_order: int = Field(default=2, ge=1, le=8, description="Butterworth order, forward and backward")
    detrend: bool = Field(default=True, description="remove a linear trend before filtering")
    fd_mm: float | None = Field(default=0.5, gt=0, description="censor volumes that moved more (Power FD); null: none")
    std_dvars: float | None = Field(
        default=None, gt=0, description="censor volumes with a larger standardised DVARS; null: none"
    )
    min_segment_volumes: int = Field(
        default=1, ge=1, description="censor what is left between censored volumes when it is shorter than this"
    )
    min_minutes: float = Field(default=2.0, ge=0, description="a run with less kept data is excluded")

    @model_validator(mode="after")
    def _band_is_open(self) -> Denoise:
        if self.low_hz is not None and self.high_hz is not None and self.low_hz >= self.high_hz:
            raise ValueError(
                f"low_hz {self.low_hz:g} must be below high_hz {self.high_hz:g}; null switches an edge off"
            )
        return self


class Correlate(Settings):
    """Functional connectivity of every pair of regions, whole-run or in windows."""

    kind: Literal["correlation", "partial correlation", "covariance", "tangent"] = Field(
        default="correlation",
        description="sample Pearson correlation, or another kind of nilearn's ConnectivityMeasure",
    )
    reference: str | None = Field(
        default=None,
        description="tangent only: TSV of the mean covariance of people who are in no test fold (docs/imaging.md)",
    )
    fisher_z: bool = Field(default=False, description="store atanh(r) instead of r")
    window_volumes: int | None = Field(
        default=None, ge=10, description="volumes of a window, one connectome each; null: one of the whole run"
    )
    window_tail: Literal["keep", "drop", "zero-pad"] = Field(
        default="keep",
        description="the short window at the end (or a short run): keep it as it is, drop it, or pad it with zeros as the "
        "LCM authors' loader does",
    )
    min_volumes: int = Field(default=30, ge=3, description="a run or window with fewer kept volumes is excluded")

    @model_validator(mode="after")
    def _reference_belongs_to_tangent(self) -> Correlate:
        if (self.kind == "tangent") != (self.reference is not None):
            raise ValueError("kind tangent needs `reference`, and no other kind takes one")
        if self.fisher_z and "correlation" not in self.kind:
            raise ValueError(f"fisher_z is for correlations, not for kind {self.kind}")
        return self


class Collect(Settings):
    """Recordings for networks that read series: memory-mapped tables of half-precision frames."""

    normalize: Literal["center", "zscore"] = Field(
        default="center",
        description="of every region in every run: center takes the mean out, as BrainLM's program; zscore divides by the "
        "standard deviation, too, where datasets come in units of their own",
    )
    censored: Literal["missing", "interpolate", "drop"] = Field(
        default="missing",
        description="censored volumes: missing, so that no network is asked about them; filled in linearly from their "
        "neighbours, and asked about; or left out and the rest joined",
    )
    tr_s: float | None = Field(
        default=None, gt=0, le=20, description="common repetition time that every run is resampled to; null: its own"
    )
    min_volumes: int = Field(default=60, ge=3, description="a run with fewer volumes is excluded")


class Export(Settings):
    """Series and connectomes as a BIDS derivative dataset."""

    datasets: tuple[str, ...] = Field(default=(), description="datasets exported; empty: all")
    strategies: tuple[str, ...] = Field(
        default=(), description="confound strategies exported, six files a scan each; empty: the first of the study"
    )


class Harmonize(Settings):
    """Eight cohorts' own tables into one BEI table."""

    pseudo_labels: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="cohort → {BEI: level} assumed where nothing was observed; marked `pseudo` in the table",
    )
    policies: dict[str, str] = Field(
        default_factory=dict,
        description="cohort → label policy of its source file, e.g. {adni: mci_apart}; absent: the file's default",
    )
    linkage: str | None = Field(
        default=None,
        description="TSV of who is one person, or of one family, across cohorts: cohort, id, person and, optionally, family",
    )
    max_refused_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="a column with a larger share of unknown codes or implausible values stops the study: it is swapped, "
        "shifted or of another file",
    )


class Split(Settings):
    """Who is trained on and who is tested: folds of people (or families), written once."""

    design: Literal["stratified", "leave-site-out", "cross-cohort", "kfold"] = Field(
        default="stratified",
        description="stratified: by cohort, diagnosis, site and sex; leave-site-out: whole sites are tested; cross-cohort: "
        "whole cohorts are; kfold: the LCM authors' unstratified KFold over sorted ids",
    )
    num_folds: int = Field(
        default=3, ge=2, le=100, description="outer folds; cross-cohort has one for each of test_cohorts"
    )
    test_cohorts: tuple[tuple[str, ...], ...] = Field(
        default=(), description="cross-cohort only: the cohorts tested in each fold, e.g. [[taowu, neurocon]]"
    )
    cohort_folds: dict[str, int] = Field(
        default_factory=dict,
        description="kfold only: cohort → its own number of folds, of which the first num_folds are tested (the authors: "
        "{ppmi: 10, abide: 10, taowu: 10, neurocon: 10} with num_folds 5)",
    )
    validation_share: float = Field(
        default=0.2,
        ge=0,
        lt=0.5,
        description="share of a fold's training people kept for choosing the epoch; 0 is for protocols with `select: test`",
    )
    seed: int = Field(default=142857, ge=0, description="the LCM authors' KFold seed")

    @property
    def count(self) -> int:
        """How many folds there are."""
        return len(self.test_cohorts) if self.design == "cross-cohort" else self.num_folds

    @model_validator(mode="after")
    def _fields_belong_to_the_design(self) -> Split:
        if (self.design == "cross-cohort") != bool(self.test_cohorts):
            raise ValueError("design cross-cohort needs `test_cohorts`, and no other design takes them")
        if self.cohort_folds and self.design != "kfold":
            raise ValueError("cohort_folds is for design kfold only")
        few = [name for name, count in self.cohort_folds.items() if count < self.num_folds]
        if few:
            raise ValueError(
                f"cohort_folds.{few[0]} is below num_folds {self.num_folds}; a fold would have no test people"
            )
        return self
