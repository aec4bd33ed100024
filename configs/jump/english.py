"""The English text that comes with Python, byte by byte, under the absorbing process."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data = {"name": "PythonTopics", "length": 128}
    config.process = {"name": "Absorbing", "schedule": {"name": "PolynomialKeep", "power": 2.0}}
    config.network.width = 128
    config.training.update(
        {"steps": 2500, "batch_size": 16, "learning_rate": 1.5e-3, "warmup": 100, "checkpoint_every": 250}
    )
    config.sampling.update({"count": 16, "batch_size": 16})
    config.samplers = {
        "ancestral": {"name": "AncestralSampler", "steps": 128},
        "first_hitting": {"name": "FirstHitting"},
    }
    config.likelihood.batch_size = 64
    return config
