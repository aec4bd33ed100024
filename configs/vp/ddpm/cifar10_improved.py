"""CIFAR-10: improved DDPM (Nichol & Dhariwal 2021) with L_hybrid: 4000 cosine instants, 3 blocks, attention at 16 and 8."""

from pathlib import Path

from scoresde.experiment.config.loader import load_config


def get_config():
    config = load_config(Path(__file__).parents[1] / "default_discrete.py")
    config.sde = {"name": "CosineVPSDE"}
    config.network = {"name": "DDPM", "blocks": 3, "attention": (16, 8), "dropout": 0.3}
    config.model = {"name": "LearnedVarianceModel", "prediction": "noise", "data_std": None, "steps": 4000}
    # the label of the reference is the number of the step
    config.model.label = {"name": "TimeLabel", "scale": 3999.0}
    config.objective = {"name": "HybridLoss", "weight": 0.001}
    config.training.update({"steps": 500_000, "learning_rate": 1e-4, "warmup": 0})
    config.samplers = {
        "ancestral": {
            "name": "Ancestral",
            "steps": {"name": "ReferenceDiscretization", "steps": 4000},
            "variance": "model",
        },
        "strided": {"name": "Ancestral", "steps": 100, "variance": "model"},
        "ddim": {"name": "DDIM", "steps": 50},
    }
    return config
