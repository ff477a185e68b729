"""Bad input, killed stages, full disks: one clear outcome each, nothing half-written taken for done."""
