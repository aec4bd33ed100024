"""The common settings of the paper's experiments with 256 x 256 images."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data = {
        "name": "ImageFolder",
        "folder": "data/images_256",
        "side": 256,
        "low": 0.0,
        "high": 1.0,
        "flip": True,
    }
    config.sde.sigma_max = 348.0
    config.network = {
        "name": "NCSNpp",
        "multipliers": (1, 1, 2, 2, 2, 2, 2),
        "blocks": 2,
        "progressive_input": "skip",
        "progressive_output": "skip",
        "input_range": (0.0, 1.0),
    }
    config.training.steps = 2_400_000
    config.training.batch_size = 64
    config.training.checkpoint_every = 5000
    config.samplers["predictor-corrector"].corrector.snr = 0.075
    config.samplers["predictor-corrector"].steps.steps = 2000
    return config
