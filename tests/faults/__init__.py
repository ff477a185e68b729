"""Bad input, handed in whole: one clear outcome each, and the rest of the cohort goes on."""
