"""The probability flow of Gaussian data, solved: coordinates in which a score close to a Gaussian's moves nothing.

Data N(0, c^2 I) has the marginal N(m_t, S),  S = c^2 A A^T + L L^T,  m_t = 0 unless the process is shifted, and the flow
d(x - m_t)/dt = M (x - m_t)  with

    M = F + G G^T S^-1 / 2         R(t): dR/dt = M R         w = R^-1 (x - m_t)  constant along it

For any other score, with h = B^T score and B = G (2 du/dt)^(-1/2) over the process's own clock u (`LinearSDE.log_spread`),

    dw/du = -R^-1 B (h + B^T S^-1 (x - m_t))         div dx/du = tr M dt/du - tr B^T S^-1 B - tr dh/dxi

with dh/dxi the Jacobian of xi -> B^T score(x + B xi). Where A = a, L = s a are numbers, -h is the noise that the score
stands for. Numbers and modes of a basis commute, and R is a root of S there; blocks do not, and R is the product of the
flow's steps, each by Runge and Kutta's method in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scoresde.sde.linalg.maps import BlockMap, LinearMap, ScalarMap
from scoresde.sde.linear import LinearSDE

_SUBSTEP = 0.01
"""Largest step of the flow of blocks, in u: of R it leaves out 4e-8 for third-order Langevin diffusion (`test_whitening.py`)."""


@dataclass(frozen=True)
class WhitePoint:
    """The coordinates at one time, float64. At n times all have n in front (`white_path`).

    root: R. unroot: R^-1. push: R^-1 B. pull: B^T S^-1 R. spread: B.
    log_det: ln |det R| per coordinate, (). gaussian_trace: tr B^T S^-1 B per coordinate, ().
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
        """Mean square of R over that of B: makes the trace of B^T H B that of R^T H R, for isotropic H."""
        return self.root.mean_square() / self.spread.mean_square()

    def to(self, x: Tensor) -> WhitePoint:
        """The same in the dtype and on the device of x."""
        return WhitePoint(*(getattr(self, f.name).to(x) for f in fields(self)))

    def unbind(self) -> list[WhitePoint]:
        """The points at single times."""
        return [
            WhitePoint(*parts) for parts in zip(*(getattr(self, f.name).unbind() for f in fields(self)), strict=True)
        ]


def white_points(sde: LinearSDE, times: Tensor, data_std: float) -> list[WhitePoint]:
    """The coordinates of ``sde`` at ``times`` (n + 1,), rising, for data of standard deviation ``data_std``."""
    return white_path(sde, times, data_std).unbind()


def white_path(sde: LinearSDE, times: Tensor, data_std: float) -> WhitePoint:
    """`white_points` as one, with all times in front: a number of operations that does not depend on how many they are, unless
    the process's maps are blocks."""
    times = times.to(torch.float64)
    spread, covariance = _at(sde, times, data_std)
    root = covariance.root() if covariance.commutes else _flow_roots(sde, times, data_std, covariance)
    precision, unroot = covariance.inverse(), root.inverse()
    pull = spread.transpose().compose(precision)
    trace = precision.root().transpose().compose(spread).mean_square()
    return WhitePoint(times, root, unroot, unroot.compose(spread), pull.compose(root), spread, root.log_det(), trace)


def _flow_roots(sde: LinearSDE, times: Tensor, data_std: float, covariance: LinearMap) -> LinearMap:
    """R at each of the times for blocks: a root of S at the first, and from there by the flow."""
    steps = flow_maps(sde, times[:-1], times[1:], lambda t: _at(sde, t, data_std)[1].inverse())
    roots = [covariance[0].root()]
    for step in steps.unbind():
        roots.append(step.compose(roots[-1]))
    blocks = [root for root in roots if isinstance(root, BlockMap)]
    return BlockMap(torch.stack(torch.broadcast_tensors(*(root.m for root in blocks))), blocks[0].basis)


def _at(sde: LinearSDE, t: Tensor, data_std: float) -> tuple[LinearMap, LinearMap]:
    """B and S at t."""
    kernel = sde.kernel(t)
    a, noise = kernel.signal_map(), kernel.noise_map()
    covariance = a.compose(a.transpose()).times(torch.full_like(t, data_std**2))
    covariance = covariance.add(noise.compose(noise.transpose()))
    return sde.diffusion_map(t).times((2.0 * sde.log_spread_slope(t)).rsqrt()), covariance


def flow_maps(sde: LinearSDE, start: Tensor, end: Tensor, precision: Callable[[Tensor], LinearMap]) -> LinearMap:
    """The maps y(start) -> y(end) of dy/dt = [F + G G^T S^-1 / 2] y for n pairs of times (n,), all side by side; S^-1 by
    ``precision``. The steps are even in ln(t + T / 10^6), and small in u."""
    offset = 1e-6 * sde.T
    width = sde.log_spread(end) - sde.log_spread(start)
    count = max(1, int((width.abs().max() / _SUBSTEP).ceil()))
    first, h = (start + offset).log(), ((end + offset).log() - (start + offset).log()) / count

    def field(step: float) -> LinearMap:
        shifted = (first + step * h).exp()
        t = (shifted - offset).clamp(0.0, sde.T)
        g = sde.diffusion_map(t)
        pull = g.compose(g.transpose()).compose(precision(t)).times(torch.full_like(t, 0.5))
        return pull.add(sde.drift_map(t)).times(shifted * h)

    state: LinearMap = ScalarMap(torch.ones_like(start))
    two, late = torch.full_like(h, 2.0), field(0)
    for k in range(count):
        early, middle, late = late, field(k + 0.5), field(k + 1)
        one = early.compose(state)
        second = middle.compose(state.add(one.times(1 / two)))
        third = middle.compose(state.add(second.times(1 / two)))
        fourth = late.compose(state.add(third))
        state = state.add(one.add(second.add(third).times(two)).add(fourth).times(1 / (3 * two)))
    return state
