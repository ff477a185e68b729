"""index: every run of every dataset, found once; the jobs behind it read its tables, never the folders again."""

from lcm.imaging.index import listing

SIMULATED = "results/simulate/truth.json" if STUDY.simulate else []
# A simulated folder is followed by its truth.json; jobs on other machines must not walk the data again.
REAL_FOLDERS = [d.path for d in STUDY.datasets.values() if not d.path.startswith("results/")]
LISTING = listing(REAL_FOLDERS) if workflow.is_main_process else ""


checkpoint index:
    """One table of all runs, and one a batch."""
    input:
        SIMULATED,
    output:
        scans="results/index/scans.tsv",
        batches=directory("results/index/batches"),
    log:
        "logs/index/index.log",
    benchmark:
        "logs/index/index.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        settings=settings("index"),
        code=code("index"),
        datasets=block("datasets"),
        listing=LISTING,
    shell:
        "python -m lcm index --datasets {params.datasets:q} --output results/index"
        " --settings {params.settings:q} > {log:q} 2>&1"
