"""What a multistep method knows from the steps before: predictions of the data, and the weights of a polynomial through them.

For scalar coefficients, with lambda = ln(alpha / sigma) and k = 1 + eta^2, a step from lambda_t over h to lambda_s is

    x_s = sigma_s / sigma_t e^(-eta^2 h) x_t + alpha_s int_0^h k e^(-k (h - tau)) D(lambda_t + tau) dtau + noise

and the polynomial D through predictions D_j at lambda_t + tau_j has the integral sum_j w_j D_j, where the weights solve

    sum_j w_j tau_j^i = int_0^h k e^(-k (h - tau)) tau^i dtau = k h^(i+1) i! phi_(i+1)(-k h)        i = 0, 1, ...

with the functions phi of exponential integrators; Zhao et al. 2023 (arXiv:2302.04867) write the same system as R_p rho = b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scoresde.samplers.instants import Interval

_TERMS = 20
"""Of the series of phi, for arguments of size at most 1: what is left out is below 1e-19."""


def phi(order: int, z: float) -> float:
    """phi_m(z) = sum_n z^n / (n + m)!, so that phi_0 = e^z and phi_m(z) = (phi_(m-1)(z) - 1 / (m - 1)!) / z."""
    if abs(z) <= 1.0:
        term = total = 1.0 / math.factorial(order)
        for n in range(1, _TERMS):
            term *= z / (n + order)
            total += term
        return total
    value = math.exp(z)
    for m in range(1, order + 1):
        value = (value - 1.0 / math.factorial(m - 1)) / z
    return value


def polynomial_weights(nodes: Sequence[float], h: float, k: float) -> list[float]:
    """The weights w_j above for predictions at ``nodes`` tau_j, by Bjorck and Pereyra's elimination."""
    n = len(nodes)
    w = [k * h ** (i + 1) * math.factorial(i) * phi(i + 1, -k * h) for i in range(n)]
    for j in range(n - 1):
        for i in range(n - 1, j, -1):
            w[i] -= nodes[j] * w[i - 1]
    for j in range(n - 2, -1, -1):
        for i in range(j + 1, n):
            w[i] /= nodes[i] - nodes[i - j - 1]
        for i in range(j, n - 1):
            w[i] -= w[i + 1]
    return w


@dataclass(frozen=True)
class History:
    """The predictions that a step used, the latest first, and their weights.

    Attributes:
        interval: The step.
        eta: Of the step's noise.
        lams: Where the predictions were made.
        data: The predictions, each (B, *state).
        weights: alpha_s w_j.
    """

    interval: Interval
    eta: float
    lams: tuple[float, ...]
    data: tuple[Tensor, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, interval: Interval, eta: float, data: Tensor, past: History | None, order: int) -> History:
        """The prediction ``data`` at the start of the step, and those before it, ``order`` in all."""
        lams: tuple[float, ...] = (interval.at.lam,)
        known: tuple[Tensor, ...] = (data,)
        if past is not None:
            lams, known = (lams + past.lams)[:order], (known + past.data)[:order]
        return cls(interval, eta, lams, known, _weights(interval, eta, lams))

    def corrected(self, x: Tensor, data: Tensor, lam: float) -> Tensor:
        """The end x of the step again, by the polynomial that also goes through the prediction ``data`` there, at ``lam``."""
        new, *others = _weights(self.interval, self.eta, (lam, *self.lams))
        x = x.add(data, alpha=new)
        for before, weight, other in zip(self.data, self.weights, others, strict=True):
            x.add_(before, alpha=other - weight)
        return x


def _weights(interval: Interval, eta: float, lams: Sequence[float]) -> tuple[float, ...]:
    at, to = interval.at, interval.to
    nodes = [lam - at.lam for lam in lams]
    return tuple(to.alpha * w for w in polynomial_weights(nodes, to.lam - at.lam, 1.0 + eta**2))
