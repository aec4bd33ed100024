"""Results in a work folder: shards of samples and features, rows of likelihoods, summaries."""
