"""finetune: one task on one fold, from scratch or from the fold's pretrained weights."""


rule finetune:
    """Weights of a model for a task on a fold."""
    input:
        bei="results/harmonize/bei.tsv",
        folds="results/split/{protocol}/folds.tsv",
        scans="results/index/scans.tsv",
        scanned=PLAN.read_by,
        weights=PLAN.pretrained,
    output:
        directory("results/finetune/{protocol}/{model}/{task}/fold-{fold}"),
    log:
        "logs/finetune/{protocol}/{model}/{task}/fold-{fold}.log",
    benchmark:
        "logs/finetune/{protocol}/{model}/{task}/fold-{fold}.tsv"
    conda:
        "../../envs/training.yaml"
    resources:
        mem_mb=grows(4000),
        runtime=grows(240),
        gpu=PLAN.gpus,
        nodes=1,
        launcher="env",
        machine="--accelerator auto",
    params:
        settings=PLAN.finetune_settings,
        code=code("finetune"),
        reading=PLAN.reading,
        model=PLAN.model,
        task=PLAN.task,
    shell:
        "exec {resources.launcher} python -m lcm finetune --model {wildcards.model:q} --model-definition {params.model:q}"
        " --task {wildcards.task:q} --definition {params.task:q} --fold {wildcards.fold} --weights {input.weights:q}"
        " --bei {input.bei:q} --folds {input.folds:q} --scans {input.scans:q} {params.reading}"
        " --checkpoint {output:q}.checkpoint"
        " --log-folder logs/finetune/{wildcards.protocol:q}/{wildcards.model:q}/{wildcards.task:q}/fold-{wildcards.fold}"
        " --devices {resources.gpu} --nodes {resources.nodes} {resources.machine}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
