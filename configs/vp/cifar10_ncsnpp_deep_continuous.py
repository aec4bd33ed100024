"""CIFAR-10 under VP: NCSN++ with twice the depth."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.network = {
        "name": "NCSNpp",
        "blocks": 8,
        "dropout": 0.1,
        "embedding": {"name": "SinusoidalEmbedding", "size": 128},
    }
    config.training.steps = 950_000
    return config
