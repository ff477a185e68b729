"""predict: a trained bundle on the study's scans, also on people of whom nothing else is known."""


rule predict:
    """Answers a row a person and a scan, and where each token looked."""
    input:
        bundle=PLAN.bundle,
        bei=PLAN.described,
        scans="results/index/scans.tsv",
        scanned=PLAN.asked_scans,
        atlas=PLAN.atlas,
    output:
        predictions="results/predict/{bundle}/predictions.tsv",
        scans="results/predict/{bundle}/scans.tsv",
        attention="results/predict/{bundle}/attention.tsv",
        people="results/predict/{bundle}/attention_people.arrow",
        figures=directory("results/predict/{bundle}/figures"),
    log:
        "logs/predict/{bundle}.log",
    benchmark:
        "logs/predict/{bundle}.tsv"
    conda:
        "../../envs/training.yaml"
    resources:
        mem_mb=grows(4000),
        runtime=grows(120),
        gpu=1,
        machine="--accelerator auto",
    params:
        settings=settings("predict"),
        code=code("predict"),
        reading=PLAN.asked_reading,
        atlas=PLAN.study.parcellate.atlas,
    shell:
        "python -m lcm predict --bundle {input.bundle:q} --bei {input.bei:q} --scans {input.scans:q}"
        " {params.reading} --atlas {params.atlas:q} --output results/predict/{wildcards.bundle:q}"
        " --devices {resources.gpu} {resources.machine} --settings {params.settings:q} > {log:q} 2>&1"
