"""denoise: filter, confound regression and censoring of region series."""

from lcm.imaging.strategy import strategy_path

STRATEGY = str(strategy_path(STUDY.denoise.strategy))


def parcellated(wildcards):
    """The batch's series; none for a dataset of ready series, which denoise reads itself."""
    ready = STUDY.datasets[wildcards.dataset].input == "series"
    return [] if ready else f"results/parcellate/{wildcards.dataset}/{wildcards.batch}.arrow"


rule denoise:
    """Residual series and censoring mask."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        series=parcellated,
        strategy=STRATEGY,
    output:
        "results/denoise/{dataset}/{batch}.arrow",
    log:
        "logs/denoise/{dataset}/{batch}.log",
    benchmark:
        "logs/denoise/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=settings("denoise"),
        code=code("denoise"),
        atlas=STUDY.parcellate.atlas,
    shell:
        "python -m lcm denoise --scans {input.scans:q} --series {input.series:q} --atlas {params.atlas:q}"
        " --strategy {input.strategy:q} --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
