"""CIFAR-10 under VE, discrete time: DDPM."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_discrete.py")
    config.network = {"name": "DDPM", "dropout": 0.1, "input_range": (0.0, 1.0)}
    return config
