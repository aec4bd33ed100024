"""Exact solution of the probability flow for Gaussian data, as a change of coordinates.

In the new coordinates, a point does not move if the score is that of Gaussian data, and moves little if the score is
close to it.

Data N(0, c^2 I) has the marginal N(m_t, S) with S = c^2 A A^T + L L^T, and m_t = 0 unless the process is shifted. The
probability flow is d(x - m_t)/dt = M (x - m_t) with::

    M = F + G G^T S^-1 / 2         R(t): dR/dt = M R         w = R^-1 (x - m_t)  is constant along the flow

For any other score, use the time variable u of ``LinearSDE.log_spread``, B = G (2 du/dt)^(-1/2) and h = B^T score::

    dw/du = -R^-1 B (h + B^T S^-1 (x - m_t))         div dx/du = tr M dt/du - tr B^T S^-1 B - tr dh/dxi

Here dh/dxi is the Jacobian of xi -> B^T score(x + B xi). For scalar coefficients, -h is the expected noise E[z | x_t].
Scalar maps and maps that are diagonal in one basis commute, and R is a root of S. Blocks do not commute, and R is the
product of the maps of the flow over small steps, each computed by the fourth-order Runge-Kutta method in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scoresde.sde.linalg.maps import BlockMap, LinearMap, ScalarMap
from scoresde.sde.linear import LinearSDE

_SUBSTEP = 0.01
"""Largest step of the flow of blocks, in u. For third-order Langevin diffusion the error of R is 4e-8 (``test_whitening.py``)."""

_AT_ONCE = 2**16
"""Numbers of the maps of the small steps that are computed together."""


@dataclass(frozen=True)
class WhitePoint:
    """Change of coordinates at one time, in float64. For n times all fields have a leading dimension n (``white_path``).

    Attributes:
        t: Time, ``()``.
        root: R.
        unroot: R^-1.
        push: R^-1 B.
        pull: B^T S^-1 R.
        spread: B.
        log_det: ln |det R| per coordinate, ``()``.
        gaussian_trace: tr B^T S^-1 B per coordinate, ``()``.
    """

    t: Tensor
    root: LinearMap
    unroot: LinearMap
    push: LinearMap
    pull: LinearMap
    spread: LinearMap
    log_det: Tensor
    gaussian_trace: Tensor

    @property
    def stretch(self) -> Tensor:
        """Mean square of R divided by that of B. For isotropic H it converts tr B^T H B to tr R^T H R."""
        return self.root.mean_square() / self.spread.mean_square()

    def to(self, x: Tensor) -> WhitePoint:
        """Convert to the dtype and device of x."""
        return WhitePoint(*(getattr(self, f.name).to(x) for f in fields(self)))

    def unbind(self) -> list[WhitePoint]:
        """List of the changes of coordinates at the single times."""
        return [
            WhitePoint(*parts) for parts in zip(*(getattr(self, f.name).unbind() for f in fields(self)), strict=True)
        ]


def white_points(sde: LinearSDE, times: Tensor, data_std: float) -> list[WhitePoint]:
    """Changes of coordinates of ``sde`` at increasing ``times`` ``(n + 1,)``, for data of standard deviation ``data_std``."""
    return white_path(sde, times, data_std).unbind()


def white_path(sde: LinearSDE, times: Tensor, data_std: float) -> WhitePoint:
    """The same as ``white_points``, in one object with a leading time dimension.

    The number of operations does not depend on the number of times, unless the maps of the process are blocks.
    """
    times = times.to(torch.float64)
    spread, covariance = _at(sde, times, data_std)
    root = covariance.root() if covariance.commutes else _flow_roots(sde, times, data_std, covariance)
    precision, unroot = covariance.inverse(), root.inverse()
    pull = spread.transpose().compose(precision)
    trace = precision.root().transpose().compose(spread).mean_square()
    return WhitePoint(times, root, unroot, unroot.compose(spread), pull.compose(root), spread, root.log_det(), trace)


def _flow_roots(sde: LinearSDE, times: Tensor, data_std: float, covariance: LinearMap) -> LinearMap:
    """R at each of the times for blocks: a root of S at the first time, then propagated by the flow."""
    steps = flow_maps(sde, times[:-1], times[1:], lambda t: _at(sde, t, data_std)[1].inverse())
    roots = [covariance[0].root()]
    for step in steps.unbind():
        roots.append(step.compose(roots[-1]))
    blocks = [root for root in roots if isinstance(root, BlockMap)]
    return BlockMap(torch.stack(torch.broadcast_tensors(*(root.m for root in blocks))), blocks[0].basis)


def _at(sde: LinearSDE, t: Tensor, data_std: float) -> tuple[LinearMap, LinearMap]:
    """B and S at time t."""
    kernel = sde.kernel(t)
    a, noise = kernel.signal_map(), kernel.noise_map()
    covariance = a.compose(a.transpose()).times(torch.full_like(t, data_std**2))
    covariance = covariance.add(noise.compose(noise.transpose()))
    return sde.diffusion_map(t).times((2.0 * sde.log_spread_slope(t)).rsqrt()), covariance


def flow_maps(sde: LinearSDE, start: Tensor, end: Tensor, precision: Callable[[Tensor], LinearMap]) -> LinearMap:
    """Maps y(start) -> y(end) of dy/dt = [F + G G^T S^-1 / 2] y for n pairs of times ``(n,)``, computed in parallel.

    ``precision`` returns S^-1 at given times. The steps have equal length in ln(t + T / 10^6), and are small in u.
    """
    offset = 1e-6 * sde.T
    width = sde.log_spread(end) - sde.log_spread(start)
    count = max(1, int((width.abs().max() / _SUBSTEP).ceil()))
    first, h = (start + offset).log(), ((end + offset).log() - (start + offset).log()) / count

    n = len(start)

    def field(steps: Tensor) -> LinearMap:
        """h dy/dt at fractional numbers of steps (k,), with a leading dimension k n."""
        shifted = (first + steps[:, None] * h).exp().flatten()
        t = (shifted - offset).clamp(0.0, sde.T)
        g = sde.diffusion_map(t)
        pull = g.compose(g.transpose()).compose(precision(t)).times(torch.full_like(t, 0.5))
        return pull.add(sde.drift_map(t)).times(shifted * h.repeat(len(steps)))

    state: LinearMap = ScalarMap(torch.ones_like(start))
    chunk = max(1, _AT_ONCE // _numbers(sde.drift_map(start)))
    for done in range(0, count, chunk):
        k = torch.arange(done, min(done + chunk, count) + 1).to(h)
        ends, middle = field(k), field(k[:-1] + 0.5)
        early, late = ends[: n * (len(k) - 1)], ends[n:]
        same = ScalarMap(torch.ones(n * (len(k) - 1)).to(h))
        half = 0.5 * same.c
        second = middle.compose(same.add(early.times(half)))
        third = middle.compose(same.add(second.times(half)))
        fourth = late.compose(same.add(third))
        steps = same.add(early.add(second.add(third).times(4.0 * half)).add(fourth).times(half / 3.0))
        for j in range(len(k) - 1):
            state = steps[n * j : n * (j + 1)].compose(state)
    return state


def _numbers(one: LinearMap) -> int:
    """How many numbers the map has."""
    return one.m.numel() if isinstance(one, BlockMap) else int(one.log_det().numel())
