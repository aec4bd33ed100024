"""Linear maps on states, bases of events, Gaussian kernels."""
