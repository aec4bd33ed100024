"""The English text that comes with Python, byte by byte, under the absorbing process."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            "threads": 1,
            "data": {"name": "PythonTopics", "length": 128},
            "process": {"name": "Absorbing", "schedule": {"name": "PolynomialKeep", "power": 2.0}},
            "network": {"name": "TokenTransformer", "width": 128, "depth": 3},
            "objective": {"name": "ContinuousBound"},
            "training": {
                "steps": 2500,
                "batch_size": 16,
                "learning_rate": 1.5e-3,
                "beta2": 0.99,
                "warmup": 100,
                "schedule": "cosine",
                "ema_decay": 0.998,
                "checkpoint_every": 250,
                "log_every": 50,
            },
            "sampling": {"count": 16, "batch_size": 16, "seed": 0},
            "samplers": {
                "ancestral": {"name": "AncestralSampler", "steps": 128},
                "first_hitting": {"name": "FirstHitting"},
            },
            "likelihood": {"split": "test", "batch_size": 64},
        }
    )
