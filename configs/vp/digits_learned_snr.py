"""Digits under a variance-preserving process whose noise schedule is learned (variational diffusion models)."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    # from sigma/alpha = 0.0025 to 12; the schedule learns to skip most of the levels below 0.05, where a noisy pixel determines
    # its level
    config.sde = {"name": "LearnedSNRSDE", "log_snr_max": 12.0, "log_snr_min": -5.0}
    config.objective = {"name": "DenoisingScoreMatching", "weighting": "likelihood"}
    config.objectives = {"schedule": {"name": "ScheduleVariance"}}
    config.training.optimizers = {"schedule": {"learning_rate": 1e-2, "every": 4}}
    return config
