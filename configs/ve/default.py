"""The common settings of the paper's VE experiments: images in [0, 1], sigma times the score as prediction, label ln sigma."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_images.py")
    config.data = {"name": "CIFAR10", "low": 0.0, "high": 1.0, "flip": True}
    config.sde = {"name": "VESDE", "sigma_min": 0.01, "sigma_max": 50.0}
    config.network = {"name": "NCSNpp", "dropout": 0.1, "input_range": (0.0, 1.0)}
    config.model = {
        "prediction": {"name": "ScaledScorePrediction"},
        "label": {"name": "LogNoiseLabel"},
        "data_std": None,
    }
    config.objective.reduction = "half_sum"
    config.training.ema_decay = 0.999
    # the paper's corrector, `BatchLangevin`, averages norms over the batch; this one uses the norms of each sample
    config.samplers = {
        "predictor-corrector": {
            "name": "PredictorCorrector",
            "predictor": {"name": "ReverseDiffusion"},
            "corrector": {"name": "Langevin", "snr": 0.16, "steps": 1},
            "steps": {"name": "ReferenceDiscretization", "steps": 1000, "t_min": 1e-5},
        },
        "probability-flow": {"name": "ProbabilityFlowODE", "t_min": 1e-5},
    }
    return config
