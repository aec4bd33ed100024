"""Digits with their class as a condition, under the variance-preserving process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "digits.py")
    config.data.labels = True
    config.sampling.condition = {"label": "balanced"}
    config.sampling.count = 500
    config.sampling.batch_size = 100
    config.samplers = {"unipc": {"name": "UniPC", "steps": 20}}
    return config
