"""evaluate: predictions of the test people, one row a person, and their scores."""


rule evaluate:
    """One model on one task, all folds of a protocol."""
    input:
        bei="results/harmonize/bei.tsv",
        folds="results/split/{protocol}/folds.tsv",
        scans="results/index/scans.tsv",
        scanned=PLAN.read_by,
        weights=PLAN.finetuned,
        pretrained=PLAN.pretraining,
    output:
        predictions="results/evaluate/{protocol}/{model}/{task}/predictions.parquet",
        scores="results/evaluate/{protocol}/{model}/{task}/scores.tsv",
        attention="results/evaluate/{protocol}/{model}/{task}/attention.tsv",
        decodability="results/evaluate/{protocol}/{model}/{task}/decodability.tsv",
        overlap="results/evaluate/{protocol}/{model}/{task}/overlap.tsv",
        balance="results/evaluate/{protocol}/{model}/{task}/balance.tsv",
        costs="results/evaluate/{protocol}/{model}/{task}/costs.tsv",
    log:
        "logs/evaluate/{protocol}/{model}/{task}.log",
    benchmark:
        "logs/evaluate/{protocol}/{model}/{task}.tsv"
    conda:
        "../../envs/training.yaml"
    resources:
        mem_mb=grows(4000),
        runtime=grows(120),
        machine="--accelerator auto",
    params:
        settings=settings("evaluate"),
        code=code("evaluate"),
        reading=PLAN.reading,
        model=PLAN.model,
        task=PLAN.task,
        select=PLAN.select,
        pretrained=PLAN.pretraining_folder,
    shell:
        "python -m lcm evaluate --protocol {wildcards.protocol:q} --select {params.select:q}"
        " --model {wildcards.model:q} --model-definition {params.model:q}"
        " --task {wildcards.task:q} --definition {params.task:q}"
        " --bei {input.bei:q} --folds {input.folds:q} --scans {input.scans:q} {params.reading}"
        " --weights results/finetune/{wildcards.protocol:q}/{wildcards.model:q}/{wildcards.task:q}"
        " --pretrained {params.pretrained:q}"
        " --output results/evaluate/{wildcards.protocol:q}/{wildcards.model:q}/{wildcards.task:q}"
        " {resources.machine} --settings {params.settings:q} > {log:q} 2>&1"
