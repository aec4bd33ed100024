"""Four-part chorales of Bach in sixteenth notes, under the absorbing process. The package music21 contains them."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data = {"name": "BachChorales", "length": 64}
    config.sampling.update({"count": 16, "batch_size": 16})
    config.samplers.ancestral.steps = 128
    return config
