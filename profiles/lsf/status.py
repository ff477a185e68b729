#!/usr/bin/env python3
"""Say whether a job of LSF is running, went well (success) or did not (failed)."""

import subprocess
import sys

STATES = {"DONE": "success", "EXIT": "failed", "ZOMBI": "failed"}


def main(job: str) -> None:
    """Ask bjobs about number `job`."""
    answer = subprocess.run(["bjobs", "-noheader", "-o", "stat", job], check=False, capture_output=True, text=True)
    if "is not found" in answer.stdout + answer.stderr:
        # Forgotten after CLEAN_PERIOD, an hour by default. `failed` costs a second run, `success` might cost a result.
        print("failed")
        return
    # Waiting states, suspended ones, and a scheduler that does not answer now: look again later.
    print(STATES.get(answer.stdout.strip(), "running"))


main(sys.argv[1])
