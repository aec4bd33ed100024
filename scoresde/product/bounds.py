r"""Lower bound of log p(x) under the reverse of a product process: the sum of the bounds of its parts.

With u = ln(sigma / alpha), from t_min to T,

.. math::
    \log p(x_0) \ge E[\log p(x_0 \mid x_{t_{min}})] - \int E\, \| \hat z(x_t, t) - z \|^2 \, du -
    \int E \sum_j \text{jump}_j(x_t, x_0, t)\, dt - KL(q(x_T \mid x_0) \,\|\, \pi)

where z-hat = -sigma score. The decoder p(x_0 | x) at t_min is a Gaussian of the mean E[x_0 | x] and the variance (sigma /
alpha)^2 for the real coordinates, and p(x_0 | x) of the model for the others. Both integrals use the same times and the same
evaluations of the model. For an exact model the bound is log p(x_0), up to the error of the decoder and of the prior.

A replicate evaluates the model at ``draws`` times, one in each of as many equal intervals of u. Where the noise is small
compared with the detail of the data, z-hat is close to 0. So a multiple of |z|^2 - n, which has the mean 0, is subtracted.

References:
    Kingma et al. 2021, arXiv:2107.00630. Campbell et al. 2022, arXiv:2205.14987.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_finite, check_number
from scoresde.conditions import given
from scoresde.noise import NoiseSource
from scoresde.product.process import ProductProcess, check_product_model, latest
from scoresde.score.step_terms import prior_divergence
from scoresde.sde.scores import in_evaluation_mode


@dataclass(frozen=True)
class ProductBound:
    """Lower bounds of log p(x) of rows with real and categorical coordinates.

    Attributes:
        log_prob: Unbiased estimate of the bound, reconstruction - real - categories - prior, (B,) nats, float64.
        standard_error: Standard error of ``log_prob`` given x, (B,) nats, from the replicates. NaN for one replicate.
        reconstruction: E log p(x_0 | x) at t_min, (B,) nats.
        real: The integral of the real coordinates, (B,) nats.
        categories: The integral of the categorical coordinates, (B,) nats.
        prior: KL(q(x_T | x_0) || pi), (B,) nats.
        nfe: Evaluations of the model for the whole batch.
    """

    log_prob: Tensor
    standard_error: Tensor
    reconstruction: Tensor
    real: Tensor
    categories: Tensor
    prior: Tensor
    nfe: int

    def __repr__(self) -> str:
        mean, count = float(self.log_prob.mean()), len(self.log_prob)
        return f"ProductBound(mean log_prob>={mean:.4f} nats over {count}, nfe={self.nfe})"


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("model")
def product_bound(
    process: ProductProcess,
    model: Callable[..., Tensor],
    x: Tensor,
    *,
    t_min: float = 1e-3,
    draws: int = 32,
    replicates: int = 2,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    condition: Mapping[str, Any] | None = None,
) -> ProductBound:
    """Lower bound of log p(x) in nats: a density in the real coordinates, times a probability of the categorical ones.

    Args:
        process: The process of the model.
        model: The model, (x, t) -> the packed output.
        x: Data, (B, d).
        t_min: Time of the decoder, in (0, T).
        draws: Number of times that a replicate evaluates, apart from the decoder.
        replicates: Independent repetitions of the whole estimate.
        seed: Seed of the random draws.
        first: Index of the first row: row i of the batch uses the draws with the key (seed, first + i).
        noise: Replaces ``seed`` and ``first``.
        condition: Conditions c of the model by name, with one row for each sample. The result then bounds log p(x | c).

    Returns:
        The bounds, their standard errors and their terms. The model is evaluated replicates (draws + 1) times.

    Raises:
        ValueError: An argument is not allowed, or the model returns NaN.

    Example:
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import Absorbing
        >>> from scoresde.product import LabeledMixture, ProductProcess, product_bound
        >>> mixture = LabeledMixture([[-1.0], [1.0]], [0.3, 0.3], [[0], [1]])
        >>> process = ProductProcess(VPSDE(), [None, Absorbing(2)])
        >>> bound = product_bound(process, mixture.model(process), mixture.sample(4))
        >>> bound.log_prob.shape, bound.nfe
        (torch.Size([4]), 66)
    """
    check_product_model(process, model)
    model = given(model, condition)
    check_number("t_min", t_min, above=0.0, below=process.T)
    check_count("draws", draws)
    check_count("replicates", replicates)
    process.split(x, "x", data=True)
    check_finite("x", x)
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    rows = [_estimate(process, model, x, noise.again(r), t_min, draws) for r in range(replicates)]
    reconstruction, on_real, on_categories = torch.stack(rows).unbind(1)
    bounds, prior = reconstruction - on_real - on_categories, _prior(process, x)
    log_prob = bounds.mean(0) - prior
    error = bounds.std(0) / math.sqrt(replicates) if replicates > 1 else torch.full_like(log_prob, math.nan)
    return ProductBound(
        log_prob, error, reconstruction.mean(0), on_real.mean(0), on_categories.mean(0), prior,
        replicates * (draws + 1),
    )  # fmt: skip


def _estimate(
    process: ProductProcess, model: Callable[..., Tensor], x: Tensor, noise: NoiseSource, t_min: float, draws: int
) -> Tensor:
    """Reconstruction, the integral of the real coordinates and that of the others, (3, B)."""
    sde, (_, tokens) = process.sde, process.split(x)
    low, high = sde.log_noise(torch.tensor([t_min, process.T], dtype=torch.float64)).tolist()
    width = (high - low) / draws
    u = noise.uniform((draws,), step=0, purpose="bound times", dtype=torch.float64)
    total = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
    for k in range(draws):
        t = latest(process, sde.time_of_log_noise(low + width * (k + u[:, k])))
        error, states, logits = _evaluated(process, model, x, noise, t, k)
        losses = process.category_losses(states, tokens, logits, t)
        total += width * torch.stack((error, losses / sde.log_noise_slope(t)))
    first = torch.full((len(x),), t_min, dtype=torch.float64, device=x.device)
    error, states, logits = _evaluated(process, model, x, noise, first, draws)
    level = sde.sigma(first) / sde.alpha(first)
    reconstruction = -0.5 * error - len(process.real) * (level.log() + 0.5 * math.log(2.0 * math.pi))
    zero = torch.zeros_like(first)
    for group, x_t, x0, own in zip(process.groups, states, tokens, logits, strict=True):
        reconstruction -= group.jump.step_divergence(x_t, x0, own, zero, first).to(torch.float64).sum(1)
    return torch.stack((reconstruction, total[0], total[1]))


def _evaluated(
    process: ProductProcess, model: Callable[..., Tensor], x: Tensor, noise: NoiseSource, t: Tensor, step: int
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """|z_hat - z|^2 at t without its part of mean 0, (B,), and the states and the logits of each group."""
    x_t, z = process.perturb(x, t, noise, step=step)
    score, logits = process.split_output(model(x_t, t.to(x.dtype)), x_t)
    sigma, alpha = process.sde.sigma(t)[:, None], process.sde.alpha(t)[:, None]
    square = z.to(torch.float64).square()
    known = (square - 1.0) / (1.0 + (sigma / alpha) ** 2) ** 2
    error = (sigma * score.to(torch.float64) + z).square() - known
    return error.sum(1), process.split(x_t)[1], logits


def _prior(process: ProductProcess, x: Tensor) -> Tensor:
    """KL(q(x_T | x_0) || prior), (B,) nats."""
    real, tokens = process.split(x)
    end = torch.tensor(process.T, dtype=torch.float64)
    alpha, sigma = float(process.sde.alpha(end)), float(process.sde.sigma(end))
    total = prior_divergence(real, alpha, sigma, process.sde.prior_std())
    for group, part in zip(process.groups, tokens, strict=True):
        total = total + group.jump.prior_divergence(part).sum(1)
    return total
