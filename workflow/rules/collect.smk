"""collect: recordings for networks that read series."""


rule collect:
    """Mean-free frames of a batch's runs, in half precision."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        atlas=PLAN.atlas,
        series=PLAN.denoised,
    output:
        "results/collect/{strategy}/{dataset}/{batch}.arrow",
    log:
        "logs/collect/{strategy}/{dataset}/{batch}.log",
    benchmark:
        "logs/collect/{strategy}/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=grows(1000),
        runtime=grows(60),
    params:
        settings=settings("collect"),
        code=code("collect"),
        atlas=PLAN.study.parcellate.atlas,
    shell:
        "python -m lcm collect --scans {input.scans:q} --series {input.series:q} --atlas {params.atlas:q}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
