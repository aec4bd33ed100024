"""CelebA of 64 x 64: NCSN with techniques 1, 2 and 4."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "celeba_1245.py")
    config.training.ema_decay = 0.0
    return config
