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

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scoresde.sde.linear import LinearSDE
from scoresde.sde.maps import LinearMap, ScalarMap

_SUBSTEP = 0.01
"""Largest step of the flow of blocks, in u: of R it leaves out 4e-8 for third-order Langevin diffusion (`test_whitening.py`)."""


@dataclass(frozen=True)
class WhitePoint:
    """The coordinates at one time, float64.

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

    def to(self, x: Tensor) -> WhitePoint:
        """The same in the dtype and on the device of x."""
        return WhitePoint(*(getattr(self, f.name).to(x) for f in fields(self)))


def white_points(sde: LinearSDE, times: Tensor, data_std: float) -> list[WhitePoint]:
    """The coordinates of ``sde`` at ``times`` (n + 1,), rising, for data of standard deviation ``data_std``."""
    times = times.to(torch.float64)
    spread = sde.diffusion_map(times).times((2.0 * sde.log_spread_slope(times)).rsqrt())
    covariance = _covariance(sde, times, data_std)
    if covariance.commutes:
        square = covariance.root()
        roots = [square[k] for k in range(len(times))]
    else:
        steps, roots = _flow_maps(sde, times, data_std), [covariance[0].root()]
        for k in range(len(times) - 1):
            roots.append(steps[k].compose(roots[-1]))
    points = []
    for k, root in enumerate(roots):
        b, precision, unroot = spread[k], covariance[k].inverse(), root.inverse()
        pull = b.transpose().compose(precision)
        trace = precision.root().transpose().compose(b).mean_square()
        points.append(
            WhitePoint(times[k], root, unroot, unroot.compose(b), pull.compose(root), b, root.log_det(), trace)
        )
    return points


def _covariance(sde: LinearSDE, t: Tensor, data_std: float) -> LinearMap:
    """S at t."""
    kernel = sde.kernel(t)
    a, noise = kernel.signal_map(), kernel.noise_map()
    return a.compose(a.transpose()).times(torch.full_like(t, data_std**2)).add(noise.compose(noise.transpose()))


def _flow_maps(sde: LinearSDE, times: Tensor, data_std: float) -> LinearMap:
    """The flow's maps from each time to the next, a batch of n, all intervals side by side: dR / d ln t = t M R."""
    count = int((sde.log_spread(times).diff().max() / _SUBSTEP).ceil())
    start, h = times[:-1].log(), times.log().diff() / count

    def field(step: float) -> LinearMap:
        t = (start + step * h).exp()
        g = sde.diffusion_map(t)
        pull = g.compose(g.transpose()).compose(_covariance(sde, t, data_std).inverse())
        return sde.drift_map(t).add(pull.times(torch.full_like(t, 0.5))).times(t * h)

    state: LinearMap = ScalarMap(torch.ones_like(start))
    two, end = torch.full_like(h, 2.0), field(0)
    for k in range(count):
        here, middle, end = end, field(k + 0.5), field(k + 1)
        first = here.compose(state)
        second = middle.compose(state.add(first.times(1 / two)))
        third = middle.compose(state.add(second.times(1 / two)))
        fourth = end.compose(state.add(third))
        state = state.add(first.add(second.add(third).times(two)).add(fourth).times(1 / (3 * two)))
    return state
