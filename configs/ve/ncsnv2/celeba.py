"""CelebA of 64 x 64: NCSNv2."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data = {"name": "ImageFolder", "folder": "data/celeba_64", "side": 64, "low": 0.0, "high": 1.0, "flip": True}
    config.sde.sigma_max = 90.0
    config.model.steps = 500
    config.model.label.scale = 499.0
    sampler = config.samplers["annealed-langevin"]
    sampler.corrector.snr, sampler.steps.steps = 0.128, 500
    return config
