"""The common settings of the paper's VP experiments: images in [-1, 1], the noise as prediction, label 999 t."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_images.py")
    config.data = {"name": "CIFAR10", "low": -1.0, "high": 1.0, "flip": True}
    config.sde = {"name": "VPSDE", "beta_min": 0.1, "beta_max": 20.0}
    config.network = {"name": "DDPMpp", "dropout": 0.1}
    config.model = {"prediction": "noise", "label": {"name": "TimeLabel", "scale": 999.0}, "data_std": None}
    config.samplers = {
        "predictor-corrector": {
            "name": "PredictorCorrector",
            "predictor": {"name": "EulerMaruyama"},
            "steps": {"name": "ReferenceDiscretization", "steps": 1000, "t_min": 1e-3},
        },
        "probability-flow": {"name": "ProbabilityFlowODE", "t_min": 1e-3},
    }
    return config
