"""index: every run of every dataset, found once; the jobs behind it read its tables, never the folders again."""


checkpoint index:
    """One table of all runs, and one a batch."""
    input:
        PLAN.simulated,
    output:
        scans="results/index/scans.tsv",
        batches=directory("results/index/batches"),
    log:
        "logs/index/index.log",
    benchmark:
        "logs/index/index.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(2000),
        runtime=grows(60),
    params:
        settings=settings("index"),
        code=code("index"),
        checked=PLAN.checked,
        datasets=PLAN.datasets,
        listing=PLAN.listing,
    shell:
        # A phenotype table that cannot be right stops the study here, before any image is read.
        "python -m lcm harmonize --check --datasets {params.datasets:q} --settings {params.checked:q} > {log:q} 2>&1"
        " && python -m lcm index --datasets {params.datasets:q} --output results/index"
        " --settings {params.settings:q} >> {log:q} 2>&1"
