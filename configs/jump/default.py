"""The common settings of small experiments with tokens, under the absorbing process. They differ in the data."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            "threads": 1,
            "data": {"name": "AsTokens", "data": {"name": "Digits"}},
            "process": {"name": "Absorbing"},
            "network": {"name": "TokenTransformer", "width": 64, "depth": 3},
            "objective": {"name": "ContinuousBound"},
            "training": {
                "steps": 2000,
                "batch_size": 64,
                "learning_rate": 2e-3,
                "beta2": 0.99,
                "warmup": 50,
                "schedule": "cosine",
                "ema_decay": 0.998,
                "checkpoint_every": 500,
                "log_every": 50,
            },
            "sampling": {"count": 64, "batch_size": 64, "seed": 0},
            "samplers": {"ancestral": {"name": "AncestralSampler", "steps": 64}},
            "likelihood": {"split": "test", "batch_size": 120},
        }
    )
