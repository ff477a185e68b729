"""probe: what a network pretrained on series knows, asked without teaching it more."""


rule probe:
    """One pretrained model, all folds of a protocol."""
    input:
        bei="results/harmonize/bei.tsv",
        folds="results/split/{protocol}/folds.tsv",
        scans="results/index/scans.tsv",
        recordings=PLAN.recordings,
        atlas=PLAN.atlas,
        networks=PLAN.networks,
        weights=PLAN.pretrained_all,
    output:
        directory("results/probe/{protocol}/{model}"),
    log:
        "logs/probe/{protocol}/{model}.log",
    benchmark:
        "logs/probe/{protocol}/{model}.tsv"
    conda:
        "../../envs/training.yaml"
    resources:
        mem_mb=grows(4000),
        runtime=grows(240),
        gpu=1,
        machine="--accelerator auto",
    params:
        settings=settings("probe"),
        code=code("probe"),
        recordings=PLAN.recording_folder,
        atlas=PLAN.study.parcellate.atlas,
    shell:
        "python -m lcm probe --protocol {wildcards.protocol:q} --model {wildcards.model:q}"
        " --bei {input.bei:q} --folds {input.folds:q} --scans {input.scans:q} --recordings {params.recordings:q}"
        " --weights results/pretrain/{wildcards.protocol:q}/{wildcards.model:q} --atlas {params.atlas:q}"
        " --devices {resources.gpu} {resources.machine} --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
