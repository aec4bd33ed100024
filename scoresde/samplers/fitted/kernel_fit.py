r"""Fits all coefficients of a sampler to data, by a kernel distance between its samples and the data.

The samples x of a :class:`GGDM` are a differentiable function of its coefficients and of the noise. With features phi, the
coefficients minimize the unbiased estimate of the squared maximum mean discrepancy

.. math::
    \mathrm{MMD}^2 = \frac{1}{B(B-1)} \sum_{i \ne j} \left[ k(\phi(x_i), \phi(x_j)) + k(\phi(y_i), \phi(y_j)) \right]
        - \frac{2}{B^2} \sum_{ij} k(\phi(x_i), \phi(y_j))

by Adam, with new noise and other data in each update. The gradient goes through all evaluations of the score. They are computed
again in the backward pass, so the memory holds the states and one evaluation. The fit begins at DDIM. The draws of update i
depend only on (seed, i), so a fit that was stopped and is run again ends with the same numbers.

Both samplers, the fitted one and DDIM, are then measured on noise and data that the fit did not use. The better one is returned.

References:
    Watson, Chan, Ho, Norouzi 2022, "Learning fast samplers for diffusion models by differentiating through sample quality",
    arXiv:2202.05830.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import (
    check_batch,
    check_count,
    check_finite,
    check_kind,
    check_number,
    check_seed,
    check_sizes,
    shown,
)
from scoresde.noise import NoiseSource
from scoresde.samplers import grids
from scoresde.samplers.exponential.coefficients import linear_process
from scoresde.samplers.fitted.expectation import KernelExpectation
from scoresde.samplers.fitted.fingerprint import fingerprint
from scoresde.samplers.fitted.ggdm import GGDM, scalar_process
from scoresde.samplers.fitted.sampler import FittedSampler
from scoresde.samplers.grids import end_time
from scoresde.sde import ScalarSDE, Score
from scoresde.sde.scores import in_evaluation_mode

Kernel = Callable[[Tensor, Tensor], Tensor]
"""A positive definite function of features (n, F) and (m, F) that returns (n, m)."""
Features = Callable[[Tensor], Tensor]
"""A differentiable function (B, *event) -> (B, F)."""
_BLOCKS = 8
"""Number of batches on which the samplers are measured after the fit."""
_FIRST_MEASURED = 2**31
"""Index of the first sample that is measured. It is above the indices of the fit."""


def _check_features(x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless x is (n, F) and y is (m, F), both finite."""
    check_sizes("x", x, "n", "F")
    check_sizes("y", y, "m", x.shape[1])
    check_finite("x", x)
    check_finite("y", y)


@checked_arguments
def distance_kernel(x: Tensor, y: Tensor) -> Tensor:
    """-||x - y||, for which the squared MMD is the energy distance. It has no scale to choose.

    Args:
        x: (n, F).
        y: (m, F).

    Returns:
        (n, m).

    Raises:
        ValueError: If the shapes do not fit, or a number is not finite.

    Example:
        >>> import torch
        >>> distance_kernel(torch.zeros(2, 3), torch.ones(4, 3)).shape
        torch.Size([2, 4])
    """
    _check_features(x, y)
    return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


@checked_arguments
def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / F + 1)^3, the kernel of the kernel distance (KID).

    Args:
        x: (n, F).
        y: (m, F).

    Returns:
        (n, m).

    Raises:
        ValueError: If the shapes do not fit, or a number is not finite.

    Example:
        >>> import torch
        >>> cubic_kernel(torch.zeros(2, 3), torch.ones(4, 3)).shape
        torch.Size([2, 4])
    """
    _check_features(x, y)
    return (x @ y.T / x.shape[1] + 1.0) ** 3


@checked_arguments
@in_evaluation_mode("score", "features")
def fit_ggdm(
    sde: ScalarSDE,
    score: Score,
    x: Tensor,
    steps: int = 5,
    *,
    kernel: Kernel = distance_kernel,
    features: Features | None = None,
    eta: float = 0.0,
    fit_times: bool = False,
    updates: int = 400,
    batch_size: int = 256,
    learning_rate: float = 0.02,
    t_min: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> FittedSampler:
    """Fit the coefficients of a :class:`GGDM` sampler to data, starting from DDIM on a uniform grid.

    Args:
        sde: Process of the score, with scalar coefficients.
        score: (x, t) -> score, differentiable in x. It is called with ``batch_size`` samples.
        x: Data, (n, \\*event), with n at least ``2 * batch_size``. The last quarter, or the last ``batch_size`` if that is
            more, is used only for the measurement.
        steps: Number of evaluations K of the score per sample.
        kernel: Kernel k of the distance, for example ``distance_kernel`` or ``cubic_kernel``.
        features: Function phi of the events, (B, \\*event) -> (B, F). None: the coordinates.
        eta: Scale of DDIM's noise at the beginning, in [0, 1]. With 0 the sampler has no noise.
        fit_times: Whether to fit the times too. The score must then be differentiable in t.
        updates: Number of updates. Each takes ``2 * steps`` evaluations of the score, and ``steps`` backward passes through it.
        batch_size: Number B of samples and of events in an update, at least 2.
        learning_rate: First step size of Adam, which falls to 0. Coefficients are in units in which all states have the scale 1.
        t_min: Last time. None: the process's own ``t_min`` if it has one, else 1e-3.
        seed: Seed of the noise and of the choice of data.
        dtype: Dtype of the samples: float32 or float64.
        device: Device of the samples.

    Returns:
        The sampler. Its attribute ``expected`` is the measured distance, a :class:`KernelExpectation`. If the fit is not
        better than DDIM, ``sampler`` has the coefficients of DDIM.

    Raises:
        TypeError: If the process does not have scalar coefficients.
        ValueError: If an argument is out of range, or kernel or features return another shape.
        FloatingPointError: If an update makes samples that are not finite.

    References:
        Watson et al. 2022, arXiv:2202.05830.

    Example:
        >>> sampler = fit_ggdm(sde, score, x, 5)  # doctest: +SKIP
        >>> samples = sampler(sde, score, (1000, 2), seed=0).samples  # doctest: +SKIP
    """
    scalar_process(sde, "fit_ggdm")
    check_count("steps", steps)
    check_count("updates", updates)
    check_count("batch_size", batch_size, least=2)
    check_number("eta", eta, least=0.0, most=1.0)
    check_number("learning_rate", learning_rate, above=0.0)
    check_seed("seed", seed)
    check_kind(dtype, device)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype} is not allowed: give torch.float32 or torch.float64")
    check_batch("x", x)
    check_finite("x", x)
    if len(x) < 2 * batch_size:
        raise ValueError(f"x has {len(x)} events: give at least 2 * batch_size = {2 * batch_size}")
    data = x.to(device, dtype)
    kept = max(batch_size, len(data) // 4)
    t_min = end_time(sde, t_min)
    distance = _Distance(kernel, features, batch_size, seed)
    table = _Coefficients(sde, grids.uniform(sde, steps, t_min), eta, fit_times)
    run = _Run(sde, score, distance)
    plain = table.sampler().detached()
    run.measured(plain, data[-kept:], blocks=1)  # errors of kernel and features are raised before the fit
    with torch.enable_grad():
        run.minimize(table, data[:-kept], updates, learning_rate)
    fitted = table.sampler().detached()
    values = {name: run.measured(one, data[-kept:]) for name, one in (("fitted", fitted), ("DDIM", plain))}
    better = values["fitted"].mean() < values["DDIM"].mean()
    chosen = values["fitted" if better else "DDIM"]
    expected = KernelExpectation(
        float(chosen.mean()), float(chosen.std() / math.sqrt(len(chosen))), float(values["DDIM"].mean()),
        _BLOCKS * batch_size, updates, bool(better),
    )  # fmt: skip
    process = linear_process(sde, "fit_ggdm")
    return FittedSampler(
        fitted if better else plain, expected, repr(process), fingerprint(process, tuple(data.shape[1:]))
    )


class _Coefficients:
    """The parameters of the fit: differences from DDIM at the present times, in units in which all states have the scale 1.

    Args:
        sde: The process.
        times: The times of DDIM, (K + 1,).
        eta: Scale of DDIM's noise.
        fit_times: Whether the times are parameters.
    """

    def __init__(self, sde: ScalarSDE, times: Tensor, eta: float, fit_times: bool) -> None:
        steps = len(times) - 1
        self.sde, self.times, self.eta = sde, times, eta
        self.c, self.d, self.s = (torch.zeros(n, dtype=torch.float64) for n in ((steps,), (steps, steps), (steps,)))
        self.parameters = [self.c, self.d] + [self.s] * (eta > 0.0)
        self.gaps = (-times.diff()).log()  # only their ratios matter: first and last time are fixed
        if fit_times and steps > 1:
            self.parameters.append(self.gaps)
        for parameter in self.parameters:
            parameter.requires_grad_()

    def sampler(self) -> GGDM:
        """The sampler of the present parameters, with a graph to them."""
        times = self.times
        if self.gaps.requires_grad:
            share = self.gaps.softmax(0).cumsum(0)[:-1]
            times = torch.cat((times[:1], times[0] + (times[-1] - times[0]) * share, times[-1:]))
        alpha, sigma = self.sde.alpha(times), self.sde.sigma(times)
        size = (alpha.square() + sigma.square()).sqrt().detach()
        first = GGDM.ddim(self.sde, times, eta=self.eta)
        return GGDM(
            times,
            first.c + size[1:] * self.c,
            first.d + size[1:, None] / size[:-1] * self.d.tril(),
            first.s + sigma[1:].detach() * self.s,
        )


@dataclass(frozen=True)
class _Distance:
    """The squared MMD of batches of events."""

    kernel: Kernel
    features: Features | None
    batch_size: int
    seed: int

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The unbiased estimate for x (B, *event) and y (B, *event), ()."""
        x, y = self._features(x), self._features(y)
        n = len(x)
        within = sum(k.sum() - k.diagonal().sum() for k in (self._kernel(x, x), self._kernel(y, y)))
        return within / (n * (n - 1)) - 2.0 * self._kernel(x, y).mean()

    def _features(self, x: Tensor) -> Tensor:
        found = x.flatten(1) if self.features is None else self.features(x)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x) or not found.is_floating_point():
            raise ValueError(
                f"features={shown(self.features)} returned {shown(found)} for events of shape {tuple(x.shape)}: it must return "
                f"floating-point numbers ({len(x)}, F)"
            )
        return found

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        found = self.kernel(x, y)
        if not isinstance(found, Tensor) or found.shape != (len(x), len(y)):
            raise ValueError(
                f"kernel={shown(self.kernel)} returned {shown(found)} for features {tuple(x.shape)} and {tuple(y.shape)}: it "
                f"must return ({len(x)}, {len(y)})"
            )
        return found


@dataclass(frozen=True)
class _Run:
    """Samples of one score, compared with data."""

    sde: ScalarSDE
    score: Score
    distance: _Distance

    def minimize(self, table: _Coefficients, data: Tensor, updates: int, learning_rate: float) -> None:
        """Adam, with a step size that falls to 0 as a cosine."""
        size, seed = self.distance.batch_size, self.distance.seed
        optimizer = torch.optim.Adam(table.parameters, lr=learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        for update in range(updates):
            noise = NoiseSource.of(seed, size, update * size, data.device)
            place = noise.uniform((), step=0, purpose="data", dtype=torch.float64) * len(data)
            value = self.distance(self._samples(table.sampler(), noise, data, graph=True), data[place.long()])
            gradients = torch.autograd.grad(value, table.parameters)
            if not all(bool(g.isfinite().all()) for g in gradients):
                raise FloatingPointError(
                    f"update {update} has a gradient that is not finite: give a smaller learning_rate"
                )
            for parameter, gradient in zip(table.parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()

    @torch.no_grad()
    def measured(self, sampler: GGDM, data: Tensor, blocks: int = _BLOCKS) -> Tensor:
        """Distances (blocks,) to data, on batches of noise that the fit does not use."""
        size, found = self.distance.batch_size, []
        for block in range(blocks):
            noise = NoiseSource.of(self.distance.seed, size, _FIRST_MEASURED + block * size, data.device)
            place = (block * size + torch.arange(size, device=data.device)) % len(data)
            found.append(self.distance(self._samples(sampler, noise, data, graph=False), data[place]))
        return torch.stack(found).to("cpu", torch.float64)

    def _samples(self, sampler: GGDM, noise: NoiseSource, data: Tensor, *, graph: bool) -> Tensor:
        shape = (len(noise.indices), *data.shape[1:])
        start = self.sde.prior_sample(shape, noise=noise, dtype=data.dtype, device=data.device)
        return sampler(self.sde, self.score, shape, noise=noise, start=start, differentiable=graph).samples
