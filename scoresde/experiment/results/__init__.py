"""Results on the disk: shards of samples and features, rows of likelihoods, summaries."""
