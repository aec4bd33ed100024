"""NCSN (Song & Ermon 2019): annealed Langevin dynamics only, ten noise levels."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default.py")
    config.sde.sigma_max = 1.0
    config.network = {"name": "NCSN", "levels": 10, "input_range": (0.0, 1.0)}
    config.model = {
        "prediction": "score",
        "label": {"name": "TimeLabel", "scale": 9.0, "descending": True, "whole": True},
        "data_std": None,
        "steps": 10,
    }
    config.training.learning_rate = 1e-3
    config.training.warmup = 0
    config.training.grad_clip = 1e9  # no clipping
    config.samplers = {
        "annealed-langevin": {
            "name": "PredictorCorrector",
            "predictor": None,
            "corrector": {"name": "AnnealedLangevin", "snr": 0.316, "steps": 100},
            "steps": {"name": "ReferenceDiscretization", "steps": 10, "t_min": 1e-5},
        }
    }
    return config
