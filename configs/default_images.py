"""The common settings of the paper's experiments; they differ in data, process and network."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 42,
            "device": "auto",
            "threads": 0,
            "objective": {"name": "DenoisingScoreMatching", "weighting": "variance", "reduction": "mean"},
            "training": {
                "steps": 1_300_000,
                "batch_size": 128,
                "learning_rate": 2e-4,
                "warmup": 5000,
                "grad_clip": 1.0,
                "ema_decay": 0.9999,
                "checkpoint_every": 10_000,
                "log_every": 50,
            },
            "sampling": {"count": 64, "batch_size": 64, "seed": 0},
            "likelihood": {"split": "test", "draws": 5, "batch_size": 128},
        }
    )
