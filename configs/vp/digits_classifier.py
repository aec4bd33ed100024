"""A classifier of noisy digits, under the variance-preserving process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "digits.py")
    config.data.labels = True
    config.network = {"name": "MLP", "width": 256, "depth": 3}
    config.model = {"name": "Classifier", "data_std": 0.75}
    config.objective = {
        "name": "TargetLikelihood",
        "target": "label",
        "times": {"name": "UniformLogNoise", "low": 0.05, "high": 12.0},
    }
    config.training.batch_size = 128
    config.training.learning_rate = 1e-3
    config.samplers = {}
    return config
