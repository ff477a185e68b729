"""fMRI from raw BIDS to a benchmark of connectome foundation models, one stage a module."""
