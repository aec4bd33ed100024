"""DDPM's discrete time: a chain of 1000 steps, and ancestral sampling."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.model.steps = 1000
    config.samplers["predictor-corrector"].predictor = {"name": "Ancestral"}
    return config
