"""report: benchmark table, cohort flow, QC figures and the page that holds them."""


rule report:
    """One self-contained page, and the tables it shows."""
    input:
        scans="results/index/scans.tsv",
        connectomes=connectomes,
        flow="results/harmonize/cohort_flow.tsv",
        folds="results/split/folds.tsv",
        scores=expand("results/evaluate/{model}/{task}/scores.tsv", model=STUDY.models, task=STUDY.tasks),
    output:
        page="results/report/index.html",
        benchmark="results/report/benchmark.tsv",
        outcomes="results/report/outcomes.tsv",
    log:
        "logs/report/report.log",
    benchmark:
        "logs/report/report.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        settings=settings("report"),
        code=code("report"),
    shell:
        "python -m lcm report --results results --output results/report"
        " --settings {params.settings:q} > {log:q} 2>&1"
