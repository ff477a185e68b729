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
        template=PLAN.page,
        atlas=PLAN.atlas,
        scores=PLAN.scores,
        probed=PLAN.probed,
        forecasts=PLAN.forecasts,
        # The page tells of them, so they come first.
        exported=PLAN.exported,
        predicted=PLAN.predicted,
    output:
        page=report("results/report/index.html", caption="../report/page.rst", category="Page"),
        benchmark=report("results/report/benchmark.tsv", caption="../report/benchmark.rst", category="Results"),
        comparisons=report("results/report/comparisons.tsv", caption="../report/comparisons.rst", category="Results"),
        overlap=report("results/report/overlap.tsv", caption="../report/checks.rst", category="Results"),
        decodability=report("results/report/decodability.tsv", caption="../report/checks.rst", category="Results"),
        outcomes=report("results/report/outcomes.tsv", caption="../report/outcomes.rst", category="Results"),
        table_one=report("results/report/table_one.tsv", caption="../report/table_one.rst", category="Results"),
        site_effects=report("results/report/site_effects.tsv", caption="../report/sites.rst", category="Results"),
        costs="results/report/costs.tsv",
        tables=report(
            directory("results/report/tables"),
            caption="../report/tables.rst",
            category="Tables",
            patterns=["{name}.csv"],
        ),
    log:
        "logs/report/report.log",
    benchmark:
        "logs/report/report.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(4000),
        runtime=grows(60),
    params:
        settings=settings("report"),
        code=code("report"),
        asked=PLAN.asked_for,
        strategies=list(PLAN.strategies),
        atlas=PLAN.study.parcellate.atlas,
    shell:
        "python -m lcm report --results results --asked {params.asked:q}"
        " --strategies {params.strategies:q} --atlas {params.atlas:q}"
        " --vocabulary {input.vocabulary:q} --output results/report"
        " --settings {params.settings:q} > {log:q} 2>&1"
