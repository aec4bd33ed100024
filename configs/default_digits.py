"""The common settings of the digits experiments; they differ in the process."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            "threads": 1,
            "data": {"name": "Digits"},
            "sde": {"name": "VPSDE"},
            "network": {"name": "SmallUNet", "channels": 24, "blocks": 2},
            # the network predicts the probabilities of the 17 gray levels of each pixel
            "model": {"prediction": {"name": "Levels"}, "data_std": 0.75},
            "objective": {
                "name": "DenoisingScoreMatching",
                "weighting": "likelihood",
                "reduction": "mean",
                # a level is 2/17 = 0.12 wide: below 0.05 the noisy pixel determines its level, above 12 nothing is left of it
                "times": {"name": "UniformLogNoise", "low": 0.05, "high": 12.0},
            },
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
            "samplers": {
                "predictor-corrector": {
                    "name": "PredictorCorrector",
                    "predictor": {"name": "ReverseDiffusion"},
                    "corrector": {"name": "Langevin", "snr": 0.1},
                    "steps": 200,
                },
                "probability-flow": {"name": "ProbabilityFlowODE", "denoise": False},
            },
            "likelihood": {"split": "test", "batch_size": 120},
        }
    )
