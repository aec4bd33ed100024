"""The wine data of scikit-learn: 178 rows of 14 columns in wine.csv, which docs/tables.md writes. Made by `scoresde inspect`.

scoresde train --config configs/ve/wine.py --workdir RUN
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            # CPU threads; 0 is PyTorch's choice
            "threads": 0,
            # a table, 178 events of shape (14,)
            # each column is transformed to mean 0 and standard deviation 1 of the training rows
            # log-likelihoods are in nats, of rows in the units of the table; whole numbers and texts are
            #   dequantized
            # one event in ten is held out for testing; if you have a test set, set the key test
            "data": {
                "name": "Table",
                "file": "wine.csv",
                "columns": [
                    {"name": "RealColumn", "column": "alcohol", "shift": 13.0543, "scale": 0.793},
                    {"name": "RealColumn", "column": "malic_acid", "shift": 2.31, "scale": 1.111},
                    {"name": "RealColumn", "column": "ash", "shift": 2.3572, "scale": 0.2626},
                    {"name": "RealColumn", "column": "alcalinity_of_ash", "shift": 19.332, "scale": 3.312},
                    {
                        "name": "WholeColumn",
                        "column": "magnesium",
                        "low": 70,
                        "high": 162,
                        "shift": 100.06,
                        "scale": 14.45,
                    },
                    {"name": "RealColumn", "column": "total_phenols", "shift": 2.3047, "scale": 0.625},
                    {"name": "RealColumn", "column": "flavanoids", "shift": 2.0218, "scale": 0.982},
                    {"name": "RealColumn", "column": "nonflavanoid_phenols", "shift": 0.3597, "scale": 0.1241},
                    {"name": "RealColumn", "column": "proanthocyanins", "shift": 1.5978, "scale": 0.5857},
                    {"name": "RealColumn", "column": "color_intensity", "shift": 5.151, "scale": 2.352},
                    {"name": "RealColumn", "column": "hue", "shift": 0.9597, "scale": 0.2309},
                    {"name": "RealColumn", "column": "od280/od315_of_diluted_wines", "shift": 2.6126, "scale": 0.7132},
                    {
                        "name": "WholeColumn",
                        "column": "proline",
                        "low": 278,
                        "high": 1680,
                        "shift": 753.8,
                        "scale": 316.1,
                    },
                    {"name": "WholeColumn", "column": "class", "low": 0, "high": 2, "shift": 1.425, "scale": 0.8383},
                ],
                "missing": "refuse",
            },
            # variance exploding: the range of noise is measured on the data
            # sigma_max: the largest distance between two of all 178 events (Song & Ermon 2020, technique 1)
            # sigma_min: a hundredth of sigma_data, which is invisible
            # an alternative without a range to choose: {"name": "VPSDE"}
            "sde": {"name": "VESDE", "sigma_min": 0.01, "sigma_max": 11.5},
            # vectors: a multilayer perceptron, four times as wide as an event, from 128 to 1024
            "network": {"name": "MLP", "width": 128, "depth": 4},
            # sigma_data = 1, the spread of x
            "model": {"prediction": "noise", "data_std": 1.0},
            # the paper's choice for good samples
            "objective": {"name": "DenoisingScoreMatching", "weighting": "variance", "reduction": "mean"},
            # 200 epochs of 160 events (200 epochs, at least 2000 and at most 400000 steps)
            # batch_size: at most 128 and an eighth of the events, at least 8
            # learning_rate: a small network allows more than the paper's 2e-4
            # ema_decay: weights are averaged over the last 5 % of the steps, at most 10,000 steps
            "training": {
                "steps": 2000,
                "batch_size": 16,
                "learning_rate": 0.001,
                "warmup": 100,
                "schedule": "cosine",
                "grad_clip": 1.0,
                "ema_decay": 0.99,
                "checkpoint_every": 200,
                "log_every": 50,
            },
            # more: --config.sampling.count=10000
            "sampling": {"count": 1000, "batch_size": 500, "seed": 0},
            # snr: the paper's authors tuned 0.16 for 32 pixels, 0.17 for 64, 0.075 for 256, 0.15 for 1024
            # try half and twice this value, and compare the samples
            "samplers": {
                "predictor-corrector": {
                    "name": "PredictorCorrector",
                    "predictor": {"name": "ReverseDiffusion"},
                    "corrector": {"name": "Langevin", "snr": 0.16},
                    "steps": 500,
                },
                "probability-flow": {"name": "ProbabilityFlowODE"},
            },
            # for scoresde likelihood: the held-out events
            "likelihood": {"split": "test", "batch_size": 64},
        }
    )
