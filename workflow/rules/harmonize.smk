"""harmonize: the cohorts' own phenotype tables to one BEI table."""


def phenotypes(wildcards):
    """Every phenotype file of the study; asked for after index, because simulated ones do not exist before."""
    scans()
    folders = sorted({d.phenotypes for d in STUDY.datasets.values() if d.phenotypes})
    return sorted(str(path) for folder in folders for path in Path(folder).iterdir() if path.is_file())


def cohort_sources():
    """The cohorts' source files and the vocabulary: data that shapes harmonize, which no code hash sees."""
    folder = Path(workflow.basedir) / "lcm" / "cohort"
    names = sorted({d.cohort for d in STUDY.datasets.values()})
    return [
        str(folder / "vocabulary.yaml"),
        *(str(folder / "sources" / f"{name}.yaml") for name in names),
    ]


rule harmonize:
    """One row a scan with its person, site and BEIs, and the cohort flow."""
    input:
        scans="results/index/scans.tsv",
        phenotypes=phenotypes,
        sources=cohort_sources(),
    output:
        bei="results/harmonize/bei.tsv",
        flow="results/harmonize/cohort_flow.tsv",
    log:
        "logs/harmonize/harmonize.log",
    benchmark:
        "logs/harmonize/harmonize.tsv"
    conda:
        "../../envs/imaging.yaml"
    params:
        settings=settings("harmonize"),
        code=code("harmonize"),
        datasets=block("datasets"),
    shell:
        "python -m lcm harmonize --scans {input.scans:q} --datasets {params.datasets:q} --output results/harmonize"
        " --settings {params.settings:q} > {log:q} 2>&1"
