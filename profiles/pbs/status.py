#!/usr/bin/env python3
"""Say whether a job of PBS is running, went well (success) or did not (failed)."""

import re
import subprocess
import sys


def main(job: str) -> None:
    """Ask qstat about number `job`; -x includes jobs that have ended (the server's job_history_enable must be on)."""
    answer = subprocess.run(["qstat", "-x", "-f", job], check=False, capture_output=True, text=True)
    if "Unknown Job" in answer.stderr:
        # Forgotten after job_history_duration, two weeks at first. `failed` costs a second run, `success` might cost a result.
        print("failed")
        return
    state = re.search(r"^\s*job_state = (\w)", answer.stdout, re.MULTILINE)
    if state is None or state[1] not in "FX":
        print("running")  # waiting, held, running, or a server that does not answer now: look again later
        return
    status = re.search(r"^\s*Exit_status = (-?\d+)", answer.stdout, re.MULTILINE)
    print("success" if status is not None and int(status[1]) == 0 else "failed")


main(sys.argv[1])
