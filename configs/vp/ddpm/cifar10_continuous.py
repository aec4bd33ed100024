"""CIFAR-10 under VP: DDPM in continuous time."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default.py")
    config.network = {"name": "DDPM", "dropout": 0.1}
    return config
