"""Digits by improved DDPM (Nichol & Dhariwal 2021): a cosine chain, the velocity and a variance as outputs, the hybrid loss."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    config.sde = {"name": "CosineVPSDE"}
    # ln(sigma / alpha) of the chain is between -5.1 and 10
    config.network.embedding = {"name": "RadialEmbedding", "low": -6.0, "high": 10.0}
    # not the noise: an error of it is multiplied by sigma / alpha, up to 20000, in E[x_0 | x_t]
    config.model = {"name": "LearnedVarianceModel", "prediction": "velocity", "data_std": 0.75, "steps": 1000}
    config.objective = {"name": "HybridLoss"}  # the transform of the data gives it the levels
    config.samplers = {
        "ancestral": {"name": "Ancestral", "steps": 100, "variance": "model"},
        "ddim": {"name": "DDIM", "steps": 50},
    }
    return config
