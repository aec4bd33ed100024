"""Digits under the coefficients of the variance-preserving process, with gamma noise (docs/noise_distributions.md)."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    # sigma / alpha = 0.1, about the width of a level, has skewness 2; larger noise is closer to a Gaussian
    config.sde = {
        "name": "NonGaussianSDE",
        "sde": {"name": "VPSDE", "beta_min": 0.1, "beta_max": 20.0},
        "noise": {"name": "GammaNoise", "theta_0": 0.1},
    }
    config.model = {"prediction": "noise", "data_std": 0.75}
    config.objective = {"name": "NoiseRegression", "p": 1}
    config.samplers = {
        "ancestral-10": {"name": "Ancestral", "steps": 10},
        "ancestral-50": {"name": "Ancestral", "steps": 50},
    }
    return config
