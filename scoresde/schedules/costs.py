r"""Costs of steps: the terms of the variational bound, and the cost of Analytic-DPM.

A step from t to s < t uses the model's estimate x_hat of x_0. Let x_t | x_s ~ N(a x_s, v I) be the transition, and::

    q(x_s | x_t, x_0) = N(m(x_t) + c x_0, w I)     w = v sigma_s^2 / sigma_t^2     c = alpha_s v / sigma_t^2
    p(x_s | x_t)      = N(m(x_t) + c x_hat, r I)

With e = E ||x_0 - x_hat||^2 / d, the term of the bound for d coordinates is::

    E KL(q || p) / d = (ln(r / w) + (w + c^2 e) / r - 1) / 2

It depends on the model by e alone, which one evaluation at each t gives for all s
(:func:`~scoresde.score.denoising_errors`). The reverse variance r is

- "upper": v, the variance of the forward step,
- "lower": w,
- "optimal": w + c^2 e, the variance that minimizes the term. The term is then ln(1 + c^2 e / w) / 2.

The last step, to the data, has a = alpha_t, v = sigma_t^2, w = 0 and c = 1. Its term is -E ln p(x_0 | x_t).

Analytic-DPM writes the optimal variance by Gamma = E ||z_hat||^2 / d, with e = (sigma_t / alpha_t)^2 (1 - Gamma)::

    ln(r / w) / 2 = ln(1 - v Gamma / sigma_t^2) / 2 + (h(t) - h(s)) / 2,     h = ln(sigma^2 / alpha^2)

The sum of h(t) - h(s) is the same for all grids with the same ends. For an exact score both costs have the same best grid.

References:
    Watson, Ho, Norouzi, Chan 2021, arXiv:2106.03802. Bao, Li, Zhu, Zhang 2022, arXiv:2201.06503.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_choice, check_count
from scoresde.schedules.dynamic_programming import OptimalGrids, optimal_grids
from scoresde.score.denoising import DenoisingErrors, check_scalar, noisy_times
from scoresde.sde import ScalarSDE


@checked_arguments
def bound_costs(sde: ScalarSDE, errors: DenoisingErrors, *, variance: str = "optimal") -> Tensor:
    """Terms E KL(q(x_s | x_t, x_0) || p(x_s | x_t)) / d of the variational bound, for all pairs of times.

    Args:
        sde: The process, or a chain of one.
        errors: Errors of the model at M times.
        variance: Reverse variance of p: "upper", "lower" or "optimal".

    Returns:
        Nats for each coordinate, (M, M) float64. Row j, column i is the step from ``errors.times[j]`` to
        ``errors.times[i]``. It is infinite if i >= j.

    Raises:
        ValueError: A time has no noise, or two times belong to one instant of the chain.

    References:
        Watson et al. 2021, arXiv:2106.03802.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.score import DenoisingErrors
        >>> errors = DenoisingErrors.of_gaussian(VPSDE(), torch.tensor([0.1, 0.5, 1.0]), std=0.5)
        >>> bound_costs(VPSDE(), errors, variance="upper").shape
        torch.Size([3, 3])
    """
    check_choice("variance", variance, ("upper", "lower", "optimal"))
    pairs = _Pairs.of(sde, errors)
    extra = (pairs.alpha_s * pairs.v / pairs.sigma_t**2) ** 2 * errors.data_error[pairs.later]
    w = pairs.v * (pairs.sigma_s / pairs.sigma_t) ** 2
    if variance == "optimal":
        return pairs.table(0.5 * (extra / w).log1p())
    r = pairs.v if variance == "upper" else w
    return pairs.table(0.5 * ((r / w).log() + (w + extra) / r - 1.0))


@checked_arguments
def decoder_costs(sde: ScalarSDE, errors: DenoisingErrors, *, variance: str = "optimal") -> Tensor:
    """Terms -E ln p(x_0 | x_t) / d of the variational bound, for a Gaussian decoder at each time.

    Args:
        sde: The process, or a chain of one.
        errors: Errors of the model at M times.
        variance: Variance of the decoder: "upper", which is sigma_t^2, or "optimal", which is ``errors.data_error``.

    Returns:
        Nats for each coordinate, (M,) float64.

    Raises:
        ValueError: A time has no noise, or ``variance`` is not allowed.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.score import DenoisingErrors
        >>> errors = DenoisingErrors.of_gaussian(VPSDE(), torch.tensor([0.1, 0.5, 1.0]), std=0.5)
        >>> decoder_costs(VPSDE(), errors).shape
        torch.Size([3])
    """
    check_choice("variance", variance, ("upper", "optimal"))
    check_scalar(sde)
    r = errors.data_error if variance == "optimal" else sde.sigma(noisy_times(sde, errors.times)) ** 2
    share = 1.0 if variance == "optimal" else errors.data_error / r
    return 0.5 * ((2.0 * math.pi * r).log() + share)


@checked_arguments
def analytic_costs(sde: ScalarSDE, errors: DenoisingErrors) -> Tensor:
    """The cost ln(1 - v Gamma_t / sigma_t^2) / 2 of Analytic-DPM, for all pairs of times.

    For VP this is ln(1 - (1 - alpha_(t|s)) E ||score||^2 / d) / 2, with alpha_(t|s) as in the paper. Gamma_t is at most 1
    for an exact score, and an estimate above 1 counts as 1.

    Args:
        sde: The process, or a chain of one.
        errors: Errors of the model at M times.

    Returns:
        Nats for each coordinate, up to a constant for grids with the same ends, (M, M) float64. Row j, column i is the step
        from ``errors.times[j]`` to ``errors.times[i]``. It is infinite if i >= j.

    Raises:
        ValueError: A time has no noise, or two times belong to one instant of the chain.

    References:
        Bao et al. 2022, arXiv:2201.06503.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.score import DenoisingErrors
        >>> errors = DenoisingErrors.of_gaussian(VPSDE(), torch.tensor([0.1, 0.5, 1.0]), std=0.5)
        >>> bool((analytic_costs(VPSDE(), errors)[2, :2] < 0).all())
        True
    """
    pairs = _Pairs.of(sde, errors)
    gamma = errors.noise_square.clamp(max=1.0)[pairs.later]
    return pairs.table(0.5 * (-pairs.v / pairs.sigma_t**2 * gamma).log1p())


@checked_arguments
def analytic_grids(sde: ScalarSDE, errors: DenoisingErrors, steps: int) -> OptimalGrids:
    """The grids of Analytic-DPM: those with the smallest sum of ``analytic_costs``, from the last time to the first.

    Args:
        sde: The process, or a chain of one.
        errors: Errors of the model at M times.
        steps: Largest number of steps, at most M - 1.

    Returns:
        The grids of 1 to ``steps`` steps.

    Raises:
        ValueError: An argument is not allowed.

    References:
        Bao et al. 2022, arXiv:2201.06503.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.score import denoising_errors
        >>> sde, data = VPSDE(), GaussianMixture(torch.tensor([[-1.0], [1.0]]), stds=torch.tensor(0.2))
        >>> errors = denoising_errors(sde, data.score(sde), data.sample(500), torch.linspace(0.01, 1.0, 40))
        >>> analytic_grids(sde, errors, 5).grid(5).shape
        torch.Size([6])
    """
    check_count("steps", steps)
    return optimal_grids(errors.times, analytic_costs(sde, errors), steps)


@dataclass(frozen=True)
class _Pairs:
    """Coefficients of the steps between all pairs of times, (P,) each.

    Args:
        count: Number of times M.
        later: Index of t.
        earlier: Index of s.
        v: Variance of the transition from s to t.
        alpha_s: alpha at s.
        sigma_s: sigma at s.
        sigma_t: sigma at t.
    """

    count: int
    later: Tensor
    earlier: Tensor
    v: Tensor
    alpha_s: Tensor
    sigma_s: Tensor
    sigma_t: Tensor

    @classmethod
    def of(cls, sde: ScalarSDE, errors: DenoisingErrors) -> _Pairs:
        check_scalar(sde)
        times = noisy_times(sde, errors.times)
        later, earlier = torch.tril_indices(len(times), len(times), offset=-1)
        v = sde.transition(times[earlier], times[later]).level() ** 2
        if not bool((v > 0).all()):
            at = times[later][v <= 0][0]
            raise ValueError(
                f"errors.times: the step to t={float(at):g} of {sde!r} adds no noise: give times farther apart, and each "
                "instant of a chain once"
            )
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        return cls(len(times), later, earlier, v, alpha[earlier], sigma[earlier], sigma[later])

    def table(self, values: Tensor) -> Tensor:
        """``values`` (P,) as a table (M, M), with infinity elsewhere."""
        table = torch.full((self.count, self.count), math.inf, dtype=torch.float64)
        table[self.later, self.earlier] = values
        return table
