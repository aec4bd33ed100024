"""Digits in 17 levels as tokens, under the absorbing process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.network = {"name": "OrdinalNetwork", "body": {"name": "SmallUNet", "channels": 24, "blocks": 2}}
    config.training.update({"steps": 6000, "learning_rate": 5e-3, "grad_clip": 1.0, "ema_decay": 0.999})
    return config
