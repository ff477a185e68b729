"""correlate: Pearson connectomes of denoised series."""


rule correlate:
    """Pearson correlation of every pair of regions."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        atlas=PLAN.atlas,
        series=PLAN.denoised,
        reference=PLAN.reference,
    output:
        "results/correlate/{strategy}/{dataset}/{batch}.arrow",
    log:
        "logs/correlate/{strategy}/{dataset}/{batch}.log",
    benchmark:
        "logs/correlate/{strategy}/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(1000),
        runtime=grows(60),
    params:
        settings=settings("correlate"),
        code=code("correlate"),
        atlas=PLAN.study.parcellate.atlas,
    shell:
        "python -m lcm correlate --scans {input.scans:q} --series {input.series:q} --atlas {params.atlas:q}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
