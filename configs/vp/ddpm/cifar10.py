"""CIFAR-10: DDPM (Ho et al. 2020)."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_discrete.py")
    config.network = {"name": "DDPM", "dropout": 0.1}
    return config
