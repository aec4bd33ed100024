"""Critically damped Langevin diffusion (Dockhorn, Vahdat, Kreis 2022, arXiv:2112.07068): the noise enters through a velocity.

The state is (x, v). With mass M, friction Gamma = 2 sqrt(M) (critical damping), rate beta > 0 and B(t) = beta t::

    dx = beta v / M dt        dv = -beta x dt - beta Gamma v / M dt + sqrt(2 Gamma beta) dw

    stationary distribution   N(0, I) x N(0, M I)        v_0 ~ N(0, gamma M I), marginalized (hybrid score matching)

With w = 1 / sqrt(M), and y = 2 w B between two times, the exponential of the drift is known exactly, with the double
eigenvalue -w::

    A = e^(-w B) [[1 + w B, B / M], [-B, 1 - w B]]

The covariance of the added noise is S - A S A^T for the stationary S = diag(1, M), which is::

    C_xx = P(3, y)        C_xv = y^2 e^-y / (2 w)        C_vv = M [1 - e^-y + e^-y (y - y^2 / 2)]

P(3, y) = 1 - e^-y (1 + y + y^2/2) is the regularized incomplete gamma function, which does not cancel for small y. Only
v has noise, so only the velocity component of the score is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.noise import NoiseSource
from scoresde.sde.linalg.kernel import MapKernel, standard_normal_log_prob
from scoresde.sde.linalg.maps import BlockMap
from scoresde.sde.linear import LinearSDE


@dataclass(frozen=True)
class CriticallyDampedLangevin(LinearSDE):
    r"""Critically damped Langevin diffusion of positions x (the data) and velocities v.

    .. math::
        dx = \frac{\beta}{M} v\, dt, \qquad
        dv = -\beta x\, dt - \frac{\beta \Gamma}{M} v\, dt + \sqrt{2 \Gamma \beta}\, dw, \qquad \Gamma = 2 \sqrt{M}

    The initial velocity is :math:`v_0 \sim N(0, \gamma M I)`, and the prior is :math:`N(0, I) \times N(0, M I)`. The
    state of an event has the shape ``(2, *event)``: position and velocity. The module docstring has the kernel in
    closed form.

    Args:
        mass: M, > 0.
        beta: Rate, > 0.
        gamma: Variance of v_0 in units of M, > 0.

    References:
        Dockhorn, Vahdat, Kreis 2022, Score-based generative modeling with critically-damped Langevin diffusion,
        arXiv:2112.07068.
    """

    mass: float = 0.25
    beta: float = 4.0
    gamma: float = 0.04

    def __post_init__(self) -> None:
        for name in ("mass", "beta", "gamma"):
            check_number(name, getattr(self, name), above=0.0)

    @property
    def friction(self) -> float:
        """Friction Gamma = 2 sqrt(M)."""
        out: float = 2.0 * self.mass**0.5
        return out

    def state_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (2, *event_shape)

    def embed_data(self, x0: Tensor) -> Tensor:
        return torch.stack((x0, torch.zeros_like(x0)), dim=1)

    def extract_data(self, state: Tensor) -> Tensor:
        return state[:, 0]

    def sample_auxiliary(self, x0: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        z = noise.normal(x0.shape[1:], step=0, purpose="velocity", dtype=x0.dtype)
        std = torch.tensor(self.gamma * self.mass, dtype=torch.float64).sqrt()
        log_q = standard_normal_log_prob(z.double()) - x0[0].numel() * std.log()
        return torch.stack((x0, std.to(x0) * z), dim=1), log_q

    def drift_map(self, t: Tensor) -> BlockMap:
        one = torch.ones_like(t)
        m, b = self.mass, self.beta
        return BlockMap(_block(0.0 * one, b / m * one, -b * one, -b * self.friction / m * one))

    def diffusion_map(self, t: Tensor) -> BlockMap:
        one = torch.ones_like(t)
        return BlockMap(_block(0.0 * one, 0.0 * one, 0.0 * one, (2.0 * self.friction * self.beta) ** 0.5 * one))

    def kernel(self, t: Tensor) -> MapKernel:
        self.check_time(t)
        a, c = self._since(t)
        start = _block(0.0 * t, 0.0 * t, 0.0 * t, self.gamma * self.mass + 0.0 * t).to(a)
        return MapKernel(BlockMap(a.to(t)), BlockMap(BlockMap(c + a @ start @ a.mT).root().m.to(t)))

    def _transition(self, s: Tensor, t: Tensor) -> MapKernel:
        a, c = self._since(t - s)
        return MapKernel(BlockMap(a.to(t)), BlockMap(BlockMap(c).root().m.to(t)))

    def _since(self, duration: Tensor) -> tuple[Tensor, Tensor]:
        """A and C over a duration, in float64."""
        b = self.beta * duration.to(torch.float64)
        w, m = self.mass**-0.5, self.mass
        y = 2.0 * w * b
        decay = torch.exp(-w * b)
        a = _block(decay * (1 + w * b), decay * b / m, -decay * b, decay * (1 - w * b))
        xx = torch.special.gammainc(torch.full_like(y, 3.0), y)
        xv = 0.5 * y**2 * torch.exp(-y) / w
        vv = m * (-torch.expm1(-y) + torch.exp(-y) * (y - 0.5 * y**2))
        return a, _block(xx, xv, xv, vv)

    def prior_root(self) -> BlockMap:
        return BlockMap(torch.diag(torch.tensor([1.0, self.mass**0.5], dtype=torch.float64)))


def _block(xx: Tensor, xv: Tensor, vx: Tensor, vv: Tensor) -> Tensor:
    """Matrices ``(*t, 2, 2)`` with these entries."""
    return torch.stack((torch.stack((xx, xv), -1), torch.stack((vx, vv), -1)), -2)
