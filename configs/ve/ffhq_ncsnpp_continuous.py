"""FFHQ of 1024 x 1024 under VE: NCSN++."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_1024.py")
    config.data.folder = "data/ffhq_1024"
    config.objective.reduction = "mean"
    return config
