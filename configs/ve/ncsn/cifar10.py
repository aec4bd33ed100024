"""CIFAR-10: NCSN."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.training.ema_decay = 0.0
    return config
