"""Digits under the variance-exploding process."""

from pathlib import Path

from scoresde.experiment.config import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    config.sde = {"name": "VESDE", "sigma_min": 0.01, "sigma_max": 50.0}
    return config
