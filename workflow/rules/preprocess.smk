"""preprocess: raw images of one participant to BOLD in MNI space, brain mask and confounds."""


rule preprocess:
    """All runs of a participant, in one folder that studies may share (`--cache`); they share one anatomical pass."""
    input:
        PLAN.raw_images,
    output:
        directory("results/preprocess/{dataset}/{participant}"),
    log:
        "logs/preprocess/{dataset}/{participant}.log",
    cache: True
    conda:
        "../../envs/imaging.yaml"
    threads: 1
    resources:
        mem_mb=grows(4000),
        runtime=grows(240),
    params:
        settings=settings("preprocess"),
        code=code("preprocess"),
        dataset="{dataset}",
        timing=PLAN.raw_timing,
    shell:
        # The table of all scans is no input: the cache's key would hold the whole study, and what counts of it is `timing`.
        "python -m lcm preprocess --scans results/index/scans.tsv --dataset {wildcards.dataset:q}"
        " --participant {wildcards.participant:q} --output {output:q} --threads {threads} --mem-mb {resources.mem_mb}"
        " --scratch {resources.tmpdir:q} --settings {params.settings:q} > {log:q} 2>&1"
