"""A run's folder: its files, checkpoints, averages, cached results and plots."""
