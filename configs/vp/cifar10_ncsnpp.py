"""CIFAR-10 under VP, discrete time: NCSN++."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_discrete.py")
    config.network = {"name": "NCSNpp", "dropout": 0.1, "embedding": {"name": "SinusoidalEmbedding", "size": 128}}
    config.samplers["predictor-corrector"].predictor = {"name": "ReverseDiffusion"}
    return config
