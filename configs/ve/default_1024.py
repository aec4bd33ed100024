"""The common settings of the paper's experiments with 1024 x 1024 images."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default_256.py")
    config.data.folder, config.data.side = "data/images_1024", 1024
    config.sde.sigma_max = 1348.0
    config.network.channels, config.network.multipliers, config.network.blocks = 16, (1, 2, 4, 8, 16, 32, 32, 32), 1
    config.training.batch_size = 8
    config.training.ema_decay = 0.9999
    config.samplers["predictor-corrector"].corrector.snr = 0.15
    return config
