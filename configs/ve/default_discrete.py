"""SMLD's discrete time: a chain of 1000 noise levels, numbered from the largest one."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.model.steps = 1000
    config.model.label = {"name": "TimeLabel", "scale": 999.0, "descending": True, "whole": True}
    config.network.embedding = {"name": "SinusoidalEmbedding", "size": 128}
    return config
