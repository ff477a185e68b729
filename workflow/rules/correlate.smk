"""correlate: Pearson connectomes of denoised series."""


def denoised(wildcards):
    """The batch's denoised series; none for series that another pipeline has denoised."""
    elsewhere = STUDY.datasets[wildcards.dataset].denoised
    return [] if elsewhere else f"results/denoise/{wildcards.dataset}/{wildcards.batch}.arrow"


rule correlate:
    """Pearson correlation of every pair of regions."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        series=denoised,
    output:
        "results/correlate/{dataset}/{batch}.arrow",
    log:
        "logs/correlate/{dataset}/{batch}.log",
    benchmark:
        "logs/correlate/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=settings("correlate"),
        code=code("correlate"),
        atlas=STUDY.parcellate.atlas,
    shell:
        "python -m lcm correlate --scans {input.scans:q} --series {input.series:q} --atlas {params.atlas:q}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
