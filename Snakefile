"""From raw BIDS to a benchmark table: the configuration, one file a stage in running order, one target."""

import gc
import shlex

if not config:

    configfile: f"{workflow.basedir}/config.yaml"


report: "workflow/report/study.rst"


shell.prefix(f"export PYTHONPATH={shlex.quote(str(workflow.basedir))}; ")


# A plan is millions of objects that stay; to look through them for garbage again and again took a sixth of the time.
gc.disable()


# What runs for days collects again, but for the plan.
onstart:
    gc.freeze()
    gc.enable()


include: "workflow/rules/common.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/index.smk"
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/parcellate.smk"
include: "workflow/rules/denoise.smk"
include: "workflow/rules/correlate.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/harmonize.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/forecast.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/report.smk"


rule all:
    """The report, from which every other result follows."""
    default_target: True
    input:
        "results/report/index.html",
