"""The default configs of score_sde_pytorch, which its other configs import, as data."""

from __future__ import annotations

import copy
from typing import Any

_CIFAR10: dict[str, Any] = {
    "data": {
        "centered": False,
        "dataset": "CIFAR10",
        "image_size": 32,
        "num_channels": 3,
        "random_flip": True,
        "uniform_dequantization": False,
    },
    "eval": {
        "batch_size": 1024,
        "begin_ckpt": 9,
        "bpd_dataset": "test",
        "enable_bpd": False,
        "enable_loss": True,
        "enable_sampling": False,
        "end_ckpt": 26,
        "num_samples": 50000,
    },
    "model": {
        "beta_max": 20.0,
        "beta_min": 0.1,
        "dropout": 0.1,
        "embedding_type": "fourier",
        "num_scales": 1000,
        "sigma_max": 50,
        "sigma_min": 0.01,
    },
    "optim": {
        "beta1": 0.9,
        "eps": 1e-08,
        "grad_clip": 1.0,
        "lr": 0.0002,
        "optimizer": "Adam",
        "warmup": 5000,
        "weight_decay": 0,
    },
    "sampling": {"n_steps_each": 1, "noise_removal": True, "probability_flow": False, "snr": 0.16},
    "seed": 42,
    "training": {
        "batch_size": 128,
        "continuous": True,
        "eval_freq": 100,
        "likelihood_weighting": False,
        "log_freq": 50,
        "n_iters": 1300001,
        "reduce_mean": False,
        "snapshot_freq": 50000,
        "snapshot_freq_for_preemption": 10000,
        "snapshot_sampling": True,
    },
}

_CELEBA: dict[str, dict[str, Any]] = {
    "data": {"dataset": "CELEBA", "image_size": 64},
    "eval": {"begin_ckpt": 1, "enable_sampling": True},
    "model": {"sigma_max": 90.0},
    "sampling": {"snr": 0.17},
}
_LSUN: dict[str, dict[str, Any]] = {
    "data": {"dataset": "LSUN", "image_size": 256},
    "eval": {"batch_size": 512, "begin_ckpt": 50, "enable_sampling": True, "end_ckpt": 96},
    "model": {"dropout": 0.0, "num_scales": 2000, "sigma_max": 378},
    "sampling": {"snr": 0.075},
    "training": {"batch_size": 64, "n_iters": 2400001, "snapshot_freq_for_preemption": 5000},
}


def _changed(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    settings = copy.deepcopy(_CIFAR10)
    for section, values in changes.items():
        settings[section] |= values
    return settings


DEFAULTS: dict[str, dict[str, Any]] = {
    "default_cifar10_configs": _CIFAR10,
    "default_celeba_configs": _changed(_CELEBA),
    "default_lsun_configs": _changed(_LSUN),
}
"""By the name of their module; what ``get_default_configs()`` returns, its device aside."""
