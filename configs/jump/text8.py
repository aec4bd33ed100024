"""text8, character by character, under the absorbing process: the size of the published models of this text.

The network has 12 blocks of width 768 and sees 256 characters, in batches of 512 for a million steps (Austin et al. 2021,
arXiv:2107.03006, section 5.1). Give the file: --config.data.file=PATH.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            "threads": 0,
            "data": {"name": "Text8", "file": "text8", "length": 256, "held_out": "test", "stride": 32},
            "process": {"name": "Absorbing"},
            "network": {"name": "TokenTransformer", "width": 768, "depth": 12, "heads": 12, "time": False},
            "objective": {"name": "ContinuousBound"},
            "training": {
                "steps": 1_000_000,
                "batch_size": 512,
                "learning_rate": 3e-4,
                "warmup": 2500,
                "ema_decay": 0.9999,
                "precision": "bfloat16",
                "checkpoint_every": 5000,
                "log_every": 100,
            },
            "sampling": {"count": 64, "batch_size": 64, "seed": 0},
            "samplers": {
                "ancestral": {"name": "AncestralSampler", "steps": 256},
                "first_hitting": {"name": "FirstHitting"},
            },
            "likelihood": {"split": "test", "batch_size": 128},
        }
    )
