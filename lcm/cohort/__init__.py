"""People to tables: simulate, harmonize, split."""
