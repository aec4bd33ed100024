"""Work that processes share: sampling, likelihoods, evaluation."""
