"""Digits under the variance-preserving process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    config.sde = {"name": "VPSDE", "beta_min": 0.1, "beta_max": 20.0}
    return config
