"""Digits of 8 x 8 pixels given the means of 2 x 2 pixels, under the variance-preserving process.

scoresde train --config configs/vp/digits_super_resolution.py --workdir RUN
"""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "digits.py")
    config.data = {"name": "Degraded", "data": {"name": "Digits"}, "operator": {"name": "SuperResolution", "factor": 2}}
    config.samplers = {"unipc": {"name": "UniPC", "steps": 20}}
    return config
