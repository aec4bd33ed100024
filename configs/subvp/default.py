"""The common settings of the paper's sub-VP experiments: those of VP with the sub-VP process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "vp" / "default.py")
    config.sde = {"name": "SubVPSDE", "beta_min": 0.1, "beta_max": 20.0}
    return config
