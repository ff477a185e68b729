#!/usr/bin/env python3
"""Say whether a job of Grid Engine is running, went well (success) or did not (failed)."""

import re
import subprocess
import sys


def _of_queue(job: str) -> str:
    """The job's state letters in `qstat`, such as r, qw or Eqw; empty once it has left the queue."""
    listed = subprocess.run(["qstat"], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in listed.splitlines())
    return next((row[4] for row in rows if row and row[0] == job), "")


def main(job: str) -> None:
    """Ask qstat, then the accounting file, about number `job`."""
    try:
        state = _of_queue(job)
    except subprocess.CalledProcessError:
        print("running")  # the scheduler does not answer now: look again later
        return
    if state:
        print("failed" if "E" in state else "running")
        return
    record = subprocess.run(["qacct", "-j", job], check=False, capture_output=True, text=True)
    found = dict(re.findall(r"^(failed|exit_status)\s+(\d+)", record.stdout, re.MULTILINE))
    if not found:
        # A job takes some seconds from the queue to the accounting file and is "not found" till then. Other reasons stay.
        if record.stderr and "not found" not in record.stderr:
            print(
                f"qacct cannot tell how job {job} ended, so it counts as running: {record.stderr.strip()}",
                file=sys.stderr,
            )
        print("running")
    else:
        print("success" if set(found.values()) == {"0"} else "failed")


main(sys.argv[1])
