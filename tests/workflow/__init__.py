"""Tests of the DAG: what is planned, what re-runs, and the demo from end to end."""
