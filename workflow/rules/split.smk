"""split: people to folds, written once for all rows of a protocol."""


rule split:
    """A person's role in every fold."""
    input:
        bei=PLAN.people,
        vocabulary=PLAN.vocabulary,
    output:
        "results/split/{protocol}/folds.tsv",
    log:
        "logs/split/{protocol}.log",
    benchmark:
        "logs/split/{protocol}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(1000),
        runtime=grows(30),
    params:
        settings=PLAN.split_settings,
        code=code("split"),
    shell:
        "python -m lcm split --bei {input.bei:q} --output {output:q}" " --settings {params.settings:q} > {log:q} 2>&1"
