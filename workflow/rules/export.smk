"""export: series and connectomes of one batch as files of a BIDS derivative dataset."""


rule export:
    """The batch's files in results/export/{dataset}, and the list of them with their hashes."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        index=ancient("results/index/scans.tsv"),
        atlas=PLAN.atlas,
        runs=PLAN.preprocessed,
        strategy=PLAN.strategy,
        series=PLAN.denoised,
        connectomes="results/correlate/{strategy}/{dataset}/{batch}.arrow",
    output:
        "results/export/{dataset}.batches/{strategy}/{batch}.tsv",
    log:
        "logs/export/{strategy}/{dataset}/{batch}.log",
    benchmark:
        "logs/export/{strategy}/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(1000),
        runtime=grows(60),
    params:
        settings=settings("export"),
        code=code("export"),
        denoise=settings("denoise"),
        correlate=settings("correlate"),
        atlas=PLAN.study.parcellate.atlas,
        source=PLAN.source,
    shell:
        "python -m lcm export --scans {input.scans:q} --index {input.index:q} --source {params.source:q}"
        " --runs results/preprocess/{wildcards.dataset:q} --series {input.series:q}"
        " --connectomes {input.connectomes:q} --strategy {input.strategy:q} --denoise {params.denoise:q}"
        " --correlate {params.correlate:q} --atlas {params.atlas:q} --tree results/export/{wildcards.dataset:q}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
