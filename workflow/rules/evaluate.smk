"""evaluate: predictions of the test people, one row a person, and their scores."""


rule evaluate:
    """One model on one task, all folds."""
    input:
        bei="results/harmonize/bei.tsv",
        folds="results/split/folds.tsv",
        scans="results/index/scans.tsv",
        connectomes=PLAN.connectomes,
        weights=PLAN.finetuned,
    output:
        predictions="results/evaluate/{model}/{task}/predictions.parquet",
        scores="results/evaluate/{model}/{task}/scores.tsv",
    log:
        "logs/evaluate/{model}/{task}.log",
    benchmark:
        "logs/evaluate/{model}/{task}.tsv"
    conda:
        "../../envs/training.yaml"
    params:
        settings=settings("evaluate"),
        code=code("evaluate"),
        connectomes=PLAN.connectome_folder,
        task=PLAN.task,
    shell:
        "python -m lcm evaluate --model {wildcards.model:q} --task {wildcards.task:q} --definition {params.task:q}"
        " --bei {input.bei:q} --folds {input.folds:q} --scans {input.scans:q} --connectomes {params.connectomes:q}"
        " --weights results/finetune/{wildcards.model:q}/{wildcards.task:q}"
        " --output results/evaluate/{wildcards.model:q}/{wildcards.task:q}"
        " --settings {params.settings:q} > {log:q} 2>&1"
