"""CIFAR-10 under sub-VP: DDPM++ with twice the depth."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.network.blocks = 8
    config.training.steps = 950_000
    return config
