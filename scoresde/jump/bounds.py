r"""Lower bounds of log p(x) for discrete data under the reverse of a jump process.

In K steps (Sohl-Dickstein et al. 2015; Austin et al. 2021), with 0 = t_0 < ... < t_K = T,

.. math::
    \log p(x_0) \ge - \sum_{i=1}^K E\, KL\big(q(x_{t_{i-1}} \mid x_{t_i}, x_0) \,\|\, p(x_{t_{i-1}} \mid x_{t_i})\big) -
    KL(q(x_T \mid x_0) \,\|\, \pi)

where the first step is the reconstruction -ln p(x_0 | x_{t_1}). In continuous time (Campbell et al. 2022), the
divergence of two Poisson processes takes the place of the KL. With the ratios of the model r_y = p_t(y) / p_t(x) and
those given x_0, c_y = q(y | x_0) / q(x | x_0),

.. math::
    \log p(x_0) \ge - \int_0^T E \sum_{y \ne x_t} \beta(t)\, R_{y x_t} \left[ r_y - c_y + c_y \ln \frac{c_y}{r_y} \right] dt -
    KL(q(x_T \mid x_0) \,\|\, \pi)

Under ``Absorbing`` the terms are a weighted cross-entropy of the masked coordinates, -beta alpha / (1 - alpha) ln
p(x_0^i | x_t). For an exact model the continuous bound is log p(x_0), up to the error of the prior.

Estimate. x_t is drawn once for each term. A replicate evaluates all steps, or ``draws`` of them. In continuous time it
evaluates ``draws`` times, one in each of as many equal intervals. The standard error is that of the replicates.

References:
    Sohl-Dickstein et al. 2015, arXiv:1503.03585. Austin et al. 2021, arXiv:2107.03006. Campbell et al. 2022,
    arXiv:2205.14987, prop. 2. Lou et al. 2023, arXiv:2310.16834. Shi et al. 2024, arXiv:2406.04329.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count
from scoresde.conditions import given
from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import CountedModel, check_model
from scoresde.jump.grids import check_grid
from scoresde.jump.states import whole_states
from scoresde.noise import NoiseSource
from scoresde.sde.scores import in_evaluation_mode

TIMES = 32
"""Number of times of a replicate in continuous time, unless ``draws`` gives another."""


@dataclass(frozen=True)
class JumpBound:
    """Lower bounds of log p(x) of discrete data.

    Attributes:
        log_prob: Unbiased estimate of the bound, - sum of steps - prior, (B,) nats, float64.
        standard_error: Standard error of ``log_prob`` given x, (B,) nats, from the replicates. NaN for one replicate.
        steps: The terms of the steps, (K, B) nats, from the reconstruction to T. In continuous time the integrals over
            K equal intervals of [0, T].
        prior: KL(q(x_T | x_0) || pi), (B,) nats.
        bits_per_token: -log_prob / (d ln 2) for d coordinates, (B,).
        nfe: Evaluations of the model for the whole batch.
    """

    log_prob: Tensor
    standard_error: Tensor
    steps: Tensor
    prior: Tensor
    bits_per_token: Tensor
    nfe: int

    @property
    def mean_bits_per_token(self) -> tuple[float, float]:
        """The mean of ``bits_per_token`` over the batch, and its standard error over data and draws. NaN for one sample."""
        count = len(self.bits_per_token)
        spread = float(self.bits_per_token.std()) / math.sqrt(count) if count > 1 else math.nan
        return float(self.bits_per_token.mean()), spread

    @property
    def perplexity(self) -> float:
        """2 to the mean of ``bits_per_token``."""
        return float(2.0 ** self.bits_per_token.mean())

    def __repr__(self) -> str:
        bits, error = self.mean_bits_per_token
        return f"JumpBound({bits:.4f} +- {error:.4f} bits/token over {len(self.log_prob)}, nfe={self.nfe})"


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("model")
def jump_bound(
    process: JumpProcess,
    model: Callable[..., Tensor],
    x: Tensor,
    times: Tensor | None = None,
    *,
    replicates: int = 2,
    draws: int | None = None,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    condition: Mapping[str, Any] | None = None,
) -> JumpBound:
    """Lower bound of log p(x) in nats for discrete data.

    Args:
        process: The process of the model.
        model: The model, (x, t) -> logits of p(x_0 | x_t).
        x: Data, (B, *event).
        times: K + 1 descending times from T to 0, the grid of an ``AncestralSampler``, for the bound in K steps. None
            for the bound in continuous time.
        replicates: Independent repetitions of the whole estimate.
        draws: Number of terms that a replicate evaluates. None for all steps, or 32 times in continuous time.
        seed: Seed of the random draws.
        first: Index of the first sample: sample i of the batch uses the draws with the key (seed, first + i).
        noise: Replaces ``seed`` and ``first``.
        condition: Conditions c of the model by name, with one row for each sample. The result then bounds log p(x | c).

    Returns:
        The bounds, their standard errors and their terms. The model is evaluated replicates * draws times.

    Raises:
        ValueError: An argument is not allowed, or the model returns a NaN.

    Example:
        >>> from scoresde.jump import Absorbing, MarkovChain, jump_bound
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> bound = jump_bound(process, chain.model(process), chain.sample(4, 8))
        >>> bound.log_prob.shape, bound.steps.shape, bound.nfe
        (torch.Size([4]), torch.Size([32, 4]), 64)
    """
    x = whole_states("x", x, process.states, process.tokens)
    check_model(process, model)
    model = given(model, condition, name="model")
    check_count("replicates", replicates)
    if draws is not None:
        check_count("draws", draws)
    grid = None if times is None else check_grid("times", process, times).flip(0)
    if grid is not None and abs(float(grid[-1]) - process.T) > 1e-6 * process.T:
        raise ValueError(f"times begins at {float(grid[-1]):g}: give a grid that begins at T={process.T:g}")
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    counted = CountedModel(model, process, len(x))
    parts = []
    for r in range(replicates):
        own = noise.again(r)
        parts.append(
            _integral(process, counted, x, own, draws or TIMES)
            if grid is None
            else _sum(process, counted, x, grid, own, draws)
        )
    prior, steps = _total(process.prior_divergence(x)), torch.stack(parts)
    bounds = -steps.sum(1)
    log_prob = bounds.mean(0) - prior
    error = bounds.std(0) / math.sqrt(replicates) if replicates > 1 else torch.full_like(log_prob, math.nan)
    bits = -log_prob / (x[0].numel() * math.log(2.0))
    return JumpBound(log_prob, error, steps.mean(0), prior, bits, counted.calls)


def _integral(process: JumpProcess, model: CountedModel, x0: Tensor, noise: NoiseSource, draws: int) -> Tensor:
    """The integrals over equal intervals of [0, T], (draws, B), each from one time."""
    u = noise.uniform((draws,), step=0, purpose="bound times", dtype=torch.float64)
    terms = []
    for k in range(draws):
        t = process.T * (k + u[:, k]) / draws
        x_t = process.marginal_sample(x0, t, noise, step=k)
        terms.append(process.T / draws * _total(process.rate_divergence(x_t, x0, model(x_t, t), t)))
    return torch.stack(terms)


def _sum(
    process: JumpProcess, model: CountedModel, x0: Tensor, grid: Tensor, noise: NoiseSource, draws: int | None
) -> Tensor:
    """The terms of the steps of an ascending grid, (K, B). Those that are not drawn are 0."""
    count = len(grid) - 1
    grid = grid.to(x0.device)
    terms = torch.zeros(count, len(x0), dtype=torch.float64, device=x0.device)
    for k in range(count if draws is None else draws):
        if draws is None:
            index = torch.full((len(x0),), k, device=x0.device)
        else:
            index = noise.integers(count, (), step=k, purpose="bound steps")
        s, t = grid[index], grid[index + 1]
        x_t = process.marginal_sample(x0, t, noise, step=k)
        term = _total(process.step_divergence(x_t, x0, model(x_t, t), s, t))
        terms.scatter_add_(0, index[None], (term if draws is None else term * count / draws)[None])
    return terms


def _total(each: Tensor) -> Tensor:
    """The sum over the coordinates, (B,) float64."""
    return each.to(torch.float64).reshape(len(each), -1).sum(1)
