"""simulate: the demo's eight cohorts, with planted effects, in their cohorts' own layouts."""


rule simulate:
    """Scans and phenotype tables of the demo study."""
    output:
        "results/simulate/truth.json",
    log:
        "logs/simulate/simulate.log",
    benchmark:
        "logs/simulate/simulate.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        settings=settings("simulate"),
        code=code("simulate"),
    shell:
        "python -m lcm simulate --output results/simulate" " --settings {params.settings:q} > {log:q} 2>&1"
