"""Training: the loop, its trainer, processes, precision, signals and logs."""
