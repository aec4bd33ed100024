"""Color patches of scikit-learn's two photographs, 32 x 32 pixels, with a network that predicts E[x_0 | x_t].

It trains faster than photo_patches.py, whose network predicts the probabilities of 256 levels, and suits restoration: guidance by
measurements differentiates the network.

scoresde train --config configs/vp/photo_restoration.py --workdir RUN
"""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "photo_patches.py")
    config.data.stride = 4
    config.network = {"name": "SmallUNet", "channels": 32, "blocks": 2}
    config.model = {"prediction": {"name": "PreconditionedPrediction", "data_std": 0.65}, "data_std": 0.65}
    config.objective.times = {"name": "UniformLogNoise", "low": 0.01, "high": 20.0}
    config.training.batch_size = 16
    config.training.steps = 3000
    config.samplers = {"unipc": {"name": "UniPC", "steps": 30}}
    return config
