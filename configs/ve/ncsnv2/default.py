"""NCSNv2 (Song & Ermon 2020): no time embedding, output divided by sigma."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "ncsn" / "default_improved.py")
    config.network = {"name": "NCSNv2", "input_range": (0.0, 1.0)}
    config.model = config.model.to_dict() | {"prediction": {"name": "ScaledScorePrediction"}}
    config.training.learning_rate = 1e-4
    config.training.ema_decay = 0.999
    return config
