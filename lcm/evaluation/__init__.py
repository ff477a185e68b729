"""Weights to results: evaluate, metrics, report."""
