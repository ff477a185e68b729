"""split: people to folds, written once for the whole study."""


rule split:
    """A person's role in every fold."""
    input:
        bei="results/harmonize/bei.tsv",
        vocabulary=PLAN.vocabulary,
    output:
        "results/split/folds.tsv",
    log:
        "logs/split/split.log",
    benchmark:
        "logs/split/split.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        settings=settings("split"),
        code=code("split"),
    shell:
        "python -m lcm split --bei {input.bei:q} --output {output:q}" " --settings {params.settings:q} > {log:q} 2>&1"
