"""CIFAR-10 by a variational diffusion model, with a UNet of 32 blocks of 128 channels at full resolution.

The sizes are those of the config cifar10 of github.com/google-research/vdm. docs/vdm.md lists the differences.
"""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_images.py")
    config.data = {"name": "WithoutDequantization", "data": {"name": "CIFAR10", "low": -1.0, "high": 1.0}}
    config.sde = {"name": "LearnedSNRSDE", "log_snr_max": 13.3, "log_snr_min": -5.0, "hidden": 1024, "train_ends": True}
    config.network = {
        "name": "DDPM",
        "channels": 128,
        "multipliers": (1,),
        "blocks": 32,
        "attention": (),
        "dropout": 0.1,
        "embedding": {"name": "RadialEmbedding", "count": 128, "low": -10.0, "high": 6.0},
        "input_features": {"name": "FourierFeatures", "exponents": (7, 8)},
        "checkpoint": True,  # recomputes the blocks, because all of them are at full resolution
    }
    config.model = {"prediction": "noise", "data_std": None}
    config.objective = {"name": "VariationalDiffusionLoss"}
    config.objectives = {"schedule": {"name": "VariationalSchedule"}}
    config.training.steps = 10_000_000
    config.training.warmup = 100
    config.training.beta2 = 0.99
    config.training.optimizers = {"schedule": {"learning_rate": 2e-4, "every": 4}}
    config.samplers = {
        "ancestral": {
            "name": "PredictorCorrector",
            "predictor": {"name": "Ancestral", "variance": "lower"},
            "steps": 1000,
        }
    }
    return config
