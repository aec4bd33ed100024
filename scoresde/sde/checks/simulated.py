r"""Checks of a process without a closed-form kernel, from samples of x_t, in float64.

The coefficients are compared with each other at points, with central differences for the divergence D = div(g g^T)::

    g g^T v         = g (g^T v)                    with the columns of g from unit vectors
    reverse drift   = f - D - g g^T s,             flow drift = f - D / 2 - g g^T s / 2

Samples of x_t and the coefficients must satisfy Dynkin's formula between two times a < b, for each coordinate and for |x|^2:

.. math::
    E[x_b] - E[x_a] = \int_a^b E[f(x_t, t)] \, dt, \qquad
    E|x_b|^2 - E|x_a|^2 = \int_a^b E\big[ 2 x_t^T f(x_t, t) + \mathrm{tr}(g g^T) \big] \, dt

The integral is a Gauss-Legendre sum, with independent samples at each node. The prior is compared with the ends of paths
(``endpoints.py``), and its density with its samples by E[q(x) / p(x)] = 1 for a Gaussian q that is narrower than p. Errors of
means over samples are in standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.sde.base import SDE
from scoresde.sde.checks.endpoints import end_points
from scoresde.sde.checks.report import PRIOR_LIMIT, TOLERANCE, CheckRow

COUNT, NODES = 4096, 8
SIGMAS = 6.0
"""Largest error in standard errors: 2 false alarms in 1e9 rows."""
NARROW = 0.4
"""Standard deviation of the Gaussian q relative to that of the prior."""


@dataclass(frozen=True)
class SimulatedProcess:
    """A process and the data with which it is checked.

    Args:
        sde: The process.
        event_shape: Shape of the events.
        data_std: Standard deviation of the data.
    """

    sde: SDE
    event_shape: tuple[int, ...]
    data_std: float

    def data(self, count: int = COUNT, dtype: torch.dtype = torch.float64) -> Tensor:
        """Gaussian data."""
        z = NoiseSource.of(0, count).normal(self.event_shape, step=0, purpose="check data", dtype=torch.float64)
        return (self.data_std * z).to(dtype)

    def states(self, t: float, step: int, count: int = COUNT) -> Tensor:
        """Samples of x_t. ``step`` is the number of the draw."""
        times = torch.full((count,), t, dtype=torch.float64)
        return self.sde.marginal_sample(self.data(count), times, NoiseSource.of(1, count), step=step)


def coefficients(process: SimulatedProcess) -> list[CheckRow]:
    """The diffusion matrix, and the drifts of the reverse SDE and of the probability flow."""
    sde, matrix, reverse, flow = process.sde, 0.0, 0.0, 0.0
    for t in (0.1 * sde.T, 0.7 * sde.T):
        x = process.states(t, step=0, count=4)
        s = torch.ones_like(x)
        time = torch.full((4,), t, dtype=x.dtype)
        root, found = _matrix(sde.apply_diffusion, x, time), _matrix(sde.apply_diffusion_matrix, x, time)
        wanted = root @ root.mT
        matrix = max(matrix, _relative(found, wanted))
        pull = (found @ s.reshape(len(s), -1, 1)).reshape(x.shape)
        spread = _divergence(sde, x, time)
        drift = sde.drift(x, time)
        reverse = max(reverse, _relative(sde.reverse_drift(x, time, s), drift - spread - pull))
        flow = max(flow, _relative(sde.flow_drift(x, time, s), drift - 0.5 * spread - 0.5 * pull))
    hint = "the divergence D of g g^T is wrong, or missing where g depends on x"
    return [
        CheckRow("diffusion matrix is g g^T", matrix, TOLERANCE, "" if matrix <= TOLERANCE else "is it g^2, not g?"),
        CheckRow("drift of the reverse SDE", reverse, 1e-5, "" if reverse <= 1e-5 else hint),
        CheckRow("drift of the probability flow", flow, 1e-5, "" if flow <= 1e-5 else hint),
    ]


def samples(process: SimulatedProcess) -> list[CheckRow]:
    """Dynkin's formula for the samples of x_t, in standard errors."""
    sde = process.sde
    first, last = 0.01 * sde.T, sde.T
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    times = 0.5 * (first + last) + 0.5 * (last - first) * nodes
    change, variance = _moments(process.states(last, step=1), minus=process.states(first, step=2))
    for k, (t, weight) in enumerate(zip(times.tolist(), (0.5 * (last - first) * weights).tolist(), strict=True)):
        x = process.states(t, step=3 + k)
        time = torch.full((len(x),), t, dtype=x.dtype)
        drift = sde.drift(x, time).reshape(len(x), -1)
        trace = _trace(sde, x, time)
        square = 2.0 * (x.reshape(len(x), -1) * drift).sum(1) + trace
        rates = torch.cat((drift, square[:, None]), 1)
        change = change - weight * rates.mean(0)
        variance = variance + weight**2 * rates.var(0) / len(rates)
    errors = change.abs() / variance.sqrt()
    mean, square_error = float(errors[:-1].max()), float(errors[-1])
    return [
        CheckRow(
            "mean of x_t from the drift", mean, SIGMAS,
            "" if mean <= SIGMAS else "marginal_sample does not follow the drift; more steps of its simulation?",
        ),
        CheckRow(
            "spread of x_t from the SDE", square_error, SIGMAS,
            "" if square_error <= SIGMAS else "marginal_sample does not follow drift and diffusion: is it g, not g^2?",
        ),
    ]  # fmt: skip


def prior(process: SimulatedProcess) -> list[CheckRow]:
    """The prior against the ends of paths, and its density against its samples."""
    ends = end_points(process.sde, process.data())
    hint = (
        f"paths end with mean {ends.mean:.3g} and standard deviation {ends.std:.3g}, the prior has {ends.prior_mean:.3g} and "
        f"{ends.prior_std:.3g}: is T large enough?"
    )
    x = process.sde.prior_sample((COUNT, *process.event_shape), seed=5, dtype=torch.float64)
    flat = x.reshape(len(x), -1)
    mean, std = flat.mean(0), NARROW * flat.std(0)
    z = (flat - mean) / std
    narrow = (-0.5 * z**2 - std.log() - 0.5 * math.log(2.0 * math.pi)).sum(1)
    ratio = (narrow - process.sde.prior_log_prob(x)).exp()
    error = float((ratio.mean() - 1.0).abs() / (ratio.std() / math.sqrt(len(ratio))).clamp(min=1e-12))
    return [
        CheckRow("prior, nats per coordinate", ends.mismatch, PRIOR_LIMIT, "" if ends.mismatch <= PRIOR_LIMIT else hint),
        CheckRow(
            "density of the prior, std. errors", error, SIGMAS,
            "" if error <= SIGMAS else f"prior_log_prob is not the density of prior_sample: E[q / p] = {float(ratio.mean()):.3g}",
        ),
    ]  # fmt: skip


def shapes(process: SimulatedProcess) -> list[CheckRow]:
    """Shapes and types of all methods that take a state, in float32 and float64."""
    sde, problems = process.sde, list[str]()
    for dtype in (torch.float64, torch.float32):
        x0 = process.data(2, dtype)
        t = torch.tensor([0.3 * sde.T, 0.7 * sde.T], dtype=dtype)
        x = sde.marginal_sample(x0, t, NoiseSource.of(0, 2))
        z = torch.ones(2, *sde.state_shape(process.event_shape), dtype=dtype)
        made = {
            "marginal_sample": x,
            "drift": sde.drift(x, t),
            "apply_diffusion": sde.apply_diffusion(z, t, x),
            "apply_diffusion_matrix": sde.apply_diffusion_matrix(z, t, x),
            "reverse_drift": sde.reverse_drift(x, t, z),
            "prior_sample": sde.prior_sample((2, *process.event_shape), dtype=dtype),
        }
        for name, value in made.items():
            if value.shape != z.shape or value.dtype != dtype:
                problems.append(f"{name} gives {tuple(value.shape)}, {value.dtype} for {tuple(z.shape)}, {dtype}")
        density = sde.prior_log_prob(x)
        if density.shape != (2,):
            problems.append(f"prior_log_prob gives {tuple(density.shape)} for 2 states: give (2,)")
    return [CheckRow("shapes and types", float(len(problems)), 0.0, problems[0] if problems else "")]


def edges(process: SimulatedProcess) -> list[CheckRow]:
    """Finite values at both ends, and ValueError outside of [0, T]."""
    sde, problems = process.sde, list[str]()
    x = process.states(0.5 * sde.T, step=0, count=2)
    for t in (0.0, sde.T):
        time = torch.full((2,), t, dtype=x.dtype)
        values = (sde.drift(x, time), sde.apply_diffusion(torch.ones_like(x), time, x))
        if not all(bool(torch.isfinite(value).all()) for value in values):
            problems.append(f"not finite at t={t:g}")
    for t in (-0.1 * sde.T, 1.1 * sde.T, math.nan):
        try:
            sde.drift(x, torch.full((2,), t, dtype=x.dtype))
            problems.append(f"t={t:g} is accepted, but only [0, {sde.T:g}] is allowed: call self.check_time(t)")
        except ValueError:
            pass
    return [CheckRow("edge times", float(len(problems)), 0.0, problems[0] if problems else "")]


CHECKS: tuple[Callable[[SimulatedProcess], list[CheckRow]], ...] = (coefficients, samples, prior, shapes, edges)


def _matrix(apply: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """The matrix of ``apply(., t, x)`` at each state, (B, d, d): its columns are the images of unit vectors."""
    d = x[0].numel()
    units = torch.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])
    return torch.stack([apply(unit.expand_as(x), t, x).reshape(len(x), d) for unit in units], -1)


def _trace(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """tr(g g^T), (B,), without the matrix."""
    units = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
    rows = [
        sde.apply_diffusion_matrix(unit.expand_as(x), t, x).reshape(len(x), -1)[:, i] for i, unit in enumerate(units)
    ]
    return torch.stack(rows).sum(0)


def _divergence(sde: SDE, x: Tensor, t: Tensor, h: float = 1e-5) -> Tensor:
    """sum_j d(g g^T)_ij / dx_j by central differences, in the shape of x."""
    d, total = x[0].numel(), torch.zeros_like(x).reshape(len(x), -1)
    for j, unit in enumerate(torch.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])):
        after, before = (_matrix(sde.apply_diffusion_matrix, x + shift * unit, t) for shift in (h, -h))
        total = total + (after - before)[:, :, j] / (2.0 * h)
    return total.reshape(x.shape)


def _moments(x: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
    """Difference of the means of all coordinates and of |x|^2, (d + 1,), and its variance."""
    values = [
        torch.cat((v.reshape(len(v), -1), (v**2).reshape(len(v), -1).sum(1, keepdim=True)), 1) for v in (x, minus)
    ]
    return values[0].mean(0) - values[1].mean(0), sum((v.var(0) / len(v) for v in values), torch.zeros(()))


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
