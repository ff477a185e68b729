"""preprocess: raw images of one participant to BOLD in MNI space, brain mask and confounds."""


rule preprocess:
    """All runs of a participant; they share one anatomical pass."""
    input:
        images=PLAN.raw_images,
        scans=ancient("results/index/scans.tsv"),
    output:
        "results/preprocess/{dataset}/{participant}_runs.tsv",
    log:
        "logs/preprocess/{dataset}/{participant}.log",
    benchmark:
        "logs/preprocess/{dataset}/{participant}.tsv"
    conda:
        "../../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(240),
    params:
        settings=settings("preprocess"),
        code=code("preprocess"),
        timing=PLAN.raw_timing,
    shell:
        "python -m lcm preprocess --scans {input.scans:q} --dataset {wildcards.dataset:q}"
        " --participant {wildcards.participant:q} --output {output:q} --threads {threads} --mem-mb {resources.mem_mb}"
        " --settings {params.settings:q} > {log:q} 2>&1"
