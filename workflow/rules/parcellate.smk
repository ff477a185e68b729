"""parcellate: mean series of every atlas region, one batch of participants a job."""


rule parcellate:
    """One pass over each image; the former table is kept for the rows of unchanged scans."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        atlas=PLAN.atlas,
        runs=PLAN.preprocessed,
    output:
        update("results/parcellate/{dataset}/{batch}.arrow"),
    log:
        "logs/parcellate/{dataset}/{batch}.log",
    benchmark:
        "logs/parcellate/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(2000),
        runtime=grows(120),
    params:
        settings=settings("parcellate"),
        code=code("parcellate"),
    shell:
        "python -m lcm parcellate --scans {input.scans:q} --runs results/preprocess/{wildcards.dataset:q}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
