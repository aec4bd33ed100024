"""Samplers of jump processes whose steps draw all coordinates independently: ancestral sampling and tau-leaping."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import CountedModel, ancestral_step
from scoresde.jump.sampler import GridJumpSampler
from scoresde.noise import NoiseSource

_NORMAL = 64.0
"""Mean above which a Poisson number is drawn as a rounded normal one."""


class AncestralSampler(GridJumpSampler):
    """Ancestral sampling: every step draws each coordinate from p(x_s | x_t).

    p(x_s | x_t) is the posterior q(x_s | x_t, x_0), averaged over p(x_0 | x_t). Coordinates are drawn independently, so
    that the samples of an exact model have an error of order 1 / steps.

    Under ``Absorbing`` a masked coordinate is unmasked with the probability (alpha_s - alpha_t) / (1 - alpha_t), whatever
    the model says. This is drawn first, and the model evaluates only samples that have a coordinate to unmask. A sample
    therefore needs at most one evaluation for each token, for any number of steps.

    Args:
        steps: Number of steps N, or N + 1 descending times that end at 0.
        grid: Function of ``scoresde.jump.grids`` that makes the times of N steps.

    References:
        Austin et al. 2021, arXiv:2107.03006, eq. 4.

    Example:
        >>> from scoresde.jump import Absorbing, AncestralSampler, MarkovChain
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> result = AncestralSampler(steps=10)(process, chain.model(process), (4, 8))
        >>> result.samples.shape, result.nfe
        (torch.Size([4, 8]), 10)
    """

    def step(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        noise: NoiseSource,
        number: int,
    ) -> Tensor:
        return ancestral_step(process, model, x, t, s, noise, step=number, purpose="ancestral")


class TauLeaping(GridJumpSampler):
    r"""Tau-leaping: the rates of the reverse process are frozen during a step.

    The rates of a step from t to s have the logits of t and the coefficients of the time (s + t) / 2. If states are
    ordered, the numbers of jumps are Poisson numbers with the mean (t - s) times the rate, and the jumps of a
    coordinate are added and clamped to the range. If not, a coordinate jumps at most once, with the probability 1 -
    exp(-(t - s) rate). The last step draws from p(x_0 | x_t), because the rates grow like 1 / t.

    Args:
        steps: Number of steps N, or N + 1 descending times that end at 0.
        grid: Function of ``scoresde.jump.grids`` that makes the times of N steps.

    References:
        Campbell et al. 2022, arXiv:2205.14987, section 4.2. Gillespie 2001, doi:10.1063/1.1378322.
    """

    def step(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        noise: NoiseSource,
        number: int,
    ) -> Tensor:
        if float(s) == 0.0:
            return ancestral_step(process, model, x, t, s, noise, step=number, purpose="last")
        logits = model(x, t)
        middle = 0.5 * (s + t)
        if not process.ordered:
            return process.reverse_leap(x, logits, middle, t - s, noise, step=number)
        means = (t - s) * process.reverse_rates(x, logits, middle).scatter(-1, x[..., None], 0.0)
        u = noise.uniform(means.shape[1:], step=number, purpose="leap", dtype=torch.float64)
        levels = torch.arange(process.states, device=x.device)
        moved = (_poisson(u, means.to(torch.float64)) * (levels - x[..., None])).sum(-1)
        return (x + moved).clamp(0, process.states - 1)


def _poisson(u: Tensor, mean: Tensor) -> Tensor:
    """Poisson numbers, by inversion of uniform ones; rounded normal numbers for means above ``_NORMAL``. int64."""
    small = mean.clamp(max=_NORMAL)
    count, term = torch.zeros_like(mean, dtype=torch.int64), (-small).exp()
    reached, largest = term, float(small.max())
    for n in range(1, 30 + int(largest + 10.0 * largest**0.5)):
        count += u > reached
        term = term * small / n
        reached = reached + term
    normal = (mean + mean.sqrt() * torch.special.ndtri(u)).round().clamp(min=0.0)
    return torch.where(mean > _NORMAL, normal.long(), count)
