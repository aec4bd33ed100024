"""Four-part chorales of Bach in sixteenth notes, under the absorbing process. The package music21 contains them."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            "threads": 1,
            "data": {"name": "BachChorales", "length": 64},
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
            "sampling": {"count": 16, "batch_size": 16, "seed": 0},
            "samplers": {"ancestral": {"name": "AncestralSampler", "steps": 128}},
            "likelihood": {"split": "test", "batch_size": 120},
        }
    )
