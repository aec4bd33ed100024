"""LSUN churches of 256 x 256 under VE: NCSN++."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_256.py")
    config.data.folder = "data/lsun_church_256"
    config.sde.sigma_max = 380.0
    return config
