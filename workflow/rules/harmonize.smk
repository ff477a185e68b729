"""harmonize: the cohorts' own phenotype tables to one BEI table."""


rule harmonize:
    """One row a scan with its person, family and BEIs; the cohort flow; counts of labels."""
    input:
        scans="results/index/scans.tsv",
        phenotypes=PLAN.phenotypes,
        sources=PLAN.sources,
        linkage=PLAN.linkage,
        vocabulary=PLAN.vocabulary,
    output:
        bei="results/harmonize/bei.tsv",
        shareable="results/harmonize/shareable.tsv",
        dictionary="results/harmonize/bei.json",
        flow="results/harmonize/cohort_flow.tsv",
        labels="results/harmonize/labels.tsv",
    log:
        "logs/harmonize/harmonize.log",
    benchmark:
        "logs/harmonize/harmonize.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(2000),
        runtime=grows(60),
    params:
        settings=settings("harmonize"),
        code=code("harmonize"),
        datasets=PLAN.datasets,
        events=PLAN.events,
    shell:
        "python -m lcm harmonize --scans {input.scans:q} --datasets {params.datasets:q} --output results/harmonize"
        " --settings {params.settings:q} > {log:q} 2>&1"
