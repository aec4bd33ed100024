"""Digits by a variational diffusion model: the bound in bits/dim, levels without dequantization, a learned noise schedule."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    config.data = {"name": "WithoutDequantization", "data": {"name": "Digits"}}
    # at -gamma(0) = 8 the noise is 0.018, and the levels are 0.118 apart; the end points are trained
    config.sde = {"name": "LearnedSNRSDE", "log_snr_max": 8.0, "log_snr_min": -5.0, "train_ends": True}
    # periods of 0.25 and 0.125, near two levels and one
    config.network.input_features = {"name": "FourierFeatures", "exponents": (3, 4)}
    config.model = {"prediction": {"name": "Levels"}, "data_std": None}
    config.objective = {"name": "VariationalDiffusionLoss"}
    config.objectives = {"schedule": {"name": "VariationalSchedule"}}
    config.training.optimizers = {"schedule": {"learning_rate": 1e-2, "every": 4}}
    config.likelihood.draws = 4
    return config
