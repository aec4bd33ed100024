"""CIFAR-10: NCSN with technique 5 of Song & Ermon 2020, averaged weights."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    return load_config(Path(__file__).parent / "default.py")
