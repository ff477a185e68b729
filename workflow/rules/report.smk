"""report: benchmark table, cohort flow, QC figures and the page that holds them."""


rule report:
    """One self-contained page, and the tables it shows."""
    input:
        scans="results/index/scans.tsv",
        connectomes=PLAN.all_connectomes,
        bei="results/harmonize/bei.tsv",
        flow="results/harmonize/cohort_flow.tsv",
        labels="results/harmonize/labels.tsv",
        vocabulary=PLAN.vocabulary,
        folds="results/split/folds.tsv",
        template=PLAN.page,
        atlas=PLAN.atlas,
        scores=PLAN.scores,
    output:
        page="results/report/index.html",
        benchmark="results/report/benchmark.tsv",
        outcomes="results/report/outcomes.tsv",
        table_one="results/report/table_one.tsv",
        site_effects="results/report/site_effects.tsv",
    log:
        "logs/report/report.log",
    benchmark:
        "logs/report/report.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        settings=settings("report"),
        code=code("report"),
        models=list(PLAN.study.models),
        tasks=list(PLAN.study.tasks),
        strategies=list(PLAN.strategies),
        atlas=PLAN.study.parcellate.atlas,
    shell:
        "python -m lcm report --results results --models {params.models:q} --tasks {params.tasks:q}"
        " --strategies {params.strategies:q} --atlas {params.atlas:q}"
        " --vocabulary {input.vocabulary:q} --output results/report"
        " --settings {params.settings:q} > {log:q} 2>&1"
