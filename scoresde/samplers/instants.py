"""The coefficients of a grid as Python floats, for processes with scalar coefficients x_t = alpha x_0 + sigma z.

All coefficients are computed once, in float64 on the CPU. Times are moved to the device of the state once. A step is
then arithmetic on floats and tensors: it reads like its equation, and it does not wait for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from scoresde.sde import ScalarKernel, ScalarSDE

__all__ = ["Instant", "Interval"]


@dataclass(frozen=True, slots=True)
class Instant:
    """One time of a grid.

    Attributes:
        t: The time.
        alpha: Signal coefficient of x_t = alpha x_0 + sigma z.
        sigma: Standard deviation of the noise in x_t.
        lam: ln(alpha / sigma), half the log signal-to-noise ratio.
        F: Drift coefficient of dx = F x dt + g dw.
        g: Diffusion coefficient.
        time: ``t`` for the score, of shape ``(B,)``, in the dtype and on the device of the state.
        clock: ``t`` for a callback, of shape ``()``, in the dtype and on the device of the state.
    """

    t: float
    alpha: float
    sigma: float
    lam: float
    F: float
    g: float
    time: Tensor
    clock: Tensor


@dataclass(frozen=True, slots=True)
class Interval:
    """One step of a grid.

    Attributes:
        index: 0 for the first step.
        at: Start of the step, where the score is evaluated.
        to: End of the step, at a lower time.
        h: Length of the step in t, as the discretization defines it.
        a: Coefficient of the forward step x_t = a x_s + std z from ``to`` to ``at``.
        std: Standard deviation of the noise of the forward step.
        level: Sigma of the continuous process at ``at``.
        churned: Where the step starts after EDM's churn added noise. None without churn.
    """

    index: int
    at: Instant
    to: Instant
    h: float
    a: float
    std: float
    level: float
    churned: Instant | None = None

    @property
    def posterior_std(self) -> float:
        """Standard deviation of q(x_s | x_t, x_0)."""
        return self.std * self.to.sigma / self.at.sigma

    @property
    def snr_gain(self) -> float:
        """Difference of the signal-to-noise ratios (alpha / sigma)^2 at s and at t. Infinite if x_s has no noise."""
        return (self.to.alpha * self.std / (self.to.sigma * self.at.sigma)) ** 2 if self.to.sigma else math.inf


def instants(sde: ScalarSDE, times: Tensor, like: Tensor) -> list[Instant]:
    """The instants at the times (n,) float64, for states like ``like`` (B, *state)."""
    kernel = sde.kernel(times)
    assert isinstance(kernel, ScalarKernel)
    columns = (times, kernel.a, kernel.std, -sde.log_noise(times), sde.drift_coefficient(times), sde.diffusion(times))
    table = torch.stack(columns, 1).tolist()
    moved = times.to(like)
    clocks, rows = moved.unbind(), moved[:, None].expand(-1, len(like)).unbind()
    return [
        Instant(t, alpha, sigma, lam, drift, g, row, clock)
        for (t, alpha, sigma, lam, drift, g), row, clock in zip(table, rows, clocks, strict=True)
    ]


def exact_intervals(sde: ScalarSDE, times: Tensor, like: Tensor) -> list[Interval]:
    """The steps between the times (N + 1,), with the transitions of the process."""
    kernel = sde.transition(times[1:], times[:-1])
    assert isinstance(kernel, ScalarKernel)
    forward = zip(kernel.a.tolist(), kernel.std.tolist(), strict=True)
    points = pairwise(instants(sde, times, like))
    return [
        Interval(k, at, to, at.t - to.t, a, std, at.sigma)
        for k, ((at, to), (a, std)) in enumerate(zip(points, forward, strict=True))
    ]


def chain_intervals(sde: ScalarSDE, times: Tensor, widths: Tensor, steps: int, like: Tensor) -> list[Interval]:
    """The N = ``steps`` steps of the process's chain, which start at the times (N + 1,) without the last.

    The marginal at ``to`` is the one from which the chain's step leads to the marginal at ``at``: alpha_s = alpha_t / a
    and sigma_s^2 = (sigma_t^2 - std^2) / a^2, or 0 where this is negative.
    """
    chain = sde.discretize(steps)
    step, marginal = chain.step(times[:-1]), chain.kernel(times[:-1])
    columns = (widths, step.a, step.std, marginal.a, marginal.std, sde.continuous.noise_level(times[:-1]))
    found = []
    for k, ((at, to), numbers) in enumerate(
        zip(pairwise(instants(sde, times, like)), torch.stack(columns, 1).tolist(), strict=True)
    ):
        h, a, std, alpha, sigma, level = numbers
        at = replace(at, alpha=alpha, sigma=sigma)
        to = replace(to, alpha=alpha / a, sigma=max(sigma**2 - std**2, 0.0) ** 0.5 / a)
        found.append(Interval(k, at, to, h, a, std, level))
    return found


def with_noise(sde: ScalarSDE, intervals: list[Interval]) -> list[Interval]:
    """Return the steps. Raise ValueError if the process has no noise at one of their times."""
    if not all(math.isfinite(interval.at.lam + interval.to.lam) for interval in intervals):
        raise ValueError(
            f"the grid ends at t={intervals[-1].to.t:g}, where {sde!r} has no noise: give a grid that ends at t_min > 0"
        )
    return intervals
