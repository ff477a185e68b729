"""Doctor: what would stop a study on this machine or cluster, by subject; `doctor` prints it."""
