"""CelebA of 64 x 64 under VE, discrete time: NCSN++."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_discrete.py")
    config.data = {"name": "ImageFolder", "folder": "data/celeba_64", "side": 64, "low": 0.0, "high": 1.0, "flip": True}
    config.sde.sigma_max = 90.0
    config.samplers["predictor-corrector"].corrector.snr = 0.17
    return config
