"""Simple density models as baselines for the likelihood of a score model on the same split.

Results for discrete data are in bits per dimension, like those of ``scoresde.likelihood.bits_per_dim``; those for real-valued
data are log-densities in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number

CANDIDATES = ((1, "full", 1e-3), (10, "full", 1e-3), (20, "diag", 1e-4), (50, "diag", 1e-4), (100, "diag", 1e-3))
"""Mixtures to try: number of components, type of covariance, regularization added to its diagonal."""
AT_ONCE = 2**22
"""Number of values whose levels are counted at a time."""


@dataclass(frozen=True)
class Baseline:
    """The result of a baseline on the test set.

    Attributes:
        name: A description of the model.
        bits_per_dim: Mean over events of the bits per dimension.
        standard_error: Standard error of this mean; NaN for one event.
    """

    name: str
    bits_per_dim: float
    standard_error: float


@checked_arguments
def pixel_histogram(train: Tensor, test: Tensor, levels: int, pseudocount: float = 0.1) -> Baseline:
    """Independent coordinates, with the frequencies of the levels in ``train``.

    The likelihood of discrete data is exact, without dequantization. In addition to the data, the counts need memory for
    ``levels`` numbers per coordinate.

    Args:
        train: Training data of shape (n, *event), integers 0 .. levels - 1.
        test: Test data of shape (m, *event), integers 0 .. levels - 1.
        levels: Number of levels, at least 2.
        pseudocount: A number above 0 that is added to every count.

    Returns:
        Bits per dimension of ``test``.

    Raises:
        ValueError: For other shapes, dtypes or values.
    """
    return _summary("independent pixel histogram", histogram_bits(train, test, levels, pseudocount))


def histogram_bits(train: Tensor, test: Tensor, levels: int, pseudocount: float = 0.1) -> Tensor:
    """The bits per dimension of each event of ``test``, of shape (m,), as in `pixel_histogram`."""
    check_count("levels", levels, least=2)
    check_number("pseudocount", pseudocount, above=0.0)
    for name, value in (("train", train), ("test", test)):
        if value.is_floating_point() or value.dtype == torch.bool or value.ndim < 1 or value.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}: give levels (n, *event)")
        low, high = (int(end) for end in value.aminmax())
        if low < 0 or high >= levels:
            raise ValueError(f"{name} holds values from {low} to {high}: levels={levels} allows 0 .. {levels - 1}")
    _check_alike(train, test)
    d = math.prod(train.shape[1:])
    shift = levels * torch.arange(d)
    counts = torch.zeros(d * levels, dtype=torch.float64)
    for part in train.reshape(-1, d).split(max(1, AT_ONCE // d)):
        counts += torch.bincount((part + shift).flatten(), minlength=d * levels)
    p = (counts + pseudocount) / (len(train) + levels * pseudocount)
    log_p = p.log2()
    return torch.cat([-log_p[part + shift].mean(1) for part in test.reshape(-1, d).split(max(1, AT_ONCE // d))])


@checked_arguments
def gaussian_mixtures(
    train: Tensor,
    test: Tensor,
    width: float,
    candidates: tuple[tuple[int, str, float], ...] = CANDIDATES,
) -> Baseline:
    """The best of several Gaussian mixtures of scikit-learn.

    The best mixture is chosen on the test set, which favours the baseline.

    Args:
        train: Dequantized training data of shape (n, *event).
        test: Dequantized test data of shape (m, *event).
        width: Width of one level, for the change of volume.
        candidates: For each mixture the number of components, the covariance type and the regularization.

    Returns:
        Bits per dimension of ``test`` for the best mixture.

    Raises:
        ValueError: If there are fewer events than components, or for other shapes or values.
    """
    from sklearn.mixture import GaussianMixture as SklearnMixture  # see data/sources.py

    for name, value in (("train", train), ("test", test)):
        check_batch(name, value)
        check_finite(name, value)
    _check_alike(train, test)
    check_number("width", width, above=0.0)
    if not candidates:
        raise ValueError(
            "candidates=() is not allowed: give (components, covariance type, regularization) of one at least"
        )
    most = max(count for count, _, _ in candidates)
    if len(train) < max(2, most):
        raise ValueError(f"train has {len(train)} training events: {most} components need as many, and at least 2")
    fit_on, judge = train.flatten(1).double().numpy(), test.flatten(1).double().numpy()
    found = []
    for count, kind, floor in candidates:
        model = SklearnMixture(count, covariance_type=kind, reg_covar=floor, random_state=0).fit(fit_on)
        nats = torch.from_numpy(model.score_samples(judge))
        bits = -(nats / judge.shape[1] + math.log(width)) / math.log(2.0)
        found.append(_summary(f"scikit-learn GaussianMixture, {count} {kind}", bits))
    return min(found, key=lambda baseline: baseline.bits_per_dim)


@checked_arguments
def gaussian_log_prob(train: Tensor, test: Tensor) -> Tensor:
    r"""The log-density of a Gaussian that is fitted to real-valued training data.

    .. math:: S' = (1 - a) S + a \frac{\mathrm{tr} S}{d} I

    The covariance S is shrunk by the factor a of Ledoit and Wolf (scikit-learn), so the fit is defined even with fewer events
    than coordinates.

    Args:
        train: Training data of shape (n, *event) with n >= 2, coordinates of a similar scale.
        test: Test data of shape (m, *event).

    Returns:
        Log-densities of ``test`` in nats, of shape (m,), in float64.

    Raises:
        ValueError: For other shapes or values, or if all training events are equal.

    References:
        Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices.
    """
    from sklearn.covariance import LedoitWolf  # see data/sources.py

    for name, value in (("train", train), ("test", test)):
        check_batch(name, value)
        check_finite(name, value)
    _check_alike(train, test)
    x, y = train.flatten(1).double(), test.flatten(1).double()
    if len(x) < 2 or not bool((x != x[0]).any()):
        raise ValueError(
            f"train has {len(x)} events without differences: a Gaussian needs two different events at least"
        )
    covariance = torch.from_numpy(LedoitWolf().fit(x.numpy()).covariance_)
    out: Tensor = torch.distributions.MultivariateNormal(x.mean(0), covariance).log_prob(y)
    return out


def _summary(name: str, bits: Tensor) -> Baseline:
    error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
    return Baseline(name, float(bits.mean()), error)


def _check_alike(train: Tensor, test: Tensor) -> None:
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"train has events {tuple(train.shape[1:])} and test has {tuple(test.shape[1:])}: give one shape"
        )
