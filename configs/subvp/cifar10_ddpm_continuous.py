"""CIFAR-10 under sub-VP: DDPM."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.network = {"name": "DDPM", "dropout": 0.1}
    return config
