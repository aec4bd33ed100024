"""enwik8, byte by byte, under the absorbing process, with the network and the training of text8.

Give the file: --config.data.file=PATH.
"""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "text8.py")
    config.data = {"name": "Enwik8", "file": "enwik8", "length": 256, "held_out": "test", "stride": 32}
    return config
