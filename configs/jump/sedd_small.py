"""The small model of SEDD: ratios of probabilities of GPT-2's tokens under the absorbing process, by score entropy.

Text and tokenizer are those of ``mdlm_small.py``. Sizes and training are those of the project of Lou, Meng, Ermon 2023,
arXiv:2310.16834. The network has 169,626,449 parameters; the published one, with an output for the mask, has 169,627,218.
"""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parent / "mdlm_small.py")
    config.model = {"name": "RatioModel"}
    config.objective = {"name": "ScoreEntropy"}
    config.network.time = True
    config.network.embedding = {"name": "RadialEmbedding", "count": 256, "low": 0.0, "high": 1.0}
    config.training.steps = 1_300_000
    return config
