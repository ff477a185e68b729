#!/usr/bin/env python3
"""Submit one job script of Snakemake to LSF and print the job's number."""

import json
import re
import subprocess
import sys
from pathlib import Path

QUEUE = None  # EDIT: for jobs without a GPU; None is the site's default
GPU_QUEUE = "gpu"  # EDIT: for jobs with one


def main(script: str) -> None:
    """Hand over `script`, whose second line says what the job needs."""
    with Path(script).open(encoding="utf-8") as file:
        job = json.loads(next(line for line in file if line.startswith("# properties = ")).partition("= ")[2])
    needs = job["resources"]
    name = "_".join([job.get("rule") or job["groupid"], *map(str, job.get("wildcards", {}).values())])
    # LSF reserves memory for the job or for each slot, in KB or MB, as the site's lsf.conf says
    # (RESOURCE_RESERVE_PER_TASK, LSF_UNIT_FOR_LIMITS). The unit is written out; ask for the rest.
    memory = f"{needs['mem_mb']}MB"
    options = ["-J", name, "-n", str(job["threads"]), "-W", str(needs["runtime"]), "-M", memory]
    options += ["-R", f"span[hosts=1] rusage[mem={memory}]", "-r"]  # -r: queued again when its node is lost
    options += ["-o", "/dev/null"]  # a stage writes its own log; without -o LSF sends a mail for every job
    queue = GPU_QUEUE if needs.get("gpu") else QUEUE
    options += ["-q", queue] if queue else []
    options += ["-gpu", f"num={needs['gpu']}"] if needs.get("gpu") else []  # LSF 10.1.0.3 and later
    answer = subprocess.run(["bsub", *options, script], check=True, capture_output=True, text=True).stdout
    print(re.search(r"Job <(\d+)>", answer)[1])


main(sys.argv[1])
