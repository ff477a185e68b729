"""forecast: how well the last frames of a window follow from those before."""


rule forecast:
    """One forecaster on one fold."""
    input:
        bei="results/harmonize/bei.tsv",
        folds="results/split/{protocol}/folds.tsv",
        scans="results/index/scans.tsv",
        recordings=PLAN.recordings,
        weights=PLAN.forecast_start,
    output:
        directory("results/forecast/{protocol}/{forecaster}/fold-{fold}"),
    log:
        "logs/forecast/{protocol}/{forecaster}/fold-{fold}.log",
    benchmark:
        "logs/forecast/{protocol}/{forecaster}/fold-{fold}.tsv"
    conda:
        "../../envs/training.yaml"
    resources:
        mem_mb=grows(4000),
        runtime=grows(240),
        gpu=1,
        nodes=1,
        launcher="env",
        machine="--accelerator auto",
    params:
        settings=PLAN.forecast_settings,
        code=code("forecast"),
        recordings=PLAN.recording_folder,
        forecaster=PLAN.forecaster,
    shell:
        "exec {resources.launcher} python -m lcm forecast --protocol {wildcards.protocol:q} --model {wildcards.forecaster:q}"
        " --model-definition {params.forecaster:q} --fold {wildcards.fold} --weights {input.weights:q}"
        " --bei {input.bei:q} --folds {input.folds:q} --scans {input.scans:q} --recordings {params.recordings:q}"
        " --checkpoint {output:q}.checkpoint"
        " --log-folder logs/forecast/{wildcards.protocol:q}/{wildcards.forecaster:q}/fold-{wildcards.fold}"
        " --devices {resources.gpu} --nodes {resources.nodes} {resources.machine}"
        " --output {output:q} --settings {params.settings:q} > {log:q} 2>&1"
