"""Digits at noise levels with Laplace noise, for annealed Langevin dynamics (docs/noise_distributions.md)."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    config.sde = {
        "name": "NonGaussianSDE",
        "sde": {"name": "VESDE", "sigma_min": 0.05, "sigma_max": 50.0},
        "noise": {"name": "LevelNoise", "noise": {"name": "GeneralizedNormal", "beta": 1.0}},
    }
    # len(overlapping_scales(beta=1.0, largest=50.0, smallest=0.05, event_shape=(1, 8, 8))) levels
    config.model = {"steps": 221, "prediction": "noise", "data_std": 0.75}
    config.objective = {"name": "DenoisingScoreMatching"}
    config.samplers = {
        "langevin": {
            "name": "PredictorCorrector",
            "predictor": None,
            "corrector": {"name": "AnnealedLangevin", "snr": 0.16, "steps": 3},
            "steps": {"name": "ReferenceDiscretization", "steps": 221},
        },
    }
    return config
