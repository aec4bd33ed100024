"""CIFAR-10 under VP, discrete time: DDPM++."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    return load_config(Path(__file__).parent / "default_discrete.py")
