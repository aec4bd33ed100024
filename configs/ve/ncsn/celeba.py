"""CelebA of 64 x 64: NCSN."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data = {"name": "ImageFolder", "folder": "data/celeba_64", "side": 64, "low": 0.0, "high": 1.0, "flip": True}
    config.training.ema_decay = 0.0
    return config
