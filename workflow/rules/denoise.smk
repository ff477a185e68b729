"""denoise: filter, confound regression and censoring of region series."""


rule denoise:
    """Residual series and censoring mask."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        atlas=PLAN.atlas,
        series=PLAN.parcellated,
        strategy=PLAN.strategy,
    output:
        "results/denoise/{strategy}/{dataset}/{batch}.arrow",
    log:
        "logs/denoise/{strategy}/{dataset}/{batch}.log",
    benchmark:
        "logs/denoise/{strategy}/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(1000),
        runtime=grows(60),
    params:
        settings=settings("denoise"),
        code=code("denoise"),
        atlas=PLAN.study.parcellate.atlas,
    shell:
        "python -m lcm denoise --scans {input.scans:q} --series {input.series:q} --atlas {params.atlas:q}"
        " --strategy {input.strategy:q} --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
