"""parcellate: mean series of every atlas region, one batch of participants a job."""


def preprocessed(wildcards):
    """Tables of the batch's participants from preprocess; none where images came in preprocessed."""
    mine = [r for r in scans() if (r["dataset"], r["batch"]) == (wildcards.dataset, wildcards.batch)]
    people = sorted({r["participant_id"] for r in mine if r["input"] == "bids" and r["outcome"] == "ok"})
    return [f"results/preprocess/{wildcards.dataset}/{person}_runs.tsv" for person in people]


rule parcellate:
    """One pass over each image."""
    input:
        scans="results/index/batches/{dataset}/{batch}.tsv",
        runs=preprocessed,
    output:
        "results/parcellate/{dataset}/{batch}.arrow",
    log:
        "logs/parcellate/{dataset}/{batch}.log",
    benchmark:
        "logs/parcellate/{dataset}/{batch}.tsv"
    conda:
        "../../envs/imaging.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=settings("parcellate"),
        code=code("parcellate"),
    shell:
        "python -m lcm parcellate --scans {input.scans:q} --runs results/preprocess/{wildcards.dataset:q}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
