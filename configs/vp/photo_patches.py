"""Color patches of scikit-learn's two photographs under the variance-preserving process: 32 x 32 pixels with 256 levels.

scoresde train --config configs/vp/photo_patches.py --workdir RUN --fit-time 1500
"""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_digits.py")
    config.sde = {"name": "VPSDE", "beta_min": 0.1, "beta_max": 20.0}
    config.data = {"name": "PhotoPatches", "side": 32, "stride": 8, "flip": True}
    # a level is 2/256 = 0.008 wide: below 0.003 the noisy pixel determines its level
    config.objective.times = {"name": "UniformLogNoise", "low": 0.003, "high": 15.0}
    config.model.data_std = 0.65
    config.training.batch_size = 8
    config.training.steps = 6000
    return config
