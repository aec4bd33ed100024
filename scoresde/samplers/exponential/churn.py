r"""Churn of Karras et al. 2022 (arXiv:2206.00364, algorithm 2): noise is added before each step of a sampler.

The state goes forward from t to the time t' with

.. math:: \frac{\sigma_{t'}}{\alpha_{t'}} = (1 + \gamma) \frac{\sigma_t}{\alpha_t}

by the transition of the process, and the probability flow continues from there. Both keep the marginals, so that the
order of the method does not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.samplers.exponential.coefficients import Factor, factors
from scoresde.samplers.exponential.parameterization import NoiseParameterization, Parameterization
from scoresde.samplers.instants import Instant
from scoresde.sde import LinearSDE


@dataclass(frozen=True)
class Churn:
    """Settings of the noise that is added before each of N steps.

    Args:
        amount: S_churn >= 0, with gamma = min(amount / N, sqrt(2) - 1).
        low: S_min, the smallest sigma / alpha at which noise is added.
        high: S_max, the largest sigma / alpha at which noise is added.
        inflate: S_noise, a factor on the noise, > 0.

    Raises:
        ValueError: If a number is out of range.

    References:
        Karras et al. 2022, arXiv:2206.00364, algorithm 2.
    """

    amount: float = 40.0
    low: float = 0.0
    high: float = math.inf
    inflate: float = 1.0

    def __post_init__(self) -> None:
        check_number("amount", self.amount, least=0.0)
        check_number("low", self.low, least=0.0)
        check_number("inflate", self.inflate, above=0.0)
        if not self.high > self.low:
            raise ValueError(f"high={self.high!r} is not allowed: give a number > low={self.low!r}")

    def times(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """Times at which the steps start after noise is added.

        Args:
            sde: The process.
            t: (N,), times of the grid.

        Returns:
            (N,), times at or above t.
        """
        level = sde.log_noise(t)
        gamma = min(self.amount / len(t), math.sqrt(2.0) - 1.0)
        inside = (level.exp() >= self.low) & (level.exp() <= self.high)
        return torch.where(inside, sde.time_of_log_noise(level + math.log1p(gamma)), t).maximum(t)

    def added(self, x: Tensor, at: Instant, to: Instant, z: Tensor) -> Tensor:
        """The state at a higher time: alpha' x / alpha + S_noise sqrt(sigma'^2 - (alpha' sigma / alpha)^2) z.

        Args:
            x: (B, *state), the state.
            at: Its time.
            to: The higher time.
            z: Standard normal noise, the shape of x.

        Returns:
            (B, *state), the state at ``to``.
        """
        a = to.alpha / at.alpha
        std = max(to.sigma**2 - (a * at.sigma) ** 2, 0.0) ** 0.5
        noised: Tensor = a * x + self.inflate * std * z
        return noised


def check_stable(sde: LinearSDE, parameterization: Parameterization, times: Tensor) -> None:
    """Raise ValueError if the added noise would grow in the steps."""
    if isinstance(parameterization, NoiseParameterization) and not sde.kernel(times).noise_map().commutes:
        raise ValueError(
            f"churn with parameterization={parameterization!r} is not allowed for {sde!r}, whose maps do not commute: "
            "it is unstable, give ExponentialRungeKutta(steps, 2, Whitened(data_std=...), heun=True, churn=...)"
        )


def churn_factors(
    sde: LinearSDE, churn: Churn, t: Tensor, raised: Tensor, like: Tensor
) -> tuple[list[Factor], list[Factor]]:
    """Factors of the state and of the noise for the transitions from times t to the higher times ``raised``."""
    kernel = sde.transition(t, raised)
    noise_scale = kernel.noise_map().times(torch.full_like(t, churn.inflate))
    return factors(kernel.signal_map(), like, len(t)), factors(noise_scale, like, len(t))
