#!/usr/bin/env python3
"""Submit one job script of Snakemake to Grid Engine and print the job's number."""

import json
import re
import subprocess
import sys
from pathlib import Path

# Names that each site chooses for itself; `qconf -spl` lists environments, `qconf -sc` resources.
PARALLEL = "smp"  # EDIT: the parallel environment that keeps a job's slots on one node
MEMORY = "h_vmem"  # EDIT: the resource for memory, counted for each slot; some sites take mem_free or m_mem_free
GPU = "gpu"  # EDIT: the resource for GPUs


def main(script: str) -> None:
    """Hand over `script`, whose second line says what the job needs."""
    with Path(script).open(encoding="utf-8") as file:
        job = json.loads(next(line for line in file if line.startswith("# properties = ")).partition("= ")[2])
    needs, threads = job["resources"], job["threads"]
    name = "_".join([job.get("rule") or job["groupid"], *map(str, job.get("wildcards", {}).values())])
    # -V: the job sees this shell's PATH. -r y: queued again when its node is lost. A stage writes its own log.
    options = ["-terse", "-V", "-cwd", "-S", "/bin/sh", "-r", "y", "-j", "y", "-o", "/dev/null"]
    options += ["-N", re.sub(r"[^\w.-]", "_", name)]
    options += ["-l", f"h_rt={needs['runtime'] * 60}", "-l", f"{MEMORY}={-(-needs['mem_mb'] // threads)}M"]
    options += ["-pe", PARALLEL, str(threads)] if threads > 1 else []
    options += ["-l", f"{GPU}={needs['gpu']}"] if needs.get("gpu") else []
    print(subprocess.run(["qsub", *options, script], check=True, capture_output=True, text=True).stdout.strip())


main(sys.argv[1])
