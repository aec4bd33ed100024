"""CIFAR-10: NCSN with techniques 1, 2, 4 and 5."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    return load_config(Path(__file__).parent / "default_improved.py")
