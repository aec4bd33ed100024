"""CIFAR-10 under VE: NCSN++ with twice the depth, the best of the paper by FID."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.network.blocks = 8
    config.training.steps = 950_000
    return config
