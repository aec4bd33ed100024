"""CIFAR-10 under VE: NCSN++."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    return load_config(Path(__file__).parent / "default.py")
