"""CelebA-HQ of 256 x 256: DDPM (Ho et al. 2020)."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_256.py")
    config.data.folder = "data/celebahq_256"
    return config
