"""The common settings of DDPM on 256 x 256 images."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_discrete.py")
    config.data = {
        "name": "ImageFolder",
        "folder": "data/images_256",
        "side": 256,
        "low": -1.0,
        "high": 1.0,
        "flip": True,
    }
    config.network = {"name": "DDPM", "multipliers": (1, 1, 2, 2, 4, 4)}
    config.training.steps = 2_400_000
    config.training.batch_size = 64
    config.training.learning_rate = 2e-5
    config.training.checkpoint_every = 5000
    return config
