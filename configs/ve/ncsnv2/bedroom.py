"""LSUN bedrooms of 128 x 128: NCSNv2."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data = {
        "name": "ImageFolder",
        "folder": "data/lsun_bedroom_128",
        "side": 128,
        "low": 0.0,
        "high": 1.0,
        "flip": True,
    }
    config.sde.sigma_max = 190.0
    config.network.multipliers = (1, 2, 2, 4, 4)
    config.model.steps = 1086
    config.model.label.scale = 1085.0
    config.training.steps = 2_400_000
    config.training.checkpoint_every = 5000
    config.training.ema_decay = 0.9999
    sampler = config.samplers["annealed-langevin"]
    sampler.corrector.snr, sampler.corrector.steps, sampler.steps.steps = 0.095, 3, 1086
    return config
