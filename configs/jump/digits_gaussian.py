"""Digits in 17 levels as tokens, under the discretized Gaussian process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "digits.py")
    config.process = {"name": "DiscretizedGaussian", "width": 1.5}
    config.model = {"name": "LeaveOneOutModel"}
    return config
