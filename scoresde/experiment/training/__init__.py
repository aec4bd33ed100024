"""Training: the loop, the trainer, several processes, precision, signals and logs."""
