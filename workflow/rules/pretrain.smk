"""pretrain: multitask pretraining on the training people of one fold."""


rule pretrain:
    """Weights of a model on a fold."""
    input:
        bei="results/harmonize/bei.tsv",
        folds="results/split/{protocol}/folds.tsv",
        scans="results/index/scans.tsv",
        scanned=PLAN.read_by,
        begun_from=PLAN.begun_from,
    output:
        directory("results/pretrain/{protocol}/{model}/fold-{fold}"),
    log:
        "logs/pretrain/{protocol}/{model}/fold-{fold}.log",
    benchmark:
        "logs/pretrain/{protocol}/{model}/fold-{fold}.tsv"
    conda:
        "../../envs/training.yaml"
    resources:
        mem_mb=grows(4000),
        runtime=grows(720),
        gpu=1,
        nodes=1,
        launcher="env",
        machine="--accelerator auto",
    params:
        settings=PLAN.pretrain_settings,
        code=code("pretrain"),
        reading=PLAN.reading,
        model=PLAN.model,
    shell:
        "exec {resources.launcher} python -m lcm pretrain --model {wildcards.model:q} --model-definition {params.model:q} --fold {wildcards.fold}"
        " --bei {input.bei:q} --folds {input.folds:q} --scans {input.scans:q} {params.reading}"
        " --checkpoint {output:q}.checkpoint --log-folder logs/pretrain/{wildcards.protocol:q}/{wildcards.model:q}/fold-{wildcards.fold}"
        " --devices {resources.gpu} --nodes {resources.nodes} {resources.machine}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
