"""The folder of a run: its files, checkpoints, averages, cached results and plots."""
