"""Digits in 17 levels as tokens, under the absorbing process."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            "threads": 1,
            "data": {"name": "AsTokens", "data": {"name": "Digits"}},
            "process": {"name": "Absorbing"},
            "network": {"name": "OrdinalNetwork", "body": {"name": "SmallUNet", "channels": 24, "blocks": 2}},
            "objective": {"name": "ContinuousBound"},
            "training": {
                "steps": 6000,
                "batch_size": 64,
                "learning_rate": 5e-3,
                "beta2": 0.99,
                "warmup": 50,
                "schedule": "cosine",
                "grad_clip": 1.0,
                "ema_decay": 0.999,
                "checkpoint_every": 500,
                "log_every": 50,
            },
            "sampling": {"count": 64, "batch_size": 64, "seed": 0},
            "samplers": {"ancestral": {"name": "AncestralSampler", "steps": 64}},
            "likelihood": {"split": "test", "batch_size": 120},
        }
    )
