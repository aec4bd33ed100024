"""Digits in two colors, under the absorbing process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data.threshold = 8
    return config
