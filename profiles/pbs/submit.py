#!/usr/bin/env python3
"""Submit one job script of Snakemake to PBS and print the job's number."""

import json
import re
import subprocess
import sys
from pathlib import Path

QUEUE = None  # EDIT: for jobs without a GPU; None is the site's default
GPU_QUEUE = None  # EDIT: for jobs with one; many sites choose it by the request for a GPU


def main(script: str) -> None:
    """Hand over `script`, whose second line says what the job needs."""
    with Path(script).open(encoding="utf-8") as file:
        job = json.loads(next(line for line in file if line.startswith("# properties = ")).partition("= ")[2])
    needs = job["resources"]
    name = "_".join([job.get("rule") or job["groupid"], *map(str, job.get("wildcards", {}).values())])
    chunk = f"select=1:ncpus={job['threads']}:mem={needs['mem_mb']}mb"
    chunk += f":ngpus={needs['gpu']}" if needs.get("gpu") else ""
    hours, minutes = divmod(needs["runtime"], 60)
    # -V: the job sees this shell's PATH. -r y: queued again when its node is lost. A stage writes its own log.
    options = ["-V", "-r", "y", "-j", "oe", "-o", "/dev/null", "-S", "/bin/sh"]
    options += [
        "-N",
        re.sub(r"[^\w.-]", "_", name)[:230],
    ]  # older ones refuse more than 15 letters; cut to that if yours does
    options += ["-l", chunk, "-l", f"walltime={hours}:{minutes:02}:00"]
    queue = GPU_QUEUE if needs.get("gpu") else QUEUE
    options += ["-q", queue] if queue else []
    print(subprocess.run(["qsub", *options, script], check=True, capture_output=True, text=True).stdout.strip())


main(sys.argv[1])
