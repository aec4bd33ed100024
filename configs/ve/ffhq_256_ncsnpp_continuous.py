"""FFHQ of 256 x 256 under VE: NCSN++."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_256.py")
    config.data.folder = "data/ffhq_256"
    return config
