"""What a page of results cannot say: the sentences at its end."""

from __future__ import annotations

LIMITS = (
    "An interval covers which people were drawn, not which weights training would reach again: it says nothing about "
    "another random seed, and it holds the number of people at each level fixed.",
    "AUROC, average precision and r compare people who were answered by the same fold's model, since folds have "
    "their own models.",
    "A model may use site, scanner or head motion instead of the disease. Where a ridge finds them in connectivity "
    "(section Sites), only a design that leaves whole sites or cohorts out says what is left without them.",
    "People who move more also differ in age and health, so connectivity that correlates with head motion need not be an "
    "artefact, and a strategy that lowers QC–FC may also remove what a model could learn.",
    "Holm's correction covers the comparisons of one table here, not what was tried before; a difference between two rows "
    "whose intervals overlap, and which was not compared, is not a finding.",
    "Where the tested people chose the epoch, scores are too high by an amount that nobody knows. They may stand beside "
    "published numbers of that kind, and beside nothing else.",
    "A row under the people limit is shown for completeness. It cannot rank models.",
    "Labels are the cohorts' own. A pseudo label is an assumption about people who were never asked.",
)
"""What a reader could wrongly conclude, first the intervals, then the design, then the labels."""
