"""NCSN with techniques 1, 2 and 4 of Song & Ermon 2020 for the largest noise, the number of levels and the step size."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.sde.sigma_max = 50.0
    config.network.levels = config.model.steps = 232
    config.model.label.scale = 231.0
    sampler = config.samplers["annealed-langevin"]
    sampler.corrector.snr, sampler.corrector.steps, sampler.steps.steps = 0.176, 5, 232
    return config
